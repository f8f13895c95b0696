"""The record that every reader yields, and the 14 observations it may be labelled with.

Splits: the published counts, and a seeded split where a source has none.

CSV tables of a source as pandas frames of text, with one sentence for what is wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from emrrg_lib.files import InputError

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


@dataclass(frozen=True)
class Study:
    """One examination: its images, its report and what is known about both.

    Attributes:
        id: Name of the study, unique in its data set.
        images: Image files, one per view; for the phantom PA, then lateral.
        report: Reference report in natural case and punctuation; the loader cleans it.
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
        message: A sentence that stands by itself.
        unusable: Whether the item cannot be used; else it is a remark.
    """

    kind: str
    item: str
    message: str
    unusable: bool = True


SPLITS = ("train", "val", "test")

PUBLISHED: dict[str, tuple[str, tuple[int, int, int]]] = {
    "IU X-ray": ("R2Gen", (2069, 296, 590)),
    "MIMIC-CXR": ("R2Gen", (270_790, 2130, 3858)),
    "CheXpert Plus": ("R2GenCSR", (40_463, 5780, 11_562)),
}
"""Data set -> whose split the papers use, and its studies in train, val and test (NOTES G)."""

SHARES = (0.7, 0.1, 0.2)


def counts(studies: Sequence[Study]) -> tuple[int, ...]:
    """Studies in train, val and test."""
    found = Counter(study.split for study in studies)
    return tuple(found[name] for name in SPLITS)


def split_by_patient(studies: Sequence[Study], seed: int) -> list[Study]:
    """The studies in their order with a 7:1:2 split in which no patient is in two parts.

    A study without a known patient counts as a patient of its own. The same patients and seed give the
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
        InputError: the file is missing, not UTF-8, no CSV, or a column is missing.
    """
    try:
        table = pd.read_csv(
            path, usecols=lambda name: name in columns, dtype=str, encoding="utf-8-sig", keep_default_na=False
        )
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}); save it again as "
            "UTF-8 or fetch it again"
        ) from error
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"cannot read {path} as CSV: {str(error).strip() or 'it is cut off'}") from error
    if missing := [name for name in columns if name not in table]:
        raise InputError(f"{path} has no column {missing[0]!r}: is it the file the source gave out?")
    return table[list(columns)]
