"""Checks of notebook 03, Partial LoRA. Truth: counts of the parameter ledger of the papers' encoder
(NOTES F), sums of outer products in float64, eigenvalues of ΔᵀΔ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from emrrg_lib.course.checks import call, exercise, expect, expect_shape, expect_value, pair

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

    def stage(target: str, cause: str, slips: Mapping[int, str] | None = None) -> None:
        expect_value(call(count, target, 768, 12, 32), BASE[target], cause, slips or {}, target)

    stage("X", "one pair a block: A is (r, inputs), B is (rows, r), and both train.", X_SLIPS)
    for target in ("in_proj", "out_proj", "Z"):
        stage(target, "how many rows does this matrix or block have? in_proj makes X and Z, 2·d rows.")
    for target in ("B", "C", "x_proj", "dt_proj", "dt"):
        stage(
            target,
            "x_proj has R + 2·N rows: first dt (R), then B (N), then C (N); dt_proj leads from R to d.",
            {BASE[target] // 4: "that is one direction; x_proj and dt_proj exist four times."},
        )
    expect(
        call(count, "in_proj", 128, 4, 8) == 12_288,
        "in_proj of the tiny encoder (d = 128, 4 blocks, r = 8): expected 12,288. Does your code hold a "
        "number that should come from d, depth or r?",
    )
    expect(call(count, "dt", 40, 1, 1) == 172, "dt at d = 40: R is d / 16 rounded up, here 3, not 2.")
    return "The same numbers as PEFT's."


@exercise(2)
def check_2(partial_lora: Callable) -> None:
    """`partial_lora(x, W, A, B, start, scale)`: the output of a Linear with a row-block update."""
    draw = np.random.default_rng(3)
    x, W, A = draw.normal(size=(5, 4)), draw.normal(size=(9, 4)), draw.normal(size=(2, 4))
    B, start, scale = draw.normal(size=(3, 2)), 4, 0.5
    delta = np.zeros_like(W)
    for k in range(2):
        delta[start : start + 3] += scale * np.outer(B[:, k], A[k])

    def run(B: np.ndarray) -> np.ndarray:
        given = [torch.tensor(a) for a in (x, W, A, B)]
        answer = call(partial_lora, *given, start, scale)
        expect(
            torch.equal(given[1], torch.tensor(W)),
            "Your function changes W itself: the frozen weight has to stay; work on a copy.",
        )
        expect_shape(answer, (5, 9), "one row a token, one column a row of W.")
        return answer.numpy()

    plain = x @ W.T
    expect_value(run(0 * B), plain, "with B = 0 it has to be the frozen layer, x @ W.T.")
    yours = run(B) - plain
    moved = np.abs(yours).max(axis=0) > 1e-9
    expect(
        not moved[:3].any() or moved[4:7].any(),
        f"Your update is in rows 0 to 2, expected rows {start} to {start + 2}: shift it to `start`.",
    )
    expect(
        not moved[:4].any() and not moved[7:].any(),
        f"Rows {np.flatnonzero(moved).tolist()} change, expected [4, 5, 6]: the rows outside of the block "
        "have to stay as they are.",
    )
    slips = [(x @ delta.T / scale, "your update is twice too large: `scale`, here 0.5, is missing.")]
    expect_value(yours, x @ delta.T, "the update of the block is scale · x Aᵀ Bᵀ.", slips)


@exercise(3)
def check_3(best_pair: Callable) -> str:
    """`best_pair(target, r)` → B (rows, r), A (r, inputs) with B·A closest to the target."""
    target = torch.tensor(np.random.default_rng(5).normal(size=(7, 5)) * [4, 2, 1, 0.5, 3])
    answer = call(best_pair, target.clone(), 2)
    B, A = pair(answer, "Return two matrices: B, A.")
    expect_shape(B, (7, 2), "B is (rows, r). Did you return A first?")
    expect_shape(A, (2, 5), "A is (r, inputs); torch.linalg.svd returns V already transposed.")
    squares = np.linalg.eigvalsh((target.T @ target).numpy())[::-1]  # squared singular values
    found = np.linalg.svd((B @ A).numpy(), compute_uv=False)[:2]
    slips = [
        ([1.0, 1.0], "Both singular values are 1: U and V give directions, the values say how far."),
        (squares[:2], "yours are squared: they belong into B or into A, or their roots into both."),
        (
            np.sqrt(squares[-2:]),
            "you kept the smallest singular values; they come largest first.",
        ),
    ]
    cause, where = "the best pair keeps the r largest ones.", "Singular values of B·A"
    expect_value(found, np.sqrt(squares[:2]), cause, slips, where)
    distance = torch.linalg.matrix_norm(target - B @ A)
    expect_value(distance, np.sqrt(squares[2:].sum()), "this is the distance to the target.")
    whole = call(best_pair, target.clone(), 5)
    expect_value(whole[0] @ whole[1], target, "with r = 5 nothing may be lost. Is 2 written into your code?")
    return "No pair of rank r comes closer (Eckart and Young, 1936)."


@exercise(4)
def check_4(seen: int) -> str:
    """The parameters that a counter of called modules sees in the released base encoder."""
    expect(isinstance(seen, int), f"Give a whole number, not a {type(seen).__name__}.")
    cause = "leave out every parameter of a mixer, the position table and the cls token."
    expect(seen == 57_310_464, f"Yours {seen:,}: {SEEN_SLIPS.get(seen, cause)}")  # keeps the answer secret
    return "57,310,464: the 57.31 M of Table 4."
