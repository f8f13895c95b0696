"""NIH ChestX-ray14 as the NIH Clinical Center gives it out: images with labels, without reports.

    Data_Entry_2017_v2020.csv            Image Index, Finding Labels, Patient ID, View Position, ...
    train_val_list.txt, test_list.txt    the official split; without them 7:1:2 by patient
    images_001/images/00000001_000.png   or the images in any other folder below

The labels come from text mining. The boxes of BBox_List_2017.csv are not read: the pointing game asks
where the words of a reference report look.

The kit ships 18 frontal images of it, its only real X-rays (data/nih_samples/README.md).
"""

from __future__ import annotations

import csv
from pathlib import Path

from emrrg_lib.data.mimic_cxr import VIEW
from emrrg_lib.data.study import OBSERVATIONS, Problem, Study, left_out, read_table, view_of
from emrrg_lib.files import KIT, InputError

TABLE = "Data_Entry_2017*.csv"
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")
_NAMES = {  # NIH's label → CheXpert's observation; Emphysema, Fibrosis and Hernia have none
    "Effusion": "Pleural Effusion",
    "Infiltration": "Lung Opacity",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other",
}
_VIEWS = {name.lower(): view for name, view in VIEW.items()}
NIH_SAMPLES = KIT / "data" / "nih_samples"


def nih_labels(names: str) -> dict[str, int | None]:
    """NIH's labels, parted by a bar, under CheXpert's names: 1, or None where NIH names nothing."""
    present = {_NAMES.get(name, name) for name in names.split("|")}
    return {observation: 1 if observation in present else None for observation in OBSERVATIONS}


def _names(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 ({error.reason}); fetch it again") from error


def read_nih_cxr14(table: Path, problems: list[Problem]) -> list[Study]:
    """Every image of the table that is below its folder, as a study without a report.

    Raises:
        InputError: The table is damaged, or only one of the two lists is there.
    """
    rows, folder = read_table(table, _COLUMNS), table.parent
    lists = {split: folder / name for split, name in LISTS.items() if (folder / name).is_file()}
    if len(lists) == 1:
        raise InputError(f"{folder} has only one of {' and '.join(LISTS.values())}: give both, or none")
    split_of = {name: split for split, file in lists.items() for name in _names(file)}
    files = {path.name: path for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".jpg")}
    studies = []
    for name, labels, patient, view in rows.to_numpy():
        if name not in files or lists and name not in split_of:
            problems.append(left_out("no image file" if name not in files else "in no list", name))
            continue
        views = (view_of(view, _VIEWS, name, problems),)
        known = {"labels": nih_labels(labels), "views": views, "patient": patient}
        studies.append(Study(name, (files[name],), "", split_of.get(name, ""), **known))
    return studies


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
