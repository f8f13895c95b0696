"""Checks of notebook 06, metrics; those of exercises 1 to 5 are in `nb06_words`. Truth: fractions and closed
forms worked out by hand, F1 counted in loops, intervals of draws made one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from emrrg_lib.course.checks import array, call, exercise, expect, expect_value, stage, whole
from emrrg_lib.course.checks.nb06_words import check_1, check_2, check_3, check_4, check_5, draw_corpus  # noqa: F401
from emrrg_lib.evaluation.metrics import bleu_score
from emrrg_lib.evaluation.nlg import nlg_statistics, score_each

TRUE = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
SAID = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
MICRO, MACRO, EXAMPLE = 4 / 6, (1 + 2 / 3) / 4, (1 / 2 + 1) / 3


def _f1(true: Sequence[bool], said: Sequence[bool]) -> float:
    both = sum(a and b for a, b in zip(true, said, strict=True))
    return 2 * both / (sum(true) + sum(said)) if both else 0.0


@exercise(6)
def check_6(three_f1: Callable) -> None:
    """`three_f1(true, said)`: bool (N, L) twice → (micro, macro, example)."""
    values = array(call(three_f1, TRUE.copy(), SAID.copy()), (3,), "expected (micro, macro, example).")
    expect(
        not np.isnan(values).any(),
        "There is a NaN: one observation never occurs, one study is empty on both sides. 0 / 0 counts as 0.",
    )
    micro, macro, example = values
    accuracy = "that is accuracy, which counts what both leave out. F1 counts only what one of them names."
    cause = "2 named by both, 3 in the references, 3 in the reports: 4 / (3 + 3)."
    expect_value(micro, MICRO, cause, {10 / 12: accuracy}, "Micro")
    expect(
        not (np.isclose(macro, EXAMPLE) and np.isclose(example, MACRO)),
        "Macro and example are exchanged: macro sums over the studies first, axis 0.",
    )
    expect(
        not (np.isclose(macro, 5 / 9) or np.isclose(example, 3 / 4)),
        "Yours leaves out the observation that never occurs, or the study with nothing in it; they count "
        "as 0 in the mean.",
    )
    expect_value(macro, MACRO, "macro: F1 of the observations are 1, 2/3, 0, 0; their mean.")
    expect_value(example, EXAMPLE, "example: F1 of the studies are 1/2, 1, 0; their mean.")
    for studies, labels in ((1, 5), (40, 13)):
        rng = np.random.default_rng(studies)
        true, said = (rng.random((studies, labels)) < 0.3 for _ in range(2))
        given = true.copy(), said.copy()
        yours = array(call(three_f1, *given), (3,), "expected (micro, macro, example).")
        unchanged = np.array_equal(given[0], true) and np.array_equal(given[1], said)
        expect(unchanged, "Your function changes the arrays that it is given.")
        columns = [_f1(a, b) for a, b in zip(true.T.tolist(), said.T.tolist(), strict=True)]
        rows = [_f1(a, b) for a, b in zip(true.tolist(), said.tolist(), strict=True)]
        truth = [_f1(true.ravel().tolist(), said.ravel().tolist()), np.mean(columns), np.mean(rows)]
        expect_value(
            yours, truth, "right on the small table only.", where=f"{studies} × {labels} random labels"
        )


def _ends(interval: Callable, *given: np.ndarray) -> np.ndarray:
    """The student's (low, high); the arrays given must be as they were."""
    kept = [np.array(part) for part in given]
    yours = array(call(interval, *given), (2,), "expected (low, high).")
    same = all(np.array_equal(a, b) for a, b in zip(kept, given, strict=True))
    expect(same, "Your function changes the arrays that it is given.")
    return yours


