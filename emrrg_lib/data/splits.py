"""Splits: the published counts, and a seeded split where a source has none."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .study import Study

SPLITS = ("train", "val", "test")

PUBLISHED: dict[str, tuple[str, tuple[int, int, int]]] = {
    "IU X-ray": ("R2Gen", (2069, 296, 590)),
    "MIMIC-CXR": ("R2Gen", (270_790, 2130, 3858)),
    "CheXpert Plus": ("R2GenCSR", (40_463, 5780, 11_562)),
}
"""Data set -> whose split the papers use, and its studies in train, val and test (audit G)."""

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
