"""Figures of a training: what is drawn is what was given, and the text alternative says it."""

import numpy as np
import pytest

from emrrg_lib.interpret.figures_training import length_histogram, rates_picture, watch_picture


def test_the_watch_draws_both_losses_and_every_gate():
    picture = watch_picture([0, 10], [0.5, 0.4], [0.5, 0.6], [[0.0, 0.0, 0.0], [0.1, 0.2, 0.3]])
    losses, gates = picture.axes
    assert [list(line.get_ydata()) for line in losses.lines] == [[0.5, 0.4], [0.5, 0.6]]
    assert [list(line.get_ydata()) for line in gates.lines] == [[0.0, 0.1], [0.0, 0.2], [0.0, 0.3]]
    assert "a difference of 0.200" in picture.alt and "to 0.30" in picture.alt


def test_the_farthest_alpha_is_the_sum_of_the_steps():
    picture = rates_picture({"flat": [1.0] * 5, "half": [0.5] * 4}, (0.1, 0.2), "flat")
    assert picture.axes[1].lines[0].get_ydata() == pytest.approx(0.1 * np.arange(1, 6))
    assert "0.50 at a rate of 0.1, 1.00 at a rate of 0.2" in picture.alt


def test_the_histogram_tells_the_share_beyond_the_limit():
    picture = length_histogram({"train": [1, 1, 2], "test": [3, 0, 1]}, 5, 10)
    assert "50% of train, 25% of test" in picture.alt
    heights = [patch.get_data().values for patch in picture.axes[0].patches]
    assert np.allclose(heights[0], [25, 25, 50]) and np.allclose(heights[1], [75, 0, 25])
