"""Reads the reports of any system from the files they come in, and joins them with a data set's studies.

A new form is a row of `FORMATS` and, where its keys are new, a word in `IDS`, `REPORTS` or `REFERENCES`.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emrrg_lib.data.study import Study, bare_id, is_blank, listed, plain_id, read_lines
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

KEY = "*"  # the name of a mapping's keys, which no column has
IDS = (KEY, "id", "study_id", "uid", "image_id", "study")
_CLEAR = (  # `REPORTS` has four more, which may also name somebody else's text
    *"hypothesis model_prediction prediction predictions predicted predict pred preds hypo hyp".split(),
    *"candidate generated_report generated generation response answer".split(),
)
REPORTS = (*_CLEAR, "output", "caption", "text", "report")
REFERENCES = tuple("reference ref ground_truth groundtruth gt target label report".split())
SECTIONS = (("section_findings", "section_impression"), ("findings", "impression"))
"""Names of columns and keys, as `_row` writes them; the first one that is there counts."""
_ASKED = "prompt question query instruction input context indication history".split()
_TEXTS = {*REPORTS, *REFERENCES, *_ASKED, *SECTIONS[0], *SECTIONS[1]}
_ID = re.compile(r"(?!\d+\.\d+$)\S*\d\S*")  # a word with a digit, and no fraction
_SUFFIX = re.compile(r"\.(png|jpe?g|dcm|tiff?|bmp|webp)$", re.I)

Row = tuple[str, dict[str, Any]]  # where it is, and its cells by their plain names


@dataclass(frozen=True)
class Entry:
    """One report of a file: where it was, its id or None, its text ("": a blank one), a reference or None."""

    where: str
    id: str | None
    report: str
    reference: str | None = None


def read_reports(path: Path, known: Collection[str] = ()) -> list[Entry]:
    """The reports of a file in one of `FORMATS`.

    Args:
        known: ids of the data. They tell the column of ids where its name does not, and the id in the path
            of an image.

    Raises:
        InputError: the file is missing, damaged, empty or in no known form; an id is missing or there twice;
            or the file does not say which text is the report, or whose it is.
    """
    if not path.is_file():
        raise InputError(f"no file of reports at {path}: check the path")
    rows, exact = _rows(path), {bare_id(key): key for key in known}
    keys = {bare_id(_SUFFIX.sub("", key)): key for key in known} | exact
    column = _id_column(rows, keys)
    entries = [_entry(where, cells, column, keys) for where, cells in rows]
    if not any(entry.report for entry in entries):
        raise InputError(f"{path} holds no report: nothing can be scored")
    if bare := [entry.where for entry in entries if entry.id is None]:
        if len(bare) < len(entries):
            raise InputError(f"{bare[0]} has no id, but other reports of the file have one: give it one")
        if known:
            _refuse_lost_ids(path, rows, entries)
        return entries
    seen: dict[str, str] = {}
    for entry in entries:
        if first := seen.get(bare_id(entry.id or "")):
            problem = f"the id {entry.id!r} was there before ({first}); keep one of them"
            raise InputError(f"{entry.where}: {problem}")
        seen[bare_id(entry.id or "")] = entry.where.removeprefix(f"{path}, ")
    return entries


def _rows(path: Path) -> list[Row]:
    suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if suffix in ("csv", "tsv"):
        header, lines = read_lines(path)
        return [_row(zip(header, line, strict=True), f"{path}, line {n}") for n, line in lines.items()]
    if suffix in ("json", "jsonl", "ndjson"):
        return [*_of_json(_parse(path, _text_of(path)), str(path))]
    if suffix == "txt":
        texts = _text_of(path).removesuffix("\n").split("\n")
        return [(f"{path}, line {n}", {"report": text}) for n, text in enumerate(texts, 1)]
    forms = "; ".join(f"{name}: {example}" for name, example in FORMATS)
    raise InputError(f"{path} has a name that says no known form; known are {forms}")


def _row(cells: Iterable[tuple[str, Any]], where: str) -> Row:
    """Cells by their names without capitals and marks: "ground_truth" for " Ground Truth"."""
    named: dict[str, Any] = {}
    for given, value in cells:
        name = re.sub(r"[\W_]+", "_", given.lower()).strip("_")
        if name in named and name in _TEXTS.union(IDS):
            raise InputError(f"{where} has {name!r} twice, once as {given!r:.40}: rename or remove one")
        named[name] = value
    return where, named


def _id_column(rows: Sequence[Row], known: Mapping[str, str]) -> str | None:
    """The name of the cells with ids: of IDS, first one that the data know; else a column of known ids."""
    names = dict.fromkeys(name for _, cells in rows for name in cells)
    named = [name for name in IDS if name in names]
    for name in named:
        if any(_known(cells.get(name), known) for _, cells in rows):
            return name
    for name in () if named else names.keys() - _TEXTS:
        found = [_known(cells.get(name), known) for _, cells in rows]
        if None not in found and len(set(found)) == len(found):
            return name
    return named[0] if named else None


def _known(value: Any, known: Mapping[str, str]) -> str | None:
    """The id of the data that a cell names: the cell itself, or a part of an image's path."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = plain_id(str(value))
    parts = (text, *re.split(r"[/\\]", _SUFFIX.sub("", text)))
    return next((known[bare_id(part)] for part in parts if bare_id(part) in known), None)


