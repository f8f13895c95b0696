"""Figures of notebooks 03 and 04: what a rank keeps, ΔW, tuned targets, gates in training and writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emrrg_lib.interpret.figures import running_mean
from emrrg_lib.interpret.panels import label_axes, plain_axes
from emrrg_lib.interpret.style import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, RULE, Picture

LINES = ((ORANGE, "-"), (BLUE, "-"), (MUTED, "--"), (GREEN, "-."), (PURPLE, ":"), (INK, (0, (5, 1))))


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
