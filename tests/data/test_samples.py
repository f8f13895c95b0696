"""The shipped real X-rays: readable, small, credited, one a patient, with boxes inside their images."""

import csv

import numpy as np
from PIL import Image

from emrrg_lib.data.nih_cxr14 import NIH_SAMPLES, nih_samples
from emrrg_lib.data.study_set import pixels
from emrrg_lib.presets import preset


def rows(name):
    with (NIH_SAMPLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_are_those_of_the_index_and_small():
    studies = nih_samples()
    named = {image.name for study in studies for image in study.images}
    assert named == {path.name for path in NIH_SAMPLES.glob("*.jpg")} and len(studies) == 18
    assert sum(path.stat().st_size for path in NIH_SAMPLES.iterdir()) < 600_000
    assert len({study.patient for study in studies}) == len(studies)
    for study in studies:
        with Image.open(study.images[0]) as image:
            assert image.size == (256, 256) and image.mode == "L" and np.asarray(image).std() > 20


def test_labels_have_the_names_of_chexpert():
    labels = {study.id: {name for name, value in study.labels.items() if value} for study in nih_samples()}
    assert labels["00001323_001"] == {"No Finding"}
    assert labels["00010277_000"] == {
        "Lung Opacity", "Lung Lesion", "Pleural Other", "Pleural Effusion", "Pneumonia",
    }  # fmt: skip
    wanted = {"No Finding", "Cardiomegaly", "Pleural Effusion", "Pneumothorax", "Pneumonia"}
    assert wanted <= set.union(*labels.values())
    assert {row["view"] for row in rows("index.csv")} == {"PA", "AP"}


def test_boxes_are_inside_their_images():
    known = {row["file"] for row in rows("index.csv")}
    boxes = rows("boxes.csv")
    assert {row["file"] for row in boxes} <= known and len({row["file"] for row in boxes}) == 7
    for row in boxes:
        x, y, width, height = (float(row[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + width <= 256 and 0 <= y < y + height <= 256


def test_the_model_takes_them():
    values, mask = pixels(nih_samples()[:3], preset("tiny"))
    assert values.shape == (3, 3, 96, 96) and mask.sum() == 3


def test_the_credit_goes_with_them():
    text = (NIH_SAMPLES / "README.md").read_text(encoding="utf-8")
    for part in (
        "NIH Clinical Center",
        "https://nihcc.app.box.com/v/ChestXray-NIHCC",
        "1705.02315",
        "no restriction",
    ):
        assert part in text
