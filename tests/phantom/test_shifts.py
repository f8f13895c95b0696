"""Domain shifts: tones keep places, moves keep tones and take the masks along, reports stay."""

import json

import numpy as np
import pytest
from PIL import Image

from emrrg_lib.cli import main
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.phantom import draw_study, shifted, write_phantom
from emrrg_lib.phantom.shifts import MIXED, MOVES, SHIFTS, TONES


@pytest.fixture(scope="module")
def study():
    """A study with a finding that both views show."""
    drawn = (draw_study(7, index, 48) for index in range(50))
    return next(one for one in drawn if any(f["masks"].any((1, 2)).all() for f in one.findings))


@pytest.mark.parametrize("shift", (*TONES, *MOVES))
def test_the_images_change_and_what_is_said_stays(study, shift):
    other = shifted(study, shift, 0)
    assert other.images.dtype == np.uint8 and other.images.shape == study.images.shape
    assert not np.array_equal(other.images, study.images)
    assert (other.report, other.labels, other.truth) == (study.report, study.labels, study.truth)


@pytest.mark.parametrize("shift", TONES)
def test_a_tone_leaves_the_masks(study, shift):
    for one, other in zip(study.findings, shifted(study, shift, 0).findings, strict=True):
        assert np.array_equal(one["masks"], other["masks"])


@pytest.mark.parametrize("shift", MOVES)
def test_a_move_takes_the_masks_along(study, shift):
    """The grey values under a mask are the same ones before and after, in another order."""
    moved = shifted(study, shift, 0)
    for view in range(2):
        every = (np.sort(one.images[view], axis=None) for one in (study, moved))
        assert np.array_equal(*every)
        for one, other in zip(study.findings, moved.findings, strict=True):
            inside = (np.sort(s.images[view][f["masks"][view]]) for s, f in ((study, one), (moved, other)))
            assert np.array_equal(*inside)


def test_tones_by_hand():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(TONES["inverted"](ramp).ravel(), np.arange(255, -1, -1))
    exposed = TONES["exposed"](ramp).ravel()
    assert exposed[[0, 128, 255]].tolist() == [0, 56, 255] and (np.diff(exposed.astype(int)) >= 0).all()
    assert TONES["solarised"](ramp).ravel()[[0, 64, 127, 128, 255]].tolist() == [0, 128, 254, 255, 1]
    board = np.kron(np.array([[0, 200], [100, 50]]), np.ones((4, 4))).astype(np.uint8)[None]
    assert np.array_equal(TONES["coarse"](board), board)  # its blocks are already flat
    odd = TONES["coarse"](np.arange(36, dtype=np.uint8).reshape(1, 6, 6))[0]  # blocks of 4 and of 2
    assert odd.shape == (6, 6) and odd[0, 4] == round(np.mean([4, 5, 10, 11, 16, 17, 22, 23]))


def test_mixed_takes_its_shifts_in_turn(study):
    for index in range(2 * len(MIXED)):
        alone = shifted(study, MIXED[index % len(MIXED)], 0)
        assert np.array_equal(shifted(study, "mixed", index).images, alone.images)


def test_a_shifted_set_differs_in_its_pixels_only(tmp_path):
    sets = [
        write_phantom(tmp_path / (shift or "plain"), 4, 3, 32, workers=1, shift=shift)
        for shift in (None, "upside-down")
    ]
    notes = [json.loads((folder / "annotation.json").read_text()) for folder in sets]
    assert notes[0] == notes[1]
    assert [("shift upside-down" in read_dataset(folder).caption) for folder in sets] == [False, True]
    for entry in notes[0]["train"]:
        for path in entry["image_path"]:
            plain, turned = (np.asarray(Image.open(folder / "images" / path)) for folder in sets)
            assert np.array_equal(turned, plain[::-1])
        for finding in entry["findings"]:
            for path in filter(None, finding["masks"]):
                plain, turned = (np.asarray(Image.open(folder / path)) for folder in sets)
                assert np.array_equal(turned, plain[::-1])


def test_the_help_and_a_wrong_shift_name_them_all(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data", "phantom", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("-\n", "-").split())
    assert all(shift in shown for shift in SHIFTS)
    assert main(["data", "phantom", "--studies", "4", "--shift", "invert", "--out", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err
    assert "did you mean 'inverted'?" in told and all(shift in told for shift in SHIFTS)
    assert not (tmp_path / "x").exists()