@exercise(7)
def check_7(interval: Callable) -> None:
    """`interval(hits_a, words_a, hits_b, words_b, draws)` → (low, high), 95 %."""

    ask = partial(_ends, interval)
    words = np.array([10.0, 90.0])
    hits_a, hits_b = np.array([9.0, 9.0]), np.array([4.0, 9.0])
    with stage("a sum over a sum"):  # each draw is the full set: 18 / 100 − 13 / 100, whatever the percentile
        slips = [
            ([0.25, 0.25], "That is the mean of the studies' precisions; divide once, after summing."),
            ([-0.05, -0.05], "The sign is turned: a minus b."),
        ]
        cause = "the precision of a is 18/100 here, that of b 13/100, in every draw."
        yours = ask(hits_a, words, hits_b, words, np.ones((40, 2)))
        expect_value(yours, [0.05, 0.05], cause, slips)
    with stage("the same draws"):
        one_each = np.eye(2)[np.arange(1000) % 2]  # half the draws hold study 0 alone, half study 1 alone
        expect_value(
            ask(hits_b, words, hits_b, words, one_each),
            [0, 0],
            "a system against itself, on the same draws, differs by 0 in each of them. "
            "Are a and b drawn independently?",
        )
    rising = np.column_stack([np.arange(1001.0), 1000 - np.arange(1001.0)])  # precision of a: 0 … 1
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    with stage("percentiles"):
        yours = ask(one, np.ones(2), np.zeros(2), np.ones(2), rising)
        expect(yours[0] <= yours[1], "low is above high.")
        slips = [
            ([0.05, 0.95], "5 and 95: that is the middle 90 %; leave out 2.5 % a side."),
            ([0, 1], "Yours goes from the smallest to the largest draw; leave out 2.5 % on each side."),
        ]
        cause = "the 2.5th and 97.5th percentile of the differences."
        expect_value(yours, [0.025, 0.975], cause, slips, tolerance=2e-3)
    with stage("a rises where b falls"):
        ends = "you subtract the ends of two intervals. Take the difference in each draw, then percentiles."
        yours = ask(one, np.ones(2), other, np.ones(2), rising)
        slips = [([0, 0], ends), ([-0.95, -0.95], ends), ([0.95, 0.95], ends)]
        expect_value(yours, [-0.95, 0.95], "the differences run from −1 to 1.", slips, tolerance=4e-3)
    for studies in (5, 60):
        rng = np.random.default_rng(studies)
        words_a, words_b = rng.integers(20, 40, (2, studies)).astype(float)
        hits_a, hits_b = rng.integers(0, 20, (2, studies)).astype(float)
        draws = rng.multinomial(studies, np.full(studies, 1 / studies), 500).astype(float)
        gaps = [
            sum(d * hits_a) / sum(d * words_a) - sum(d * hits_b) / sum(d * words_b) for d in draws.tolist()
        ]
        with stage(f"{studies} random studies"):
            yours = ask(hits_a, words_a, hits_b, words_b, draws)
            cause = "right on small cases only: are all studies and both words_a and words_b used?"
            expect_value(yours, np.percentile(gaps, [2.5, 97.5]), cause, tolerance=0.02)


@exercise(8)
def check_8(studies_needed: Callable) -> None:
    """`studies_needed(N, width, effect)` → whole number."""

    def ask(N: int, error: float, effect: float) -> int:
        return whole(
            call(studies_needed, N, 2 * 1.96 * error, effect), "there are no parts of studies, so round up"
        )

    slips = {
        10: "N enters as it is, without a root.",
        1: "multiply by the N that gave the interval.",
        400: "the interval is 2 · 1.96 errors wide, from end to end.",
        1537: "the width is not a standard error; divide it by 2 · 1.96.",
        49: "that has a power of one half; use 2.8.",
        50: "that has a power of one half; use 2.8.",
    }
    where = "Error 0.01 and needed 0.01, 100 studies"
    yours = float(ask(100, 0.01, 0.028))
    expect_value(yours, 100.0, "the error must become effect / 2.8.", slips, where, tolerance=0.01)
    slips = {200: "the error falls with the root of N, so square the ratio."}
    yours = ask(100, 0.01, 0.014)
    expect(yours > 100, "Half the effect needs more studies, not fewer: the ratio is turned.")
    expect_value(
        float(yours), 400.0, "four times as many studies.", slips, "Half the effect", tolerance=0.0026
    )
    cause = "130.1 studies are needed, and there are no parts of studies, so round up."
    expect_value(ask(100, 0.011, 0.027), 131, cause)
    expect_value(ask(590, 0.004, 0.005), 2961, "2960.4 studies are needed.", where="N = 590")


