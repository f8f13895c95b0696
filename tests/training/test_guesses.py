"""The stored guesses of stage 1: made by one command, and about the images that they name."""

import numpy as np
import torch

from emrrg_lib.config import ENCODERS
from emrrg_lib.training.guesses import STORED, example_images, guess, store_guesses
from emrrg_lib.training.stage1 import Stage1Model, cluster_order, normalised_pixels


def test_the_stored_targets_are_those_of_the_two_images():
    kept, sizes = np.load(STORED), ENCODERS["tiny"]
    wanted = cluster_order(sizes.side)[16:]
    for name, image in example_images(sizes.image_size).items():
        target = normalised_pixels(image, sizes.patch_size)[0, wanted]
        assert np.allclose(kept[f"{name}_target"], target, atol=2e-3)  # float16
        assert kept[f"{name}_guess"].shape == target.shape


def test_the_error_of_a_guess_is_the_loss_of_the_model():
    torch.manual_seed(0)
    model = Stage1Model(ENCODERS["tiny"], decoder_dim=64).eval()
    image = example_images(96)["phantom"]
    target, guessed = guess(model, image)
    with torch.no_grad():
        assert torch.allclose((guessed - target).square().mean(), model(image)["loss"], atol=1e-5)


def test_the_command_writes_what_the_notebook_reads(tmp_path):
    made, kept = np.load(store_guesses(tmp_path / "guesses.npz", 2, 12, 4)), np.load(STORED)
    assert set(made) == set(kept)
    for name in kept:
        assert made[name].shape == kept[name].shape and made[name].dtype == np.float16
    assert np.array_equal(made["chest_target"], kept["chest_target"])
