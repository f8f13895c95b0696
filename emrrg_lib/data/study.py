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
