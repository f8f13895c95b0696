"""Decoded images on disk: equal to upstream's resize, kept, and safe against change and damage."""

import dataclasses
import logging
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from emrrg_lib.bench import parts
from emrrg_lib.data import images
from emrrg_lib.data.images import ImageBank, chosen_views, colour, open_views, read_planes, read_view
from emrrg_lib.data.study import Study, in_parallel
from emrrg_lib.data.study_set import StudySet, pack_views
from emrrg_lib.files import InputError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The cache folder of the test."""
    monkeypatch.setenv("EMRRG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def decoded(monkeypatch):
    """The pictures that are decoded, in order of their names."""
    names = []
    monkeypatch.setattr(
        images, "read_planes", lambda path, size: names.append(path.name) or read_planes(path, size)
    )
    return names


def picture(path, seed=0, mode="L", size=(40, 50)):
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def upstream(path, size):
    """NOTES G, step by step: uint8 array → RGB → one straight bicubic resize of three channels."""
    values = np.array(Image.open(path))
    if values.ndim == 2:
        values = np.stack([values] * 3, axis=-1)
    return np.asarray(Image.fromarray(values).resize((size, size), resample=3))


@pytest.mark.parametrize("size", [(40, 50), (191, 260), (624, 512)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_planes_equal_upstreams_resize_bit_for_bit(tmp_path, mode, size):
    path = picture(tmp_path / "x.png", 3, mode, size)
    planes = read_planes(path, 32)
    assert planes.shape == (32, 32, 1 if mode == "L" else 3) and planes.dtype == np.uint8
    np.testing.assert_array_equal(colour(planes), upstream(path, 32))
    np.testing.assert_array_equal(read_view(path, 32), upstream(path, 32))


def test_a_grey_picture_stored_in_colour_takes_one_plane(tmp_path):
    Image.open(picture(tmp_path / "x.png")).convert("RGB").save(tmp_path / "y.png")
    assert read_planes(tmp_path / "y.png", 16).shape == (16, 16, 1)
    np.testing.assert_array_equal(read_view(tmp_path / "y.png", 16), upstream(tmp_path / "x.png", 16))


def test_the_second_time_nothing_is_decoded(tmp_path, folder, decoded):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(5)]
    first = [np.array(view) for view in open_views(paths, 16)[0]]
    assert len(list(folder.iterdir())) == 1
    assert len(decoded) == 5
    again = open_views(paths, 16)[0]
    assert isinstance(again, np.memmap) and not again.flags.writeable
    assert len(decoded) == 5
    np.testing.assert_array_equal(first, again)


def test_one_colour_picture_among_grey_ones(tmp_path):
    paths = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 1, "RGB")]
    for path, view in zip(paths, open_views(paths, 16)[0], strict=True):
        np.testing.assert_array_equal(colour(view), upstream(path, 16))


def test_shards_follow_each_other_and_are_kept_one_by_one(tmp_path, folder, decoded):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(7)]
    shards = open_views(paths, 8, shard=3)
    assert [len(shard) for shard in shards] == [3, 3, 1] and len(list(folder.iterdir())) == 3
    np.testing.assert_array_equal(colour(shards[2][0]), upstream(paths[6], 8))
    picture(paths[4], 99, size=(41, 50))
    decoded.clear()  # only the shard of the changed picture is decoded again
    np.testing.assert_array_equal(colour(open_views(paths, 8, shard=3)[1][1]), upstream(paths[4], 8))
    assert sorted(decoded) == ["3.png", "4.png", "5.png"]


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"not numpy at all"])
def test_a_damaged_shard_is_made_again(tmp_path, folder, damage):
    paths = [picture(tmp_path / "a.png")]
    open_views(paths, 16)
    file = next(folder.iterdir())
    whole = file.read_bytes()
    for content in (damage, whole[:-7]):
        file.write_bytes(content)
        np.testing.assert_array_equal(colour(open_views(paths, 16)[0][0]), upstream(paths[0], 16))
    assert file.read_bytes() == whole


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole, other: flip(whole, 140),  # a pixel
        lambda whole, other: flip(whole, 70),  # the header
        lambda whole, other: flip(whole, len(whole) - 1),  # the checksum
        lambda whole, other: whole[:200] + bytes(64) + whole[264:],  # a zeroed block
        lambda whole, other: whole[:-32],
        lambda whole, other: whole + b"x",
        lambda whole, other: other,  # a sound shard of other pictures
    ],
)
def test_a_shard_that_is_not_as_it_was_kept_is_named_and_decoded_anew(tmp_path, folder, caplog, damage):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(4)]
    open_views(paths[2:], 16)
    other = next(folder.iterdir()).read_bytes()
    first = np.array(open_views(paths[:2], 16)[0])
    (file,) = [file for file in folder.iterdir() if file.read_bytes() != other]
    whole = file.read_bytes()
    assert not caplog.records
    file.write_bytes(damage(whole, other))
    np.testing.assert_array_equal(open_views(paths[:2], 16)[0], first)
    assert [record.levelname for record in caplog.records] == ["WARNING"] and str(file) in caplog.text
    assert file.read_bytes() == whole


def test_a_shard_of_too_few_or_exchanged_images_is_decoded_anew(tmp_path, folder):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(3)]
    first = np.array(open_views(paths, 16)[0])
    (file,) = folder.iterdir()
    for wrong in (first[:-1], first[::-1], first[:0], first.astype(np.int16)):
        with file.open("wb") as stream:
            np.save(stream, wrong)
        np.testing.assert_array_equal(open_views(paths, 16)[0], first)


@pytest.mark.parametrize("way", ["replaced", "overwritten", "renamed over"])
def test_a_file_of_equal_length_and_time_is_another_file(tmp_path, way):
    path, other = tmp_path / "a.bmp", tmp_path / "b.bmp"
    for number, file in enumerate((path, other)):
        os.utime(picture(file, number), ns=(10**18, 10**18))
    before = np.array(open_views([path], 16)[0])
    if way == "replaced":
        path.unlink()
        shutil.copy2(other, path)
    elif way == "overwritten":
        path.write_bytes(other.read_bytes())
    else:
        other.rename(path)
    os.utime(path, ns=(10**18, 10**18))
    assert path.stat().st_mtime_ns == 10**18 and (open_views([path], 16)[0] != before).any()


def test_a_changed_picture_or_size_is_seen(tmp_path):
    path = picture(tmp_path / "a.png", 0)
    before = open_views([path], 16)[0][0].copy()
    assert open_views([path], 8)[0].shape == (1, 8, 8, 1)
    picture(path, 1)
    os.utime(path, ns=(1, 1))
    assert (open_views([path], 16)[0][0] != before).any()


def test_a_job_that_fails_leaves_nothing_half_written(tmp_path, folder):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(3)]
    paths[2].write_bytes(b"no picture")
    with pytest.raises(InputError):
        open_views(paths, 16)
    assert not folder.exists() or not list(folder.iterdir())


def test_a_cache_that_cannot_be_written_is_said_and_done_without(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMRRG_CACHE", str(tmp_path / "file"))
    paths = [picture(tmp_path / "a.png")]
    with caplog.at_level(logging.WARNING):
        view = open_views(paths, 16)[0][0]
    np.testing.assert_array_equal(colour(view), upstream(paths[0], 16))
    assert "EMRRG_CACHE" in caplog.text


def test_shards_unused_for_a_month_go(tmp_path, folder):
    old, used = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 1)
    for path in (old, used):
        open_views([path], 16)
    for file in folder.iterdir():
        os.utime(file, (0, 0))
    open_views([used], 16)  # touches its shard
    for name, days in ((".x.npy.host-1.partial", 2), (".y.npy.host-1.partial", 0)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (time.time() - days * 86_400,) * 2)
    open_views([picture(tmp_path / "c.png", 2)], 16)  # writing one looks for old ones
    assert [file.name for file in folder.glob(".*")] == [".y.npy.host-1.partial"]
    (folder / ".y.npy.host-1.partial").unlink()
    assert len(list(folder.iterdir())) == 2


def test_a_missing_or_damaged_picture_is_named(tmp_path):
    with pytest.raises(InputError, match="no image file at .*gone.png"):
        open_views([tmp_path / "gone.png"], 16)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="bad.png is not an image"):
        open_views([tmp_path / "bad.png"], 16)


def test_in_parallel_keeps_the_order():
    assert list(in_parallel(lambda x: x * x, iter(range(1000)))) == [x * x for x in range(1000)]


def test_the_benchmark_compares_two_epochs(monkeypatch):
    monkeypatch.setattr(parts, "SIZES", ((40, 50),))
    result = parts.data(quick=True)
    assert result["sample"] == 60 and result["files"] == 6000
    found = result["40x50"]
    assert found["ratio"] == pytest.approx(found["first_epoch_seconds"] / found["second_epoch_seconds"])
    assert found["bytes_a_file"] > 100


# ----------------------------------------------------------------------------------- views


def study(folder, views, count=None, name="s"):
    count = count or len(views)
    images = tuple(picture(folder / f"{name}{i}.png", i) for i in range(count))
    return Study(name, images, "Clear.", "train", views=views)


def test_frontal_views_are_kept_before_lateral_and_other_ones(tmp_path):
    five = study(tmp_path, ("other", "lateral", "frontal", "lateral", "frontal"))
    assert [five.images.index(path) for path in chosen_views(five, None)] == [2, 4, 1, 3, 0]
    assert [five.images.index(path) for path in chosen_views(five, 3)] == [2, 4, 1]
    unknown = study(tmp_path, None, 3)
    assert chosen_views(unknown, 2) == list(unknown.images[:2])


def test_the_bank_hands_out_each_studys_views(tmp_path):
    studies = [study(tmp_path, ("lateral", "frontal"), name="a"), study(tmp_path, None, 3, name="b")]
    bank = ImageBank(studies, 16)
    assert len(bank) == 2 and [len(bank[i]) for i in range(2)] == [2, 2]
    np.testing.assert_array_equal(bank[0], [upstream(path, 16) for path in studies[0].images[::-1]])
    np.testing.assert_array_equal(bank[1], [upstream(path, 16) for path in studies[1].images[:2]])
    assert len(ImageBank(studies, 16, None)[1]) == 3


def test_views_beyond_the_models_number_are_reported_once(tmp_path, small_config, caplog):
    studies = [study(tmp_path, None, 5, name="a"), study(tmp_path, None, 1, name="b")]
    with caplog.at_level(logging.WARNING):
        pixels, mask = StudySet(studies, small_config).images([0, 1])
    assert len(pixels) == 3 and mask.tolist() == [[True, True], [True, False]]
    assert [r.getMessage() for r in caplog.records if "views" in r.getMessage()] == [
        "1 of 2 studies have more than 2 views: 3 views are not used (frontal, then lateral ones are kept)"
    ]
    caplog.clear()
    mean = dataclasses.replace(small_config, data=dataclasses.replace(small_config.data, views="mean"))
    pixels, mask = StudySet(studies, mean).images([0, 1])
    assert mask.sum(1).tolist() == [5, 1] and len(pixels) == 6 and not caplog.records


def test_pack_views_takes_any_number():
    views = [np.full((4, 4, 3), value, dtype=np.uint8) for value in (0, 100, 200)]
    pixels, mask = pack_views([views, views[:1]], None)
    assert pixels.shape == (4, 3, 4, 4) and (pixels[3] == pixels[0]).all()
    assert mask.tolist() == [[True, True, True], [True, False, False]]
