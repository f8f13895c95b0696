"""The real X-rays of the kit: 18 frontal images of NIH ChestX-ray14 (data/nih_samples/README.md)."""

from __future__ import annotations

import csv

from emrrg_lib.data.study import OBSERVATIONS, Study
from emrrg_lib.files import KIT

NIH_SAMPLES = KIT / "data" / "nih_samples"
_NIH_NAMES = {  # NIH's label → CheXpert's observation; Emphysema, Fibrosis and Hernia have none
    "Effusion": "Pleural Effusion",
    "Infiltration": "Lung Opacity",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other",
}


def nih_samples() -> list[Study]:
    """The shipped X-rays, one study each, in the order of `index.csv`.

    A study has one frontal image of 256 × 256 pixels, NIH's labels under CheXpert's names (1, or None where
    NIH names nothing), the patient's number, and no report.
    """
    with (NIH_SAMPLES / "index.csv").open(encoding="utf-8", newline="") as file:
        return [
            Study(
                id=row["file"].removesuffix(".jpg"),
                images=(NIH_SAMPLES / row["file"],),
                report="",
                split="test",
                labels=_labels(row["labels"]),
                views=("frontal",),
                patient=row["patient"],
            )
            for row in csv.DictReader(file)
        ]


def _labels(names: str) -> dict[str, int | None]:
    present = {_NIH_NAMES.get(name, name) for name in names.split("|")}
    return {observation: 1 if observation in present else None for observation in OBSERVATIONS}
