"""The record that every reader yields, and what readers share: splits, tables of text, threads."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Reads these columns of a CSV (or .csv.gz) as text; an empty cell is an empty text.

    Raises:
        InputError: The file is missing, not UTF-8 or not CSV, or a column is missing.
    """
    import pandas as pd  # imported late: `emrrg --help` needs the table of data sets, but no CSV

    try:
        table = pd.read_csv(
            path, usecols=lambda name: name in columns, dtype=str, encoding="utf-8-sig", keep_default_na=False
        )
    except UnicodeDecodeError as error:
        where = f"byte {error.start}: {error.reason}"
        raise InputError(
            f"{path} is not UTF-8 ({where}); save it again as UTF-8 or fetch it again"
        ) from error
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"cannot read {path} as CSV: {str(error).strip() or 'it is cut off'}") from error
    if missing := [name for name in columns if name not in table]:
        raise InputError(f"{path} has no column {missing[0]!r}: is it the file the source gave out?")
    return table[list(columns)]


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
