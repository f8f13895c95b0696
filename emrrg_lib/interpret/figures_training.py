"""Figures of notebooks 03, 04, 05 and 08: ranks, ΔW, gates, losses, rates, report lengths, pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from emrrg_lib.interpret.figures import running_mean
from emrrg_lib.interpret.panels import inch_axes, label_axes, plain_axes
from emrrg_lib.interpret.style import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, PURPLE, RULE, Picture

# lines of layers and schedules; lines of targets
_STYLES = tuple(zip((BLUE, ORANGE, GREEN, PURPLE), ("-", "--", "-.", ":"), strict=True))
LINES = ((ORANGE, "-"), (BLUE, "-"), (MUTED, "--"), (GREEN, "-."), (PURPLE, ":"), (INK, (0, (5, 1))))


def watch_picture(
    steps: Sequence[int], right: Sequence[float], wrong: Sequence[float], gates: Sequence[Sequence[float]]
) -> Picture:
    """Draws what a training does with the image.

    Args:
        steps: of the points. right, wrong: loss on held-out studies with their own image and with another
            patient's, in nats per token. gates: at each point |tanh α| of every hybrid layer.
    """
    gap = wrong[-1] - right[-1]
    alt = (
        f"Left: loss on held-out studies over {steps[-1]} steps, {right[0]:.2f} at first; at the end "
        f"{right[-1]:.2f} with the right image and {wrong[-1]:.2f} with another patient's, a difference of "
        f"{gap:.3f}. Right: |tanh α| of each hybrid layer, from {max(gates[0]):.2f} to {max(gates[-1]):.2f}."
    )
    figure = Picture((9.0, 3.0), layout="constrained", alt=alt)
    left, second = figure.subplots(1, 2)
    left.plot(steps, right, "o-", color=BLUE, markersize=3, label="the right image")
    left.plot(steps, wrong, "s--", color=ORANGE, markersize=3, label="another patient's image")
    left.fill_between(steps, right, wrong, color=BLUE, alpha=0.12, linewidth=0)
    left.set_title(f"held-out loss; wrong − right = {gap:.3f}", fontsize=9, color=INK)
    for layer, values in enumerate(zip(*gates, strict=True)):
        colour, style = _STYLES[layer % len(_STYLES)]
        second.plot(steps, values, style, color=colour, label=f"layer {layer}")
    second.set_title("|tanh α|: how far each gate can open", fontsize=9, color=INK)
    second.set_ylim(0, 1)
    for axes, label in ((left, "nats per token"), (second, "")):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        label_axes(axes, "step", label)
    return figure


def rates_picture(factors: Mapping[str, Sequence[float]], rates: Sequence[float], rule: str) -> Picture:
    """Draws schedules, and how far α can come.

    Args:
        factors: name of a schedule → its factor on the learning rate at every step. rates: of the gate.
        rule: the schedule under which α moves, by its rate times the factor at each step.
    """
    reach = {rate: [rate * far for far in accumulate(factors[rule])] for rate in rates}
    ends = ", ".join(f"{values[-1]:.2f} at a rate of {rate:g}" for rate, values in reach.items())
    alt = (
        f"Left: the factor on the learning rate over {len(factors[rule])} steps for {', '.join(factors)}. "
        f"Right: how far α can come under {rule}: {ends}."
    )
    figure = Picture((8.4, 2.8), layout="constrained", alt=alt)
    left, right = figure.subplots(1, 2)
    for (name, values), (colour, style) in zip(factors.items(), _STYLES, strict=False):
        left.plot(values, style, color=colour, label=name)
    for (rate, values), (_, style) in zip(reach.items(), _STYLES, strict=False):
        right.plot(values, style, color=INK, label=f"rate {rate:g}")
    for axes, label in ((left, "factor on the rate"), (right, "farthest α")):
        label_axes(axes, "step", label)
    return figure


def length_histogram(counts: Mapping[str, Sequence[int]], bin_width: int, limit: int) -> Picture:
    """Draws how long reports are, as shares of each split.

    Args:
        counts: split → reports in the bins 0 … bin_width − 1, bin_width … of tokens. limit: tokens that
            training keeps; a line marks it.
    """
    above = {name: sum(bars[limit // bin_width :]) / sum(bars) for name, bars in counts.items()}
    shares = ", ".join(f"{share:.0%} of {name}" for name, share in above.items())
    alt = f"Histogram of report lengths in tokens; at or beyond the limit of {limit} are {shares}."
    figure = Picture((7.0, 2.7), layout="constrained", alt=alt)
    axes = figure.subplots()
    for (name, bars), (colour, style) in zip(counts.items(), _STYLES, strict=False):
        edges = [bin_width * i for i in range(len(bars) + 1)]
        axes.stairs([100 * n / sum(bars) for n in bars], edges, color=colour, linestyle=style, label=name)
    axes.axvline(limit, color=MUTED, linewidth=1)
    axes.text(limit + 2, 0.9 * axes.get_ylim()[1], f"max_length {limit}", fontsize=8, color=MUTED)
    label_axes(axes, "tokens of a cleaned report", "% of the split")
    return figure


def rank_curves(curves: Mapping[str, Sequence[float]], chosen: str, r: int, title: str, alt: str) -> Picture:
    """Draws the share that the best ΔW of each rank keeps.

    Args:
        curves: name → share kept for r = 1, 2, …. chosen: the curve drawn wide, with a dot at rank r.
    """
    picture = Picture((7.2, 3.1), layout="constrained", alt=alt)
    axes = picture.subplots()
    for (name, curve), (ink, dash) in zip(curves.items(), LINES, strict=False):
        width = 2.4 if name == chosen else 1.2
        axes.plot(np.arange(1, len(curve) + 1), curve, ls=dash, color=ink, label=name, linewidth=width)
    axes.plot([r], [curves[chosen][r - 1]], "o", color=INK)
    axes.set_title(title, fontsize=9)
    axes.set_xscale("log", base=2)
    ranks = 2 ** np.arange(int(np.log2(len(curves[chosen]))) + 1)
    axes.set_xticks(ranks, ranks)
    axes.set(xlabel="rank r", ylabel="share kept", ylim=(0, 1.04))
    axes.grid(color=RULE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return picture


def update_maps(deltas: Mapping[str, np.ndarray]) -> Picture:
    """Draws |ΔW|, (2·d, d), of each name and of their sum; the rows of X are above, those of Z below."""
    shown = dict(deltas) | {"together": sum(deltas.values())}
    width = len(shown["together"]) // 2
    peak = float(np.quantile(np.abs(shown["together"]), 0.99))
    alt = "; ".join(
        f"{name}: mean |ΔW| {np.abs(D[:width]).mean():.1e} in the X rows, "
        f"{np.abs(D[width:]).mean():.1e} in the Z rows"
        for name, D in shown.items()
    )
    picture = Picture((8.4, 3.9), layout="constrained", alt=alt)
    panels = picture.subplots(1, len(shown), sharey=True)
    look: dict[str, Any] = {"cmap": "Greys", "vmin": 0, "vmax": peak, "aspect": "auto"}
    for axes, (name, delta) in zip(panels, shown.items(), strict=True):
        image = axes.imshow(np.abs(delta), interpolation="nearest", **look)
        axes.axhline(width - 0.5, color=ORANGE, linewidth=1.5)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("input feature", fontsize=8)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks([width / 2, width * 1.5], ["X rows", "Z rows"], fontsize=9)
    picture.colorbar(image, ax=panels, shrink=0.8, label="|ΔW|")
    return picture


def tuning_curves(curves: Mapping[str, Sequence[float]], untuned: float, as_trained: float) -> Picture:
    """Draws the training loss of each target over the steps, as a running mean, and two test losses."""
    smooth = {name: running_mean(np.asarray(curve)) for name, curve in curves.items()}
    ends = ", ".join(f"{name} {curve[-1]:.3f}" for name, curve in smooth.items())
    alt = f"Loss while each target is tuned on inverted X-rays; at the last step in nats per token: {ends}."
    picture = Picture((7.6, 3.2), layout="constrained", alt=alt)
    axes = picture.subplots()
    levels = ((untuned, "inverted, not tuned (test)"), (as_trained, "right contrast (test)"))
    for level, name in levels:
        axes.axhline(level, color=MUTED, linewidth=0.8, linestyle=":")
        axes.annotate(name, (0, level), xytext=(2, 2), textcoords="offset points", fontsize=7.5, color=MUTED)
    for (name, curve), (ink, dash) in zip(smooth.items(), LINES, strict=False):
        axes.plot(np.arange(1, len(curve) + 1), curve, ls=dash, color=ink, label=name, linewidth=1.6)
    label_axes(axes, "step", "loss (nats per token)", columns=2)
    return picture


def opening_curves(rows: Sequence[Mapping[str, Any]], layers: Sequence[int]) -> Picture:
    """Draws tanh(α) of each hybrid layer over the steps, and the loss with the own and another's image."""
    steps = [row["step"] for row in rows]
    opened = np.tanh([row["α"] for row in rows]).T
    first, last = rows[0], rows[-1]
    alt = (
        f"Left: tanh(α) of {len(layers)} layers opens from {np.abs(opened[:, 0]).max():.2f} to at most "
        f"{np.abs(opened[:, -1]).max():.2f}. Right: the loss goes from {first['own image']:.3f} to "
        f"{last['own image']:.3f} with the own image, to {last['other image']:.3f} with another patient's."
    )
    picture = Picture((8.4, 2.9), layout="constrained", alt=alt)
    left, right = picture.subplots(1, 2)
    for layer, curve, (ink, dash) in zip(layers, opened, LINES, strict=False):
        left.plot(steps, curve, ls=dash, color=ink, label=f"layer {layer}")
    for name, (ink, dash) in zip(("own image", "other image"), LINES, strict=False):
        right.plot(steps, [row[name] for row in rows], ls=dash, color=ink, label=name)
    left.set(xlabel="step", ylabel="tanh(α)")
    right.set(xlabel="step", ylabel="loss (nats per token)")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
        plain_axes(axes)
    return picture


