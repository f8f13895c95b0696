"""The record that every reader yields, and what readers share: splits, tables of text, threads."""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from emrrg_lib.files import InputError

if TYPE_CHECKING:
    import pandas as pd

OBSERVATIONS: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The CheXpert observations in their published order (Irvin et al. 2019)."""

VIEWS: tuple[str, ...] = ("frontal", "lateral", "other")
"""What a view may be; also the order in which views are kept where a study has too many."""

SPLITS = ("train", "val", "test")
SHARES = (0.7, 0.1, 0.2)
_BLANK = re.compile(r"[\W_]*(?:(?:nan|none|null|n\W*a)(?:[\W_]+|$))*", re.I)


@dataclass(frozen=True)
class Study:
    """One examination: its images, its report and what is known about both.

    Attributes:
        id: Name of the study, unique in its data set.
        images: Image files, one per view; for the phantom PA, then lateral.
        report: Reference report in natural case and punctuation; `clean_report` cleans it.
        split: "train", "val" or "test".
        labels: Observation -> 1 / 0 / -1 / None, as worded in the report (-1 = uncertain).
        truth: Observation -> 1 / 0, as drawn in the image (phantom only).
        findings: Phantom only; one dict a finding with the keys kind, label, side, place,
            severity, uncertain and masks (one file or None per view).
        views: One of `VIEWS` per image, or None where the source does not say.
        patient: Who was examined, or None where the source does not say.
    """

    id: str
    images: tuple[Path, ...]
    report: str
    split: str
    labels: dict[str, int | None] | None = None
    truth: dict[str, int] | None = None
    findings: tuple[dict, ...] | None = None
    views: tuple[str, ...] | None = None
    patient: str | None = None


@dataclass(frozen=True)
class Problem:
    """One thing to know about one item of a data set; a line of `emrrg data check`'s list.

    Attributes:
        kind: Short name, the same for all items of its kind, such as "image missing".
        item: Study id, or the place in the file where there is no id.
        message: A sentence that can be read without the others.
        unusable: Whether the item cannot be used; else it is a remark.
    """

    kind: str
    item: str
    message: str
    unusable: bool = True


def left_out(kind: str, study: str, where: str = "") -> Problem:
    """The remark that a reader leaves out a study of its source; `kind` says why, such as "no report"."""
    return Problem(kind, study, f"study {study} is left out: {kind}{where}", unusable=False)


def view_of(text: str, names: dict[str, str], study: str, problems: list[Problem]) -> str:
    """The view that a table names, by `names` in any case; "other" for another word, which is noted."""
    view = names.get(text.strip().lower())
    if view is None:
        message = f"study {study} has a view {text!r}, which counts as 'other': known are {', '.join(names)}"
        problems.append(Problem("unknown view", study, message, unusable=False))
    return view or "other"


def shared_images(studies: Sequence[Study]) -> Iterator[Problem]:
    """Image files that are in a data set more than once; unusable where two splits share one."""
    first: dict[Path, Study] = {}
    for study in studies:
        for image in study.images:
            other = first.setdefault(image, study)
            if study.split != other.split:
                where = f"{other.id} in {other.split} and of {study.id} in {study.split}"
                message = f"{image} is an image of {where}: a study of one split must not be in another"
                yield Problem("image in two splits", study.id, message)
            elif study.images.count(image) > 1 or other is not study:
                message = f"{image} is an image of {other.id} and again of {study.id}"
                yield Problem("image listed twice", study.id, message, unusable=False)


def counts(studies: Sequence[Study]) -> tuple[int, ...]:
    """The number of studies in train, val and test."""
    found = Counter(study.split for study in studies)
    return tuple(found[name] for name in SPLITS)


def split_by_patient(studies: Sequence[Study], seed: int) -> list[Study]:
    """The studies in their order with a 7:1:2 split in which no patient is in two parts.

    A study without a known patient counts as one more patient. The same patients and seed give the
    same split, whatever the order of the studies.
    """
    patients = sorted({study.patient or study.id for study in studies})
    random.Random(seed).shuffle(patients)
    train, val = round(SHARES[0] * len(patients)), round((SHARES[0] + SHARES[1]) * len(patients))
    part = {patient: SPLITS[(i >= train) + (i >= val)] for i, patient in enumerate(patients)}
    return [replace(study, split=part[study.patient or study.id]) for study in studies]


def read_lines(
    path: Path, columns: Sequence[str] = (), commas: bool = False
) -> tuple[list[str], dict[int, list[str]]]:
    """The names of these columns of a CSV (or .csv.gz), and their cells by the number of the line.

    Blank lines are left out. A quoted cell may hold newlines; the number is that of its first line. Cells are
    parted by commas, or by semicolons or tabs where the first line has more of these.

    Args:
        path: The file.
        columns: Which columns, in this order; none given: all, in the file's order.
        commas: Whether to keep lines of nothing but commas, which spreadsheets write at the end.

    Raises:
        InputError: The file is missing, not UTF-8 or not CSV, a column is missing or there twice, a cell
            holds a NUL byte, or a line has more or fewer cells than the header: text after a comma without
            quotes would get into another column.
    """
    header: list[str] = []
    lines: dict[int, list[str]] = {}
    places, wrong, nul, start = list[int](), list[str](), list[int](), 1
    if not path.is_file():
        raise InputError(f"no CSV file at {path}: check the path")
    try:
        with io.TextIOWrapper(_binary(path), encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, strict=True, delimiter=max(",;\t", key=head.count))
            for cells in reader:
                text = "".join(cells).strip() or "," * (commas and len(cells) > 1)
                nul += [start] * ("\0" in text)
                if not header and text:
                    header = [name.strip() for name in cells]
                    places = _places(path, header, columns)
                elif len(cells) == len(header) and text:
                    lines[start] = [cells[i] for i in places]
                elif text:
                    wrong.append(f"line {start} has {len(cells)}")
                start = reader.line_num + 1
    except UnicodeDecodeError as error:
        why = f"{error.reason}, line {start} or later"
        raise InputError(f"{path} is not UTF-8 ({why}); save it again as UTF-8 or fetch it again") from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        why = f"{str(error).strip() or 'it is cut off'}, line {start}"
        raise InputError(f"cannot read {path} as CSV: {why}; mend it or fetch it again") from error
    _refuse_lines(path, header, wrong, nul)
    return [header[i] for i in places], lines


def _refuse_lines(path: Path, header: Sequence[str], wrong: Sequence[str], nul: Sequence[int]) -> None:
    """Raises InputError for lines with NUL bytes or another number of cells, and for an empty file."""
    if nul:
        raise InputError(f"{path} holds NUL bytes in line {listed(map(str, nul))}; fetch it again")
    if wrong:
        advice = "put a cell that holds commas into quotes, and remove commas at the end of a line"
        raise InputError(f"{path} has {len(header)} columns, but {listed(wrong)} cells: {advice}")
    if not header:
        raise InputError(f"cannot read {path} as CSV: it is empty; fetch it again")


def _binary(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix.lower() == ".gz" else open(path, "rb")


def _places(path: Path, header: list[str], columns: Sequence[str]) -> list[int]:
    """Where these columns (none: all) are in the header; InputError if one is missing or there twice."""
    if twice := [repr(name) for name, times in Counter(header).items() if times > 1 and name]:
        raise InputError(f"{path} has two columns named {listed(twice)}; rename or remove one")
    if missing := [repr(name) for name in columns if name not in header]:
        raise InputError(f"{path} has no column {listed(missing)}: is it the file the source gave out?")
    return [header.index(name) for name in columns] if columns else list(range(len(header)))


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """These columns of a CSV as text, indexed by line number; an empty cell is "". See `read_lines`."""
    import pandas as pd  # imported late: `emrrg --help` needs the table of data sets, but no CSV

    names, lines = read_lines(path, columns)
    return pd.DataFrame(list(lines.values()), index=list(lines), columns=names, dtype=object)


def listed(items: Iterable[str], most: int = 20) -> str:
    """The first items with commas between them, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def is_blank(text: str) -> bool:
    """Whether a text says nothing: no letter or digit, or only "nan", "none", "null" or "n/a"."""
    return _BLANK.fullmatch(text) is not None


def plain_id(text: str) -> str:
    """An id without the spaces around it, and "12" for the "12.0" that spreadsheets and pandas make of it."""
    return re.sub(r"^(\d+)\.0*$", r"\1", text.strip())


def bare_id(text: str) -> str:
    """A plain id as MIMIC-CXR's tables write it: "50414267" for the study "s50414267"."""
    return re.sub(r"^s(?=\d+$)", "", plain_id(text))


def in_parallel(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int | None = None
) -> Iterator[Any]:
    """`map` on threads (None: one a core), a bounded number ahead.

    It pays for pictures, which Pillow decodes and resizes outside Python's lock, and for slow disks.
    """
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        items = iter(items)
        while batch := list(islice(items, 256)):
            yield from pool.map(function, batch)
