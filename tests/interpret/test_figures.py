"""Trace, matching, naming words and figures."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from emrrg_lib.files import InputError
from emrrg_lib.interpret import (
    Picture,
    Trace,
    attention_overlay,
    describe_trace,
    gate_strip,
    loss_curve,
    matching_spans,
    naming_words,
    shared_marks,
    study_figure,
    word_grid,
)
from emrrg_lib.interpret.figures import running_mean
from emrrg_lib.interpret.panels import gate_lines
from emrrg_lib.interpret.style import HEAT, SIGNED, grey_image, heat_rgba, png_bytes
from emrrg_lib.interpret.words import default_words, describe_place

TOKENS = (" The", " heart", " is", " en", "larged", ".", " No", " eff", "us", "ion", ".", "</s>")
REPORT = "The heart is enlarged. No effusion."


def make_trace(tokens=TOKENS, layers=2, heads=3, views=2, grid=(4, 5), seed=0, **changes) -> Trace:
    """A trace of random numbers that keep every rule."""
    rng = np.random.default_rng(seed)
    attention = rng.random((layers, heads, len(tokens), views, grid[0] * grid[1]))
    attention /= 1.1 * attention.sum(axis=(3, 4), keepdims=True)
    fields = {
        "tokens": tokens,
        "gate": np.tanh(rng.normal(size=(layers, len(tokens)))) * 0.3,
        "attention": attention,
        "grid": grid,
        "layer_ids": tuple(range(0, 6 * layers, 6)),
        "warm_up": np.full(layers, 0.3),
    }
    return Trace(**{**fields, **changes})


def images(views=2, side=24):
    return [np.random.default_rng(v).integers(0, 255, (side, side)).astype(np.uint8) for v in range(views)]


# --- Trace ---------------------------------------------------------------------------------


def test_trace_is_float32_and_frozen():
    trace = make_trace()
    assert trace.gate.dtype == trace.attention.dtype == trace.warm_up.dtype == np.float32
    assert (trace.views, trace.heads, trace.layer_ids) == (2, 3, (0, 6))
    with pytest.raises(AttributeError):
        trace.grid = (1, 1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gate": np.zeros((2, 5))}, "gate has shape"),
        ({"warm_up": np.zeros(3)}, "warm_up has shape"),
        ({"attention": np.zeros((2, 3, 12, 2, 16))}, "grid"),
        ({"layer_ids": (0, 6, 12)}, "3 layer_ids"),
        ({"attention": np.zeros((2, 3, 12, 20))}, "must have the axes"),
        ({"attention": np.zeros((2, 3, 11, 2, 20))}, "attention has"),
        ({"attention": np.full((2, 3, 12, 2, 20), 0.5)}, "sums to 20"),
        ({"attention": np.full((2, 3, 12, 2, 20), -0.01)}, "cannot be negative"),
        ({"gate": np.full((2, 12), 1.5)}, "tanh"),
        ({"warm_up": np.array([0.1, np.nan])}, "NaN"),
    ],
)
def test_trace_refuses_what_does_not_fit(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_trace(**changes)


def test_trace_refuses_a_grid_that_is_none():
    for grid in ((4,), (0, 3)):
        with pytest.raises(ValueError, match="grid must be"):
            Trace((), np.zeros((0, 0)), np.zeros((0, 1, 0, 1, 1)), grid, (), np.zeros(0))


def test_words_group_sub_word_tokens():
    words = make_trace().words()
    assert [word.text for word in words] == [
        "The",
        "heart",
        "is",
        "enlarged",
        ".",
        "No",
        "effusion",
        ".",
        "</s>",
    ]
    assert [(word.start, word.stop) for word in words[3:5]] == [(3, 5), (5, 6)]
    assert (words[6].start, words[6].stop) == (7, 10)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (("right", "-", "sided"), ["right-sided"]),  # no leading space on the first token
        ((" clear", " .", " no"), ["clear", ".", "no"]),  # cleaned reports
        ((" a", "", "b", " ", "c"), ["ab", "c"]),  # empty piece and a lone space
        ((), []),
    ],
)
def test_words_of_odd_tokens(tokens, expected):
    assert [word.text for word in make_trace(tokens).words()] == expected


def test_word_attention_averages_tokens_and_heads():
    trace = make_trace()
    tokens = trace.attention[1, :, 7:10]
    np.testing.assert_allclose(trace.word_attention(6, 1), tokens.mean((0, 1)).reshape(2, 4, 5), rtol=1e-6)
    np.testing.assert_allclose(
        trace.word_attention(6, -1, "max"), tokens.mean(1).max(0).reshape(2, 4, 5), rtol=1e-6
    )
    one = trace.word_attention(6, 1, 2)
    np.testing.assert_allclose(trace.word_attention(6, 1, [2, 2]), one, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong", [(9, 0, "mean"), (-1, 0, "mean"), (0, 2, "mean"), (0, 0, 3), (0, 0, "median"), (0, 0, [])]
)
def test_word_attention_names_what_does_not_exist(wrong):
    with pytest.raises(ValueError):
        make_trace().word_attention(*wrong)


def test_save_and_load_keep_everything(tmp_path):
    trace = make_trace()
    loaded = Trace.load(trace.save(tmp_path / "a" / "one.npz"))
    assert loaded.tokens == trace.tokens and loaded.grid == trace.grid
    assert loaded.layer_ids == trace.layer_ids
    for name in ("gate", "attention", "warm_up"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(trace, name))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one.npz"]


def test_load_refuses_broken_files(tmp_path):
    with pytest.raises(InputError, match="no trace file"):
        Trace.load(tmp_path / "none.npz")
    for name, content in (("text", b"not a zip"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not a whole trace"):
            Trace.load(tmp_path / name)
    np.savez(tmp_path / "part.npz", gate=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", tokens=np.array([{}], dtype=object))
    for name in ("part.npz", "pickle.npz"):
        with pytest.raises(InputError, match="not a whole trace"):
            Trace.load(tmp_path / name)
    whole = make_trace().save(tmp_path / "whole.npz")
    whole.write_bytes(whole.read_bytes()[:400])
    with pytest.raises(InputError, match="not a whole trace"):
        Trace.load(whole)


# --- matching ------------------------------------------------------------------------------


def cut(text, spans):
    return [text[start:stop] for start, stop in spans]


def test_matching_takes_the_longest_runs_first():
    reference = "No pleural effusion or pneumothorax. The heart is normal in size."
    hypothesis = "The heart is normal. There is no pleural effusion."
    matches = matching_spans(reference, hypothesis)
    assert cut(hypothesis, [m.hypothesis for m in matches]) == [
        "The heart is normal",
        "no pleural effusion",
    ]
    assert cut(reference, [m.reference for m in matches]) == [
        "The heart is normal",
        "No pleural effusion",
    ]
    assert [m.words for m in matches] == [4, 3]


def test_matching_stops_at_sentences_and_short_runs():
    assert matching_spans("Lungs are clear. Heart normal.", "clear heart") == []
    assert matching_spans("a b c", "c b a") == []
    assert len(matching_spans("a b c", "c b a", min_words=1)) == 3
    assert matching_spans("", "anything here") == []
    one = matching_spans("2.5 cm nodule", "a 2.5 cm mass")
    assert [m.words for m in one] == [2]
    with pytest.raises(ValueError):
        matching_spans("a", "a", min_words=0)


def test_matching_never_overlaps_and_always_agrees():
    rng = np.random.default_rng(5)
    for _ in range(30):
        texts = [" ".join(rng.choice(list("abcd."), 30)) for _ in range(2)]
        matches = matching_spans(*texts)
        for side in ("reference", "hypothesis"):
            spans = sorted(getattr(match, side) for match in matches)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        for match in matches:
            left, right = texts[0][slice(*match.reference)], texts[1][slice(*match.hypothesis)]
            assert left == right and "." not in left and len(left.split()) == match.words >= 2


def test_shared_marks_tell_who_shares_what():
    """The colours of the paper's Fig. 3: first report alone, second alone, both."""
    reference = "The heart is enlarged. Small left effusion."
    reports = ["The heart is normal. Small left effusion.", "The heart is enlarged, effusion is small left."]
    marks = shared_marks(reference, reports)
    told = [
        [(text[m.start : m.stop], m.systems) for m in side]
        for text, side in zip([reference, *reports], marks, strict=True)
    ]
    heart, left, effusion = ("The heart is", (0, 1)), ("Small left", (0, 1)), ("effusion", (0,))
    assert told[0] == [heart, ("enlarged", (1,)), left, effusion]
    assert told[1] == [heart, left, effusion]
    assert told[2] == [heart, ("enlarged", (1,)), ("small left", (0, 1))]
    twins = [{m.twin: told[side][i][0].lower() for i, m in enumerate(marks[side])} for side in range(3)]
    assert all(twins[0][twin] == text for side in twins[1:] for twin, text in side.items())


