"""Figures of scores: points in groups, a histogram with a limit, bars in panels. They take numbers alone.

Groups differ by mark or hatching as well as by colour.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from emrrg_lib.interpret.panels import inch_axes, plain_axes
from emrrg_lib.interpret.style import (
    BLUE,
    BLUE_FILL,
    INK,
    MUTED,
    ORANGE,
    ORANGE_FILL,
    PAPER,
    RULE,
    Picture,
    text_width,
)

_MARKS = ((ORANGE, "x"), (BLUE, "o"), (INK, "^"))


def point_groups(
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    alt: str,
    line: tuple[float, str],
) -> Picture:
    """Points of up to three groups, name → (x values, y values), and an upright line: place and name."""
    figure = Picture((7.6, 3.3), alt=alt)
    axes = inch_axes(figure, 0.7, 0.15, 6.75, 2.55)
    for (name, (across, up)), (colour, mark) in zip(groups.items(), _MARKS, strict=False):
        axes.scatter(across, up, s=12, color=colour, marker=mark, linewidths=0.7, alpha=0.6, label=name)
    place, name = line
    axes.axvline(place, color=MUTED, linestyle="--", linewidth=1)
    axes.annotate(name, (place, 0), (4, 6), textcoords="offset points", color=INK, fontsize=8)
    axes.set(xlabel=x, ylabel=y, ylim=(0, None))
    axes.legend(fontsize=8, labelcolor=INK)
    plain_axes(axes)
    return figure


def gap_histogram(gaps: np.ndarray, limit: float, x: str, alt: str) -> Picture:
    """Histogram of gaps (n,); those of `limit` or more are hatched."""
    figure = Picture((7.6, 2.8), alt=alt)
    axes = inch_axes(figure, 0.7, 0.15, 6.75, 2.05)
    edges = np.arange(0, gaps.max() + limit / 10, limit / 10)
    axes.hist(gaps[gaps < limit], edges, color=BLUE, label=f"less than {limit}")
    wide = {"color": ORANGE, "hatch": "///", "edgecolor": PAPER, "label": f"{limit} or more"}
    axes.hist(gaps[gaps >= limit], edges, **wide)
    axes.axvline(limit, color=INK, linewidth=1)
    axes.set(xlabel=x, ylabel=f"pairs, of {len(gaps)}")
    axes.legend(fontsize=8, labelcolor=INK)
    plain_axes(axes)
    return figure


def bar_panels(
    panels: Mapping[str, Mapping[str, float]], hatched: Collection[str] = (), digits: int = 1
) -> Picture:
    """One panel of bars for each title; all have the same names, of which the `hatched` ones are grey."""
    names = list(next(iter(panels.values())))
    left = max(text_width(name, 8) for name in names) / 72 + 0.3
    width, height = (9 - left) / len(panels), 0.3 * len(names)
    told = (f"{t}, {name}: {value:.{digits}f}" for t, bars in panels.items() for name, value in bars.items())
    figure = Picture((9, height + 0.75), alt=f"{'; '.join(told)}.")
    for place, (title, bars) in enumerate(panels.items()):
        axes = inch_axes(figure, left + place * width, 0.35, width - 0.2, height)
        for row, name in enumerate(names):
            grey = {"color": RULE, "hatch": "////"} if name in hatched else {"color": BLUE}
            axes.barh(row, bars[name], edgecolor=INK, linewidth=0.6, **grey)
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.set_yticks(range(len(names)), names if place == 0 else [""] * len(names), fontsize=8)
        axes.invert_yaxis()
        plain_axes(axes)
    return figure


def counted_bars(counts: Mapping[str, tuple[int, int]]) -> Picture:
    """Draws the parameters that a counter sees and, hatched, those that it misses; one bar a model.

    Args:
        counts: name → (parameters that are seen, all parameters).
    """
    millions = {name: (seen / 1e6, (total - seen) / 1e6) for name, (seen, total) in counts.items()}
    told = [f"{name}: {seen:.2f} M seen, {missed:.2f} M not" for name, (seen, missed) in millions.items()]
    figure = Picture((7.6, 1.9), layout="constrained", alt=f"Counted parameters. {'; '.join(told)}.")
    axes = figure.subplots()
    for name, (seen, missed) in millions.items():
        axes.barh(name, seen, color=BLUE_FILL, edgecolor=BLUE)
        axes.barh(name, missed, left=seen, color=ORANGE_FILL, edgecolor=INK, hatch="///")
        text = {"va": "center", "fontsize": 8.5, "color": INK}
        axes.text(seen / 2, name, f"seen: {seen:.2f} M", ha="center", **text)
        axes.text(seen + missed + 3, name, f"not seen: {missed:.2f} M", **text)
    most = max(total for _, total in counts.values()) / 1e6
    axes.set(xlabel="million parameters", xlim=(0, 1.2 * most))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def score_bars(rows: Sequence[Mapping], chosen: Mapping[str, str]) -> Picture:
    """Draws scores as bars with their intervals, one panel a metric; the first row's bars are blue.

    Args:
        rows: of `metrics.json`: system, metrics (name → score) and ci (name → two ends).
        chosen: metric → the title of its panel.
    """
    told = [
        f"{title}, {row['system']}: {row['metrics'][metric]:.2f}"
        for metric, title in chosen.items()
        for row in rows
        if metric in row["metrics"]
    ]
    figure = Picture((9.0, 0.33 * len(rows) + 0.7), layout="constrained", alt="; ".join(told) + ".")
    for axes, (metric, title) in zip(
        figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0], chosen.items(), strict=True
    ):
        for place, row in enumerate(rows):
            if metric in row["metrics"]:
                axes.barh(place, row["metrics"][metric], color=RULE if place else BLUE)
                axes.plot(row["ci"][metric], [place, place], color=INK, linewidth=1.5)
            else:
                axes.text(0.01, place, "writes no text", color=MUTED, fontsize=8, va="center")
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks(range(len(rows)), [row["system"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    return figure