def _refuse_lost_ids(path: Path, rows: Sequence[Row], entries: Sequence[Entry]) -> None:
    """Raises InputError where reports without ids seem to have some: their order may be any."""
    names = {name for _, cells in rows for name in cells} - _TEXTS
    columns = {repr(name): [plain_id(str(cells.get(name))) for _, cells in rows] for name in sorted(names)}
    columns["the text itself"] = [re.split(r"[\s:,;|]", entry.report, maxsplit=1)[0] for entry in entries]
    for name, cells in columns.items():
        counted = [list(map(str, range(start, start + len(cells)))) for start in (0, 1)]
        if len(cells) == len(set(cells)) > 1 and cells not in counted and all(map(_ID.fullmatch, cells)):
            raise InputError(
                f"{path} seems to have ids that cannot be joined, such as {cells[0]!r:.80} in {name}: put "
                "the data's ids into a column 'id', or, if the reports have the split's order, remove these"
            )


def _text_of(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return file.read().decode("utf-8-sig").replace("\r\n", "\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"cannot unpack {path}: {first_line(error)}; fetch it again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}); save it again as UTF-8") from error


def _parse(path: Path, text: str) -> Any:
    """The content of a JSON file; of JSON lines, a list of them."""
    load = partial(json.loads, object_pairs_hook=_without_twins, parse_int=_whole)
    try:
        return load(text)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply; known forms have at most three levels") from error
    except json.JSONDecodeError as whole:
        items = []
        for n, line in enumerate(text.split("\n"), 1):
            try:
                items += [load(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                error = error if items else whole
                raise InputError(f"{path} is neither JSON nor JSON lines (line {n}: {error.msg})") from error
        return items


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) < 100 else digits  # Python refuses thousands of digits


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json.loads alone keeps the last of two equal keys in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twin = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise InputError(f"the key {twin!r:.80} is twice in one object of the file; keep one of them")
    return found


def _of_json(content: Any, path: str) -> Iterator[Row]:
    content = _unwrapped(content) if isinstance(content, dict) else content
    if isinstance(content, dict):
        for key, value in content.items():
            own = value if isinstance(value, dict) else {"report": value}
            where, cells = _row(own.items(), f"{path}, {key!r:.80}")
            yield where, cells | {KEY: key}
    elif isinstance(content, list):
        for number, value in enumerate(content, 1):
            if isinstance(value, list) and len(value) == 2:
                value = {"id": value[0], "report": value[1]}
            own = value if isinstance(value, dict) else {"report": value}
            yield _row(own.items(), f"{path}, item {number}")
    else:
        raise InputError(f"{path} holds {content!r:.40}, but a list or an object of reports is needed")


def _unwrapped(content: dict[str, Any]) -> Any:
    """The reports of an object that holds them beside facts: {"model": "x", "predictions": {…} or [{…}]}."""
    inner = [value for value in content.values() if isinstance(value, list | dict)]
    value = inner[0] if len(inner) == 1 else None
    if isinstance(value, list) and len(content) == 1 and len(value) != 1:
        return value
    if _row(content.items(), "")[1].keys() & {*IDS, *REPORTS} - {"predictions"}:
        return [content]  # a file of one line
    if isinstance(value, list):
        return value if value and isinstance(value[0], dict) else content
    told = isinstance(value, dict) and not _row(value.items(), "")[1].keys() & {*IDS, *REPORTS}
    return value if told else content


def _entry(where: str, cells: dict[str, Any], column: str | None, known: Mapping[str, str]) -> Entry:
    report = next((name for name in REPORTS if name in cells), None)
    prose = [name for name, value in cells.items() if isinstance(value, str) and value.count(" ") > 2]
    if report is None or report not in _CLEAR and set(prose) - _TEXTS - {column}:
        names = listed((repr(name) for name in cells if name != KEY), 8) or "nothing"
        problem = "no report" if report is None else f"{report!r} may not be the system's report"
        raise InputError(f"{where} has {names}, but {problem}: name it one of {', '.join(_CLEAR)}")
    given = None if column not in cells else _known(cells[column], known) or _id(cells[column], where)
    own = next((name for name in REFERENCES if name in cells and name != report), None)
    reference = None if own is None else _text(cells[own], f"{where}, {own}")
    for pair in SECTIONS if own is None else ():
        if pair[0] in cells or pair[1] in cells:  # as ReXrank's own script joins them
            parts = (_text(cells.get(name), where) or None for name in pair)
            reference = "Findings: {} Impression: {}".format(*parts)
            break
    return Entry(where, given, _text(cells[report], f"{where}, {report}"), reference)


def _id(value: Any, where: str) -> str:
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise InputError(f"{where} has {value!r:.40} for its id: an id is a text or a whole number")
    return str(value)


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