def test_shared_marks_of_one_report_are_its_matches():
    rng = np.random.default_rng(6)
    for _ in range(20):
        texts = [" ".join(rng.choice(list("abcd."), 30)) for _ in range(2)]
        matches, marks = matching_spans(*texts), shared_marks(texts[0], texts[1:])
        assert [(m.start, m.stop) for m in marks[1]] == [m.hypothesis for m in matches]
        assert sorted((m.start, m.stop) for m in marks[0]) == sorted(m.reference for m in matches)
    assert shared_marks("", ["", "a"]) == [[], [], []]


# --- naming words --------------------------------------------------------------------------


def tokens_of(text):
    return tuple(text.replace(".", " .").replace(" ", "\x00 ").split("\x00"))


def test_naming_words_affirmed_first():
    text = "No pneumothorax . Possible pneumonia . The heart is enlarged . There is an effusion ."
    found = naming_words(make_trace(tokens_of(text)))
    assert [(word.text, word.value) for word in found] == [
        ("enlarged", 1),
        ("effusion", 1),
        ("pneumonia", -1),
        ("pneumothorax", 0),
    ]
    assert [word.caption for word in found][2:] == ["pneumonia (uncertain)", "pneumothorax (negative)"]
    assert len(naming_words(make_trace(tokens_of(text)), limit=2)) == 2


