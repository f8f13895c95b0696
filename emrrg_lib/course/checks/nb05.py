"""Checks of notebook 05, training. Truth: a sampler of the library counted batch by batch, token rows
written out by hand, closed sums of a trapezium, and checkpoint folders listed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

from emrrg_lib.course.checks import call, exercise, expect, expect_value, pair
from emrrg_lib.training.batches import Batches


def _pair(answer: Callable, *given: object) -> tuple:
    yours = call(answer, *given)
    return pair(yours, f"Yours is {yours!r}, expected two numbers.")


@exercise(1)
def check_1(place: Callable) -> str:
    """`place(k, studies, batch_size)` → (epoch, studies in the batch), counted with the kit's sampler."""
    stages = (
        (12, 4, "an epoch has studies / batch_size steps."),
        (11, 4, "an epoch has one more batch for what is left over; round up."),
    )
    for studies, size, cause in stages:
        sizes = [len(batch) for batch in Batches(studies, size, seed=0)]
        for k in (0, 1, 2, 3, 5, 7):
            truth = k // len(sizes), sizes[k % len(sizes)]
            yours = _pair(place, k, studies, size)
            where = f"Step {k} of {studies} studies in batches of {size}: yours {yours}, expected {truth}: "
            expect(k > 0 or yours[0] != 1, where + "epochs count from 0.")
            expect(yours[0] == truth[0], where + cause)
            expect(yours[1] != size or truth[1] == size, where + "the last batch is only what is left over.")
            expect(yours[1] != 0, where + "no batch is empty: where nothing is left over, the last is full.")
            expect(yours[1] == truth[1], where + "all batches but the last of an epoch are full.")
    return "Step 3,103 of IU X-ray, the last, lies in epoch 29."


@exercise(2)
def check_2(make_labels: Callable) -> None:
    """`make_labels(prompt, report, end, max_length, width)` against rows written out."""
    no = -100
    stages = (  # prompt, report, end, max_length, width, truth
        ([5, 6, 7], [8, 9], 2, 10, 6, [no, no, no, 8, 9, 2]),
        ([5, 6], [8, 9], 2, 10, 8, [no, no, 8, 9, 2, no, no, no]),
        ([5], [8, 9, 10, 11], 2, 3, 6, [no, 8, 9, 10, 2, no]),
    )
    for prompt, report, end, longest, width, truth in stages:
        yours = list(call(make_labels, list(prompt), list(report), end, longest, width))
        where = (
            f"prompt {prompt}, report {report}, end {end}, max_length {longest}: yours {yours}, "
            f"expected {truth}: "
        )
        expect(yours[: len(prompt)] != prompt, where + "the prompt is read, not learnt.")
        expect(end in yours, where + "the end symbol has to be learnt, even after a cut report.")
        expect(len(yours) == width, where + f"the row has {len(yours)} labels instead of {width}.")
        expect(yours.count(end) == 1, where + "padding is not learnt: −100, not the end symbol.")
        expect(0 not in yours, where + "0 is a token like any other; what is not learnt gets −100.")
        expect(not set(report[longest:]) & set(yours), where + "the report is cut to max_length tokens.")
        expect(
            len([x for x in yours if x != no]) == len([x for x in truth if x != no]),
            where + "the end symbol comes on top of max_length.",
        )
        expect(yours == truth, where + "each label has its token's place; the model shifts them.")


@exercise(3)
def check_3(farthest: Callable) -> str:
    """`farthest(steps, warmup, rate)` against sums worked out by hand."""
    # 10 steps, no warm-up: 7 full ones and step 7 (3 / 3), then 2/3 and 1/3: 8 + 1
    alpha, gate = _pair(farthest, 10, 0, 0.1)
    slips = {
        1.0: "rate · steps leaves out the fall.",
        9.0: "that is the sum of the factors alone; each is multiplied by the rate.",
        0.7: "the fall has a share too; its three factors are 1, 2/3 and 1/3.",
    }
    expect_value(alpha, 0.9, "without warm-up: eight steps of factor 1, then 2/3 and 1/3.", slips)
    slips = {alpha: "the second number is α itself, expected tanh(α)."}
    expect_value(gate, math.tanh(0.9), "the second number is tanh(α).", slips)
    # 100 steps, 4 of rise: 1/5 + 2/5 + 3/5 + 4/5 = 2; 66 full ones, 4 to 69; from 70 on 30/30 … 1/30 = 15.5
    yours, _ = _pair(farthest, 100, 4, 0.01)
    slips = {
        0.01 * (70 + 15.5): "the first steps are smaller: (step + 1) / (warmup + 1).",
        0.01 * (1.5 + 66 + 15.5): "the first factor is 1 / (warmup + 1), not 0.",
        0.01 * (2.5 + 66 + 15.5): "the rise divides by warmup + 1, so that it reaches 1 one step later.",
    }
    cause = "100 steps, 4 of rise: together 2 + 66 + 15.5 full steps."
    expect_value(yours, 0.01 * (2 + 66 + 15.5), cause, slips, "Warm-up 4")
    return "A bound: real gradients change their sign."


@exercise(4)
def check_4(goes_on: Callable) -> None:
    """`goes_on(done, every, broken)` against folders listed by hand."""
    stages = (  # done, every, broken, truth, cause
        (13, 5, set(), (10, 3), "the newest checkpoint is of step 10"),
        (10, 5, set(), (10, 0), "the checkpoint of step 10 was just written"),
        (4, 5, set(), (0, 4), "no checkpoint is there yet, so it starts over"),
        (23, 5, {20}, (15, 8), "step 20 is damaged; the one before it is kept"),
        (7, 5, {5}, (0, 7), "its only checkpoint is damaged, and there is none of step 0 or before"),
        (23, 5, {20, 15}, (0, 23), "both kept ones are damaged, and step 10 was removed long ago"),
        (23, 5, {10}, (20, 3), "damage to a checkpoint that nobody needs does no harm"),
    )
    for done, every, broken, truth, cause in stages:
        yours = _pair(goes_on, done, every, set(broken))
        if yours[0] == truth[0]:
            cause = "the steps between the checkpoint and the kill are done twice"
        where = f"{done} steps, saved every {every}, damaged {sorted(broken) or 'none'}"
        expect_value(yours, truth, f"{cause}.", where=where)
