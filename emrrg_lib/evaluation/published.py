"""The papers' tables (`data/published`), and a run's scores beside them.

Two numbers stand in one table only where the reader is told what differs: data set, references,
labeler, averages. Published rows never appear beside synthetic data without a word about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from emrrg_lib.data.sources import SOURCES
from emrrg_lib.files import KIT, InputError, text_table
from emrrg_lib.run_folder import read_json

FOLDER = KIT / "data" / "published"
HEADLINE = ("emrrg_table1", "emrrg_table2", "emrrg_table3")
# Column of a published table -> (heading, metric of metrics.json).
COLUMNS = {
    **{f"Bleu_{n}": (f"BLEU-{n}", f"Bleu_{n}") for n in range(1, 5)},
    "ROUGE_L": ("ROUGE-L", "ROUGE_L"),
    "METEOR": ("METEOR", "METEOR"),
    "CIDEr": ("CIDEr", "CIDEr"),
    "CE_P": ("CE P", "CE14_micro_P"),
    "CE_R": ("CE R", "CE14_micro_R"),
    "CE_F1": ("CE F1", "CE14_micro_F1"),
    "CE13_F1": ("CE F1, 13", "CE13_micro_F1"),
    "minutes": ("minutes", ""),
    "parameters_millions": ("tuned, M", ""),
}
CE = ("CE_P", "CE_R", "CE_F1")
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
        One row a system and data set: table, dataset, system, what else the table tells of it
        (publication, setting, labeler), metrics as floats (NaN: a dash), source, note.

    Raises:
        InputError: there is no such table.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.csv"))
    if table not in known:
        raise InputError(f"there is no published table '{table}'; there are {', '.join(known)}")
    frame = pd.read_csv(FOLDER / f"{table}.csv", dtype={"publication": str})
    texts = frame.columns.difference(list(COLUMNS))
    return frame.assign(**{name: frame[name].fillna("") for name in texts})


@dataclass(frozen=True)
class ScoreTable:
    """A run's rows and published ones.

    Attributes:
        caption: data set, split, references, labeler, studies and date of the run.
        rows: one dict a row: source, system, `<column of COLUMNS>`, and `<column>_low`, `_high`
            where there is an interval; `labeler` where it is not the run's.
        notes: sentences that belong under the table.
    """

    caption: str
    rows: Sequence[dict[str, Any]]
    notes: Sequence[str]

    def render(self, style: str = "text") -> str:
        """The table as `text`, `markdown` or `csv`; the first two end with the notes."""
        if style == "csv":
            told = {"run": self.caption, "remarks": " ".join(self.notes)}
            return pd.DataFrame([row | told for row in self.rows]).to_csv(index=False).rstrip("\n")
        columns = [name for name in COLUMNS if any(row.get(name) is not None for row in self.rows)]
        lines = [["", *(COLUMNS[name][0] for name in columns)]]
        for row in self.rows:
            lines.append([row["system"], *(_value(row, name) for name in columns)])
            if style == "text" and any(f"{name}_low" in row for name in columns):
                lines.append(["", *(_interval(row, name) for name in columns)])
        if style == "markdown":
            ranges = [["", *(_interval(row, name) for name in columns)] for row in self.rows]
            lines[1:] = [
                [f"{cell} ({end})" if end else cell for cell, end in zip(*pair, strict=True)]
                for pair in zip(lines[1:], ranges, strict=True)
            ]
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
    notes = ["Ranges: 95 % intervals from resampled studies.", _AVERAGE]
    if synthetic or not known:
        kind = "synthetic" if synthetic else "not one of the papers'"
        notes.insert(0, (_ELSEWHERE if rows else _ALONE).format(kind=kind))
    if others := sorted({row["labeler"] for row in rows} - {"", labeler}):
        notes.append(_OTHER.format(theirs=", ".join(others), ours=labeler))
    references = metrics.get("references", "full")
    if any(row["source"].startswith("EMRRG") for row in rows):
        notes.append(_CUT.format(references=references))
    notes += [f"{row['note']}." for row in rows if row["note"]]
    told = {
        "split": metrics["split"],
        "studies": metrics.get("studies"),
        "references": references,
        "labeler": labeler,
        "uncertain": metrics.get("uncertain"),
        "scored": metrics.get("date"),
    }
    caption = "; ".join([dataset, *(f"{name} {value}" for name, value in told.items() if value)])
    return ScoreTable(caption, [*_own_rows(metrics), *rows], notes)


def _own_rows(metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in metrics["rows"]:
        out: dict[str, Any] = {"source": "this run", "system": row["system"], "labeler": ""}
        for column, (_, metric) in COLUMNS.items():
            if row["metrics"].get(metric) is not None:
                out[column] = row["metrics"][metric]
                if interval := row["ci"].get(metric):
                    out[f"{column}_low"], out[f"{column}_high"] = interval
        yield out


def _published_rows(table: str, dataset: str | None, labeler: str) -> Iterator[dict[str, Any]]:
    """The rows of one data set (None: of every one); `labeler` is kept where it is another one."""
    for row in published(table).to_dict("records"):
        if dataset is not None and row["dataset"] != dataset:
            continue
        paper, number, *_ = row["source"].split(", ")
        place = [
            row.get("setting"),
            dataset is None and row["dataset"],
            f"{paper.split('-')[0]} {number.replace('Table ', 'T')}",
        ]
        values = {name: row[name] for name in COLUMNS if pd.notna(row.get(name))}
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
    digits = 2 if name in ("minutes", "parameters_millions") else 3
    return f"{row[name]:.{digits}f}" + ("*" if name in CE and row["labeler"] else "")


def _interval(row: dict[str, Any], name: str) -> str:
    if f"{name}_low" not in row:
        return ""
    return "–".join(f"{row[f'{name}_{end}']:.3f}".removeprefix("0") for end in ("low", "high"))
