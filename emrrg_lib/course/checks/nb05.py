"""Checks of notebook 05, training. Truth: a sampler of the library counted batch by batch, token rows
written out by hand, gradients of a line and AdamW worked out in NumPy, closed sums of a trapezium, and
histories and checkpoint folders listed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from emrrg_lib.course.checks import (
    array,
    call,
    exercise,
    expect,
    expect_value,
    pair,
    stage,
    whole,
)
from emrrg_lib.course.checks.by_hand import (
    SLIPS,
    Bigram,
    changed,
    line_gradient,
    points,
    softmax_gradient,
    trained_line,
)
from emrrg_lib.training.shares import Batches


def _pair(answer: Callable, *given: object) -> tuple:
    first, second = pair(call(answer, *given), "Expected are two numbers.")
    return float(array(first, ()).item()), float(array(second, ()).item())


def _counts(answer: Callable, *given: object) -> tuple[int, ...]:
    return tuple(map(whole, pair(call(answer, *given), "Expected are two whole numbers.")))


@exercise(1)
def check_1(place: Callable) -> str:
    """`place(k, studies, batch_size)` → (epoch, studies in the batch), counted with the kit's sampler."""
    stages = (
        (12, 4, "an epoch has studies / batch_size steps."),
        (9, 4, "an epoch has one more batch for what is left over; round up."),
    )
    for studies, size, cause in stages:
        sizes = [len(batch) for batch in Batches(studies, size, seed=0)]
        for k in (0, 1, 2, 3, 5, 7):
            truth = k // len(sizes), sizes[k % len(sizes)]
            yours = _counts(place, k, studies, size)
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
        given = list(prompt), list(report)
        numbers = array(call(make_labels, *given, end, longest, width))
        expect(numbers.ndim == 1, f"One list of labels is expected, yours has the shape {numbers.shape}.")
        yours = [whole(number) for number in numbers]
        expect(given == (prompt, report), "prompt and report have changed; make a new list.")
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
def check_3(training_step: Callable) -> str:
    """`training_step(model, optimiser, batch, clip)` → loss, on lines whose gradient is known."""
    cases = (  # stage, seed, points, width, clip, what the gradients hold before
        ("step", 0, 6, 3, 1e9, 0.0),
        ("old gradients", 1, 4, 2, 1e9, 7.0),
        ("clip", 2, 9, 5, 0.05, 0.0),
        ("a clip above the norm", 3, 5, 4, 50.0, 0.0),
    )
    for name, seed, count, width, clip, left in cases:
        x, y, model = points(seed, count, width)
        model.w.grad, model.b.grad = torch.full_like(model.w, left), torch.full_like(model.b, left)
        optimiser = torch.optim.SGD([model.w, model.b], lr=0.1)
        batch, before = {"x": torch.tensor(x), "y": torch.tensor(y)}, model.numbers
        loss, gradient = line_gradient(before, x, y)
        with stage(name):
            yours = array(changed(training_step, model, optimiser, batch, clip), (), "return one loss")
            _compare_step(before - model.numbers, gradient, clip, left)
            slips = {line_gradient(model.numbers, x, y)[0]: "that is the loss after the step."}
            expect_value(yours, loss, "return the loss of this batch.", slips, "Loss")
    return "Every training of the kit repeats these lines."


def _compare_step(moved: np.ndarray, gradient: np.ndarray, clip: float, left: float) -> None:
    """The change of the weights after one step of plain descent at a rate of .1."""
    expect(bool(np.abs(moved).max() > 0), "the weights do not move: backward(), then optimiser.step().")
    each = np.append(gradient[:-1] * min(1, clip / np.linalg.norm(gradient[:-1])),
                     np.clip(gradient[-1], -clip, clip))  # fmt: skip
    clipped = gradient * min(1.0, clip / float(np.linalg.norm(gradient)))
    slips = [
        (-0.1 * clipped, "the weights went uphill."),
        (0.1 * gradient, "the gradient is not clipped before the step."),
        (0.1 * (gradient + left), "gradients from before are added to those of this batch."),
        (0.1 * gradient * clip / np.linalg.norm(gradient), "a gradient below the clip is left as it is."),
        (0.1 * np.clip(gradient, -clip, clip), "each number is clipped; clip the norm of all together."),
        (0.1 * each, "each tensor is clipped alone; one norm goes over all of them."),
    ]
    cause = "it is not the rate times the gradient of this batch."
    expect_value(moved, 0.1 * clipped, cause, slips, "The change of the weights")


@exercise(4)
def check_4(farthest: Callable) -> str:
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


@exercise(5)
def check_5(train: Callable) -> str:
    """`train(model, x, y, steps, size, rate, decay, seed)` → losses, against AdamW in NumPy."""
    cases = (  # stage, points, width, steps, size, decay, seed
        ("one epoch", 8, 3, 2, 4, 0.0, 3),
        ("a last batch that is left over", 10, 2, 3, 4, 0.0, 5),
        ("a second epoch", 9, 3, 7, 4, 0.0, 1),
        ("weight decay", 6, 2, 12, 6, 0.5, 2),
    )
    for name, count, width, steps, size, decay, seed in cases:
        x, y, model = points(seed, count, width)
        start, plan = model.numbers, (steps, size, 0.1, decay, seed)
        given = torch.tensor(x), torch.tensor(y)
        losses, end = trained_line(start, x, y, *plan)
        with stage(name):
            cause = "return the loss of every step"
            yours = array(changed(train, model, *given, *plan), (steps,), cause)
            same = bool((given[0].numpy() == x).all() and (given[1].numpy() == y).all())
            expect(same, "x and y have changed; take the batch by its numbers.")
            slips = [(trained_line(start, x, y, *plan, slip)[1], told) for slip, told in SLIPS.items()]
            slips = [(value, told) for value, told in slips if not np.allclose(value, end, rtol=0, atol=1e-6)]
            cause = "batches, rates or betas differ; compare with the list of rules."
            expect_value(model.numbers, end, cause, slips, "The weights at the end", 1e-6)
            expect_value(yours, losses, "the weights are right, the returned losses are not.", where="Losses")
    return "The kit's engine, `fit`, goes the same way."


