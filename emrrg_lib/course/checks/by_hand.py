"""Small models whose training is worked out in NumPy: the truth of the checks of loops (nb05, nb11)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from emrrg_lib.course.checks import call, expect
from emrrg_lib.training.shares import Batches


class Line(nn.Module):
    """y = w·x + b with the mean square as its loss; its gradient fits on one line of NumPy."""

    def __init__(self, w: np.ndarray, b: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w[None]))
        self.b = nn.Parameter(torch.tensor([b]))
        self.frozen = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((x @ self.w.T)[:, 0] + self.b - y).square().mean()}

    @property
    def numbers(self) -> np.ndarray:
        """Weights, then the bias."""
        return torch.cat([self.w.detach()[0], self.b.detach()]).numpy().copy()


def line_gradient(numbers: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss of the line and its gradient, weights first."""
    error = x @ numbers[:-1] + numbers[-1] - y
    return float((error**2).mean()), np.append(2 * error @ x, 2 * error.sum()) / len(y)


def points(seed: int, count: int, width: int) -> tuple[np.ndarray, np.ndarray, Line]:
    """(count, width) inputs, (count,) targets on a line, and a `Line` to fit to them."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, width))
    return x, x @ draw.normal(size=width) + 0.3, Line(0.1 * draw.normal(size=width), 0.05)


def adamw(
    start: np.ndarray,
    slope: Callable[[np.ndarray, list[int]], tuple[float, np.ndarray]],
    batches: Iterable[list[int]],
    rates: np.ndarray,
    decays: np.ndarray,
    factors: Sequence[float],
    clip: float = math.inf,
    second: float = 0.98,
) -> tuple[list[float], np.ndarray]:
    """Trains numbers by AdamW with β = (.9, second), written out.

    Args:
        start: the numbers before. slope: of the loss, numbers and places of a batch → loss and gradient.
        rates, decays: learning rate and weight decay of each number. factors: on the rate, one a step.
        clip: largest norm of the gradient.

    Returns:
        The loss of every step, and the numbers after the last one.
    """
    p, losses, m, v = start.copy(), [], np.zeros_like(start), np.zeros_like(start)
    for step, (chosen, factor) in enumerate(zip(batches, factors, strict=False), start=1):
        loss, gradient = slope(p, chosen)
        losses.append(loss)
        gradient = gradient * min(1.0, clip / float(np.linalg.norm(gradient)))
        p = p * (1 - rates * factor * decays)
        m, v = 0.9 * m + 0.1 * gradient, second * v + (1 - second) * gradient**2
        p = p - rates * factor * m / (1 - 0.9**step) / (np.sqrt(v / (1 - second**step)) + 1e-8)
    return losses, p


def epochs(count: int, size: int, seed: int, same: bool = False) -> Iterator[list[int]]:
    """The kit's batches, epoch after epoch without an end; `same` repeats the first epoch's order."""
    sampler = Batches(count, size, seed)
    for epoch in itertools.count():
        sampler.set_epoch(0 if same else epoch)
        yield from sampler


SLIPS = {
    "order": "every epoch is a new permutation, of the seed plus the number of the epoch.",
    "file": "the studies are taken in the order of the file; draw a permutation.",
    "constant": "the rate stays the same; multiply it by the factor of this step.",
    "early": "the factor is that of the next step; step 0 has the full rate.",
    "vectors": "the bias decays too; only matrices (dim() > 1) do.",
    "betas": "those are torch's betas; the kit's are (.9, .98).",
    "none": "nothing decays; give the matrices weight_decay.",
}


def trained_line(
    start: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    steps: int,
    size: int,
    rate: float,
    decay: float,
    seed: int,
    slip: str = "",
) -> tuple[list[float], np.ndarray]:
    """Losses and last numbers of a trained line; with a slip of `SLIPS`, with that mistake."""
    at = np.zeros(steps) if slip == "constant" else np.arange(steps) + (slip == "early")
    factors = (1 + np.cos(np.pi * at / steps)) / 2
    decays = np.append(np.ones(len(start) - 1), float(slip == "vectors")) * decay * (slip != "none")
    batches = epochs(len(y), size, seed, slip == "order")
    if slip == "file":
        batches = itertools.cycle([list(range(i, min(i + size, len(y)))) for i in range(0, len(y), size)])
    return adamw(
        start,
        lambda numbers, chosen: line_gradient(numbers, x[chosen], y[chosen]),
        batches,
        np.full(len(start), rate),
        decays,
        factors.tolist(),
        second=0.999 if slip == "betas" else 0.98,
    )


class Bigram(nn.Module):
    """Each token predicts its label alone; the loss is the mean over the labels that are not −100."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(7, 7, generator=draw, dtype=torch.float64))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.cross_entropy(self.table[input_ids].flatten(0, 1), labels.flatten())}

    @property
    def numbers(self) -> np.ndarray:
        """The table."""
        return self.table.detach().numpy().copy()


def softmax_gradient(table: np.ndarray, tokens: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean cross-entropy over the learnt tokens and its gradient; both 0 where there is none."""
    learnt = labels != -100
    tokens, labels = tokens[learnt], labels[learnt]
    p = np.exp(table[tokens]) / np.exp(table[tokens]).sum(axis=1, keepdims=True)
    loss, gradient = -np.log(p[np.arange(len(labels)), labels]).sum(), np.zeros_like(table)
    np.add.at(gradient, tokens, p - np.eye(len(table))[labels])
    count = max(1, len(labels))
    return float(loss / count), gradient / count


def changed(answer: Callable, model: Line | Bigram, *given: object, **named: object) -> object:
    """Calls an answer that trains `model`; what was frozen has to stay so."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    result = call(answer, model, *given, **named)
    thawed = any(p.requires_grad for p in frozen)
    expect(not thawed, "A parameter that was frozen trains now: only what has requires_grad does.")
    return result
