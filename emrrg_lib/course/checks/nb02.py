"""Checks of notebook 02: half-life, exact discretisation, column order, combining two steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from emrrg_lib.course.checks import call, exercise, expect, expect_shape, expect_value, pair


@exercise(1)
def check_1(half_life: Callable[[float, float], float]) -> str:
    """`half_life(A, delta)`, tried out: the state is let fade for as many tokens as it says."""
    for A, delta in ((-1.0, 0.1), (-1.0, 0.02), (-4.0, 0.1)):
        yours = float(call(half_life, A, delta))
        truth = 0.6931471805599453 / 4 / 0.1 if A == -4 else 0.6931471805599453 / delta
        left, where = math.exp(min(50.0, yours * delta * A)), f"A = {A:g}, step {delta:g}"
        expect(yours > 0, f"{where}: yours {yours:.4g}; A is negative, the answer is a positive number.")
        slips = {
            1 / truth: "yours is the other way round: 1 / n.",
            truth / math.log(2): "after that many tokens 1/e = 37 % is left; ln 2 is missing.",
            truth / math.log(2) ** 2: "yours holds log₂ e; it has to be its inverse, ln 2.",
            truth * delta: "the step is missing: each token takes the state Δ further, not 1.",
            truth * -A: "the rate A is missing: a state with rate −4 fades four times as fast.",
        }
        expect_value(yours, truth, f"then {left:.0%} of the state is left.", slips, where, tolerance=1e-3)
    return "A trained block holds half-lives from below one token to many rows."


@exercise(2)
def check_2(zero_order_hold: Callable[[float, float, float], tuple[float, float]]) -> str:
    """`zero_order_hold(A, B, delta)` against 2²⁴ tiny steps of the differential equation."""
    for A, B, delta in ((-1.0, 1.0, 0.5), (-1.0, 3.0, 0.5), (-2.5, 1.0, 0.8)):
        answer = call(zero_order_hold, A, B, delta)
        pair(answer, "Return two numbers: a, b.")
        a, b = 1 + A * delta / 2**24, B * delta / 2**24  # one tiny step: h + dt · (A h + B x)
        for _ in range(24):  # the step twice is a step of double length
            a, b = a * a, a * b + b
        where = f"(A = {A:g}, B = {B:g}, Δ = {delta:g})"
        expect(
            answer[0] < 1,
            f"Yours is a = {answer[0]:.4g} {where}: the state grows; A is negative, "
            "and the exponent has its sign.",
        )
        cause = f"a {where} is e^(ΔA); 1 + ΔA is only its beginning."
        expect_value(answer[0], a, cause, tolerance=1e-5)
        expect(answer[1] * B > 0, f"Your b {where} is of the wrong sign: both a − 1 and A are negative.")
        slips = {
            delta * B: f"b = ΔB {where} is Mamba's shortcut, right for small steps only.",
            b / B: f"B does not enter your b {where}.",
        }
        cause = f"b {where} is (a − 1) / A · B: is the division by A right?"
        expect_value(answer[1], b, cause, slips, tolerance=1e-5)
    return "Mamba's b = ΔB is the first term of this one."


@exercise(3)
def check_3(column_order: Callable[[int], Tensor]) -> str:
    """`column_order(side)` against places counted one by one, for grids other than the notebook's."""
    for side in (2, 6):
        yours, middle = call(column_order, side), side * side // 2
        expect_shape(yours, (side * side + 1,), "all patches and the cls token.")
        read = [int(token) for token in yours]
        expect(
            sorted(read) == list(range(side * side + 1)),
            f"side {side}: every token is to be read exactly once; yours reads {_odd(read)}.",
        )
        expect(
            read[middle] == middle,
            f"side {side}: cls, token {middle}, is at place "
            f"{read.index(middle)} of yours: the middle stays the middle.",
        )
        truth = [(row, column) for column in range(side) for row in range(side)]
        places = [divmod(token - (token > middle), side) for token in read if token != middle]
        expect(places != sorted(truth), f"side {side}: yours reads along the rows.")
        expect(places != truth[::-1], f"side {side}: yours is the column order backwards, direction `_c_b`.")
        for number, (yours_at, expected) in enumerate(zip(places, truth, strict=True)):
            expect(
                yours_at == expected,
                f"side {side}: as patch number {number} yours reads the one at (row, column) {yours_at}, "
                f"expected {expected}: each column from its top; behind cls, tokens count one higher.",
            )
    return "The third of the four directions; its reverse is the fourth."


def _odd(read: list[int]) -> str:
    """The tokens that a list repeats and those that it leaves out, in words."""
    twice = sorted({token for token in read if read.count(token) > 1})
    missing = sorted(set(range(len(read))) - set(read))
    return f"{twice[:3]} more than once and leaves out {missing[:3]}"


@exercise(4)
def check_4(combine: Callable) -> str:
    """`combine(first, second)` against the two maps applied to numbers, then in a tree of seven."""
    first, second = (0.5, 3.0), (0.2, 7.0)
    answer = call(combine, first, second)
    a, b = pair(answer, "Return a pair: a, b.")
    at = [0.2 * (0.5 * h + 3.0) + 7.0 for h in (0.0, 1.0)]  # the maps one after the other
    expect_value(a, at[1] - at[0], "what is left of h after both steps: the decays multiply.")
    slips = {
        6.5: "this belongs to the other order: `first` acts first, and what it wrote fades once more.",
        10.0: "this is b1 + b2: what the first step wrote fades in the second.",
    }
    expect_value(b, at[0], "b is where h = 0 ends after both maps: a2 · b1 + b2.", slips)
    pairs = torch.rand(7, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h = 0.0
    for decay, written in pairs.tolist():  # the loop
        h = decay * h + written
    level = [tuple(pair) for pair in pairs.tolist()]
    while len(level) > 1:  # the tree: neighbours first, then pairs of pairs
        joined = [call(combine, *level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = joined + level[len(level) // 2 * 2 :]
    expect_value(
        level[0][1],
        h,
        "two steps are right, seven combined in a tree are not: are the numbers "
        "of the first example in your code?",
    )
    return "Seven steps in three rounds; a GPU does 145 in eight."
