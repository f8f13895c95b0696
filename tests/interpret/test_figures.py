"""Figures of a report: colours, whole pictures with a text alternative, inputs that do not fit."""

from __future__ import annotations

import base64
import io
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from toy_trace import TOKENS, make_trace

from emrrg_lib.interpret import Picture, attention_overlay, gate_strip, loss_curve, study_figure
from emrrg_lib.interpret.figures import running_mean
from emrrg_lib.interpret.figures_scores import counted_bars
from emrrg_lib.interpret.panels import card_height, draw_card, gate_lines
from emrrg_lib.interpret.style import HEAT, SIGNED, grey_image, heat_rgba, html_image, png_bytes, text_width
from emrrg_lib.interpret.words import describe_trace

REPORT = "The heart is enlarged. No effusion."


def images(views=2, side=24):
    return [np.random.default_rng(v).integers(0, 255, (side, side)).astype(np.uint8) for v in range(views)]


def test_heat_is_clear_at_zero_and_strong_at_the_peak():
    rgba = heat_rgba(np.array([[0.0, 1.0]]), 1.0, (1, 2))
    assert rgba.shape == (1, 2, 4) and rgba[0, 0, 3] == 0 and rgba[0, -1, 3] > 200
    assert heat_rgba(np.zeros((2, 2)), 0.0, (4, 4))[..., 3].max() == 0


def test_colour_maps_read_in_grey():
    weights = np.array([0.2126, 0.7152, 0.0722])
    heat = HEAT(np.linspace(0, 1, 50))[:, :3] @ weights
    assert (np.diff(heat) > 0).all()
    signed = SIGNED(np.linspace(0, 1, 51))[:, :3] @ weights
    assert signed[25] > 0.99
    assert (np.diff(signed[:26]) > 0).all() and (np.diff(signed[25:]) < 0).all()


def test_grey_image_takes_usual_shapes():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (6, 7, 3)).astype(np.uint8)
    assert grey_image(rgb).shape == grey_image(rgb.transpose(2, 0, 1)).shape == (6, 7)
    stretched = grey_image(rng.normal(size=(6, 7)))
    assert stretched.dtype == np.uint8 and (stretched.min(), stretched.max()) == (0, 255)
    assert grey_image(np.ones((4, 4))).max() == 0
    for wrong in (np.zeros(4), np.zeros((2, 4, 4, 3)), np.zeros((0, 4))):
        with pytest.raises(ValueError, match="shape"):
            grey_image(wrong)


def test_figures_are_whole_and_described():
    trace, views = make_trace(), images()
    masks = np.zeros((2, 24, 24), bool)
    masks[:, 4:9, 5:12] = True
    figures = [
        gate_strip(trace),
        attention_overlay(views, trace, 6, 1, masks=masks),
        attention_overlay(np.stack(views), trace, 0, -1, heads=[0, 1]),
        study_figure(views, "The heart is enlarged.", REPORT, trace),
        study_figure(views, None, REPORT, trace),
        loss_curve([1, 2, 3], [3.0, 2.0, 1.5], [(2, 1.9)]),
    ]
    for figure in figures:
        assert isinstance(figure, Picture) and isinstance(figure, Figure)
        assert len(figure.alt) > 20
        assert png_bytes(figure, dpi=40).startswith(b"\x89PNG")
    bundle = figures[0]._repr_mimebundle_()
    assert bundle["text/plain"] == figures[0].alt and list(bundle) == ["text/html", "text/plain"]


def test_a_picture_in_html_holds_its_sentence_and_its_file():
    alt = 'The word "heart" looks at <1 & 2>.'
    figure = Picture((3.2, 1.0), alt=alt)
    image = ElementTree.fromstring(figure._repr_mimebundle_()["text/html"] + "</img>").attrib
    assert image["alt"] == alt and image["width"] == "320"
    kind, content = image["src"].split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(content) == png_bytes(figure)
    assert 'src="data:image/gif;base64,R0lG"' in html_image(b"GIF", "x", kind="gif")


def test_a_drawn_word_is_as_wide_as_it_was_measured():
    words, size, dpi = "structures mediastinum structures", 8.5, 100
    figure = Picture((4, 0.5))
    figure.text(0, 0.4, words, fontsize=size)
    with Image.open(io.BytesIO(png_bytes(figure, dpi))) as image:
        columns = np.flatnonzero((np.asarray(image.convert("L")) < 128).any(axis=0))
    assert abs(columns[-1] + 1 - text_width(words, size) * dpi / 72) < 1.5  # hinted: 6 pixels more


def test_no_pyplot_window_is_opened():
    gate_strip(make_trace())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_one_view_and_dollar_signs():
    trace = make_trace((" $5", " and", " $6"), views=1)
    image = images(1)[0]
    for picture in (image, [image], np.stack([image] * 3, axis=-1)):
        png_bytes(attention_overlay(picture, trace, 0, 0), dpi=30)
    png_bytes(study_figure(image, "costs $5 and $6", "$5 and $6 <b>", trace), dpi=30)


def test_images_must_match_views():
    with pytest.raises(ValueError, match="1 image"):
        attention_overlay(images(1), make_trace(), 0, 0)


def test_empty_report_and_closed_gates_are_told():
    empty = make_trace(())
    assert "no word" in describe_trace(empty)
    png_bytes(gate_strip(empty), dpi=30)
    png_bytes(study_figure(images(), "A report.", "", empty), dpi=30)
    closed = make_trace(gate=np.zeros((2, 12)))
    assert "all closed" in describe_trace(closed)
    png_bytes(gate_strip(closed), dpi=30)


def test_gate_lines_keep_words_whole_and_lines_even():
    trace = make_trace(TOKENS * 9)
    lines = gate_lines(trace, 9.0)
    assert [word for line in lines for word in line] == list(trace.words())
    lengths = [line[-1].stop - line[0].start for line in lines]
    assert len(lines) == 3 and max(lengths) - min(lengths) <= 3


def test_loss_curve_refuses_what_does_not_fit():
    for steps, losses in (([1, 2], [1.0]), ([], [])):
        with pytest.raises(ValueError, match="equally many"):
            loss_curve(steps, losses)
    np.testing.assert_allclose(running_mean(np.arange(3.0)), [0.5, 1, 1.5])
    np.testing.assert_allclose(running_mean(np.ones(100)), 1)


def test_a_card_breaks_between_words_and_marks_across_them():
    text, figure = "No pleural effusion\nor  pneumothorax.", Picture((2.0, 2.0))
    draw_card(figure, (0, 0), 1.6, "Title", text, [(3, 22)], 10)
    title, *words = figure.axes[0].texts
    assert [title.get_text(), *(word.get_text() for word in words)] == ["Title", *text.split()]
    lines = sorted({word.get_position()[1] for word in words})
    assert len(lines) == 2 and card_height(text, 10, 1.6) > card_height(text, 10, 9.0)
    frame, *marks = figure.axes[0].patches  # “pleural effusion”, “or”
    assert [mark.get_y() for mark in marks] == sorted({mark.get_y() for mark in marks}) and len(marks) == 2
    first = words[1].get_position()[0]
    assert marks[0].get_x() == pytest.approx(first - 0.6)
    png_bytes(figure, dpi=30)


def test_counted_bars_are_as_long_as_the_counts():
    figure = counted_bars({"base": (57_310_464, 84_262_656), "half": (1_000_000, 2_000_000)})
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([57.310464, 26.952192, 1, 1])
    assert "base: 57.31 M seen, 26.95 M not; half: 1.00 M seen, 1.00 M not" in figure.alt
