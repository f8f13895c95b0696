"""Reads the reports of any system from the files they come in, and joins them with a data set's studies.

A new form is a row of `FORMATS` and, where its keys are new, a word in `IDS`, `REPORTS` or `REFERENCES`.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emrrg_lib.data.study import Study, bare_id, is_blank, listed, read_lines
from emrrg_lib.files import InputError, first_line

FORMATS: tuple[tuple[str, str], ...] = (
    ("CSV or TSV with a header", "id,report"),
    ("JSONL: an object a line, as in this kit's predictions.jsonl", '{"id": "s1", "hypothesis": "…"}'),
    ("JSON list of objects", '[{"study_id": 1, "generated": "…"}]'),
    ("JSON mapping of texts", '{"s1": "…"}'),
    ("R2GenGPT's test_result.json", '{"s1": ["…"]}'),
    ("ReXrank's file", '{"s1": {"model_prediction": "…", "section_findings": "…"}}'),
    ("JSON list of texts, or CSV without ids, in the split's order", '["…", "…"]'),
    (".txt, a report a line, in the split's order", "…"),
)
"""Every form that `read_reports` reads, with an example."""

IDS = ("id", "study_id", "uid", "image_id", "study")
REPORTS = (
    *("hypothesis", "model_prediction", "prediction", "predicted", "pred", "hypo", "hyp", "candidate"),
    *("generated_report", "generated", "generation", "output", "caption", "text", "report"),
)
REFERENCES = ("reference", "ref", "ground_truth", "groundtruth", "gt", "target", "report")
SECTIONS = (("section_findings", "section_impression"), ("findings", "impression"))
"""Names of columns and keys, in any case; the first one that is there counts."""


@dataclass(frozen=True)
class Entry:
    """One report of a file: where it was, its id or None, its text ("": a blank one), a reference or None."""

    where: str
    id: str | None
    report: str
    reference: str | None = None


def read_reports(path: Path) -> list[Entry]:
    """The reports of a file in one of `FORMATS`.

    Raises:
        InputError: the file is missing, damaged, empty or in no known form; an id is missing or there twice.
    """
    if not path.is_file():
        raise InputError(f"no file of reports at {path}: check the path")
    suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if suffix in ("csv", "tsv"):
        header, lines = read_lines(path)
        rows = (dict(zip(header, cells, strict=True)) for cells in lines.values())
        entries = [_entry(row, f"{path}, line {n}") for n, row in zip(lines, rows, strict=True)]
    elif suffix in ("json", "jsonl", "ndjson"):
        entries = list(_of_json(_parse(path, _text_of(path)), str(path)))
    elif suffix == "txt":
        lines = _text_of(path).removesuffix("\n").split("\n")
        entries = [Entry(f"{path}, line {n}", None, _text(line, "")) for n, line in enumerate(lines, 1)]
    else:
        forms = "; ".join(f"{name}: {example}" for name, example in FORMATS)
        raise InputError(f"{path} has a name that says no known form; known are {forms}")
    if not any(entry.report for entry in entries):
        raise InputError(f"{path} holds no report: nothing can be scored")
    if bare := [entry.where for entry in entries if entry.id is None]:
        if len(bare) < len(entries):
            raise InputError(f"{bare[0]} has no id, but other reports of the file have one: give it one")
        return entries
    seen: dict[str, str] = {}
    for entry in entries:
        if first := seen.get(bare_id(entry.id or "")):
            raise InputError(
                f"{entry.where}: the id {entry.id!r} was there before ({first}); keep one of them"
            )
        seen[bare_id(entry.id or "")] = entry.where.removeprefix(f"{path}, ")
    return entries


def _text_of(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read().decode("utf-8-sig").replace("\r\n", "\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"cannot unpack {path}: {first_line(error)}; fetch it again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}); save it again as UTF-8") from error


def _parse(path: Path, text: str) -> Any:
    """The content of a JSON file; of JSON lines, a list of them."""
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply; known forms have at most three levels") from error
    except json.JSONDecodeError as whole:
        items = []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                items += [json.loads(line, object_pairs_hook=_without_twins)] if line.strip() else []
            except json.JSONDecodeError as error:
                error = error if items else whole
                raise InputError(
                    f"{path} is neither JSON nor JSON lines (line {number}: {error.msg})"
                ) from error
        return items


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json.loads alone keeps the last of two equal keys in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twin = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise InputError(f"the key {twin!r:.80} is twice in one object of the file; keep one of them")
    return found


def _of_json(content: Any, path: str) -> Iterator[Entry]:
    if (
        isinstance(content, dict)
        and len(content) == 1
        and isinstance(value := next(iter(content.values())), list)
    ):
        content = value if len(value) != 1 or isinstance(value[0], dict) else content  # {"predictions": […]}
    elif isinstance(content, dict):  # {"model": "…", "predictions": [{…}, …]}
        inner = [value for value in content.values() if isinstance(value, list | dict)]
        if len(inner) == 1 and isinstance(inner[0], list) and inner[0] and isinstance(inner[0][0], dict):
            content = inner[0]
    if isinstance(content, dict) and any(key.lower() in (*IDS, *REPORTS) for key in content):
        content = [content]  # a file of one line
    if isinstance(content, dict):
        for key, value in content.items():
            where = f"{path}, {key!r:.80}"
            own = value if isinstance(value, dict) else {"report": value}
            yield _entry(own, where, key)
    elif isinstance(content, list):
        for number, value in enumerate(content, 1):
            where = f"{path}, item {number}"
            if isinstance(value, list) and len(value) == 2:
                yield _entry({"id": value[0], "report": value[1]}, where)
            else:
                yield _entry(value if isinstance(value, dict) else {"report": value}, where)
    else:
        raise InputError(
            f"{path} holds {type(content).__name__}, but a list or an object of reports is needed"
        )


def _entry(row: Mapping[str, Any], where: str, key: str | None = None) -> Entry:
    cells = {name.strip().lower(): value for name, value in row.items()}
    report = next((name for name in REPORTS if name in cells), None)
    if report is None:
        names = listed(map(repr, cells), 8)
        raise InputError(
            f"{where} has {names or 'nothing'}, but no report: name it one of {', '.join(REPORTS)}"
        )
    name = next((name for name in IDS if name in cells), None) if key is None else None
    given = key if name is None else _id(cells[name], where)
    own = next((name for name in REFERENCES if name in cells and name != report), None)
    reference = None if own is None else _text(cells[own], f"{where}, {own}")
    for pair in SECTIONS if own is None else ():
        if pair[0] in cells or pair[1] in cells:  # as ReXrank's own script joins them
            parts = (_text(cells.get(name), where) or None for name in pair)
            reference = "Findings: {} Impression: {}".format(*parts)
            break
    return Entry(where, given, _text(cells[report], f"{where}, {report}"), reference)


def _id(value: Any, where: str) -> str:
    whole = isinstance(value, float) and value.is_integer()
    if (
        isinstance(value, str)
        and value.strip()
        or isinstance(value, int)
        and not isinstance(value, bool)
        or whole
    ):
        return str(int(value) if whole else value)
    raise InputError(f"{where} has {value!r:.40} for its id: an id is a text or a whole number")


def _text(value: Any, where: str) -> str:
    """A text, or the one text of a list; "" for null, NaN and what says nothing."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where} must be a text, not {type(value).__name__}: {value!r:.60}")
    return "" if is_blank(value) else value


