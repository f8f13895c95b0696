"""Checks of notebook 03, Partial LoRA. Truth: counts of the parameter ledger of the papers' encoder
(NOTES F), sums of outer products, gradients written out by hand, eigenvalues of ΔᵀΔ, autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from emrrg_lib.course.checks import array, call, exercise, expect, expect_value, pair, stage, whole
from emrrg_lib.course.checks.nb03_layer import check_3, check_4  # noqa: F401

# parameters of one target in the base encoder, d = 768, 12 blocks, r = 32
BASE = {
    "X": 589_824,
    "Z": 589_824,
    "in_proj": 884_736,
    "out_proj": 589_824,
    "dt": 1_253_376,
    "B": 1_204_224,
    "C": 1_204_224,
    "x_proj": 1_302_528,
    "dt_proj": 1_253_376,
}
X_SLIPS = {
    884_736: "that is LoRA(in_proj), whose B has all 2·d rows; LoRA_p(X) has only the d rows that make X.",
    49_152: "that is one block; the encoder has `depth` of them.",
    12 * 768 * 768: "that is the X block itself; a pair has r·(inputs + rows) numbers instead.",
    294_912: "that is one matrix of the pair; A and B both train.",
}
SEEN_SLIPS = {
    84_262_656: "that is the whole encoder: the counter sees only modules that are called.",
    84_110_592: "the release reads the `.weight` of the mixers' Linears and never calls them.",
    57_462_528: "pos_embed and cls_token are parameters of the encoder itself, not modules.",
    57_461_760: "pos_embed is still in it: a bare parameter has no forward.",
    57_311_232: "cls_token is still in it: a bare parameter has no forward.",
    26_952_192: "that is what the counter does not see; you want the rest.",
    202_320_864: "that is the large encoder; take the base one, d = 768 and 12 blocks.",
}


@exercise(1)
def check_1(count: Callable) -> str:
    """`count(target, d, depth, r)` is the number of parameters that a target adds."""

    def counts(target: str, cause: str, slips: Mapping[int, str] | None = None) -> None:
        yours = call(count, target, 768, 12, 32)
        expect_value(yours, BASE[target], cause, slips or {}, target)

    with stage("X"):
        counts("X", "one pair a block: A is (r, inputs), B is (rows, r), and both train.", X_SLIPS)
    with stage("whole matrices"):
        for target in ("in_proj", "out_proj", "Z"):
            counts(target, "how many rows has this matrix or block? in_proj makes X and Z, 2·d rows.")
    with stage("four directions"):
        for target in ("B", "C", "x_proj", "dt_proj", "dt"):
            counts(
                target,
                "x_proj has R + 2·N rows: first dt (R), then B (N), then C (N); dt_proj leads from R to d.",
                {BASE[target] // 4: "that is one direction; x_proj and dt_proj exist four times."},
            )
    with stage("other sizes"):
        cause = "does your code hold a number that should come from d, depth or r?"
        where = "in_proj of the tiny encoder (d = 128, 4 blocks, r = 8)"
        expect_value(call(count, "in_proj", 128, 4, 8), 12_288, cause, where=where)
        expect_value(call(count, "C", 128, 4, 3), 6_912, cause, where="C at d = 128, 4 blocks, r = 3")
        cause = "R is d / 16 rounded up, here 3, not 2."
        expect_value(call(count, "dt", 40, 1, 1), 172, cause, where="dt at d = 40, 1 block, r = 1")
    return "The same numbers as PEFT's."


def _case(rows: int, inputs: int, r: int, block: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Random x (5, inputs), W (rows, inputs), A (r, inputs), B (block, r)."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((5, inputs), (rows, inputs), (r, inputs), (block, r))
    return tuple(torch.randn(shape, generator=draw) for shape in shapes)


@exercise(2)
def check_2(partial_lora: Callable) -> None:
    """`partial_lora(x, W, A, B, start, scale)`: the output of a Linear with a row-block update."""
    cases = ((9, 4, 3, 3, 4, 0.5), (7, 5, 2, 3, 0, 2.0), (6, 8, 1, 2, 4, 1.5), (4, 3, 2, 4, 0, 0.25))
    for seed, (rows, inputs, r, block, start, scale) in enumerate(cases):
        x, W, A, B = _case(rows, inputs, r, block, seed)
        delta = np.zeros((rows, inputs))  # a sum of outer products, row by row
        for k in range(r):
            delta[start : start + block] += scale * np.outer(B[:, k], A[k])
        plain, update = array(x) @ array(W).T, array(x) @ delta.T

        def run(B: Any, given: tuple = (x, W, A), at: tuple = (start, scale)) -> np.ndarray:
            copies = [value.clone() for value in (*given, B)]
            yours = call(partial_lora, *copies, *at)
            told = "Your function changes {} itself: work on a copy."
            for name, now, old in zip("xWAB", copies, (*given, B), strict=True):
                expect(torch.equal(now, old), told.format(name))
            shape = (len(given[0]), len(given[1]))
            array(yours, shape, "one row a token, one column a row of W.")
            return yours

        where = f"W of {rows} rows, block from {start} on"
        with stage("frozen"):
            cause = "with B = 0 it has to be the frozen layer, x @ W.T."
            expect_value(run(0 * B), plain, cause, where=where)
        yours = run(B)
        with stage("rows"):
            _expect_rows(array(yours) - plain, start, block)
        with stage("size"):
            slips = [
                (plain + update / scale, f"`scale`, here {scale:g}, is missing."),
                (plain + update * scale, "`scale` is in it twice."),
                (
                    plain + update / r,
                    "yours is divided by r: here `scale` is the whole factor.",
                ),
                (plain - update, "the update is added, not taken away."),
            ]
            expect_value(yours, plain + update, "the update of the block is scale · x Aᵀ Bᵀ.", slips, where)


def _expect_rows(change: np.ndarray, start: int, block: int) -> None:
    """The update is in columns [start, start + block) of the output alone."""
    moved = np.abs(change).max(axis=0) > 1e-3 * max(1.0, np.abs(change).max())
    wanted = list(range(start, start + block))
    found = np.flatnonzero(moved).tolist()
    expect(
        found != list(range(block)) or start == 0,
        f"Your update is in rows 0 to {block - 1}, expected rows {start} to {start + block - 1}: "
        "shift it to `start`.",
    )
    expect(
        set(found) <= set(wanted),
        f"Rows {found} change, expected {wanted}: the rows outside of the block have to stay as they are.",
    )


@exercise(5)
def check_5(best_pair: Callable) -> str:
    """`best_pair(target, r)` → B (rows, r), A (r, inputs) with B·A closest to the target."""
    draw = np.random.default_rng(5)
    first = draw.normal(size=(7, 5)) * [4, 2, 1, 0.5, 3]
    for values, r in ((first, 2), (draw.normal(size=(4, 9)), 3), (draw.normal(size=(6, 6)), 1)):
        target = torch.tensor(values, dtype=torch.float32)
        given = target.clone()
        B, A = pair(call(best_pair, given, r), "Return two matrices: B, A.")
        expect(torch.equal(given, target), "Your function changes `target` itself: work on a copy.")
        rows, inputs = values.shape
        with stage("shapes"):
            B = array(B, (rows, r), "B is (rows, r). Did you return A first?")
            A = array(A, (r, inputs), "A is (r, inputs); torch.linalg.svd returns V already transposed.")
        squares = np.linalg.eigvalsh(values.T @ values)[::-1]  # squared singular values
        found = np.linalg.svd(B @ A, compute_uv=False)[:r]
        slips = [
            (np.ones(r), "all are 1: U and V give directions, the values say how far."),
            (squares[:r], "yours are squared: they belong into B or into A, or their roots into both."),
            (np.sqrt(np.abs(squares[: min(rows, inputs)][-r:])), "you kept the smallest singular values."),
        ]
        with stage("singular values"):
            expect_value(found, np.sqrt(squares[:r]), "the best pair keeps the r largest ones.", slips)
        with stage("distance"):
            left = np.sqrt(np.clip(squares[r:], 0, None).sum())
            cause = "this is the distance to the target: a matrix with the right singular values may still "
            cause += "point elsewhere."
            expect_value(np.linalg.norm(values - B @ A), left, cause, tolerance=1e-3)
    with stage("full rank"):
        B, A = (array(part) for part in pair(call(best_pair, target.clone(), 6), "Return B, A."))
        cause = "with r = 6 nothing may be lost. Is a rank written into your code?"
        expect_value(B @ A, values, cause, tolerance=1e-3)
    return "No pair of rank r comes closer (Eckart and Young, 1936)."


@exercise(6)
def check_6(seen: int) -> str:
    """The parameters that a counter of called modules sees in the released base encoder."""
    number = whole(seen)
    cause = "leave out every parameter of a mixer, the position table and the cls token."
    expect(number == 57_310_464, f"Yours {number:,}: {SEEN_SLIPS.get(number, cause)}")  # keeps it secret
    return "57,310,464: the 57.31 M of Table 4."


@exercise(7)
def check_7(first_step: Callable) -> str:
    """`first_step(G, A, rate, scale)` → ΔW after the first step of gradient descent; truth by autograd."""
    cases = ((6, 4, 2, 0.1, 0.5), (3, 8, 3, 0.7, 2.0), (5, 5, 5, 0.3, 1.5))
    for seed, (rows, inputs, r, rate, scale) in enumerate(cases):
        _, G, A, _ = _case(rows, inputs, r, rows, 20 + seed)
        B = torch.zeros(rows, r, requires_grad=True)
        (G * (scale * B @ A)).sum().backward()  # a loss whose gradient with respect to W is G
        truth = scale * (B.detach() - rate * B.grad) @ A
        given = (G.clone(), A.clone())
        yours = call(first_step, *given, rate, scale)
        expect(torch.equal(given[0], G) and torch.equal(given[1], A), "Your function changes its inputs.")
        array(yours, (rows, inputs), "ΔW has the shape of W, and so has G.")
        slips = [
            (-truth, "the sign: gradient descent goes against the gradient."),
            (-rate * G, "that is the step of full fine-tuning; LoRA keeps the part that A can see, G AᵀA."),
            (truth / scale, "`scale` enters twice: in the gradient of B, and in ΔW = scale · B·A."),
            (truth / scale**2, "`scale` is missing, and it enters twice."),
            (truth / rate, "`rate` is missing."),
            (truth * rate, "`rate` is in it twice."),
        ]
        where = f"W of {rows} × {inputs}, rank {r}"
        cause = "B starts at 0. What is its gradient, in terms of G and A? And then ΔW?"
        expect_value(yours, truth, cause, slips, where)
    return "At first LoRA steps along the gradient as A sees it: G AᵀA."
