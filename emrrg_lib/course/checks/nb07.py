"""Checks of notebook 07: attention by view, widest gates, the deciding layers, attention on a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np

from emrrg_lib.course.checks import call, exercise, expect, expect_shape, expect_value
from emrrg_lib.trace import Trace


def toy_trace() -> Trace:
    """Four words and a full stop in six tokens; two layers, heads, and views of 2 × 2 patches."""
    attention = np.zeros((2, 2, 6, 2, 4))
    # layer 1, the two tokens of “effusion”: (head, token, view) sums are chosen, spread over the patches
    sums = np.array([[[0.8, 0.1], [0.4, 0.1]], [[0.2, 0.7], [0.2, 0.3]]])
    attention[1, :, 3:5] = sums[..., None] * np.array([0.1, 0.2, 0.3, 0.4])
    attention[0] = 0.01
    gate = np.array([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [0.6, 0.1, -0.2, 0.1, -0.9, 0.05]])
    tokens = (" a", " small", " left", " eff", "usion", ".")
    return Trace(tokens, gate, attention, (2, 2), (0, 6), np.array([0.9, 0.9]))


@exercise(1)
def check_1(share_of_views: Callable[[Trace, int, int], np.ndarray]) -> str:
    """`share_of_views(trace, word, layer)` against a word of two tokens and two heads worked out by hand."""
    yours = np.asarray(call(share_of_views, toy_trace(), 3, 1), dtype=float)
    expect_shape(yours, (2,), "one number a view: sum over the patches, mean over heads and tokens.")
    slips = (
        ((0.5, 0.4), "that is the first token alone: “effusion” is spelt by two, trace.words() says which."),
        ((0.6, 0.1), "that is head 0 alone: take the mean over all heads."),
        ((0.4 / 0.7, 0.3 / 0.7), "you scaled the views to sum to 1: what is left went to the cls tokens."),
        ((0.8, 0.6), "you summed over the tokens: a word's attention is the mean over its tokens."),
        ((0.1, 0.075), "that is the mean over the patches: a view's share is the sum over its patches."),
    )
    cause = "frontal (.8 + .4 + .2 + .2) / 4, lateral (.1 + .1 + .7 + .3) / 4."
    expect_value(yours, (0.4, 0.3), cause, slips)
    return "The rest, 30 %, looked at the cls tokens."


@exercise(2)
def check_2(widest_words: Callable[[Trace, int, int], list[str]]) -> str:
    """`widest_words(trace, layer, k)` against the order of four hand-made gates."""
    yours = call(widest_words, toy_trace(), 1, 2)
    expect(
        isinstance(yours, list) and all(isinstance(word, str) for word in yours),
        f"yours is {yours!r}, expected a list of words as text: word.text, not numbers.",
    )
    expect("usion" not in yours, f"Yours {yours}: those are tokens; trace.words() joins them to words.")
    slips = (
        (["a", "small"], "negative gates are open too: the sign only turns the image around. Use the size."),
        (
            ["a", "effusion"],
            "you averaged the tokens of a word, or took them with their sign: its opening "
            "is the largest size among its tokens.",
        ),
        ([".", "small"], "these are the narrowest: sort from wide to narrow."),
        (["effusion"], "k words are wanted, k = 2."),
    )
    cause = "openings in layer 1 are a .6, small .1, left .2, effusion .9, the full stop .05."
    expect_value(yours, ["effusion", "a"], cause, slips)
    expect(
        call(widest_words, toy_trace(), 0, 1) == ["a"],
        "right in layer 1, wrong in layer 0: does your function read the layer it is given?",
    )
    return "Wide is not the same as decisive: exercise 3 asks what happens without it."


@exercise(3)
def check_3(deciding_layers: Callable[..., list[int]]) -> str:
    """`deciding_layers(regenerate, layer_ids)` with a toy model: only 6 and 12 decide the text."""
    scales: list[dict[int, float]] = []

    def regenerate(gate_scales: Mapping[int, float]) -> SimpleNamespace:
        scales.append(dict(gate_scales))
        scale = {0: 1.0, 6: 1.0, 12: 1.0} | dict(gate_scales)
        seen = ("effusion" if scale[6] > 0 else "clear") + (" heart" if scale[12] > 0 else "")
        return SimpleNamespace(text=seen, gate=np.array([[scale[0]]]))

    yours = call(deciding_layers, regenerate, (0, 6, 12))
    closed = [sorted(layer for layer, scale in each.items() if scale == 0) for each in scales]
    expect(bool(scales), "regenerate was never called: the answer lies in writing the report again.")
    expect(any(closed), f"no gate was ever closed, the scales were {scales[-1]}: closed is scale 0.")
    expect(max(map(len, closed)) == 1, f"you closed layers {max(closed, key=len)} at once: one at a time.")
    slips = (
        ([0, 6, 12], "every layer, but closing layer 0 leaves the text as it was: compare trace.text."),
        ([1, 2], "these are positions: the layers are called 6 and 12 here."),
        ([0], "these are the layers that do not matter: keep those where the text changes."),
    )
    cause = "is each closed alone, and compared with the report of untouched gates, regenerate({})?"
    expect_value(yours, [6, 12], cause, slips)
    return "Closed together, two layers may decide what neither decides alone; that is another experiment."


@exercise(4)
def check_4(gain: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """`gain(weights, mask)` against areas that can be counted."""
    even, left = np.full((2, 2), 0.2), np.zeros((4, 8), dtype=bool)
    left[:, :4] = True
    slips = (
        (0.5, "that is the share alone: divide it by the finding's share of the image."),
        (0.8, "the weights sum to .8, the rest is the cls token's: divide by their sum."),
        (0.4, "a share is not yet a gain: divide by the weights' sum and by the area."),
    )
    where = "Even attention, a finding of half the image"
    expect_value(call(gain, even, left), 1.0, "share .5, area .5, gain 1.", slips, where)
    corner = np.zeros((4, 8), dtype=bool)
    corner[:2, 4:] = True  # exactly the upper right patch
    expect_value(
        call(gain, np.array([[0.0, 0.3], [0.0, 0.0]]), corner),
        4.0,
        "all attention on a finding of a quarter of the image: weights[row, column], row 0 on top.",
    )
    right = corner.copy()
    right[1] = False  # half of the upper right patch
    right[2:, 4:] = True  # the lower right patch
    expect_value(
        call(gain, np.array([[0.0, 0.3], [0.0, 0.1]]), right),
        5 / 3,
        "share (.3 · ½ + .1) / .4, area 3/8: a patch counts by the part of it that is covered.",
    )
    return "1 is chance; the usual place of such findings would reach more without looking."
