"""Figures of a training: right image against another patient's, the gates, the rates, report lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from matplotlib.ticker import MaxNLocator

from emrrg_lib.interpret.panels import label_axes
from emrrg_lib.interpret.style import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, Picture

_STYLES = tuple(zip((BLUE, ORANGE, GREEN, PURPLE), ("-", "--", "-.", ":"), strict=True))


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