def join(entries: Sequence[Entry], studies: Sequence[Study], split: str, path: Path) -> list[Entry]:
    """The entries of a split's studies, in the order of the studies.

    Args:
        entries: of :func:`read_reports`; without ids they must have the split's order.
        studies: of all splits; entries of other splits are left out.
        path: of the file, for messages.

    Raises:
        InputError: a study of the split has no entry, or an entry belongs to no study of the data.
    """
    wanted = [study for study in studies if study.split == split]
    if entries[0].id is None:
        if len(entries) != len(wanted):
            raise InputError(
                f"{path} has {len(entries)} reports without ids, but split {split!r} has {len(wanted)} "
                "studies: give ids, or one report for each study in their order"
            )
        return list(entries)
    given = {bare_id(entry.id or ""): entry for entry in entries}
    known = {bare_id(study.id): study.split for study in studies}
    if foreign := [entry.id for key, entry in given.items() if key not in known]:
        raise InputError(
            f"{path} has {len(foreign)} ids that no study of the data has, such as {foreign[0]!r:.80} "
            f"(the data has {wanted[0].id!r}): remove them, or give the data they belong to"
        )
    if missing := [study.id for study in wanted if bare_id(study.id) not in given]:
        held = sorted({known[key] for key in given} - {split})
        hint = f"it has reports of {', '.join(held)}: try --split" if held else "write one for each"
        raise InputError(
            f"{path} lacks {len(missing)} of the {len(wanted)} studies of split {split!r}, such as "
            f"{missing[0]!r}; {hint}"
        )
    return [given[bare_id(study.id)] for study in wanted]
