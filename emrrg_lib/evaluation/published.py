"""The papers' tables (`data/published`), and a run's scores beside them.

Two numbers are printed in one table only if the table also says how they differ: data set, references,
labeler, averages. Published rows never appear beside synthetic data without a note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emrrg_lib.data.sources import SOURCES
from emrrg_lib.evaluation.metrics import COSTS, columns, metric
from emrrg_lib.files import KIT, InputError, close_name, latex_table, plain_cell, text_table
from emrrg_lib.run_folder import read_metrics

FOLDER = KIT / "data" / "published"
HEADLINE = ("emrrg_table1", "emrrg_table2", "emrrg_table3")
_OTHER = "CE with *: read by another labeler ({theirs}) than this run's ({ours}), so not comparable."
_AVERAGE = (
    "CE: micro average over 14 observations; 13 leaves No Finding out. "
    "The papers do not say how theirs is averaged."
)
_CUT = (
    "EMRRG's released code scores against references cut to 60 tokens (IU X-Ray) or 100; "
    "this run's references: {references}."
)
_ELSEWHERE = "This run's data set is {kind}: its scores say nothing about the published data sets."
_SEEDS = "±: standard deviation between the runs, which says nothing about the choice of studies."
_COSTS = (
    "minutes: to write the reports of the whole split, on this run's machine (run.json) and on the papers' "
    "A800 GPUs; tuned: the parameters that train."
)
_ALONE = "No published rows: this run's data set is {kind}; `--with emrrg_table1` prints them."


def published(table: str) -> pd.DataFrame:
    """One table of a paper as printed there.

    Args:
        table: `emrrg_table1` to `emrrg_table6` or `cxpmrg_table1` to `cxpmrg_table5`.

    Returns:
        One row for each system and data set: table, dataset, system, publication, setting and labeler
        where the table has them, metrics as floats (NaN: a dash), source, note.

    Raises:
        InputError: there is no such table.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.csv"))
    if table not in known:
        hint = close_name(table, known)
        raise InputError(f"there is no published table '{table}'; {hint}there are {', '.join(known)}")
    frame = pd.read_csv(FOLDER / f"{table}.csv", dtype={"publication": str})
    texts = frame.columns.difference(list(columns()))
    return frame.assign(**{name: frame[name].fillna("") for name in texts})


@dataclass(frozen=True)
class ScoreTable:
    """The rows of one or more runs and published ones.

    Attributes:
        caption: data set, split, references, labeler, studies and date of the run.
        rows: one dict a row: source, system, the columns of `metrics.columns()`, and `<column>_low`,
            `<column>_high` where there is an interval or `<column>_sd` for a mean of several runs; `labeler`
            where it is not the run's.
        notes: sentences to print under the table.
    """

    caption: str
    rows: Sequence[dict[str, Any]]
    notes: Sequence[str]

    def render(self, style: str = "text") -> str:
        """The table as `text`, `markdown`, `latex`, `csv` or `json`; the first three have the notes."""
        if style == "json":
            about = {"caption": self.caption, "notes": list(self.notes)}
            return json.dumps(about | {"rows": list(self.rows)}, indent=1, ensure_ascii=False)
        if style == "csv":
            about = {"run": self.caption, "remarks": " ".join(self.notes)}
            rows = [{name: plain_cell(value) for name, value in (row | about).items()} for row in self.rows]
            return pd.DataFrame(rows).to_csv(index=False).rstrip("\n")
        shown = [name for name in columns() if any(row.get(name) is not None for row in self.rows)]
        if not any(_timed(row) for row in self.rows):  # costs stand beside those of a paper
            shown = [name for name in shown if columns()[name][1].group != COSTS]
        lines = [["", *(columns()[name][1].title for name in shown)]]
        for row in self.rows:
            values, ranges = ([cell(row, name) for name in shown] for cell in (_value, _interval))
            if style in ("markdown", "latex"):
                values = [f"{v} ({r})" if r else v for v, r in zip(values, ranges, strict=True)]
            lines.append([row["system"], *values])
            if style == "text" and any(ranges):
                lines.append(["", *ranges])
        if style == "latex":
            return latex_table(lines, 1, f"{self.caption}. {' '.join(self.notes)}")
        drawn = text_table(lines, markdown=style == "markdown")
        bullets = "\n".join(f"- {note}" for note in self.notes)
        return f"{self.caption}\n\n{drawn}\n\n{bullets}".rstrip("\n")


