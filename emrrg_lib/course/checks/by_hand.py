"""Small models whose training is worked out in NumPy: the truth of the checks of loops (nb05, nb11)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from emrrg_lib.course.checks import NotTried, call, expect
from emrrg_lib.training.batches import Batches


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
    x: np.ndarray,
    y: np.ndarray,
    steps: int,
    size: int,
    rate: float,
    decay: float,
    seed: int,
    slip: str = "",
) -> tuple[list[float], np.ndarray]:
    """Losses and last numbers of a line that AdamW trains; with a slip, of a training with that mistake."""
    p, losses, sampler = start.copy(), [], Batches(len(y), size, seed)
    m = v = np.zeros_like(p)
    second = 0.999 if slip == "betas" else 0.98
    decays = np.append(np.ones(len(p) - 1), float(slip == "vectors")) * decay * (slip != "none")
    for step in range(steps):
        epoch, place = divmod(step, len(sampler))
        sampler.set_epoch(0 if slip == "order" else epoch)
        in_order = list(range(place * size, min(len(y), (place + 1) * size)))
        chosen = in_order if slip == "file" else list(sampler)[place]
        loss, slope = line_gradient(p, x[chosen], y[chosen])
        losses.append(loss)
        at = {"constant": 0, "early": step + 1}.get(slip, step)
        lr = rate * (1 + math.cos(math.pi * at / steps)) / 2
        p = p - lr * decays * p
        m, v = 0.9 * m + 0.1 * slope, second * v + (1 - second) * slope**2
        scaled = np.sqrt(v / (1 - second ** (step + 1))) + 1e-8
        p = p - lr * m / (1 - 0.9 ** (step + 1)) / scaled
    return losses, p


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
    """Calls an answer that trains `model`; one that trains and returns nothing has been tried."""
    before = model.numbers
    try:
        return call(answer, model, *given, **named)
    except NotTried:
        expect(bool((model.numbers == before).all()), "The weights move, but nothing is returned.")
        raise
