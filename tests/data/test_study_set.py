"""Studies as the model takes them: packed images and the mask of the views that exist."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from emrrg_lib.data.images import normalise, read_view
from emrrg_lib.data.study import Study
from emrrg_lib.data.study_set import StudySet, pixels
from emrrg_lib.files import InputError
from emrrg_lib.phantom import draw_study

GREY = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
COLOUR = np.repeat(GREY[..., None], 3, axis=-1)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.roll(GREY, i, axis=1)).save(path)
    return paths


@pytest.mark.parametrize("image", [GREY, GREY[..., None], COLOUR, GREY / 255, (COLOUR / 255).astype("f4")])
def test_an_array_of_any_kind_gives_the_same_image(small_config, image):
    values, mask = pixels([[image]], small_config)
    assert torch.equal(values, normalise([COLOUR])) and mask.tolist() == [[True, False]]


def test_files_studies_and_a_split_give_the_same_images(small_config, files):
    studies = [Study("a", tuple(files[:2]), "clear .", "test"), Study("b", (files[2],), "clear .", "test")]
    values, mask = pixels(studies, small_config)
    assert values.shape == (3, 3, 16, 16) and mask.tolist() == [[True, True], [True, False]]
    for others in (
        pixels([[str(path) for path in study.images] for study in studies], small_config),
        StudySet(studies, small_config).images([0, 1]),
    ):
        assert torch.equal(others[0], values) and torch.equal(others[1], mask)


def test_a_drawn_study_is_taken_and_another_size_is_resized(small_config):
    values, mask = pixels([draw_study(1, 0, 32)], small_config)
    assert values.shape == (2, 3, 16, 16) and mask.tolist() == [[True, True]]


def test_an_array_is_resized_as_its_file_is(small_config, tmp_path):
    drawn = np.random.default_rng(1).integers(0, 256, (40, 28), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "film.png")
    wanted = normalise([read_view(tmp_path / "film.png", 16)])
    assert torch.equal(pixels([[drawn]], small_config)[0], wanted)


def test_views_that_the_model_does_not_take(small_config, files):
    study = Study("a", tuple(files), "clear .", "test", views=("lateral", "other", "frontal"))
    values, _ = pixels([study], small_config)  # of a study frontal, then lateral ones are kept
    assert torch.equal(values, pixels([[files[2], files[0]]], small_config)[0])
    with pytest.raises(InputError, match="3 images given: this model takes 1 to 2 views of one study"):
        pixels([files], small_config)
    with pytest.raises(InputError, match="0 images given"):
        pixels([[]], small_config)
    mean = replace(small_config, data=replace(small_config.data, views="mean"))
    assert pixels([files], mean)[1].tolist() == [[True] * 3]


@pytest.mark.parametrize(
    "image, said",
    [
        (np.zeros((16, 16, 2), np.uint8), "has the shape"),
        (np.full((16, 16), 1.5), "floats between 0 and 1"),
        (np.full((16, 16), np.nan), "floats between 0 and 1"),
        (np.zeros((16, 16), int), "bytes"),
    ],
)
def test_an_array_that_is_not_an_image_is_refused(small_config, image, said):
    with pytest.raises(InputError, match=said):
        pixels([[image]], small_config)
