"""The figure of an ablation: every row's mean and spread over seeds, the paper's values beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from matplotlib.axes import Axes

from emrrg_lib.evaluation.metrics import METRICS, keys
from emrrg_lib.interpret.panels import inch_axes, inch_text, plain_axes
from emrrg_lib.interpret.style import BLUE, GREEN, MUTED, ORANGE, PURPLE, Picture, text_width

CONTROLS = (
    ("--", ORANGE, "- - "),
    (":", GREEN, "· · "),
)  # line, colour, legend: clear in grey too
MARKS = (("D", PURPLE, "◇"), ("s", MUTED, "□"))  # marker, colour, legend: the paper's data sets
WIDTH, ROW, TOP = 9.0, 0.3, 0.85  # inches

Row = Sequence[Mapping[str, float | None]]  # metrics of each seed


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
