"""Compares systems on the same studies: scores, paired differences with intervals, corrected p-values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emrrg_lib.evaluation.intervals import (
    EXCHANGES,
    RESAMPLES,
    SystemStatistics,
    exchange_p_values,
    holm,
    paired_differences,
    point_scores,
)
from emrrg_lib.evaluation.learned import read_learned
from emrrg_lib.evaluation.metrics import keys, metric
from emrrg_lib.evaluation.other_labelers import RULES, Labeler
from emrrg_lib.evaluation.score import CEILING, FLOOR, NOTHING, reference_side, statistics_of
from emrrg_lib.files import InputError, latex_table, plain_cell, text_table
from emrrg_lib.run_folder import read_predictions

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """One metric of two systems: its scores, their difference with its 95 % interval, what to think of it.

    `p` is uncorrected, `p_holm` corrected for all rows of the table that are not identical. `verdict` is
    "identical" where both systems wrote the same texts, "real" where p_holm < .05, else "may be chance".
    """

    metric: str
    first: str
    second: str
    score_first: float
    score_second: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: str


@dataclass(frozen=True)
class ComparisonTable:
    """Every pair of systems in every metric, how many studies they share, and who labelled them."""

    systems: Sequence[str]
    studies: int
    labeler: str
    rows: Sequence[Comparison]

    def render(self, style: str = "text") -> str:
        """The table as `text`, `json`, `csv`, `latex` or `markdown`."""
        if style == "json":
            facts = {"systems": self.systems, "studies": self.studies, "labeler": self.labeler}
            return json.dumps(
                facts | {"rows": [asdict(row) for row in self.rows]}, indent=1, ensure_ascii=False
            )
        if style == "csv":
            rows = [{key: plain_cell(value) for key, value in asdict(row).items()} for row in self.rows]
            return pd.DataFrame(rows).to_csv(index=False).rstrip("\n")
        several, lines = len(self.systems) > 2, []
        for row in self.rows:
            pair = [row.first, row.second] if several else []
            numbers = [f"{row.score_first:.4f}", f"{row.score_second:.4f}", f"{row.difference:+.4f}"]
            interval = f"{row.low:+.4f} to {row.high:+.4f}"
            lines.append([metric(row.metric).full, *pair, *numbers, interval, _p(row.p_holm), row.verdict])
        names = ["first", "second"] if several else list(self.systems)
        header = ["metric", *(["first", "second", "its score", "its score"] if several else names)]
        lines.insert(0, [*header, "difference", "95 % interval", "p (Holm)", "verdict"])
        tested = sum(row.verdict != "identical" for row in self.rows)
        about = (
            f"{self.studies} studies, labels {self.labeler}. The difference is first minus second. Its "
            f"interval comes from {RESAMPLES:,} resamples of the studies, p from {EXCHANGES:,} random "
            f"exchanges of the two systems' reports, corrected for the {tested} rows of this table (Holm). "
            f"real: p below {ALPHA}."
        )
        if tested / (EXCHANGES + 1) >= ALPHA:  # the smallest p of so many exchanges, corrected
            about += " The table has too many rows for that: compare fewer systems, or leave out --all."
        left = 3 if several else 1
        if style == "latex":
            return latex_table(lines, left, about)
        return f"{text_table(lines, left, markdown=style == 'markdown')}\n\n{about}"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def read_system(word: str) -> tuple[str, list[dict[str, Any]]]:
    """The name and the rows of a system.

    Args:
        word: a run folder or its predictions.jsonl; after a colon the name of another system of the run, as
            in "runs/demo:constant report".

    Raises:
        InputError: no predictions, or no such system.
    """
    folder, colon, system = word.rpartition(":")
    if not colon or Path(word).exists():
        folder, system = word, ""
    path = Path(folder)
    if path.is_file() and path.name != "predictions.jsonl":
        raise InputError(f"{path}: give a run folder or its predictions.jsonl")
    rows = read_predictions(path.parent if path.is_file() else path)
    if not system:
        return word, rows
    for row in rows:
        row["systems"] = (row.get("systems") or {}) | {FLOOR: NOTHING, CEILING: row["reference"]}
    known = set.intersection(*(set(row["systems"]) for row in rows))
    if system not in known:
        raise InputError(f"{folder} has no reports of '{system}', only of {', '.join(sorted(known))}")
    return word, [row | {"hypothesis": row["systems"][system]} for row in rows]


def compare_systems(
    words: Sequence[str],
    labeler: Labeler = RULES,
    everything: bool = False,
) -> ComparisonTable:
    """Compares every pair of two or more systems.

    Args:
        words: as `read_system` takes them.
        labeler: reads the references and all reports.
        everything: all metrics; else those of the page's first table.

    Raises:
        InputError: predictions are damaged, an id occurs twice, or ids or references differ.
    """
    if len(words) < 2 or len(set(words)) < len(words) > 2:
        raise InputError("name two or more systems, each once")
    systems = [read_system(word) for word in words]
    name, first = systems[0]
    written = {}
    for number, (other, rows) in enumerate(systems):
        found = {row["id"]: row for row in rows}
        if alone := {row["id"] for row in first} ^ found.keys():
            raise InputError(
                f"{len(alone)} studies are in only one of {name} and {other}, such as "
                f"'{min(alone)}': compare runs on the same studies"
            )
        if changed := [row["id"] for row in first if found[row["id"]]["reference"] != row["reference"]]:
            raise InputError(
                f"{len(changed)} studies have another reference report in {other}, such as "
                f"'{changed[0]}': write both runs' predictions with the same cleaning"
            )
        written[other if other not in written else f"{other} ({number + 1})"] = [
            found[row["id"]]["hypothesis"] for row in first
        ]
    texts, labels = reference_side(first, "full", labeler)
    statistics = statistics_of(written, texts, labels, labeler, _learned(words), must=tuple(written))
    rows = [row for pair in combinations(written, 2) for row in _pair(*pair, written, statistics, everything)]
    tested = [row for row in rows if not row["verdict"]]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row |= {"p_holm": p, "verdict": "real" if p < ALPHA else "may be chance"}
    return ComparisonTable(list(written), len(first), labeler.name, [Comparison(**row) for row in rows])


def _learned(words: Sequence[str]) -> Callable[[list[str], list[str]], dict[str, np.ndarray]]:
    """The values of learned metrics that any of the runs keeps."""
    folders = {Path(word) if Path(word).is_dir() else Path(word.rpartition(":")[0]) for word in words}
    kept = [read_learned(folder)[1] for folder in sorted(folders)]

    def values(texts: list[str], reports: list[str]) -> dict[str, np.ndarray]:
        return {key: column for found in kept for key, column in found(texts, reports).items()}

    return values


def _pair(
    first: str,
    second: str,
    written: Mapping[str, list[str]],
    statistics: Mapping[str, SystemStatistics],
    everything: bool,
) -> list[dict[str, Any]]:
    a, b = statistics[first], statistics[second]
    p_values, scores = exchange_p_values(a, b), [point_scores(system) for system in (a, b)]
    shown = [d for d in paired_differences(a, b) if everything or d.metric in keys("main")]
    return [
        {
            "metric": d.metric,
            "first": first,
            "second": second,
            "score_first": scores[0][d.metric],
            "score_second": scores[1][d.metric],
            "difference": d.value,
            "low": d.low,
            "high": d.high,
            "p": p_values[d.metric],
            "p_holm": 1.0,
            "verdict": "identical" if written[first] == written[second] else "",
        }
        for d in shown
    ]
