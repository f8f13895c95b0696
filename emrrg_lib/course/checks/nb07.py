"""Checks of notebook 07. Truth: sums and openings of hand-made traces, a toy model whose layers decide by
plan, areas that can be counted, and a recurrence that is run for one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np

from emrrg_lib.course.checks import array, call, exercise, expect, expect_value, stage, texts, whole
from emrrg_lib.trace import Trace


def toy_trace(heads: int = 2) -> Trace:
    """Four words and a full stop in six tokens; two layers, two views of 2 × 2 patches.

    The size of “effusion” in layer 1 is .6 in one token; “left” is spelt by three of .4 each.
    """
    attention = np.full((2, heads, 8, 2, 4), 0.01)
    # layer 1, the two tokens of “effusion”: (head, token, view) sums are chosen, spread over the patches
    sums = np.array([[[0.8, 0.1], [0.4, 0.1]], [[0.2, 0.7], [0.2, 0.3]], [[0.5, 0.5], [0.7, 0.1]]])
    attention[1, :, 5:7] = sums[:heads, ..., None] * np.array([0.1, 0.2, 0.3, 0.4])
    gate = np.full((2, 8), 0.1)
    gate[0, 0] = 0.5
    gate[1] = [0.5, 0.1, 0.4, -0.4, 0.4, 0.24, -0.6, 0.05]
    tokens = (" a", " small", " le", "f", "t", " eff", "usion", ".")
    return Trace(tokens, gate, attention, (2, 2), (0, 6), np.array([0.9, 0.9]))


def _random_trace(seed: int, layers: int, heads: int, views: int) -> Trace:
    rng = np.random.default_rng(seed)
    tokens = tuple(rng.choice([" a", "b", " c", "d"], 9))
    attention = rng.dirichlet(np.ones(views * 6 + 1), (layers, heads, 9))[..., 1:]
    attention = attention.reshape(layers, heads, 9, views, 6)
    gate = rng.uniform(-1, 1, (layers, 9))
    return Trace(tokens, gate, attention, (2, 3), tuple(range(layers)), np.ones(layers))


@exercise(1)
def check_1(share_of_views: Callable[[Trace, int, int], np.ndarray]) -> str:
    """`share_of_views(trace, word, layer)` against a word of two tokens and two heads worked out by hand."""
    kind = "one number for each view: sum over the patches, mean over heads and tokens."
    with stage("a word of two tokens, two heads"):
        yours = array(call(share_of_views, toy_trace(), 3, 1), (2,), kind)
        slips = (
            (
                (0.5, 0.4),
                "that is the first token alone: “effusion” is spelt by two, trace.words() says which.",
            ),
            ((0.6, 0.1), "that is head 0 alone: take the mean over all heads."),
            (
                (0.4 / 0.7, 0.3 / 0.7),
                "you scaled the views to sum to 1: what is left went to the cls tokens.",
            ),
            ((0.8, 0.6), "you summed over the tokens: a word's attention is the mean over its tokens."),
            ((0.1, 0.075), "that is the mean over the patches: a view's share is the sum over its patches."),
        )
        cause = "frontal (.8 + .4 + .2 + .2) / 4, lateral (.1 + .1 + .7 + .3) / 4."
        expect_value(yours, (0.4, 0.3), cause, slips)
    with stage("three heads"):
        yours = array(call(share_of_views, toy_trace(heads=3), 3, 1), (2,), kind)
        cause = "the mean over all heads, however many there are."
        expect_value(
            yours, (2.8 / 6, 1.8 / 6), cause, {(0.4, 0.3): "you take two heads, but there are three."}
        )
    for seed, (layers, heads, views) in enumerate(((1, 1, 1), (3, 4, 2), (2, 5, 3))):
        trace = _random_trace(seed, layers, heads, views)
        for word in (0, len(trace.words()) - 1):
            for layer in (0, layers - 1):
                yours = array(call(share_of_views, trace, word, layer), (views,), kind)
                truth = trace.word_attention(word, layer).sum(axis=(1, 2))
                where = f"{heads} heads, {views} views, word {word}, layer {layer}"
                expect_value(
                    yours, truth, "does your function read the layer and the word given?", where=where
                )
    return "The rest, 30 %, looked at the cls tokens."


@exercise(2)
def check_2(widest_words: Callable[[Trace, int, int], list[str]]) -> str:
    """`widest_words(trace, layer, k)` against the order of four hand-made gates."""
    kind = "a list of words as text is expected: word.text, not numbers"
    yours = texts(call(widest_words, toy_trace(), 1, 3), kind)
    pieces = {"le", "f", "t", "eff", "usion"} & set(yours)
    expect(not pieces, f"Yours {yours}: those are tokens; trace.words() joins them to words.")
    signed = (
        "negative gates are open too (the sign only turns the image around), and a word has all its tokens."
    )
    slips = (
        (["a", "left", "effusion"], signed),
        (["a", "effusion", "left"], "you averaged over a word's tokens; take the largest size."),
        (["left", "effusion", "a"], "you add the tokens of a word, or their squares; take the largest size."),
        ([".", "small", "left"], "these are the narrowest: sort from wide to narrow."),
        (["effusion", "a"], "k words are wanted, k = 3."),
    )
    cause = "openings in layer 1 are a .5, small .1, left .4, effusion .6, the full stop .05."
    expect_value(yours, ["effusion", "a", "left"], cause, slips)
    for layer, k, truth in (
        (0, 1, ["a"]),
        (1, 1, ["effusion"]),
        (1, 5, ["effusion", "a", "left", "small", "."]),
    ):
        where = f"Layer {layer}, k = {k}"
        yours = texts(call(widest_words, toy_trace(), layer, k), kind)
        expect_value(yours, truth, "does your function read the layer and the k it is given?", where=where)
    trace = _random_trace(5, 3, 1, 1)
    sizes = [max(abs(trace.gate[2, word.start : word.stop])) for word in trace.words()]
    truth = [trace.words()[place].text for place in np.argsort(sizes)[::-1][:4]]
    expect_value(
        texts(call(widest_words, trace, 2, 4), kind), truth, "right on the toy only.", where="Random gates"
    )
    return "Wide is not the same as decisive: exercise 3 asks what happens without it."


@exercise(3)
def check_3(deciding_layers: Callable[..., list[int]]) -> str:
    """`deciding_layers(regenerate, layer_ids)` with toy models: it is known which layers decide the text."""

    def model(decide: tuple[int, ...], scales: list[dict[int, float]]) -> Callable:
        def regenerate(gate_scales: Mapping[int, float]) -> SimpleNamespace:
            scales.append(dict(gate_scales))
            off = [layer for layer, scale in dict(gate_scales).items() if scale == 0]
            words = ["large" if layer in off else "small" for layer in decide]  # of one length
            return SimpleNamespace(text=" ".join(words), gate=np.array([[float(len(off))]]))

        return regenerate

    scales: list[dict[int, float]] = []
    yours = call(deciding_layers, model((6, 12), scales), (0, 6, 12))
    closed = [sorted(layer for layer, scale in each.items() if scale == 0) for each in scales]
    expect(bool(scales), "regenerate was never called: the answer lies in writing the report again.")
    expect(any(closed), f"no gate was ever closed, the scales were {scales[-1]}: closed is scale 0.")
    expect(max(map(len, closed)) == 1, f"you closed layers {max(closed, key=len)} at once: one at a time.")
    slips = (
        ([0, 6, 12], "every layer, but closing layer 0 leaves the text as it was: compare trace.text."),
        ([1, 2], "these are positions: the layers are called 6 and 12 here."),
        ([0], "these are the layers that do not matter: keep those where the text changes."),
        ([], "the texts differ in their words and not in their length: compare the texts."),
    )
    cause = "is each closed alone, and compared with the report of untouched gates, regenerate({})?"
    for decide, layers in (
        ((6, 12), (0, 6, 12)),
        ((3,), (3, 5)),
        ((), (1, 2)),
        ((2, 7, 9), (2, 4, 7, 9, 11)),
    ):
        yours = call(deciding_layers, model(decide, []), layers)
        several = hasattr(yours, "__iter__") and not isinstance(yours, str | dict)
        expect(several, f"A list of layers is expected, yours is {yours!r:.60}.")
        found = [whole(layer, "give the layers' numbers") for layer in yours]
        expect_value(found, list(decide), cause, slips, f"Layers {layers}")
    return "Closed together, two layers may decide what neither decides alone; that is another experiment."


@exercise(4)
def check_4(gain: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """`gain(weights, mask)` against areas that can be counted."""

    def ask(weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = weights.copy(), mask.copy()
        yours = array(call(gain, *given), (), "one number.")
        unchanged = np.array_equal(given[0], weights) and np.array_equal(given[1], mask)
        expect(unchanged, "Your function changes the arrays that it is given.")
        return yours

    even, left = np.full((2, 2), 0.2), np.zeros((4, 8), dtype=bool)
    left[:, :4] = True
    slips = (
        (0.5, "that is the share alone: divide it by the finding's share of the image."),
        (0.8, "the weights sum to .8, the rest is the cls token's: divide by their sum."),
        (0.4, "a share is not yet a gain: divide by the weights' sum and by the area."),
    )
    where = "Even attention, a finding of half the image"
    expect_value(ask(even, left), 1.0, "share .5, area .5, gain 1.", slips, where)
    corner = np.zeros((4, 8), dtype=bool)
    corner[:2, 4:] = True  # exactly the upper right patch
    cause = "all attention on a finding of a quarter of the image: weights[row, column], row 0 on top."
    expect_value(ask(np.array([[0.0, 0.3], [0.0, 0.0]]), corner), 4.0, cause)
    right = corner.copy()
    right[1] = False  # half of the upper right patch
    right[2:, 4:] = True  # the lower right patch
    cause = "share (.3 · ½ + .1) / .4, area 3/8: a patch counts by the part of it that is covered."
    expect_value(ask(np.array([[0.0, 0.3], [0.0, 0.1]]), right), 5 / 3, cause)
    rng = np.random.default_rng(0)
    for (rows, columns), patch in (((3, 5), (4, 2)), ((6, 2), (1, 3))):
        weights, mask = rng.random((rows, columns)), rng.random((rows * patch[0], columns * patch[1])) < 0.3
        spread = np.kron(weights, np.ones(patch)) / np.prod(patch)  # every pixel has its part of the weight
        truth = spread[mask].sum() / weights.sum() / mask.mean()
        expect_value(ask(weights, mask), truth, "rows and columns differ here.", where=f"{rows} × {columns}")
    return "1 is chance; the usual place of such findings would reach more without looking."


def _one_at_a_time(delta: np.ndarray, A: np.ndarray, B: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Runs the recurrence with the input of one token only: h then is that token's part."""
    held = np.zeros((len(x), len(x)))
    for token in range(len(x)):
        h = np.zeros_like(A)
        for step in range(len(x)):
            given = x[step] if step == token else np.zeros_like(x[step])
            h = np.exp(delta[step][:, None] * A) * h + (delta[step] * given)[:, None] * B[step]
            held[step, token] = math.sqrt((h**2).mean())
    return held


