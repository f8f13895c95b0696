"""Checks of notebook 03 on modules: the layer with a pair on a row block, and its training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from emrrg_lib.course.checks import Mistake, array, call, exercise, expect, expect_value, stage


def _padded(update: Tensor, rows: int, start: int) -> Tensor:
    out = update.new_zeros(*update.shape[:-1], rows)
    out[..., start : start + update.shape[-1]] = update
    return out


def _parts(layer: object, r: int, block: int, inputs: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A and B of the learner's layer; they alone may train."""
    if not isinstance(layer, nn.Module):
        raise Mistake(f"A layer is an nn.Module, yours makes {type(layer).__name__}.")
    found = []
    for name, shape in (("A", (r, inputs)), ("B", (block, r))):
        part = getattr(layer, name, None)
        expect(
            isinstance(part, nn.Parameter),
            f"`self.{name}` is to be an nn.Parameter; a plain tensor is not found by an optimiser.",
        )
        array(part, shape, f"{name} of r = {r}, a block of {block} rows, {inputs} inputs.")
        found.append(part)
    names = [name for name, p in layer.named_parameters() if p.requires_grad]
    extra = [name for name in names if name not in ("A", "B")]
    expect(not extra, f"{extra} would train too: the frozen Linear needs requires_grad_(False).")
    expect(len(names) == 2, f"Only {names} would train; A and B both have to.")
    return found[0], found[1]


@exercise(3)
def check_3(layer_class: Callable) -> str:
    """`RowBlockLoRA(base, r, start, stop, scale)`: an nn.Module with parameters A and B."""
    cases = ((8, 12, 3, 2, 7, 0.5, False), (5, 6, 2, 0, 3, 2.0, True), (4, 4, 1, 0, 4, 1.0, True))
    for seed, (inputs, rows, r, start, stop, scale, bias) in enumerate(cases):
        torch.manual_seed(seed)
        base = nn.Linear(inputs, rows, bias=bias)
        old = {name: value.clone() for name, value in base.state_dict().items()}
        layer = call(layer_class, base, r, start, stop, scale)
        with stage("parameters"):
            A, B = _parts(layer, r, stop - start, inputs)
        x = torch.randn(2, 5, inputs)
        with torch.no_grad():
            frozen = nn.functional.linear(x, **old)
        with stage("start"):
            expect(not B.any(), "B has to start at zero: the first step must change nothing.")
            expect(bool(A.any()), "If A starts at zero too, neither ever gets a gradient.")
            full = int(torch.linalg.matrix_rank(A.detach())) == r
            expect(full, "A starts random, so that its r rows differ.")
            expect_value(call(layer, x), frozen, "fresh, it has to be the frozen layer, its bias included.")
        with torch.no_grad():
            A.copy_(torch.randn(A.shape))
            B.copy_(torch.randn(B.shape))
            update = _padded(x @ A.T @ B.T, rows, start)
        yours = call(layer, x)
        with stage("forward"):
            array(yours, (2, 5, rows), "the shape of the frozen layer's output; x may have more axes.")
            slips = [
                (frozen + update, f"`scale`, here {scale:g}, is missing."),
                (frozen + scale**2 * update, "`scale` is in it twice."),
                (frozen + scale / r * update, "yours is divided by r: here `scale` is the whole factor."),
                (frozen, "the pair does nothing yet."),
                (scale * update, "the frozen layer's own output is missing."),
                (
                    frozen + _padded(scale * x @ A.T @ B.T, rows, 0),
                    f"your update begins at row 0; it belongs to the rows {start} to {stop - 1}.",
                ),
            ]
            cause = "base(x), plus scale · x Aᵀ Bᵀ in the columns start to stop."
            expect_value(yours, frozen + scale * update, cause, slips, f"rows [{start}, {stop}) of {rows}")
        with stage("gradient"):
            sum_of_squares = yours.square().sum() if isinstance(yours, Tensor) else None
            good = sum_of_squares is not None and sum_of_squares.requires_grad
            expect(good, "No gradient flows back: use A and B themselves, not their .data or .detach().")
            sum_of_squares.backward()
            expect(A.grad is not None and B.grad is not None, "A or B gets no gradient from the output.")
        now = base.state_dict()
        same = all(torch.equal(now[name], old[name]) for name in old)
        expect(same, "The frozen weight has changed: leave `base` as it is.")
    return "PEFT's layer of LoRA_p(X) gives the same numbers."


