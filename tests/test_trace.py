"""The trace of a report: its shapes and values are checked, its words are whole, its file is safe."""

from __future__ import annotations

import numpy as np
import pytest
from toy_trace import make_trace

from emrrg_lib.files import InputError
from emrrg_lib.trace import Trace


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
