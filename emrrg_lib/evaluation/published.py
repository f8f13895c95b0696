"""The papers' tables (`data/published`), and a run's scores beside them.

Two numbers are printed in one table only if the table also says how they differ: data set, references,
labeler, averages. Published rows never appear beside synthetic data without a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from emrrg_lib.data.sources import SOURCES
from emrrg_lib.evaluation.metrics import columns
from emrrg_lib.files import KIT, InputError, plain_cell, text_table
from emrrg_lib.run_folder import read_json

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
        raise InputError(f"there is no published table '{table}'; there are {', '.join(known)}")
    frame = pd.read_csv(FOLDER / f"{table}.csv", dtype={"publication": str})
    texts = frame.columns.difference(list(columns()))
    return frame.assign(**{name: frame[name].fillna("") for name in texts})


@dataclass(frozen=True)
class ScoreTable:
    """A run's rows and published ones.

    Attributes:
        caption: data set, split, references, labeler, studies and date of the run.
        rows: one dict a row: source, system, the columns of `metrics.columns()`, and `<column>_low`,
            `<column>_high` where there is an interval; `labeler` where it is not the run's.
        notes: sentences to print under the table.
    """

    caption: str
    rows: Sequence[dict[str, Any]]
    notes: Sequence[str]

    def render(self, style: str = "text") -> str:
        """The table as `text`, `markdown` or `csv`; the first two end with the notes."""
        if style == "csv":
            about = {"run": self.caption, "remarks": " ".join(self.notes)}
            rows = [{name: plain_cell(value) for name, value in (row | about).items()} for row in self.rows]
            return pd.DataFrame(rows).to_csv(index=False).rstrip("\n")
        shown = [name for name in columns() if any(row.get(name) is not None for row in self.rows)]
        lines = [["", *(columns()[name][1].title for name in shown)]]
        for row in self.rows:
            values, ranges = ([cell(row, name) for name in shown] for cell in (_value, _interval))
            if style == "markdown":
                values = [f"{v} ({r})" if r else v for v, r in zip(values, ranges, strict=True)]
            lines.append([row["system"], *values])
            if style == "text" and any(ranges):
                lines.append(["", *ranges])
        drawn = text_table(lines, markdown=style == "markdown")
        bullets = "\n".join(f"- {note}" for note in self.notes)
        return f"{self.caption}\n\n{drawn}\n\n{bullets}".rstrip("\n")


def score_table(run: str | Path, tables: Sequence[str] | None = None) -> ScoreTable:
    """A run's scores with intervals and controls, beside published rows of its data set.

    Args:
        run: folder with a `metrics.json`.
        tables: names of published tables; None takes the paper's tables that have the run's data
            set, and none where the data are synthetic or unknown to the papers.

    Raises:
        InputError: no metrics in `run`, no such table, or a table without the run's data set.
    """
    metrics = read_json(Path(run) / "metrics.json")
    dataset, labeler = str(metrics["dataset"]), str(metrics["labeler"])
    synthetic = "synthetic" in dataset.lower()
    known = next((row.printed for row in SOURCES if re.search(row.mentions, dataset, re.I)), None)
    chosen = tables if tables is not None else HEADLINE if known and not synthetic else ()
    rows = [row for name in chosen for row in _published_rows(name, known, labeler)]
    if tables and not rows:
        raise InputError(f"{', '.join(tables)} has no row of {known}; see data/published")
    facts = {
        "split": metrics["split"],
        "studies": metrics.get("studies"),
        "references": metrics.get("references", "full"),
        "labeler": labeler,
        "uncertain": metrics.get("uncertain"),
        "scored": metrics.get("date"),
    }
    caption = "; ".join([dataset, *(f"{name} {value}" for name, value in facts.items() if value)])
    kind = "synthetic" if synthetic else "" if known else "not one of the papers'"
    return ScoreTable(caption, [*_own_rows(metrics), *rows], _notes(rows, kind, facts))


def _notes(rows: Sequence[dict[str, Any]], kind: str, facts: dict[str, Any]) -> list[str]:
    """The sentences under a table: how the published `rows` differ from the run of these facts.

    `kind` says why the run's data set is not a published one; "" where it is one.
    """
    notes = [(_ELSEWHERE if rows else _ALONE).format(kind=kind)] if kind else []
    notes += ["Ranges: 95 % intervals from resampled studies.", _AVERAGE]
    if others := sorted({row["labeler"] for row in rows} - {"", facts["labeler"]}):
        notes.append(_OTHER.format(theirs=", ".join(others), ours=facts["labeler"]))
    if any(row["source"].startswith("EMRRG") for row in rows):
        notes.append(_CUT.format(references=facts["references"]))
    return notes + [f"{row['note']}." for row in rows if row["note"]]


def _own_rows(metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in metrics["rows"]:
        out: dict[str, Any] = {"source": "this run", "system": row["system"], "labeler": ""}
        for column, (key, _) in columns().items():
            if row["metrics"].get(key) is not None:
                out[column] = row["metrics"][key]
                if interval := row["ci"].get(key):
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
    if f"{name}_low" not in row:
        return ""
    return "–".join(f"{row[f'{name}_{end}']:.3f}".removeprefix("0") for end in ("low", "high"))
