"""The record that every reader yields, and the 14 observations it may be labelled with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    """

    id: str
    images: tuple[Path, ...]
    report: str
    split: str
    labels: dict[str, int | None] | None = None
    truth: dict[str, int] | None = None
    findings: tuple[dict, ...] | None = None
