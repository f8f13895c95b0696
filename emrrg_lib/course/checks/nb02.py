"""Checks of notebook 02: half-life, exact step, orders, combining two steps; nb02_scan has the scan's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from emrrg_lib.course.checks import array, call, exercise, expect, expect_value, pair, stage
from emrrg_lib.course.checks.nb02_scan import check_3, check_4, check_5, check_9, check_10  # noqa: F401


def _number(yours: object, cause: str) -> float:
    """The answer as one number; an array or tensor of one number is one."""
    numbers = array(yours, cause=cause)
    expect(numbers.size == 1, f"One number is expected, yours has the shape {numbers.shape}: {cause}.")
    return float(numbers.item())


@exercise(1)
def check_1(half_life: Callable[[float, float], float]) -> str:
    """`half_life(A, delta)`, tried out: the state is let fade for as many tokens as it says."""
    for A, delta in ((-1.0, 0.1), (-1.0, 0.02), (-4.0, 0.1), (-2.5, 0.37), (-0.2, 2.5)):
        yours = _number(call(half_life, A, delta), "the number of tokens")
        truth = 0.6931471805599453 / delta / -A
        left, where = math.exp(min(50.0, yours * delta * A)), f"A = {A:g}, step {delta:g}"
        expect(yours > 0, f"{where}: yours {yours:.4g}; A is negative, the answer is a positive number.")
        slips = {
            1 / truth: "yours is the other way round: 1 / n.",
            truth / math.log(2): "after that many tokens 1/e = 37 % is left; ln 2 is missing.",
            truth / math.log(2) ** 2: "yours holds log₂ e; it has to be its inverse, ln 2.",
            truth * delta: "the step is missing: each token takes the state Δ further, not 1.",
            truth * -A: "the rate A is missing: a state with rate −4 fades four times as fast.",
            math.ceil(truth): "it need not be whole: do not round.",
            round(truth): "it need not be whole: do not round.",
        }
        expect_value(yours, truth, f"then {left:.1%} of the state is left.", slips, where, tolerance=1e-3)
    return "A trained block holds half-lives from below one token to many rows."


@exercise(2)
def check_2(zero_order_hold: Callable[[float, float, float], tuple[float, float]]) -> str:
    """`zero_order_hold(A, B, delta)` against 2²⁴ tiny steps of the differential equation."""
    for A, B, delta in ((-1.0, 1.0, 0.5), (-1.0, 3.0, 0.5), (-2.5, 1.0, 0.8), (-0.3, -2.0, 1.7)):
        answer = pair(call(zero_order_hold, A, B, delta), "Return two numbers: a, b.")
        yours_a, yours_b = (_number(part, "a and b are plain numbers here") for part in answer)
        a, b = 1 + A * delta / 2**24, B * delta / 2**24  # one tiny step: h + dt · (A h + B x)
        for _ in range(24):  # the step twice is a step of double length
            a, b = a * a, a * b + b
        where = f"(A = {A:g}, B = {B:g}, Δ = {delta:g})"
        expect(
            yours_a < 1,
            f"Yours is a = {yours_a:.4g} {where}: the state grows; A is negative, "
            "and the exponent has its sign.",
        )
        expect_value(yours_a, a, f"a {where} is e^(ΔA); 1 + ΔA is only its beginning.", tolerance=1e-3)
        expect(yours_b * B > 0, f"Your b {where} is of the wrong sign: both a − 1 and A are negative.")
        slips = {
            delta * B: f"b = ΔB {where} is Mamba's shortcut, right for small steps only.",
            b / B: f"B does not enter your b {where}.",
            delta * b: f"the step is in (a − 1) already {where}: do not multiply by Δ again.",
        }
        cause = f"b {where} is (a − 1) / A · B: is the division by A right?"
        expect_value(yours_b, b, cause, slips, tolerance=1e-3)
    return "Mamba's b = ΔB is the first term of this one."


@exercise(6)
def check_6(column_order: Callable[[int], Tensor]) -> str:
    """`column_order(side)` against places counted one by one, for grids other than the notebook's."""
    for side in (2, 6, 8):
        middle = side * side // 2
        numbers = array(call(column_order, side), (side * side + 1,), "all patches and the cls token.")
        expect(bool((numbers == numbers.round()).all()), "Token numbers are whole numbers.")
        read = [int(token) for token in numbers]
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


