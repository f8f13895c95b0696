"""NIH ChestX-ray14: labels without reports; stage 1, `generate`, and scores of labels."""

import json

import pytest
from PIL import Image

from emrrg_lib import cli
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.files import InputError
from emrrg_lib.training.batches import find_images

HEAD = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"  # as NIH writes it
)
LABELS = {
    "00000001_000.png": "Cardiomegaly|Effusion",
    "00000001_001.png": "Nodule",
    "00000002_000.png": "No Finding",
    "00000003_000.png": "Pneumothorax",
    "00000004_000.png": "Hernia",
}


@pytest.fixture
def nih(tmp_path):
    folder = tmp_path / "nih"
    for number, name in enumerate(LABELS):
        where = folder / f"images_00{number % 2 + 1}" / "images"
        where.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 40 * number).save(where / name)
    rows = "".join(
        f"{name},{labels},0,{int(name[:8])},058Y,M,PA,2682,2749,0.143,0.143,\n"
        for name, labels in [*LABELS.items(), ("00000009_000.png", "Mass")]
    )
    (folder / "Data_Entry_2017.csv").write_text(HEAD + rows)
    (folder / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (folder / "test_list.txt").write_text("00000002_000.png\n00000003_000.png\n00000004_000.png\n")
    return folder


def test_images_labels_and_the_official_split_are_read(nih):
    dataset = read_dataset(nih)
    assert dataset.caption == "nih, the official split 2/0/3; 1 studies left out; no reports"
    first, _ = dataset.split("train")
    assert first.images == (nih / "images_001/images/00000001_000.png",) and first.report == ""
    assert (first.patient, first.views) == ("1", ("frontal",))
    assert {name for name, value in first.labels.items() if value} == {"Cardiomegaly", "Pleural Effusion"}
    none = {study.id: study.labels for study in dataset.split("test")}["00000004_000.png"]
    assert not any(none.values())  # Hernia is none of the 14, and it is not No Finding
    assert find_images(nih) == [image for study in dataset.split("train") for image in study.images]


def test_without_lists_the_split_is_seeded_and_one_list_is_refused(nih):
    (nih / "test_list.txt").unlink()
    with pytest.raises(InputError, match="only one of train_val_list.txt and test_list.txt"):
        read_dataset(nih)
    (nih / "train_val_list.txt").unlink()
    dataset = read_dataset(nih, seed=1)
    assert "seeded 7:1:2 split by patient" in dataset.caption
    assert len({study.split for study in dataset.studies if study.patient == "1"}) == 1


def test_a_list_may_have_a_mark_of_utf_8_and_no_other_encoding(nih):
    studies, text = read_dataset(nih).studies, (nih / "train_val_list.txt").read_text()
    (nih / "train_val_list.txt").write_text(text, "utf-8-sig")
    assert read_dataset(nih).studies == studies
    (nih / "train_val_list.txt").write_text(text, "utf-16")
    with pytest.raises(InputError, match="train_val_list.txt is not UTF-8"):
        read_dataset(nih)


@pytest.mark.parametrize("command", ["train", "evaluate controls"])
def test_what_needs_reports_is_refused_in_one_sentence(nih, tmp_path, capsys, command):
    assert cli.main([*command.split(), "--data", str(nih), "--out", str(tmp_path / "out")]) == 2
    assert "it has no reports; use `emrrg pretrain stage1`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_check_counts_them_without_remarks_on_reports(nih, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "check", str(nih)]) == 0
    printed = capsys.readouterr().out
    assert "train 2, val 0, test 3" in printed and "report" not in printed.partition("no reports")[2]


def test_reports_of_any_system_are_scored_against_labels(nih, tmp_path):
    file, out = tmp_path / "reports.json", tmp_path / "out"
    reports = {
        "00000002_000.png": "the lungs are clear .",
        "00000003_000.png": "there is a pneumothorax .",
        "00000004_000.png": "there is a pleural effusion .",
    }
    file.write_text(json.dumps(reports))
    words = ["evaluate", "--predictions", str(file), "--data", str(nih), "--name", "mine", "--out", str(out)]
    assert cli.main(words) == 0
    content = json.loads((out / "metrics.json").read_text())
    systems = {row["system"]: row["metrics"] for row in content["rows"]}
    assert list(systems) == ["mine", "shuffled images", "says nothing"]
    assert systems["mine"]["CE13_micro_P"] == 0.5 and systems["mine"]["CE13_micro_R"] == 1.0
    assert "Bleu_4" not in systems["mine"] and not any(r["metric"] == "CIDEr" for r in content["differences"])
    assert content["support"]["Pneumothorax"] == 1 and content["references"] == "labels alone"
    assert "References: labels of the data, no reports." in (out / "report.html").read_text()
    assert cli.main(["evaluate", "table", "--run", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert all(row["reference"] == "" for row in rows)
    (out / "predictions.jsonl").write_text("".join(json.dumps(row | {"labels": None}) + "\n" for row in rows))
    assert cli.main(["evaluate", "--run", str(out)]) == 2