@exercise(5)
def check_5(held: Callable) -> str:
    """`held(delta, A, B, x)` → (L, L): how much of each token the state holds after each step."""

    def ask(*given: np.ndarray) -> np.ndarray:
        kept = [each.copy() for each in given]
        yours = array(
            call(held, *given), (len(given[0]),) * 2, "one row for each step, one column for each token."
        )
        unchanged = all(np.array_equal(a, b) for a, b in zip(kept, given, strict=True))
        expect(unchanged, "Your function changes the arrays that it is given.")
        return yours

    one = np.ones((1, 1))
    with stage("one token"):
        yours = ask(0.5 * one, -one, 3 * one, 2 * one)
        slips = {
            6: "Δ is missing: Δ · B · x is written.",
            3 * math.exp(-0.5): "the newest token has not decayed.",
        }
        expect_value(yours, [[3.0]], "Δ · B · x = .5 · 3 · 2.", {((v,),): told for v, told in slips.items()})
    with stage("decay"):
        delta = np.array([[1.0], [0.5], [2.0]])
        yours = ask(delta, -one, np.ones((3, 1)), np.ones((3, 1)))
        expect(
            not np.triu(yours, 1).any(), "a token that has not been read yet is not in the state: 0 above."
        )
        e = math.exp
        truth = np.array([[1, 0, 0], [e(-0.5), 0.5, 0], [e(-2.5), 0.5 * e(-2), 2]])
        late = np.array([[1, 0, 0], [e(-1), 0.5, 0], [e(-1.5), 0.5 * e(-0.5), 2]])
        slips = [
            (truth.T, "exchange the axes: a row is a step, a column a token."),
            (late, "a step decays by its own Δ, not by that of the token before."),
            (
                np.tril(np.ones((3, 3)) * delta.T),
                "nothing decays: multiply what is there by exp(Δ A) at each step.",
            ),
        ]
        expect_value(yours, truth, "token 0 decays by exp(Δ of step 1 · A), then by that of step 2.", slips)
    for seed, (L, d, N) in enumerate(((4, 3, 2), (7, 1, 5), (6, 4, 1))):
        rng = np.random.default_rng(seed)
        given = rng.random((L, d)), -rng.random((d, N)), rng.normal(size=(L, N)), rng.normal(size=(L, d))
        with stage(f"{L} tokens, {d} channels, {N} numbers of state"):
            truth = _one_at_a_time(*given)
            slips = [
                (truth * math.sqrt(d * N), "that is the root of the sum; take the mean of the squares."),
                (truth**2, "the root is missing."),
            ]
            cause = "square, mean over channels and state, root; each channel and number decays for itself."
            expect_value(ask(*given), truth, cause, slips)
    return "The sum of the parts is the state: the recurrence is linear in x."
