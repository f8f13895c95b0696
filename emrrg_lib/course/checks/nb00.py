"""Checks of notebook 00: counting visual tokens, turning the gates, micro-F1 of one study."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from emrrg_lib.course.checks import Mistake, call, exercise, expect, expect_value
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
    expect_value(visual_tokens, truth, "count patches, cls token, views.", slips)
    return "All of them lie side by side in one row."


@exercise(2)
def check_2(write: Callable[[float], str], layers: Mapping[int, nn.Module], blind: str, report: str) -> str:
    """`write(scale)` at 0 and 1, against the reports made before; `layers` are the hybrid modules."""
    try:
        closed, opened = call(write, 0.0), call(write, 1.0)
        left = [module.gate_scale for module in layers.values()]
    finally:
        for module in layers.values():
            module.gate_scale = 1.0
    expect(
        isinstance(closed, str), f"Yours is a {type(closed).__name__}, not a str: generate returns a list."
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
    for reference, report, truth, cause in cases:
        try:
            yours = call(finding_f1, reference, report)
        except Mistake as mistake:
            if isinstance(mistake.__cause__, ZeroDivisionError):
                raise Mistake(
                    "It divides by zero where neither side has a finding; the score is 0 there."
                ) from None
            raise
        expect_value(yours, truth, cause)
    return "The library pools the counts of all studies before it divides."


def _labels(**present: int) -> dict[str, int | None]:
    """All 14 observations, None but for those given: _labels(No_Finding=1)."""
    return dict.fromkeys(OBSERVATIONS) | {name.replace("_", " "): value for name, value in present.items()}
