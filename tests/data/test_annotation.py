"""The R2Gen reader and the image loader: what is accepted, and the sentence for what is not."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from emrrg_lib.data.annotation import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    load_annotation,
    load_image,
    load_mask,
    load_rgb,
)
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


def grey(folder, values, name="x.png"):
    path = folder / name
    Image.fromarray(values).save(path)
    return path


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
        ({"train": {}}, "not an R2Gen annotation"),
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


# --------------------------------------------------------------------------------------- images


def test_the_preprocessing_is_bicubic_then_imagenet(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    found = load_image(grey(tmp_path, values), 24)
    assert found.shape == (3, 24, 24) and found.dtype == np.float32
    resized = np.asarray(Image.fromarray(values).resize((24, 24), 3), dtype=np.float64) / 255
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=1e-5)


def test_a_grey_picture_becomes_three_equal_channels(tmp_path):
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    found = load_image(grey(tmp_path, values), 8) * IMAGENET_STD[:, None, None]
    found = (found + IMAGENET_MEAN[:, None, None]) * 255
    for channel in found:
        np.testing.assert_allclose(channel, values, atol=1e-3)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    + [("tif", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I")]
    + [("jpg", mode) for mode in ("1", "L", "RGB", "CMYK")],
)
def test_every_kind_of_picture_reads_alike(tmp_path, suffix, mode):
    values = np.zeros((16, 16), dtype=np.uint8)
    values[:, 8:] = 255
    picture = Image.fromarray(values)
    if mode.startswith("I"):
        wide = values.astype(np.int32) * 257
        picture = Image.fromarray(wide.astype(np.uint16) if mode == "I;16" else wide)
    else:
        picture = picture.convert("RGB").convert(mode)
    picture.save(tmp_path / f"x.{suffix}")
    found = np.asarray(load_rgb(tmp_path / f"x.{suffix}")).astype(int)
    assert found.shape == (16, 16, 3)
    assert np.abs(found - values[..., None]).max() <= 12  # JPEG rings a little


def test_sixteen_bits_are_scaled_not_wrapped(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = np.asarray(load_rgb(grey(tmp_path, values)))[..., 0].ravel().astype(int)
    assert (np.diff(found) >= 0).all() and found[0] == 0 and found[-1] == 255
    np.testing.assert_array_equal(found, np.round(values.ravel() / 257.0))


def test_twelve_bits_in_sixteen_use_the_whole_range(tmp_path):
    values = np.linspace(500, 4095, 256).astype(np.uint16).reshape(16, 16)
    found = np.asarray(load_rgb(grey(tmp_path, values)))[..., 0].ravel().astype(int)
    assert found[0] == 0 and found[-1] == 255 and (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found, (values.ravel().astype(float) - 500) * 255 / 3595, atol=0.51)
    flat = np.asarray(load_rgb(grey(tmp_path, np.full((4, 4), 300, dtype=np.uint16))))
    assert (flat == 0).all()


def test_values_that_fit_no_grey_scale_are_refused(tmp_path):
    path = grey(tmp_path, np.full((4, 4), 70_000, dtype=np.int32), "x.tif")
    with pytest.raises(InputError, match="outside 0..65535"):
        load_rgb(path)
    path = grey(tmp_path, np.zeros((4, 4), dtype=np.float32), "y.tif")
    with pytest.raises(InputError, match="floating-point"):
        load_rgb(path)


def test_the_orientation_tag_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("L", (20, 10)).save(tmp_path / "x.jpg", exif=exif)
    assert load_rgb(tmp_path / "x.jpg").size == (10, 20)


def damaged_files(folder):
    """Yields (path, words expected in the sentence) for files that are no single still picture."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for suffix in ("png", "jpg", "tif"):
        path = grey(folder, noise, f"cut.{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        yield path, "damaged|not an image"
    for name, content in (("a.png", b""), ("b.jpg", b"hello"), ("c.png", b"%PDF-1.7 ...")):
        (folder / name).write_bytes(content)
        yield folder / name, "not an image"
    frames = [Image.fromarray(noise), Image.fromarray(255 - noise)]
    for suffix in ("gif", "tif", "png"):
        frames[0].save(folder / f"two.{suffix}", save_all=True, append_images=frames[1:])
        yield folder / f"two.{suffix}", "2 pictures"
    yield folder / "nowhere.png", "no image file"
    yield folder, "no image file"


def test_bad_images_give_one_sentence_naming_the_file(tmp_path):
    for path, words in damaged_files(tmp_path):
        with pytest.raises(InputError, match=words) as caught:
            load_image(path, 32)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_png_checksum(tmp_path):
    path = grey(tmp_path, np.zeros((64, 64), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_rgb(path)


@pytest.mark.parametrize("side", [10_001, 14_000])
def test_a_decompression_bomb_is_refused(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb.png is too large"):
        load_rgb(tmp_path / "bomb.png")


def test_a_picture_of_thirty_thousand_pixels_a_side_is_refused_by_its_header(tmp_path):
    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(InputError, match=r"huge.png is too large"):
        load_rgb(tmp_path / "huge.png")


def test_masks_are_boolean_and_keep_their_size(tmp_path):
    values = np.zeros((12, 12), dtype=bool)
    values[3:6, 4:9] = True
    path = grey(tmp_path, values, "mask.png")
    np.testing.assert_array_equal(load_mask(path), values)
    doubled = load_mask(path, 24)
    assert doubled.dtype == bool
    np.testing.assert_array_equal(doubled, values.repeat(2, 0).repeat(2, 1))
