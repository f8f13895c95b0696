"""Checks of notebook 00: counting visual tokens, turning the gates, F1 of one study, a constant report."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from emrrg_lib.course.checks import (
    Mistake,
    array,
    call,
    exercise,
    expect,
    expect_value,
    pair,
    stage,
    whole,
)
from emrrg_lib.data.study import OBSERVATIONS


@exercise(1)
def check_1(visual_tokens: int, visual_states: Tensor) -> str:
    """The number of tokens of `visual_states` (1, 2·(M + 1), D), counted in the real model."""
    truth = visual_states.shape[1]
    slips = {
        truth - 2: "is there no cls token?",
        truth - 1: "each view has its own cls token.",
        truth // 2: "that is one view; the study has two.",
        truth // 2 - 1: "that is one view, and without its cls token.",
    }
    expect_value(whole(visual_tokens), truth, "count patches, cls token, views.", slips)
    return "All of them lie side by side in one row."


@exercise(2)
def check_2(write: Callable[[float], str], layers: Mapping[int, nn.Module], blind: str, report: str) -> str:
    """`write(scale)` at 0, 0.25 and 1, against the reports made before; `layers` are the hybrid modules."""
    seen: set[float] = set()
    hooks = [
        m.register_forward_pre_hook(lambda m, *_: seen.add(float(m.gate_scale))) for m in layers.values()
    ]
    try:
        closed, opened = call(write, 0.0), call(write, 1.0)
        left = [module.gate_scale for module in layers.values()]
        seen.clear()
        call(write, 0.25)
    finally:
        for hook in hooks:
            hook.remove()
        for module in layers.values():
            module.gate_scale = 1.0
    expect(
        isinstance(closed, str) and isinstance(opened, str),
        f"Yours is a {type(closed).__name__}, not a text: generate returns a list of texts, here of one.",
    )
    expect(
        all(scale == 1.0 for scale in left),
        f"the gates stay at {min(left)} after the call: the with block puts them back.",
    )
    expect(
        closed != opened or blind == report,
        "Scale 0 and 1 give the same report: does your scale reach the layers?",
    )
    expect_value(closed, blind, "are all gates closed?", where="Scale 0")
    expect_value(opened, report, "same study, same settings?", where="Scale 1")
    expect(seen == {0.25}, f"Scale 0.25: the gates were at {sorted(seen) or 'nothing, no layer was asked'}.")
    return "0 is the blind report, 1 the model's own."


@exercise(3)
def check_3(finding_f1: Callable[[dict, dict], float]) -> str:
    """`finding_f1(reference_labels, generated_labels)` on cases that were computed by hand."""
    cases = (  # reference, report, F1 by hand, likely cause of another value
        (_labels(Edema=1), _labels(Edema=1), 1.0, "one finding, named by both."),
        (
            _labels(Edema=1, Fracture=1),
            _labels(Edema=1, Pneumonia=1),
            0.5,
            "one shared, one missed, one invented: 2·1 / (2 + 2).",
        ),
        (
            _labels(Edema=1, Fracture=1, Pneumonia=1),
            _labels(Edema=1),
            0.5,
            "1 of 3 found, nothing invented: 2·1 / (3 + 1).",
        ),
        (_labels(Edema=-1), _labels(Edema=1), 1.0, "uncertain counts as present."),
        (_labels(Edema=0), _labels(Edema=0), 0.0, "denied findings do not count, and 0 / 0 is 0 here."),
        (_labels(No_Finding=1), _labels(No_Finding=1), 0.0, "'No Finding' is left out."),
    )
    for reference, report, truth, cause in (*cases, *_random_cases()):
        given = dict(reference), dict(report)
        try:
            yours = call(finding_f1, *given)
        except Mistake as mistake:
            if isinstance(mistake.__cause__, ZeroDivisionError):
                raise Mistake(
                    "It divides by zero where neither side has a finding; the score is 0 there."
                ) from None
            raise
        expect(
            given == (reference, report), "Your function changes its arguments: make sets of them instead."
        )
        expect_value(array(yours, (), "one number"), truth, cause)
    return "The library pools the counts of all studies before it divides."


def _labels(**present: int) -> dict[str, int | None]:
    """All 14 observations, None but for those given: _labels(No_Finding=1)."""
    return dict.fromkeys(OBSERVATIONS) | {name.replace("_", " "): value for name, value in present.items()}


def _random_cases() -> list[tuple[dict, dict, float, str]]:
    """Labels at random, with the F1 of counts: hits, misses and inventions."""
    draw, cases = random.Random(0), []
    for _ in range(6):
        reference, report = (
            {name: draw.choice((1, 1, 0, -1, None)) for name in OBSERVATIONS} for _ in range(2)
        )
        sides = [(reference[n] in (1, -1), report[n] in (1, -1)) for n in OBSERVATIONS[1:]]
        hit, missed, invented = (sides.count(kind) for kind in ((True, True), (True, False), (False, True)))
        truth = 2 * hit / (2 * hit + missed + invented)
        told = f"{hit} findings are in both, {missed} are missed, {invented} invented."
        cases.append((reference, report, truth, told))
    return cases


@exercise(4)
def check_4(constant_report: Callable[..., tuple[str, float]]) -> str:
    """`constant_report(train, validation, test, score)` with scores from a table of pairs."""
    columns = {  # training report: its scores against validation references v1, v2, v3 and test t1, t2
        "commonest": (-5.0, -4.0, -6.0, -1.0, -2.0),
        "best": (-2.0, -2.0, -2.0, -3.0, -5.0),
        "one hit": (0.0, -9.0, -9.0, -2.0, -2.0),
    }
    train, validation, test = ["commonest", "best", "commonest", "one hit"], ["v1", "v2", "v3"], ["t1", "t2"]
    table = {(ref, text): row[i] for text, row in columns.items() for i, ref in enumerate(validation + test)}

    asked: set[str] = set()  # the reports that were scored on the test split

    def score(reference: str, report: str) -> float:
        expect((report, reference) not in table, "Call score(reference, report): yours exchanges the two.")
        told = "Only training reports are candidates, scored against validation and test references."
        expect((reference, report) in table, told)
        asked.update({report} if reference in test else ())
        return table[reference, report]

    yours = pair(
        call(constant_report, train, validation, test, score), "Return two: the report and its score."
    )
    with stage("the report"):
        slips = {
            "commonest": "best on test, or the commonest report: choose by the validation score.",
            "one hit": "one lucky reference does not count: take the mean over all of them.",
        }
        told = "the training report with the highest mean score on the validation references."
        expect_value(yours[0], "best", told, slips)
        expect(asked <= {"best"}, "other reports were scored on test, too: choose first, then test that one.")
    with stage("the score"):
        slips = {
            -2.0: "this is its validation score: report that on the test split.",
            -8.0: "a mean is wanted, not the sum.",
        }
        expect_value(array(yours[1], (), "one number"), -4.0, "the mean of the test scores.", slips)
    with stage("other data"):
        table.clear()
        table.update(
            {(r, t): -abs(len(r) - len(t)) / 9 for t in ("a", "bbbb", "cc") for r in ("x", "yyy", "zzzz")}
        )
        yours = pair(call(constant_report, ["a", "bbbb", "cc"], ["yyy", "zzzz"], ["x"], score), "Return two.")
        expect_value(yours, ("bbbb", -3 / 9), "are numbers or texts of the first case in your code?")
    return "Every score of a model has to beat this one."