def gate_steps(curves: Mapping[str, np.ndarray], start: int) -> Picture:
    """Draws the mean |gate| at every position, one panel a way of writing; `start`: of the prompt."""
    alt = "; ".join(
        f"{name}: mean |gate| {curve[:start].mean():.2f} in the prompt, "
        f"{curve[start:].mean():.2f} at the cached steps"
        for name, curve in curves.items()
    )
    picture = Picture((8.4, 2.6), layout="constrained", alt=alt)
    panels = picture.subplots(1, len(curves), sharey=True)
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        places, text = np.arange(len(curve)), {"ha": "center", "fontsize": 8, "color": INK}
        axes.bar(places[:start], curve[:start], width=1, color=ORANGE, alpha=0.5)
        axes.bar(places[start:], curve[start:], width=1, color=BLUE)
        axes.axvline(start - 0.5, color=INK, linewidth=1)
        axes.text(start / 2, 1.0, "prompt: one prefill", **text)
        axes.text((start + len(curve)) / 2, 1.0, "report: cached steps", **text)
        axes.set(title=name, xlabel="position", ylim=(0, 1.1))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean |gate|")
    return picture


def grey_pictures(
    pictures: Mapping[str, np.ndarray], alt: str, span: float | None = None, numbered: int = 0
) -> Picture:
    """Pictures (H, W) side by side in grey, each from its least to its largest value, or from -span to span.

    With `numbered` the first one carries a grid of so many numbered cells a side.
    """
    side = min(2.7, 9 / len(pictures) - 0.15)
    figure = Picture((len(pictures) * (side + 0.15) + 0.1, side + 0.45), alt=alt)
    low, high = (None, None) if span is None else (-span, span)
    for place, (title, values) in enumerate(pictures.items()):
        axes = inch_axes(figure, 0.1 + place * (side + 0.15), 0.35, side, side)
        grey = {} if place == 0 and numbered else {"vmin": low, "vmax": high}
        axes.imshow(values, cmap="gray", **grey)
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_axis_off()
        edge = len(values) / numbered if numbered and place == 0 else 0
        for number in range(numbered**2 if edge else 0):
            row, column = divmod(number, numbered)
            box = {"facecolor": INK, "pad": 2, "linewidth": 0}
            middle = ((column + 0.5) * edge, (row + 0.5) * edge)
            axes.text(*middle, str(number + 1), color=PAPER, fontsize=12, ha="center", va="center", bbox=box)
            for line in (axes.axhline, axes.axvline):
                line(row * edge - 0.5, color=PAPER, linewidth=1)
    return figure


def similarity_map(matrix: np.ndarray, border: int, title: str, alt: str) -> Picture:
    """Cosines (images, reports), dark where they fit, with lines after the first `border` ones."""
    figure = Picture((5.4, 4.4), alt=alt)
    axes = inch_axes(figure, 0.7, 0.35, 3.5, 3.5)
    shown = axes.imshow(matrix, cmap="Greys")
    for line in (axes.axhline, axes.axvline):
        line(border - 0.5, color=ORANGE)
    axes.set(xlabel="report", ylabel="image")
    axes.set_title(title, fontsize=9, color=INK)
    figure.colorbar(shown, cax=inch_axes(figure, 4.35, 0.35, 0.15, 3.5), label="cosine similarity")
    return figure