@exercise(6)
def check_6(choose: Callable) -> str:
    """`choose(history, warm, patience)` → (step kept, step of the end), on histories listed by hand."""
    stages: tuple[
        tuple[list, int, int, tuple[int, int], str, str], ...
    ] = (  # history, warm, patience, truth, stage, cause
        (
            [(5, 0.1), (10, 0.3), (15, 0.2)],
            0,
            0,
            (10, 15),
            "the best",
            "the highest score is that of step 10",
        ),
        ([(5, 0.2), (10, 0.2), (15, 0.1)], 0, 0, (5, 15), "equal scores", "the first of equal ones is kept"),
        ([(4, 0.9), (8, 0.1), (12, 0.3)], 4, 0, (12, 12), "warm part", "steps up to `warm` do not count"),
        (
            [(1, 0.5), (2, 0.3), (3, 0.4), (4, 0.9)],
            0,
            2,
            (1, 3),
            "patience",
            "two without a better one end it",
        ),
        ([(1, 5), (2, 4), (3, 6), (4, 5), (5, 7)], 0, 2, (5, 5), "patience", "a better score starts anew"),
        ([(1, 0.5), (2, 0.5), (3, 0.9)], 0, 1, (1, 2), "patience", "an equal score is no better one"),
        (
            [(2, 0.9), (4, 0.1), (6, 0.2), (8, 0.1)],
            2,
            2,
            (6, 8),
            "warm part",
            "its scores are not waited for",
        ),
        ([(3, -0.5), (6, -0.2), (9, -0.3)], 0, 0, (6, 9), "any scores", "a score can be below 0"),
        ([(7, 0.0)], 0, 3, (7, 7), "one validation", "the only one is the best and the last"),
    )
    for history, warm, patience, truth, name, cause in stages:
        given = list(history)
        yours = _counts(choose, given, warm, patience)
        expect(given == history, "The history has changed; leave the caller's list as it is.")
        where = f"{history}, warm {warm}, patience {patience}"
        with stage(name):
            expect_value(yours, truth, f"{cause}.", where=where)
    return "The kit's `KeepBest` does the same while the training runs."


@exercise(7)
def check_7(goes_on: Callable) -> None:
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
        yours = _counts(goes_on, done, every, set(broken))
        if yours[0] == truth[0]:
            cause = "the steps between the checkpoint and the kill are done twice"
        where = f"{done} steps, saved every {every}, damaged {sorted(broken) or 'none'}"
        expect_value(yours, truth, f"{cause}.", where=where)


@exercise(8)
def check_8(accumulated_step: Callable) -> str:
    """`accumulated_step(model, optimiser, parts)` → loss of the whole batch, taken in parts."""
    cases = (  # stage, learnt tokens of each part's two rows
        ("equal parts", [(3, 3), (3, 3)]),
        ("parts of other lengths", [(6, 5), (1, 1), (2, 4)]),
        ("a part without a learnt token", [(2, 5), (0, 0)]),
    )
    for seed, (name, lengths) in enumerate(cases):
        draw = np.random.default_rng(seed)
        tokens, labels = draw.integers(0, 7, (2, len(lengths), 2, 6))
        for part, row in np.ndindex(len(lengths), 2):
            labels[part, row, lengths[part][row] :] = -100
        parts = [
            {"input_ids": torch.tensor(a), "labels": torch.tensor(b)}
            for a, b in zip(tokens, labels, strict=True)
        ]
        model = Bigram(seed)
        model.table.grad = torch.ones_like(model.table)
        optimiser, before = torch.optim.SGD([model.table], lr=0.5), model.numbers
        loss, gradient = softmax_gradient(before, tokens.ravel(), labels.ravel())
        with stage(name):
            yours = array(changed(accumulated_step, model, optimiser, parts), (), "return one loss")
            moved = before - model.numbers
            expect(
                bool(np.isfinite([*moved.ravel(), yours]).all()),
                "a part without learnt tokens has no mean: leave it out.",
            )
            each = [
                softmax_gradient(before, a.ravel(), b.ravel()) for a, b in zip(tokens, labels, strict=True)
            ]
            total, several = sum(g for _, g in each), len([1 for rows in lengths if sum(rows)])
            slips = [
                (0.5 * (gradient + 1), "gradients from before are added."),
                (0.5 * total, "the means of the parts are added; weigh each by its share of the tokens."),
                (0.5 * total / several, "each part counts the same; weigh it by its share of the tokens."),
                (0.5 * total / len(parts), "each part counts the same; weigh it by its share of the tokens."),
                (0.5 * each[-1][1], "only the last part is learnt; clear the gradients once, at the start."),
            ]
            cause = "it is not the step that the whole batch makes at once."
            expect_value(moved, 0.5 * gradient, cause, slips, "The change of the weights")
            expect_value(yours, loss, "return the mean over all tokens of all parts.", where="Loss")
    return "On a small GPU a batch of 20 reports becomes 5 parts of 4, and the step stays the same."