@exercise(7)
def check_7(four_directions: Callable) -> str:
    """`four_directions(X, orders, scan)` with scans that only mark what they are given."""
    for seed, (length, width) in enumerate(((5, 2), (17, 3), (10, 4))):
        draw = torch.Generator().manual_seed(seed)
        X = torch.randn(length, width, generator=draw)
        orders = torch.stack([torch.randperm(length, generator=draw) for _ in range(4)])
        back = [sorted(range(length), key=order.tolist().__getitem__) for order in orders]

        def mixed(scan: Callable[[int, Tensor], Tensor], X: Tensor = X, orders: Tensor = orders) -> Tensor:
            given = orders.clone()
            found = call(four_directions, X.clone(), given, scan)
            expect(bool((orders == given).all()), "Your function changes `orders`: it must stay as it is.")
            array(found, tuple(X.shape), "the tokens in row order.")
            return found

        with stage("there and back"):  # a scan that does nothing
            slips = (
                (4 * X, "yours is the sum of the four: take the mean."),
                (
                    torch.stack([X[order] for order in orders]).mean(0),
                    "bring what each direction found back to row order: undo the order.",
                ),
                (
                    torch.stack([X[order[order]] for order in orders]).mean(0),
                    "an order used twice does not undo itself: the way back is order.argsort().",
                ),
            )
            expect_value(mixed(lambda g, x: x), X, "a scan that does nothing must give the tokens.", slips)
        with stage("each order"):  # says when a token was read
            truth = sum(torch.tensor(places) for places in back)[:, None].expand(length, width) / 4
            ones = (torch.arange(length)[:, None].expand(length, width) / 1.0, "the scan gets row order.")
            yours = mixed(lambda g, x: torch.arange(len(x))[:, None].expand(*x.shape) / 1.0)
            cause = "each direction reads X[order] and is brought back by its own order."
            expect_value(yours, truth, cause, [ones])
        with stage("each direction its own scan"):
            truth = X * (1 + 10 + 100 + 1000) / 4
            slips = ((X, "call scan with the direction's number g: 0, 1, 2, 3."),)
            yours = mixed(lambda g, x: x * 10.0 ** int(g))
            expect_value(yours, truth, "direction g is read with orders[g] and scan number g.", slips)
        with stage("a true scan"):
            found = [X[order].cumsum(0)[places] for order, places in zip(orders, back, strict=True)]
            expect_value(mixed(lambda g, x: x.cumsum(0)), torch.stack(found).mean(0), "compare the stages.")
    return "That is the mixer, but for the convolution and the gate Z."


@exercise(8)
def check_8(combine: Callable) -> str:
    """`combine(first, second)` against the two maps applied to numbers, then in a tree of seven."""
    first, second = (0.5, 3.0), (0.2, 7.0)
    a, b = (_number(part, "a and b") for part in pair(call(combine, first, second), "Return a pair: a, b."))
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
    level: list[Sequence] = [tuple(both) for both in pairs.tolist()]
    while len(level) > 1:  # the tree: neighbours first, then pairs of pairs
        joined = [call(combine, *level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = joined + level[len(level) // 2 * 2 :]
    expect_value(
        pair(level[0], "Return a pair: a, b.")[1],
        h,
        "two steps are right, seven combined in a tree are not: are the numbers "
        "of the first example in your code?",
    )
    return "Seven steps in three rounds; a GPU does 145 in eight."
