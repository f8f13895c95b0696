"""The tables of a run's page: scores with controls, F1 of each finding, pointing game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from emrrg_lib.evaluation.metrics import FINDING, keys, metric, place_on_page
from emrrg_lib.files import InputError

Row = Mapping[str, Any]


class Table(NamedTuple):
    """A table for the page's template; `label` is its name for screen readers.

    A row is (name, note, cells), where a cell is a whole number or `_score`'s dict; a group is the heading
    above so many columns.
    """

    label: str
    caption: str
    first: str  # heading of the rows' names
    columns: Sequence[str]  # the other headings
    rows: Sequence[tuple[str, str, Sequence[Any]]]
    groups: Sequence[tuple[str, int]] = ()


def score_tables(rows: Sequence[Row]) -> list[Table]:
    """The table of the main metrics and the table of all others; an empty one is left out."""
    found = list(dict.fromkeys(key for row in rows for key in row["metrics"]))
    main = [key for key in keys("main") if key in found]
    rest = [key for key in found if key not in main and metric(key).group != FINDING]
    return [_score_table(rows, chosen, notes) for chosen, notes in ((main, True), (rest, False)) if chosen]


def _score_table(rows: Sequence[Row], shown: list[str], notes: bool) -> Table:
    """Systems × metrics with intervals; with `notes`, every control row says what it means."""
    shown = sorted(shown, key=place_on_page)
    longest = {key: max(row["metrics"].get(key) or 0.0 for row in rows) for key in shown}
    body = [
        (
            str(row["system"]),
            str(row.get("note", "")) if notes else "",
            [_score(row["metrics"].get(key), longest[key], (row.get("ci") or {}).get(key)) for key in shown],
        )
        for row in rows
    ]
    groups = [(name, len(list(same))) for name, same in groupby(metric(key).group for key in shown)]
    columns = [metric(key).label for key in shown]
    caption = "Small: 95 % intervals from resampled studies. “–”: not available for this row."
    return Table("Scores of the model and its controls", caption, "System", columns, body, groups)


def finding_table(rows: Sequence[Row], support: Mapping[str, int]) -> Table | None:
    """F1 of every finding, one column a system; None where no row has them."""
    found = list(dict.fromkeys(k for row in rows for k in row["metrics"] if metric(k).group == FINDING))
    systems = [row for row in rows if any(row["metrics"].get(key) is not None for key in found)]
    if not found:
        return None
    body = []
    for key in found:
        cases = int(support.get(metric(key).label, 0))
        cells = [_score(row["metrics"].get(key) if cases or not support else None, 1.0) for row in systems]
        body.append((metric(key).label, "", [cases, *cells]))
    caption = (
        "F1 of each finding; generated and reference report are read by the same labeler. “–”: no reference "
        "has the finding, which macro averages count as 0."
    )
    columns = ["studies", *(str(row["system"]) for row in systems)]
    return Table("F1 of every finding", caption, "Finding", columns, body)


def pointing_tables(pointing: Mapping[str, Any] | None) -> list[Table]:
    """One table for each map of the pointing game, first the map chosen on validation; [] without results."""
    if not pointing or not pointing.get("rows"):
        return []
    variants = list(pointing.get("variants") or [pointing])
    chosen = pointing.get("chosen") or 0
    if chosen >= len(variants):
        raise InputError(f"pointing.chosen is {chosen} of {len(variants)} variants; evaluate again")
    variants.insert(0, variants.pop(chosen))
    return [_pointing_table(variant) for variant in variants]


def _pointing_table(pointing: Mapping[str, Any]) -> Table:
    body = [
        (
            str(row["kind"]),
            "",
            [
                int(row["cases"]),
                _score(row["hit"], 1.0, (row.get("low"), row.get("high"))),
                _score(row.get("gain"), 1.0, (row.get("gain_low"), row.get("gain_high"))),
                *(_score(row.get(key), 1.0) for key in ("chance", "centre", "place")),
            ],
        )
        for row in pointing["rows"]
    ]
    place = {
        "predicts": "at the token before it",
        "own": "at its own tokens",
        "sentence": "over its whole sentence",
    }.get(pointing.get("token"), "")
    read = f" Read from {pointing['map']} {place}." if "map" in pointing else ""
    caption = (
        "A hit: the strongest patch of the word that names the finding lies within one patch of its mask."
        f"{read} Hybrid layer {pointing['layer']}, chosen on validation. Gain: hits minus those of the "
        "centre. Usual place: the patch that hits most often on validation. Localised: at most a quarter "
        "of all patches would hit; small: at most 15 %."
    )
    names = ["cases", "hit rate", "gain", "chance", "centre", "usual place"]
    return Table("Pointing game", caption, "Finding", names, body)


def _score(
    value: float | None, longest: float, interval: Sequence[float | None] | None = None
) -> dict[str, Any]:
    """A cell: the number, the length of its bar in percent of the longest, its interval."""
    share = 0.0 if value is None or longest <= 0 else max(0.0, min(1.0, value / longest))
    ends = "" if interval is None or None in interval else "–".join(map(_end, interval))
    return {"value": value, "share": round(100 * share), "interval": ends}


def _end(value: float) -> str:
    """One end of an interval: three decimals without the leading zero, so that thirteen columns fit."""
    text = f"{round(value, 3) or 0.0:.3f}".removesuffix(".000")  # `or`: no minus before a zero
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