def with_model_of(metrics: dict[str, Any], run: Path, place: int) -> dict[str, Any]:
    """The metrics with the first system of another run as one more row, at this place.

    Raises:
        InputError: the run is on other data, or scored otherwise.
    """
    other = read_metrics(run)
    refuse_other_scoring(metrics, other)
    folder, system = run.resolve().name, other["rows"][0]["system"]
    model = other["rows"][0] | {"system": system if system == folder else f"{folder}: {system}"}
    return metrics | {"rows": [*metrics["rows"][:place], model, *metrics["rows"][place:]]}


def refuse_other_scoring(metrics: dict[str, Any], other: dict[str, Any]) -> None:
    """Raises InputError where scores of two runs do not belong into one table."""
    for key in ("dataset", "split", "references", "cleaning", "labeler"):
        known = {metrics.get(key), other.get(key)} - ({None} if key == "cleaning" else set())
        if len(known) > 1:
            raise InputError(
                f"the runs differ in '{key}' ({metrics.get(key)}; {other.get(key)}): "
                "score both alike with `emrrg evaluate --run`"
            )


def mean_of_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """The metrics of several seeds of one system: means, and `sd` (n - 1) in place of intervals.

    The first rows are of that system, whatever its names. Controls are matched by their names; those that
    not every run has are left out.

    Raises:
        InputError: fewer than two runs, or runs on other data or scored otherwise.
    """
    first, *others = (read_metrics(run) for run in runs)
    if not others:
        raise InputError("--seeds takes the mean of two or more runs: name them all after --run")
    for other in others:
        refuse_other_scoring(first, other)
        other["rows"][0]["system"] = first["rows"][0]["system"]
    rows = []
    for row in first["rows"]:
        same = [row, *(found for m in others for found in m["rows"] if found["system"] == row["system"])]
        values = {key: [of["metrics"].get(key) for of in same] for key in row["metrics"]}
        values = {key: found for key, found in values.items() if None not in found}
        if len(same) == len(runs):
            mean = {key: float(np.mean(found)) for key, found in values.items()}
            spread = {key: float(np.std(found, ddof=1)) for key, found in values.items()}
            rows.append({"system": row["system"], "metrics": mean, "sd": spread})
    return first | {"rows": rows, "date": None, "runs": f"mean ± sd of {len(runs)} runs"}


def score_table(
    run: str | Path,
    tables: Sequence[str] | None = None,
    others: Sequence[Path] = (),
    seeds: bool = False,
) -> ScoreTable:
    """A run's scores with intervals and controls, beside published rows of its data set.

    Args:
        run: folder with a `metrics.json`.
        others: more runs: the first system of each is one more row.
        seeds: whether the runs are seeds of one system, so that each row is their mean ± sd.
        tables: names of published tables; None takes the paper's tables that have the run's data
            set, and none where the data are synthetic or unknown to the papers.

    Raises:
        InputError: no metrics in `run`, no such table, or a table without the run's data set.
    """
    metrics = mean_of_runs([Path(run), *others]) if seeds else read_metrics(Path(run))
    for place, other in enumerate(() if seeds else others, 1):
        metrics = with_model_of(metrics, other, place)
    dataset, labeler = metrics["dataset"], metrics["labeler"]
    synthetic = "synthetic" in dataset.lower()
    known = next((row.printed for row in SOURCES if re.search(row.mentions, dataset, re.I)), None)
    chosen = tables if tables is not None else HEADLINE if known and not synthetic else ()
    rows = [row for name in chosen for row in _published_rows(name, known, labeler)]
    if tables and not rows:
        raise InputError(f"{', '.join(tables)} has no row of {known}; see data/published")
    facts = {
        "split": metrics["split"],
        "studies": metrics.get("studies"),
        "references": metrics.get("references") or "full",
        "cleaning": metrics.get("cleaning"),
        "labeler": labeler,
        "uncertain": metrics.get("uncertain"),
        "scored": metrics.get("date"),
        "rows": metrics.get("runs"),
    }
    caption = "; ".join([dataset, *(f"{name} {value}" for name, value in facts.items() if value)])
    kind = "synthetic" if synthetic else "" if known else "not one of the papers'"
    notes = _notes(rows, kind, facts, seeds) + [_COSTS] * any(map(_timed, rows))
    notes += [f"{metric(key).title}: {by}." for key, by in (metrics.get("learned") or {}).items()]
    return ScoreTable(caption, [*_own_rows(metrics), *rows], notes)


