"""Figures of scores: points in groups, a histogram with a limit, bars in panels, the rows of an ablation.

They take numbers alone. Groups differ by mark or hatching as well as by colour.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import mean, stdev

import numpy as np
from matplotlib.axes import Axes

from emrrg_lib.evaluation.metrics import METRICS, keys
from emrrg_lib.interpret.panels import inch_axes, inch_text, plain_axes
from emrrg_lib.interpret.style import (
    BLUE,
    BLUE_FILL,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    ORANGE_FILL,
    PAPER,
    PURPLE,
    RULE,
    Picture,
    text_width,
)

_POINTS = ((ORANGE, "x"), (BLUE, "o"), (INK, "^"))
# of an ablation: line, colour, legend of the controls, and marker, colour, legend of the paper's data sets
CONTROLS = (("--", ORANGE, "- - "), (":", GREEN, "· · "))
MARKS = (("D", PURPLE, "◇"), ("s", MUTED, "□"))
WIDTH, ROW, TOP = 9.0, 0.3, 0.85  # inches

Row = Sequence[Mapping[str, float | None]]  # metrics of each seed


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
    for (name, (across, up)), (colour, mark) in zip(groups.items(), _POINTS, strict=False):
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


def mean_and_spread(row: Row, metric: str) -> tuple[float, float | None] | None:
    """Mean and standard deviation (n - 1) over seeds; one seed has no deviation, no value gives None."""
    values = [scores[metric] for scores in row if scores.get(metric) is not None]
    return (mean(values), stdev(values) if len(values) > 1 else None) if values else None


def ablation_figure(
    title: str,
    rows: Mapping[str, Row],
    controls: Mapping[str, Mapping[str, float]],
    paper: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> Picture:
    """Draws the rows from top to bottom, with one panel per metric and another for the paper's values.

    The scales differ on purpose: the paper has other data sets, so only the order of the rows compares.

    Args:
        title: of the ablation. rows: name → metrics of each seed, empty where a row was left out.
        controls: name → metrics, drawn as lines across all rows.
        paper: name of a row → data set → metrics.

    Returns:
        The figure; its `alt` holds every number that is drawn.
    """
    sets = list(dict.fromkeys(data for values in paper.values() for data in values))
    panels = [
        (metric, theirs)
        for metric in keys("panel")
        for theirs in (False, True)
        if not theirs or any(metric in found for values in paper.values() for found in values.values())
    ]
    left = max(text_width(name, 8.5) for name in rows) / 72 + 0.25
    width, height = (WIDTH - left - 0.1) / len(panels), ROW * len(rows)
    legend = 0.2 * (1 + len(controls) + len(sets))
    figure = Picture((WIDTH, TOP + height + 0.45 + legend))
    inch_text(figure, 0.1, 0.3, f"Ablation {title}", 11, weight="bold")
    for number, (metric, theirs) in enumerate(panels):
        axes = inch_axes(figure, left + number * width, TOP, width - 0.15, height)
        inch_text(figure, left + number * width, TOP - 0.22, METRICS[metric].title, 8.5)
        inch_text(figure, left + number * width, TOP - 0.08, "paper" if theirs else "this run", 7, MUTED)
        if theirs:
            _draw_paper(axes, list(rows), paper, sets, metric)
        else:
            _draw_rows(axes, list(rows.values()), controls, metric)
        _style(axes, list(rows) if number == 0 else None, len(rows))
    _legend(figure, TOP + height + 0.5, max(len(row) for row in rows.values()), controls, sets)
    figure.alt = _words(title, rows, controls, paper)
    return figure


def _draw_rows(axes: Axes, rows: Sequence[Row], controls: Mapping, metric: str) -> None:
    for place, row in enumerate(rows):
        if found := mean_and_spread(row, metric):
            axes.errorbar(found[0], place, xerr=found[1], fmt="o", color=BLUE, markersize=5, capsize=3)
            seeds = [scores[metric] for scores in row if len(row) > 1]  # below the mean: not hidden
            axes.plot(seeds, [place + 0.28] * len(seeds), ".", color=BLUE, markersize=3.5)
    for (style, colour, _), values in zip(CONTROLS, controls.values(), strict=False):
        if values.get(metric) is not None:
            axes.axvline(values[metric], linestyle=style, color=colour, linewidth=1.2)


def _draw_paper(axes: Axes, rows: Sequence[str], paper: Mapping, sets: Sequence[str], metric: str) -> None:
    for (mark, colour, _), data in zip(MARKS, sets, strict=False):
        points = [
            (paper[row][data][metric], place)
            for place, row in enumerate(rows)
            if metric in paper.get(row, {}).get(data, {})
        ]
        if points:
            axes.plot(*zip(*points, strict=True), mark, color=colour, fillstyle="none", markersize=5)


def _style(axes: Axes, names: Sequence[str] | None, count: int) -> None:
    plain_axes(axes, 7.5)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks(range(count), names if names else [""] * count, fontsize=8.5)
    low, high = axes.dataLim.intervalx if axes.has_data() else (0.0, 1.0)
    air = max(0.12 * (high - low), 0.005)  # equal values are drawn equal
    axes.set_xlim(low - air, high + air)
    axes.locator_params(axis="x", nbins=3, prune="both")
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")


def _legend(figure: Picture, top: float, seeds: int, controls: Mapping, sets: Sequence[str]) -> None:
    several = "mean over seeds; bar: standard deviation; small dots below: each seed"
    one = "one training, one seed: how far another seed would fall is not known"
    lines = [("●", BLUE, several if seeds > 1 else one)]
    lines += [(sign, colour, name) for (_, colour, sign), name in zip(CONTROLS, controls, strict=False)]
    lines += [
        (sign, colour, f"the paper's value on {data}")
        for (_, colour, sign), data in zip(MARKS, sets, strict=False)
    ]
    for number, (sign, colour, text) in enumerate(lines):
        inch_text(figure, 0.1, top + 0.2 * number, sign, 8, colour)
        inch_text(figure, 0.45, top + 0.2 * number, text, 8)


def _words(title: str, rows: Mapping, controls: Mapping, paper: Mapping) -> str:
    lines = [f"Ablation {title}."]
    for name, row in rows.items():
        in_words = (
            [_numbers({metric: mean_and_spread(row, metric) for metric in keys("panel")})] if row else []
        )
        in_words += [f"paper, {data}: {_numbers(values)}" for data, values in paper.get(name, {}).items()]
        lines.append(f"{name}: {'; '.join(in_words) or 'no value'}.")
    return " ".join([*lines, *(f"{name}: {_numbers(values)}." for name, values in controls.items())])


def _numbers(values: Mapping) -> str:
    """Value, or mean ± deviation, of each metric that has a panel."""
    in_words = []
    for metric in (name for name in keys("panel") if values.get(name) is not None):
        value, spread = values[metric] if isinstance(values[metric], tuple) else (values[metric], None)
        in_words.append(
            f"{METRICS[metric].title} {value:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
        )
    return ", ".join(in_words)