class _Layer(nn.Module):
    """A Linear, trainable as it comes, and a pair on the rows from `start` on."""

    def __init__(self, start: int, block: int, r: int, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.base, self.start = nn.Linear(5, 6), start
        self.A = nn.Parameter(0.7 * torch.randn(r, 5, generator=draw))
        self.B = nn.Parameter(torch.zeros(block, r))
        with torch.no_grad():
            for parameter in self.base.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + _padded(x @ self.A.T @ self.B.T, 6, self.start)


def _by_hand(
    layer: _Layer, x: Tensor, y: Tensor, steps: int, rate: float, moved: str = "AB", kept: bool = False
) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Gradient descent on the mean squared error, its gradients written out: losses, A, B.

    Args:
        moved: the matrices that train. kept: the gradients add up over the steps, as without zero_grad.
    """
    A, B, X = array(layer.A).copy(), array(layer.B).copy(), array(x)
    rows = slice(layer.start, layer.start + len(B))
    target, losses = array(y) - array(X) @ array(layer.base.weight).T - array(layer.base.bias), []
    total_A, total_B = np.zeros_like(A), np.zeros_like(B)
    for _ in range(steps):
        error = -target.copy()
        error[:, rows] += X @ A.T @ B.T
        losses.append(float((error**2).mean()))
        G = 2 / error.size * error[:, rows].T @ X  # gradient with respect to the block of W
        gA, gB = B.T @ G, G @ A.T
        total_A, total_B = (total_A + gA, total_B + gB) if kept else (gA, gB)
        A = A - rate * total_A * ("A" in moved)
        B = B - rate * total_B * ("B" in moved)
    return losses, A, B


@exercise(4)
def check_4(train: Callable) -> str:
    """`train(layer, x, y, steps, rate)` → the loss before each step; truth: gradients by hand."""
    for seed, (start, block, r, steps, rate) in enumerate(((2, 3, 2, 8, 0.3), (0, 4, 3, 12, 0.1))):
        draw = torch.Generator().manual_seed(30 + seed)
        layer = _Layer(start, block, r, seed)
        x = torch.randn(9, 5, generator=draw)
        with torch.no_grad():
            change = 0.8 * torch.randn(block, 5, generator=draw)
            y = layer(x) + _padded(x @ change.T, 6, start)
        _check_training(train, layer, x, y, steps, rate)
    return "The loss falls, and only A and B move."


def _check_training(train: Callable, layer: _Layer, x: Tensor, y: Tensor, steps: int, rate: float) -> None:
    old = {name: value.clone() for name, value in layer.state_dict().items()}
    losses, A, B = _by_hand(layer, x, y, steps, rate)
    only_b = _by_hand(layer, x, y, steps, rate, "B")[0]
    only_a = _by_hand(layer, x, y, steps, rate, "A")[0]
    kept = _by_hand(layer, x, y, steps, rate, kept=True)[0]
    later = _by_hand(layer, x, y, steps + 1, rate)[0]
    yours = call(train, layer, x, y, steps, rate)
    now = layer.state_dict()
    with stage("frozen"):
        moved = [name for name in ("base.weight", "base.bias") if not torch.equal(now[name], old[name])]
        expect(not moved, f"{moved} moved: freeze all but A and B before the first step.")
    with stage("losses"):
        found = array(yours, cause="return the list of the losses").reshape(-1)
        expect(
            len(found) != steps + 1,
            f"Yours holds {steps + 1} losses: record the loss before each of the {steps} steps, "
            "not once more at the end.",
        )
        array(found, (steps,), "one loss for each step, in a list.")
    with stage("first loss"):
        first = [
            (later[1], "yours is the loss after the first step; note it before, of the frozen layer."),
            (losses[0] * y.numel(), "yours is the sum of squares: take the mean."),
            (losses[0] * y.shape[1], "yours is a sum over the rows: take the mean over all numbers."),
            (-losses[0], "the error is squared and positive: do not turn its sign."),
        ]
        expect_value(found[0], losses[0], "the mean squared error of the frozen layer.", first)
    with stage("falls"):
        expect(found[-1] < found[0], "Your loss rises: the step is p − rate · gradient.")
        still = all(torch.equal(now[name], old[name]) for name in "AB")
        expect(not still, "A and B of the layer that was given are as before: train that layer, no copy.")
    with stage("descent"):
        slips = [
            (only_b, "A does not move: both matrices train."),
            (only_a, "B does not move: both matrices train."),
            (kept, "the gradients of the earlier steps are still in it: set them to zero before each step."),
        ]
        cause = "plain gradient descent on the mean squared error, as torch.optim.SGD(…, lr=rate) does it."
        expect_value(found, losses, cause, slips)
        for name, truth in (("A", A), ("B", B)):
            cause = f"the losses are right, but {name} has not made {steps} steps at the end."
            expect_value(now[name], truth, cause, where=name, tolerance=1e-3)
    with stage("frozen"):
        free = any(p.requires_grad for p in layer.base.parameters())
        expect(not free, "the base still gathers gradients, step after step: freeze it (requires_grad).")
