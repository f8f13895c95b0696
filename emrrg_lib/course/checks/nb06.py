"""Checks of notebook 06, metrics. Truth: the scorers of the library for exercise 1; fractions and
closed forms worked out by hand for the others; a bootstrap of weights that leave one study each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emrrg_lib.course.checks import call, exercise, expect, expect_value
from emrrg_lib.evaluation import label_report
from emrrg_lib.evaluation.nlg import score_each


def _findings(text: str) -> set[str]:
    return {name for name, value in label_report(text).items() if value in (1, -1)} - {"No Finding"}


@exercise(1)
def check_1(report: str, patient: str) -> str:
    """`report`: BLEU-4 of 0.8 or more against `patient`, no finding of it, one that it has not."""
    expect(isinstance(report, str), f"Yours is a {type(report).__name__}, not a text.")
    bleu = score_each([patient], [report], meteor=False)[0]["Bleu_4"]
    kept, invented = (_findings(report) & _findings(patient), _findings(report) - _findings(patient))
    expect(not kept, f"It still names {', '.join(sorted(kept))}, as the reference does: of some use.")
    expect(bool(invented), "It misses the finding but invents none: claim something that is not there.")
    expect(
        bleu >= 0.8,
        f"Worthless it is, but BLEU-4 is {bleu:.2f}, expected 0.80 or more: keep more of the "
        "reference's runs of four words.",
    )
    return f"BLEU-4 {bleu:.2f}, and it invents {', '.join(sorted(invented))}."


TRUE = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
SAID = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
MICRO, MACRO, EXAMPLE = 4 / 6, (1 + 2 / 3) / 4, (1 / 2 + 1) / 3


@exercise(2)
def check_2(three_f1: Callable) -> None:
    """`three_f1(true, said)`: bool (N, L) twice → (micro, macro, example)."""
    yours = call(three_f1, TRUE.copy(), SAID.copy())
    values = np.asarray(yours, dtype=float)
    expect(values.shape == (3,), f"Yours has shape {values.shape}, expected (micro, macro, example).")
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


@exercise(3)
def check_3(interval: Callable) -> None:
    """`interval(hits_a, words_a, hits_b, words_b, draws)` → (low, high), 95 %."""
    words = np.array([10.0, 90.0])
    hits_a, hits_b = np.array([9.0, 9.0]), np.array([4.0, 9.0])
    both = np.ones((40, 2))  # each draw is the full set: 18 / 100 − 13 / 100, whatever the percentile
    yours = np.asarray(call(interval, hits_a, words, hits_b, words, both), dtype=float)
    expect(yours.shape == (2,), f"Yours has shape {yours.shape}, expected (low, high).")
    slips = [
        (
            [0.25, 0.25],
            "That is the mean of the studies' precisions; a corpus precision is a sum over a sum: one "
            "division, after summing.",
        ),
        ([-0.05, -0.05], "The sign is turned: a minus b."),
    ]
    cause = "the precision of a is 18/100 here, that of b 13/100, in every draw."
    expect_value(yours, [0.05, 0.05], cause, slips)
    one_each = np.eye(2)[np.arange(1000) % 2]  # half the draws hold study 0 alone, half study 1 alone
    yours = np.asarray(call(interval, hits_b, words, hits_b, words, one_each), dtype=float)
    expect_value(
        yours,
        [0, 0],
        "a system against itself, on the same draws, differs by 0 in each of them. "
        "Are a and b drawn independently?",
    )
    rising = np.column_stack([np.arange(1001.0), 1000 - np.arange(1001.0)])  # precision of a: 0 … 1
    yours = call(interval, np.array([1.0, 0.0]), np.ones(2), np.zeros(2), np.ones(2), rising)
    expect(yours[0] <= yours[1], "low is above high.")
    slips = [
        ([0.05, 0.95], "5 and 95: that is the middle 90 %; leave out 2.5 % a side."),
        ([0, 1], "Yours goes from the smallest to the largest draw; leave out 2.5 % on each side."),
    ]
    cause = "the 2.5th and 97.5th percentile of the differences."
    expect_value(yours, [0.025, 0.975], cause, slips, tolerance=1e-3)


@exercise(4)
def check_4(studies_needed: Callable) -> None:
    """`studies_needed(N, width, effect)` → whole number."""
    yours = call(studies_needed, 100, 2 * 1.96 * 0.01, 0.028)  # the error is 0.01 and has to be 0.01
    slips = {
        10: "N enters as it is, without a root.",
        1: "multiply by the N that gave the interval.",
        400: "the interval is 2 · 1.96 errors wide, from end to end.",
        1537: "the width is not a standard error; divide it by 2 · 1.96.",
        49: "that has a power of one half; use 2.8.",
        50: "that has a power of one half; use 2.8.",
    }
    where = "Error 0.01 and needed 0.01, 100 studies"
    expect_value(yours, 100.0, "the error must become effect / 2.8.", slips, where, tolerance=0.01)
    yours = call(studies_needed, 100, 2 * 1.96 * 0.01, 0.014)
    slips = {200: "the error falls with the root of N, so square the ratio."}
    expect(yours > 100, "Half the effect needs more studies, not fewer: the ratio is turned.")
    expect_value(yours, 400.0, "four times as many studies.", slips, "Half the effect", tolerance=0.0026)
    yours = call(studies_needed, 100, 2 * 1.96 * 0.011, 0.027)
    cause = "130.1 studies are needed, and there are no parts of studies, so round up."
    expect_value(yours, 131, cause)