def _notes(rows: Sequence[dict[str, Any]], kind: str, facts: dict[str, Any], seeds: bool) -> list[str]:
    """The sentences under a table: how the published `rows` differ from the run of these facts.

    `kind` says why the run's data set is not a published one; "" where it is one.
    """
    notes = [(_ELSEWHERE if rows else _ALONE).format(kind=kind)] if kind else []
    notes += [_SEEDS if seeds else "Ranges: 95 % intervals from resampled studies.", _AVERAGE]
    if others := sorted({row["labeler"] for row in rows} - {"", facts["labeler"]}):
        notes.append(_OTHER.format(theirs=", ".join(others), ours=facts["labeler"]))
    if any(row["source"].startswith("EMRRG") for row in rows):
        notes.append(_CUT.format(references=facts["references"]))
    return notes + [f"{row['note']}." for row in rows if row["note"]]


def _timed(row: dict[str, Any]) -> bool:
    """Whether it is a published row with costs."""
    return row["source"] != "this run" and "minutes" in row


def _own_rows(metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in metrics["rows"]:
        out: dict[str, Any] = {"source": "this run", "system": row["system"], "labeler": ""}
        for column, (key, _) in columns().items():
            if row["metrics"].get(key) is not None:
                out[column] = row["metrics"][key]
                if (spread := (row.get("sd") or {}).get(key)) is not None:
                    out[f"{column}_sd"] = spread
                if interval := (row.get("ci") or {}).get(key):
                    out[f"{column}_low"], out[f"{column}_high"] = interval
        yield out


def _published_rows(table: str, dataset: str | None, labeler: str) -> Iterator[dict[str, Any]]:
    """The rows of one data set (None: of all of them); a row keeps its labeler where it is not `labeler`."""
    for row in published(table).to_dict("records"):
        if dataset is not None and row["dataset"] != dataset:
            continue
        paper, number, *_ = row["source"].split(", ")
        place = [
            row.get("setting"),
            dataset is None and row["dataset"],
            f"{paper.split('-')[0]} {number.replace('Table ', 'T')}",
        ]
        values = {name: row[name] for name in columns() if pd.notna(row.get(name))}
        theirs = row.get("labeler", "")
        yield values | {
            "source": row["source"],
            "labeler": "" if theirs == labeler else theirs,
            "system": f"{row['system']} ({', '.join(filter(None, place))})",
            "note": row["note"] and f"{row['source']}, {row['system']}: {row['note']}",
        }


def _value(row: dict[str, Any], name: str) -> str:
    if row.get(name) is None:
        return "-"
    metric = columns()[name][1]
    return f"{row[name]:.{metric.decimals}f}" + ("*" if metric.clinical and row["labeler"] else "")


def _interval(row: dict[str, Any], name: str) -> str:
    if f"{name}_sd" in row:
        return f"±{row[f'{name}_sd']:.3f}".replace("0.", ".", 1)
    if f"{name}_low" not in row:
        return ""
    return "–".join(f"{row[f'{name}_{end}']:.3f}".removeprefix("0") for end in ("low", "high"))
