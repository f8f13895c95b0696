"""The R2Gen reader: what is accepted, and the sentence for what is not."""

import json

import pytest
from PIL import Image

from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.files import InputError


def entry(name, **changes):
    return {"id": name, "report": "No effusion.", "image_path": [f"{name}/0.png"], **changes}


def write_data(folder, splits, images=True):
    """Writes annotation.json and one small PNG for every image path that is a text."""
    (folder / "annotation.json").write_text(json.dumps(splits), encoding="utf-8")
    for item in sum(splits.values(), []) if images else []:
        for name in item["image_path"]:
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 100).save(path)
    return folder


# ---------------------------------------------------------------------------------- annotations


def test_reads_every_split_in_order(tmp_path):
    write_data(tmp_path, {"train": [entry("a"), entry("b")], "val": [], "test": [entry("c")]})
    studies = load_annotation(tmp_path)
    assert [(s.id, s.split) for s in studies] == [("a", "train"), ("b", "train"), ("c", "test")]
    assert studies[0].images == (tmp_path / "images" / "a" / "0.png",)
    assert studies[0].labels is studies[0].truth is studies[0].findings is None
    assert [s.id for s in load_annotation(tmp_path / "annotation.json", "test")] == ["c"]


def test_carries_the_phantom_extras_and_resolves_masks(tmp_path):
    finding = {"kind": "effusion", "label": "Pleural Effusion", "masks": ["masks/a/0_0.png", None]}
    extras = {"labels": {"Edema": -1}, "truth": {"Edema": 1}, "findings": [finding]}
    study = load_annotation(write_data(tmp_path, {"train": [entry("a", **extras)]}))[0]
    assert study.labels == {"Edema": -1} and study.truth == {"Edema": 1}
    assert study.findings[0]["kind"] == "effusion"
    assert study.findings[0]["masks"] == [tmp_path / "masks" / "a" / "0_0.png", None]


def test_integer_ids_become_text(tmp_path):
    write_data(tmp_path, {"train": [entry(7, image_path=["a/0.png"])]})
    assert load_annotation(tmp_path)[0].id == "7"


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ([], "not an R2Gen annotation"),
        ({"train": {}}, "not an R2Gen annotation: 'train' holds no list"),
        ({"train": [], "val": None, "test": "x"}, "'val', 'test' holds no list"),
        ({"train": [entry("a")], "    ": []}, "a split '    ' of 0 studies"),
        ({"train": [entry("a")], "data": [entry("b")]}, "a split 'data' of 1 studies: rename it"),
        ({"train": [entry("a\ud800")]}, r"train\[0\]: holds '.ud800', which is only half"),
        ({"train": [entry("a", report="Clear.\udfff")]}, "only half a character"),
        ({"train": [entry("a", labels={"\ud83d": 1})]}, "only half a character"),
        ({"train": [entry(1.5)]}, "'id' must be a text or a whole number"),
        ({"train": [entry("a", report="nan")]}, "'report' must be a text that is not empty"),
        ({"train": [entry("a", report=" N/A. ")]}, "'report' must be a text that is not empty"),
        ({"train": [entry("a", report="none\nnull")]}, "'report' must be a text that is not empty"),
        ({"train": [entry("a", views=[{}])]}, "'views' must give one of"),
        ({"train": [entry("a", views=[["frontal"]])]}, "'views' must give one of"),
        ({"train": [entry("a", labels={"Edema": []})]}, "'labels' must give 1, 0, -1 or null"),
        ({"train": [entry("a", truth={"Edema": "yes"})]}, "'truth' must give 1, 0, -1 or null"),
        ({"train": [entry("a", patient={})]}, "'patient' must be a text or a number"),
        ({"train": [entry("a", findings=[{"masks": [{}]}])]}, "must be a text, found {}"),
        ({}, "is empty"),
        ({"train": [], "val": [], "test": []}, "is empty"),
        ({"train": ["a"]}, r"train\[0\]: expected an object"),
        ({"train": [entry("a"), {"id": "b"}]}, r"train\[1\] \(id b\): 'report'"),
        ({"train": [entry("a", report=" ")]}, "'report' must be a text"),
        ({"train": [entry(None)]}, "'id' must be"),
        ({"train": [entry("a", image_path=[])]}, "'image_path' must list"),
        ({"train": [entry("a", image_path="a/0.png")]}, "'image_path' must list"),
        ({"train": [entry("a", image_path=[3])]}, "must be a text, found 3"),
        ({"train": [entry("a", labels=[1])]}, "'labels' must be a JSON dict"),
        ({"train": [entry("a", findings=[3])]}, "every finding must be an object"),
        ({"train": [entry("a", views="frontal")]}, "'views' must be a JSON list"),
        ({"train": [entry("a", views=["frontal", "lateral"])]}, "'views' must give one of"),
        ({"train": [entry("a", views=["oblique"])]}, "frontal, lateral, other per image"),
        ({"train": [entry("a", image_path=["C:secret.png"])]}, "leaves the data folder"),
        ({"train": [entry("a", image_path=["x/.."])]}, "leaves the data folder"),
        ({"train": [entry("a", image_path=["x\n/../../y"])]}, "leaves the data folder"),
        ({"train": [entry("a", image_path=["a\0.png"])]}, "leaves the data folder"),
        ({"train": [entry("a")], "test": [entry("a")]}, r"test\[0\]: id 'a' .* train\[0\]"),
        ({"train": [entry("a", image_path=["../../secret.png"])]}, "leaves the data folder"),
        ({"train": [entry("a", image_path=["/etc/secret.png"])]}, "leaves the data folder"),
        ({"train": [entry("a", image_path=["..\\secret.png"])]}, "leaves the data folder"),
        ({"train": [entry("a", findings=[{"masks": ["../m.png"]}])]}, "leaves the data folder"),
    ],
)
def test_a_wrong_annotation_is_named(tmp_path, splits, words):
    (tmp_path / "annotation.json").write_text(json.dumps(splits))
    with pytest.raises(InputError, match=words):
        load_annotation(tmp_path, check_images=False)


