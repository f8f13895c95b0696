"""Own data as one plain CSV: a row an image, with the columns `image` and `report`, and any of four more.

    image,report,split,id,patient,view
    a/0001.png,The heart is enlarged.,train,study1,p1,PA

Rows of one `id` are the views of one study; without `id` each row is a study of its own. Without `split`
the studies are split 7:1:2 by patient. Columns may have capitals, and the names `study_id`, `patient_id` and
`subject_id`; all others are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emrrg_lib.data.annotation import inside
from emrrg_lib.data.mimic_cxr import VIEW
from emrrg_lib.data.study import (
    SPLITS,
    Problem,
    Study,
    is_blank,
    left_out,
    listed,
    plain_id,
    read_lines,
    read_table,
    view_of,
)
from emrrg_lib.files import InputError

TABLE = "studies.csv"
NEEDED, OPTIONAL = ("image", "report"), ("split", "id", "patient", "view")
_NAMES = {"study_id": "id", "patient_id": "patient", "subject_id": "patient"}
_SPLITS = {name: name for name in SPLITS} | {"validate": "val", "validation": "val", "valid": "val"}
_VIEWS = {name.lower(): view for name, view in VIEW.items()} | {
    "frontal": "frontal",
    "lateral": "lateral",
    "other": "other",
}


def read_own_table(table: Path, problems: list[Problem]) -> list[Study]:
    """Every study of the table that has a report; images are not looked at.

    Raises:
        InputError: The table is damaged, a path in it leaves its folder, a split is unknown or missing in
            some rows only, or the rows of one study name different splits, patients or reports.
    """
    names: dict[str, str] = {}  # ours -> that of the table
    for given in read_lines(table)[0]:
        plain = given.lower().replace(" ", "_")
        name = _NAMES.get(plain, plain)
        if name in names and name in (*NEEDED, *OPTIONAL):
            raise InputError(f"{table} has two columns for '{name}', {names[name]!r} and {given!r}: keep one")
        names[name] = given
    if missing := [name for name in NEEDED if name not in names]:
        raise InputError(
            f"{table} has no column {listed(map(repr, missing))}; it has {listed(names.values())}"
        )
    chosen = {names[name]: name for name in (*NEEDED, *OPTIONAL) if name in names}
    rows = read_table(table, tuple(chosen)).rename(columns=chosen)
    groups: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for line, row in zip(rows.index, rows.to_dict("records"), strict=True):
        name = plain_id(row.get("id", "")) or row["image"].strip()
        groups.setdefault(name, []).append((line, row))
    _refuse_splits(table, [(line, row) for group in groups.values() for line, row in group])
    studies = (_study(table, name, group, problems) for name, group in groups.items())
    return [study for study in studies if study]


def _refuse_splits(table: Path, rows: list[tuple[int, dict[str, str]]]) -> None:
    """Raises InputError for a split that is unknown, or missing where other rows have one."""
    given = {line: row["split"].strip().lower() for line, row in rows if "split" in row}
    wrong = [f"{line} ({name!r})" for line, name in given.items() if name and name not in _SPLITS]
    if wrong:
        raise InputError(f"{table}, line {listed(wrong)}: a split is {', '.join(SPLITS)}")
    empty = [str(line) for line, name in given.items() if not name]
    if empty and len(empty) < len(given):
        raise InputError(f"{table}, line {listed(empty)}: no split; give each row one, or none")


def _study(
    table: Path, name: str, group: list[tuple[int, dict[str, str]]], problems: list[Problem]
) -> Study | None:
    """One study of the rows of its id; None, and a remark, if it has no report."""
    first = group[0][0]

    def one(key: str) -> str:
        found = {row.get(key, "").strip(): line for line, row in group}
        found = {text: line for text, line in found.items() if not is_blank(text)}
        if len(found) > 1:
            lines = listed(map(str, found.values()))
            raise InputError(f"{table}: study {name} has {len(found)} values of '{key}' (line {lines})")
        return next(iter(found), "")

    report, split, patient = one("report"), one("split").lower(), plain_id(one("patient"))
    if not report:
        problems.append(left_out("no report", name, f" (line {first})"))
        return None
    views: Any = [row.get("view", "").strip() for _, row in group]
    views = tuple(view_of(view, _VIEWS, name, problems) for view in views) if all(views) else None
    images = tuple(inside(table.parent, row["image"].strip(), f"{table}, line {line}") for line, row in group)
    return Study(name, images, report, _SPLITS.get(split, ""), views=views, patient=patient or None)
