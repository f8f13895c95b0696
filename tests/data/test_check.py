"""`emrrg data check`: every item named, exit codes, the list, and the real annotation's known traits."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from real_files import IU, images_with_findings, real

from emrrg_lib import cli
from emrrg_lib.data.check import check_data, write_list
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import Problem
from emrrg_lib.files import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


def entry(name, report="The heart is normal in size. No effusion or pneumothorax.", images=None, **more):
    return {"id": name, "report": report, "image_path": images or [f"{name}.png"], **more}


def write(folder, **splits):
    (folder / "images").mkdir(exist_ok=True)
    (folder / "annotation.json").write_text(json.dumps(splits))
    for item in sum(splits.values(), []):
        for name in item["image_path"]:
            Image.fromarray(NOISE).save(folder / "images" / name)
    return folder


def kinds(check, unusable):
    return {(p.kind, p.item) for p in check.problems if p.unusable is unusable}


def test_reports_and_studies(tmp_path, small_config):
    same = "The lungs are clear. There is no pleural effusion today."
    write(
        tmp_path,
        train=[entry("a", same), entry("blank", " "), entry("a"), entry("e", patient="p")],
        val=[entry("b", same + "\n"), entry("c", "Normal chest.")],
        test=[entry("d", same, patient="p"), entry("five", images=[f"{i}.png" for i in range(5)])],
    )
    check = check_data(tmp_path, small_config, lambda texts: [len(text.split()) for text in texts])
    assert kinds(check, True) == {("blank report", "train[1]"), ("duplicate id", "a")} and not check.usable
    assert kinds(check, False) == {
        ("val report also in train", "b"),
        ("test report also in train", "d"),
        ("test report also in train", "five"),
        ("near-blank report", "c"),
        ("patient in two splits", "p"),
        ("more views than used", "five"),
    }
    assert check.problems[0].unusable and not check.problems[-1].unusable
    text = "\n".join(check.lines)
    assert "train 2, val 2, test 2" in text and "1 in 5 studies, 5 in 1 studies" in text
    assert "1 x duplicate id" in text and "0 above max_length 12" in text


def test_long_reports_are_counted_in_the_models_tokens(tmp_path, small_config):
    write(
        tmp_path,
        val=[],
        test=[],
        train=[entry("a"), entry("b", "one two three four five six seven eight nine")],
    )
    check = check_data(tmp_path, small_config, lambda texts: [2 * len(text.split()) for text in texts])
    assert [p.message for p in check.problems if p.kind == "report above max_length"] == [
        "24 tokens: training sees the first 12",
        "20 tokens: training sees the first 12",
    ]


def images(folder):
    """One file of every kind: name -> kind of problem."""
    Image.fromarray(NOISE).save(folder / "fine.png")
    sixteen = NOISE.astype(np.uint16) * 16
    sixteen[3, 3] = 65535
    Image.fromarray(sixteen).save(folder / "sixteen.png")
    for mode in ("P", "1", "LA", "RGBA"):
        Image.fromarray(NOISE).convert(mode).save(folder / f"{mode}.png")
    Image.fromarray(NOISE).convert("CMYK").save(folder / "cmyk.tif")
    Image.fromarray(NOISE[:10]).save(folder / "flat.png")
    Image.new("L", (64, 64), 7).save(folder / "one.png")
    (folder / "zero.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "fine.png").read_bytes()[:2000])
    other = Image.fromarray(255 - NOISE)
    Image.fromarray(NOISE).save(folder / "moves.gif", save_all=True, append_images=[other])
    Image.new("1", (10_100, 10_100)).save(folder / "bomb.png")
    odd = {f"{mode}.png": "image of odd mode" for mode in ("P", "1", "LA", "RGBA")}
    odd |= {
        "sixteen.png": "16-bit image",
        "cmyk.tif": "image of odd mode",
        "flat.png": "image of odd size",
        "one.png": "blank image",
    }
    bad = dict.fromkeys(("zero.png", "cut.png", "moves.gif", "bomb.png"), "image unreadable")
    return odd, {**bad, "gone.png": "image missing"}


def test_every_image_that_is_odd_or_bad_is_named(tmp_path, small_config):
    (tmp_path / "images").mkdir()
    odd, bad = images(tmp_path / "images")
    names = ["fine.png", *odd, *bad]
    splits = {"train": [entry(n, images=[n]) for n in names], "val": [], "test": []}
    (tmp_path / "annotation.json").write_text(json.dumps(splits))
    check = check_data(tmp_path, small_config)
    empty = {("empty split", name) for name in ("val", "test")}
    assert kinds(check, False) == {(kind, name) for name, kind in odd.items()} | empty
    assert kinds(check, True) == {(kind, name) for name, kind in bad.items()}
    assert all(p.item in p.message for p in check.problems)
    (wide,) = [p.message for p in check.problems if p.kind == "16-bit image"]
    assert wide.endswith("its values 0 to 4080 become 0 to 255, 1 pixels beyond are clipped")


def test_the_list_as_csv_and_json(tmp_path):
    problems = [Problem("image missing", "a", 'no "image",\nat'), Problem("16-bit image", "b", "é", False)]
    with write_list(tmp_path / "x.csv", problems).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["unusable", "kind", "item", "message"],
        ["1", "image missing", "a", 'no "image",\nat'],
        ["0", "16-bit image", "b", "é"],
    ]
    found = json.loads(write_list(tmp_path / "x.json", problems).read_text(encoding="utf-8"))
    assert [Problem(**row) for row in found] == problems


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")'])
def test_no_cell_of_the_list_is_a_formula(tmp_path, text):
    path = write_list(tmp_path / "x.csv", [Problem(text, text, text), Problem("a=1", "b-1", "c@d")])
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows[1] == ["1", *[f"'{text}"] * 3] and rows[2] == ["1", "a=1", "b-1", "c@d"]


@pytest.mark.parametrize(
    ("splits", "kind"),
    [
        ({"train": [entry("a")], "test": []}, "missing split"),
        ({"train": [entry("a")], "validation": [entry("b")], "test": []}, "unknown split"),
        ({"train": [entry("a")], "val": [], "test": [], "    ": []}, "unknown split"),
        ({"Train": [entry("b")], "train": [entry("a")], "val": [], "test": []}, "unknown split"),
        ({"train": [entry("a"), entry("b", images=["a.png"])], "val": [], "test": []}, None),
        ({"train": [entry("a")], "val": [], "test": [entry("b", images=["./a.png"])]}, "image in two splits"),
        (
            {"train": [entry("a")], "val": [entry("b", images=["b.png", "a.png"])], "test": []},
            "image in two splits",
        ),
    ],
)
def test_what_is_wrong_with_splits_is_named_and_training_refuses_it(tmp_path, small_config, splits, kind):
    write(tmp_path, **splits)
    check = check_data(tmp_path, small_config)
    assert {p.kind for p in check.problems if p.unusable} >= ({kind} if kind else set())
    assert check.usable == (kind is None)
    if kind:
        with pytest.raises(InputError, match="annotation.json has|is an image of"):
            read_dataset(tmp_path)
    else:
        assert ("image listed twice", "b") in kinds(check, False) and read_dataset(tmp_path).left_out == ()


def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, train=[entry("a"), entry("b")], val=[], test=[])
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "train 2, val 0, test 0" in printed and "tokens" in printed
    assert "listed in data_check.csv" in printed and (tmp_path / "data_check.csv").is_file()
    (tmp_path / "images" / "b.png").unlink()
    assert cli.main(["data", "check", str(tmp_path), "--list", "found.json"]) == 1
    assert "no image file at" in capsys.readouterr().out
    rows = json.loads((tmp_path / "found.json").read_text())
    assert [row["item"] for row in rows if row["unusable"]] == ["b"]
    assert cli.main(["data", "check", str(tmp_path / "nowhere"), "--list", "never.csv"]) == 2
    assert "no data at" in capsys.readouterr().err and not (tmp_path / "never.csv").exists()


@real
def test_the_real_annotation(small_config):
    check = check_data(IU, small_config)
    assert Counter(p.kind for p in check.problems) == {
        "image missing": 5910,
        "test report also in train": 274,
        "val report also in train": 65,
        "near-blank report": 1,
    }
    assert [p.item for p in check.problems if p.kind == "near-blank report"] == ["CXR202_IM-0667"]
    assert "  published 2,069 / 296 / 590 (R2Gen): the same" in check.lines and not check.usable


@real
def test_the_real_images(small_config):
    counts = Counter(p.kind for p in check_data(IU / "indiana_reports.csv", small_config).problems)
    assert counts["image missing"] == 6469 - len(images_with_findings()) and "image unreadable" not in counts
    assert counts["no findings section"] == 514 and counts["more views than used"] == 163