def _bleu_4(references: Sequence[str], reports: Sequence[str], draws: np.ndarray) -> np.ndarray:
    s = nlg_statistics(references, reports, meteor=False)
    counts = s.bleu_correct, s.bleu_guess, s.hypothesis_words, s.reference_words
    return bleu_score(*(draws @ each for each in counts))[:, 3]


@exercise(9)
def check_9(paired_bootstrap: Callable) -> str:
    """`paired_bootstrap(references, a, b, resamples, seed)` → (difference, low, high) of corpus BLEU-4."""

    def ask(*given: object) -> np.ndarray:
        return array(call(paired_bootstrap, *given), (3,), "expected (difference, low, high).")

    references, a = draw_corpus(1, 40)
    _, b = draw_corpus(2, 40)
    b = [one if place % 3 else other for place, (one, other) in enumerate(zip(a, b, strict=True))]
    full = np.ones((1, 40))
    value = float((_bleu_4(references, a, full) - _bleu_4(references, b, full))[0])
    with stage("the full set"):
        yours = ask(references, a, b, 50, 0)
        each = [score_each(references, side, meteor=False) for side in (a, b)]
        mean = float(np.mean([x["Bleu_4"] - y["Bleu_4"] for x, y in zip(*each, strict=True)]))
        slips = {-value: "The sign is turned: a minus b.", mean: "that is the mean of the studies' BLEU-4."}
        expect_value(yours[0], value, "BLEU-4 of a minus BLEU-4 of b, on all studies once.", slips)
    with stage("the same studies"):
        yours = ask(references, a, list(a), 50, 0)
        expect_value(yours, [0, 0, 0], "a against itself differs by 0 in every draw: draw once for both.")
    with stage("with replacement"):
        yours = ask(references, a, b, 200, 1)
        expect(yours[1] != yours[2], "The interval has no width: draw N of N studies with replacement.")
    with stage("the seed"):
        again = ask(references, a, b, 200, 1)
        expect_value(again, yours, "the same seed must draw the same studies.")
    with stage("the interval"):
        draws = np.random.default_rng(9).multinomial(40, np.full(40, 1 / 40), 20_000).astype(float)
        drawn = _bleu_4(references, a, draws) - _bleu_4(references, b, draws)
        ours, sd = np.percentile(drawn, [2.5, 97.5]), drawn.std()
        yours = ask(references, a, b, 2000, 2)[1:]
        alone = [np.percentile(_bleu_4(references, side, draws), [2.5, 97.5]) for side in (a, b)]
        found = tuple(yours)
        for wrong, told in (
            (np.percentile(drawn, [5, 95]), "that is the middle 90 %."),
            (
                alone[0] - alone[1],
                "you subtract the ends of two intervals; take percentiles of the differences.",
            ),
            (value + (ours - value) / 40**0.5, "far too narrow."),
        ):
            expect(not np.allclose(found, wrong, rtol=0, atol=0.1 * sd), told)
        width = np.ptp(yours) / np.ptp(ours)
        expect(width < 1.2, "Too wide: do a and b see the same drawn studies, N in each draw?")
        expect(width > 0.8, "Too narrow: is a whole set of N studies drawn, with replacement, each time?")
        cause = "the 2.5th and 97.5th percentile of the differences of 2,000 draws."
        expect(
            np.allclose(yours, ours, rtol=0, atol=0.3 * sd), f"Yours {yours}, expected about {ours}: {cause}"
        )
    return "The same interval as the library's, up to the luck of the draw."