def test_naming_words_keep_the_affirming_sentence():
    trace = make_trace(tokens_of("No left effusion . Small right effusion ."))
    (word,) = naming_words(trace)
    assert word.value == 1 and word.word_index == 6


def test_words_without_findings_fall_back_to_open_gates():
    tokens = (" Hello", " world", " .")
    gate = np.array([[0.1, -0.9, 0.99], [0.0, 0.0, 0.0]])
    trace = make_trace(tokens, gate=gate)
    assert default_words(trace, 1) == [1]
    assert default_words(make_trace(()), 3) == []


# --- colours -------------------------------------------------------------------------------


def test_heat_is_clear_at_zero_and_strong_at_the_peak():
    rgba = heat_rgba(np.array([[0.0, 1.0]]), 1.0, (2, 4), smooth=False)
    assert rgba.shape == (2, 4, 4) and rgba[0, 0, 3] == 0 and rgba[0, -1, 3] > 200
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


# --- figures -------------------------------------------------------------------------------


def test_figures_are_whole_and_described():
    trace, views = make_trace(), images()
    masks = np.zeros((2, 24, 24), bool)
    masks[:, 4:9, 5:12] = True
    figures = [
        gate_strip(trace),
        attention_overlay(views, trace, 6, 1, masks=masks),
        attention_overlay(np.stack(views), trace, 0, -1, heads=[0, 1], smooth=False),
        word_grid(views, trace, 0),
        word_grid(views, trace, 0, words=[0, 1, 2, 3, 4]),
        study_figure(views, "The heart is enlarged.", REPORT, trace),
        study_figure(views, None, REPORT, trace, layer=0),
        loss_curve([1, 2, 3], [3.0, 2.0, 1.5], [(2, 1.9)]),
    ]
    for figure in figures:
        assert isinstance(figure, Picture) and isinstance(figure, Figure)
        assert len(figure.alt) > 20
        assert png_bytes(figure, dpi=40).startswith(b"\x89PNG")
    bundle, metadata = figures[0]._repr_mimebundle_()
    assert bundle["text/plain"] == metadata["image/png"]["alt"] == figures[0].alt


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


def test_describe_names_the_strongest_place():
    weights = np.zeros((2, 6, 6))
    weights[1, 5, 0] = 1
    assert describe_place(weights) == "most in the lower left of the lateral view"
    assert describe_place(np.zeros((1, 2, 2))) == "nowhere in particular"
    gate = np.zeros((2, 12))
    gate[1, 8] = -0.25
    text = describe_trace(make_trace(gate=gate))
    assert "-0.25 at “effusion” in layer 6" in text and "“enlarged” looks" in text


def test_loss_curve_refuses_what_does_not_fit():
    for steps, losses in (([1, 2], [1.0]), ([], [])):
        with pytest.raises(ValueError, match="equally many"):
            loss_curve(steps, losses)
    np.testing.assert_allclose(running_mean(np.arange(3.0)), [0.5, 1, 1.5])
    np.testing.assert_allclose(running_mean(np.ones(100)), 1)
