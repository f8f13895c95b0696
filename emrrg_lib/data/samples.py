"""The real X-rays of the kit: 18 frontal images of NIH ChestX-ray14 (data/nih_samples/README.md)."""

from __future__ import annotations

import csv

from emrrg_lib.data.nih_cxr14 import nih_labels
from emrrg_lib.data.study import Study
from emrrg_lib.files import KIT

NIH_SAMPLES = KIT / "data" / "nih_samples"


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
                labels=nih_labels(row["labels"]),
                views=("frontal",),
                patient=row["patient"],
            )
            for row in csv.DictReader(file)
        ]
