"""Figures of the encoder: what they show, told by their text, their axes and their pixels."""

import io

import numpy as np
from PIL import Image

from emrrg_lib.interpret.figures_vision import curves, map_grid, patch_grid, scan_animation, scan_frames
from emrrg_lib.vision.mamba import scan_orders

ORDERS = scan_orders(4).numpy()
ORANGE, DARK = (200, 95, 0), (31, 41, 51)


def test_a_marked_patch_is_enlarged_as_it_is():
    image = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    figure = patch_grid(image, 16, marked=(6,))
    shown = figure.axes[1].images[0].get_array()
    assert np.array_equal(shown, image[16:32, 32:48])
    assert "4 × 4 patches of 16 × 16" in figure.alt and "patches 6" in figure.alt


def test_maps_stand_in_lines_with_the_xray_first():
    maps = np.random.default_rng(0).random((2, 4, 4))
    figure = map_grid({"X": maps, "Z": maps[:1]}, "Features", ["first"], image=np.zeros((8, 8), np.uint8))
    sides = [len(axes.images[0].get_array()) for axes in figure.axes]
    assert sides == [8, 4, 4, 8, 4]
    assert [axes.get_title() for axes in figure.axes] == ["", "first", "", "", ""]
    assert figure.alt == "Features: X, Z."


def test_a_line_with_a_bar_has_one_scale_and_its_own_xray():
    maps = {"X": [np.zeros((2, 2)), np.full((2, 2), 4.0)], "Z": [np.eye(2), -np.eye(2)]}
    xrays = {"X": np.zeros((8, 8), np.uint8), "Z": np.ones((6, 6), np.uint8)}
    figure = map_grid(maps, "Features", image=xrays, bars=True)
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    assert [len(image.get_array()) for image in shown] == [8, 2, 2, 6, 2, 2]
    assert [shown[at].get_clim() for at in (1, 2, 4, 5)] == [(0, 4), (0, 4), (-1, 1), (-1, 1)]
    bars = [axes for axes in figure.axes if not axes.images and axes.get_yticks().size == 2]
    assert [tick.get_text() for tick in bars[1].get_yticklabels()] == ["-1", "1"]
    assert figure.alt == "Features: X from 0 to 4, Z from -1 to 1."


def test_frames_show_the_last_token_and_cls_in_the_centre():
    figure = scan_frames(ORDERS, (1, 9, 17))
    first, middle, last = (np.asarray(axes.images[0].get_array()) for axes in figure.axes[:3])
    assert tuple(first[2, 2]) == ORANGE and tuple(middle[22, 22]) == ORANGE
    assert tuple(last[22, 22]) == DARK and tuple(last[40, 40]) == ORANGE
    columns = np.asarray(figure.axes[6].images[0].get_array())  # the first frame of the third direction
    assert np.array_equal(columns, first)
    assert [len(axes.lines) for axes in figure.axes] == [0, 0, 1] * 4  # the path, in the last column


def test_the_animation_is_a_small_gif_with_a_text_twin():
    animation = scan_animation(ORDERS, every=4)
    with Image.open(io.BytesIO(animation.data)) as image:
        assert image.format == "GIF" and image.n_frames == 5
    assert len(animation.data) < 20_000 and repr(animation) == animation.alt


def test_curves_differ_by_dash_and_mark():
    figure = curves({name: ([1, 2, 4], [1, 2, 4]) for name in "abcde"}, "tokens", "ms", "Cost", log=True)
    axes = figure.axes[0]
    assert len({(line.get_linestyle(), line.get_marker()) for line in axes.lines[:4]}) == 4
    assert len(axes.lines) == 5 and [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "4"]