def test_missing_damaged_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="no annotation at .*annotation.json"):
        load_annotation(tmp_path)
    (tmp_path / "annotation.json").write_text("{'train': []}")
    with pytest.raises(InputError, match="not a JSON file"):
        load_annotation(tmp_path)
    (tmp_path / "annotation.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a JSON file"):
        load_annotation(tmp_path)


def test_json_that_python_would_read_in_its_own_way(tmp_path):
    one, two = json.dumps([entry("a")]), json.dumps([entry("b")])
    for text, words in (
        (f'{{"train": {one}, "train": {two}}}', "key 'train' more than once"),
        (f'{{"train": {one[:-2]}, "report": "x"}}]}}', "key 'report' more than once"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (f'{{"train": {"[" * 100_000 + "]" * 100_000}}}', "nested too deeply"),
        (f'{{"train": [{{"id": {"[" * 500 + "]" * 500}}}]}}', "'id' must be|nested too deeply"),
    ):
        (tmp_path / "annotation.json").write_text(text)
        with pytest.raises(InputError, match=words):
            load_annotation(tmp_path, check_images=False)


@pytest.mark.parametrize("name", ["a\\0.png", "a\\\\0.png", ".\\a\\0.png", "a/.\\0.png"])
def test_paths_written_on_windows(tmp_path, name):
    write_data(tmp_path, {"train": [entry("a")]})
    (tmp_path / "annotation.json").write_text(json.dumps({"train": [entry("a", image_path=[name])]}))
    assert load_annotation(tmp_path)[0].images == (tmp_path / "images" / "a" / "0.png",)


def test_a_missing_split_and_an_empty_one(tmp_path):
    write_data(tmp_path, {"train": [entry("a")], "val": []})
    with pytest.raises(InputError, match="no split 'valid': choose one of train, val"):
        load_annotation(tmp_path, "valid")
    with pytest.raises(InputError, match="holds no study in split 'val'"):
        load_annotation(tmp_path, "val")


def test_views_and_patient_are_kept(tmp_path):
    entries = [entry("a", views=["lateral"], patient="p1"), entry("b", subject_id=7), entry("c..d")]
    a, b, c = load_annotation(write_data(tmp_path, {"train": entries}))
    assert (a.views, a.patient, b.views, b.patient) == (("lateral",), "p1", None, "7")
    assert c.patient is None and c.images[0].is_file()  # dots inside a name do not climb


def test_problems_are_collected_instead_of_raised(tmp_path):
    entries = [entry("a"), entry("b", report=" "), entry("a"), 3, entry("c")]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": entries}))
    problems = []
    studies = load_annotation(tmp_path, check_images=False, problems=problems)
    assert [study.id for study in studies] == ["a", "c"]
    assert [(p.kind, p.item) for p in problems] == [
        ("blank report", "train[1]"),
        ("duplicate id", "a"),
        ("wrong entry", "train[3]"),
    ]
    with pytest.raises(InputError, match=r"train\[1\].*\(2 more: see `emrrg data check`\)"):
        load_annotation(tmp_path, check_images=False)


@pytest.mark.parametrize("place", ["images", "files", "PNG", "PNG/PNG", "."])
def test_images_are_found_in_the_folders_of_the_sources(tmp_path, place):
    (tmp_path / "annotation.json").write_text(json.dumps({"train": [entry("a")]}))
    (tmp_path / place / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / place / "a" / "0.png")
    assert load_annotation(tmp_path)[0].images[0] == tmp_path / place / "a" / "0.png"


def test_missing_images_are_counted_and_the_first_is_named(tmp_path):
    write_data(tmp_path, {"train": [entry("a"), entry("b")]})
    (tmp_path / "images" / "b" / "0.png").unlink()
    with pytest.raises(InputError, match=r"1 image\(s\) missing, first .*0.png of study b"):
        load_annotation(tmp_path)
    assert len(load_annotation(tmp_path, check_images=False)) == 2
