"""Scans and Partial LoRA: paths and memory of a scan (§3.2); the rows of a target, its rank, ΔW (§3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from emrrg_lib.explorers.base import XRAY_SIDE, Explorer, packed, quantised, rounded
from emrrg_lib.interpret.figures_vision import DIRECTION_NAMES, map_grid
from emrrg_lib.interpret.page_example import xray_picture
from emrrg_lib.interpret.style import Picture, grey_image

RANKS = (1, 2, 4, 8, 16, 32, 64)
MATTERS = 0.001  # nats per token: a smaller change of the loss does nothing, in words
_SHOWN, _CELLS = 8, 32  # matrices drawn side by side at most; cells along a side of one


def scan_memory(delta: np.ndarray, A: np.ndarray, B: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The amount of each token in the state after each step of h ← exp(ΔA) h + Δ B x.

    Args:
        delta, x: (L, d), in scan order; delta after softplus. A: (d, N), negative. B: (L, N).

    Returns:
        (L, L): [t, s] is the root mean square, over the d · N numbers of the state after step t, of the
        part that came in at step s; 0 for s > t.
    """
    squares = np.square((delta * x)[:, :, None] * B[:, None, :])  # (L, d, N)
    memory = np.zeros((len(x), len(x)))
    for step in range(len(x)):
        squares[:step] *= np.exp(2 * delta[step][:, None] * A)
        memory[step, : step + 1] = np.sqrt(squares[: step + 1].mean(axis=(1, 2)))
    return memory


class ScanExplorer(Explorer):
    """Walk a scan step by step and see what its state holds, and the output's change without a direction.

    Args:
        image: (H, W), (H, W, 3) or (3, H, W). grid: patches (rows, cols).
        orders: (G, L) token numbers in the order of each direction. memory: (G, L, L), see `scan_memory`.
        outputs: (G, L, d), in token order: the part of each direction; their sum is the mixer's output.
        cls_index: number of the cls token, which is not a patch; None for an encoder without it.

    Raises:
        ValueError: the shapes disagree.
    """

    title = "Four scans over one image"
    explains = (
        "Left: the path of one scan; the warmer a patch, the more of it the state still holds. Right: how "
        "the block's output changes without this direction. The curve: how the state responds at each step."
    )
    kind = "scan"

    def __init__(
        self,
        image: np.ndarray,
        grid: tuple[int, int],
        orders: np.ndarray,
        memory: np.ndarray,
        outputs: np.ndarray,
        cls_index: int | None = None,
    ) -> None:
        self.image, self.grid, self.orders, self.memory = image, tuple(grid), np.asarray(orders), memory
        G, L = self.orders.shape
        if np.shape(memory) != (G, L, L) or np.shape(outputs)[:2] != (G, L):
            raise ValueError(
                f"orders {(G, L)} need memory {(G, L, L)} and outputs {(G, L, 'd')}, not "
                f"{np.shape(memory)} and {np.shape(outputs)}."
            )
        if L - (cls_index is not None) != grid[0] * grid[1]:
            raise ValueError(f"{L} tokens do not fill the grid {tuple(grid)} with cls_index {cls_index}.")
        self.names = DIRECTION_NAMES[:G]
        self.patches = np.delete(np.arange(L), [] if cls_index is None else [cls_index])  # token → patch
        full = np.sum(outputs, axis=0)
        without = (full - outputs) * G / (G - 1)  # the mixer takes the mean of its directions
        self.size = np.sqrt(np.mean(np.square(full), axis=1))[self.patches]  # (M,) of the output
        self.change = np.sqrt(np.mean(np.square(without - full), axis=2))[:, self.patches]  # (G, M)
        self.share = np.linalg.norm(without - full, axis=(1, 2)) / np.linalg.norm(full)
        self.read = np.diagonal(memory, axis1=1, axis2=2)  # (G, L): the amount of a token when it is read

    def kept(self) -> np.ndarray:
        """(G, L, L): what is left of a token after step t, as a share of the amount when it was read."""
        return np.minimum(1.0, self.memory / np.maximum(self.read, 1e-12)[:, None])

    def data(self, live: bool) -> dict[str, Any]:
        return {
            "grid": self.grid,
            "names": self.names,
            "orders": self.orders.tolist(),
            "patches": self.patches.tolist(),
            "view": xray_picture(self.image, "X-ray", XRAY_SIDE),
            "kept": packed(np.round(255 * self.kept())),
            "read": rounded(self.read),
            "change": rounded(self.change),
            "size": rounded(self.size),
            "share": rounded(self.share),
        }

    def figure(self) -> Picture:
        """Every direction at two steps, and the change of the block's output without it, on both scales."""
        L, kept = self.orders.shape[1], self.kept()
        steps, rows = (L // 3, L - 1), {}
        for direction, name in enumerate(self.names):
            held = np.zeros((len(steps), L))
            held[:, self.orders[direction]] = kept[direction, list(steps)]
            change = self.change[direction]
            maps = [*held[:, self.patches], change, change / np.maximum(self.size, 1e-12)]
            rows[name] = [np.reshape(values, self.grid) for values in maps]
        columns = [*(f"held, step {step + 1}" for step in steps), "change without", "per token"]
        figure = map_grid(rows, "Four scans", columns, grey_image(self.image))
        effects = zip(self.names, self.share, strict=True)
        figure.alt += " The output changes " + ", ".join(f"by {s:.0%} without {n}" for n, s in effects) + "."
        return figure


@dataclass(frozen=True)
class LoraTarget:
    """The n matrices of one kind that a target of Partial LoRA acts on.

    Attributes:
        name: of the target. weight: (n, out, in), frozen. matrices: the names of the n.
        blocks: named rows of the matrix → [start, stop). rows: the rows [start, stop) the target touches.
        delta: (n, out, in) ΔW after training; None where no adapter was trained.
    """

    name: str
    weight: np.ndarray
    matrices: Sequence[str]
    blocks: Mapping[str, tuple[int, int]]
    rows: tuple[int, int]
    delta: np.ndarray | None = None

    def parameters(self, rank: int) -> int:
        """Weights of A (r, in) and B (touched rows, r) of all matrices."""
        return len(self.weight) * rank * (self.weight.shape[2] + self.rows[1] - self.rows[0])

    @cached_property
    def _factors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.linalg.svd(self.delta[:, slice(*self.rows)], full_matrices=False)

    def change(self, rank: int) -> np.ndarray:
        """(n, touched rows, in): the best approximation of ΔW of this rank."""
        left, sizes, right = self._factors
        return (left[:, :, :rank] * sizes[:, None, :rank]) @ right[:, :rank]

    def kept(self, rank: int) -> float:
        """Share of ΔW, as a root mean square, that is left at this rank."""
        sizes = self._factors[1]
        return float(np.linalg.norm(sizes[:, :rank]) / max(np.linalg.norm(sizes), 1e-12))


class LoraExplorer(Explorer):
    """Choose a target and a rank: touched rows, parameters, the weight change, the change of the loss.

    Args:
        targets: the choices; those with a delta come first. rank: the rank of the training.
        losses: name → (studies,) loss in nats per report token with this change of the adapters, as
            `run.explore.adapter_losses` measures it; "as trained" is the one to compare with.
    """

    title = "Partial LoRA, target by target"
    explains = (
        "Orange rows: those that the target touches. ΔW = scale · B · A after training, one panel a matrix; "
        "at a smaller rank its best approximation. The loss says what the change is good for."
    )
    kind = "lora"

    def __init__(
        self, targets: Sequence[LoraTarget], rank: int = 8, losses: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.targets, self.rank, self.losses = list(targets), rank, dict(losses or {})
        self.ranks = sorted({rank, *(small for small in RANKS if small < rank)})

    def data(self, live: bool) -> dict[str, Any]:
        return {
            "targets": [self._target(target) for target in self.targets],
            "ranks": self.ranks,
            "loss": self._loss_rows(),
            "matters": MATTERS,
            "verdict": self.verdict(),
        }

    def _target(self, target: LoraTarget) -> dict[str, Any]:
        shown = np.linspace(0, len(target.weight) - 1, min(len(target.weight), _SHOWN)).round().astype(int)
        values = {
            "name": target.name,
            "blocks": target.blocks,
            "rows": target.rows,
            "shape": target.weight.shape,
            "weights": [target.parameters(rank) for rank in self.ranks],
        }
        if target.delta is None:
            return values
        maps = np.stack([pooled(target.change(rank)[shown]) for rank in self.ranks])  # (rank, n, rows, cols)
        packed, peaks = quantised(maps.reshape(len(self.ranks) * len(shown), -1))
        return values | {
            "matrices": [target.matrices[number] for number in shown],
            "grid": maps.shape[2:],
            "maps": packed,
            "peaks": peaks,
            "kept": [target.kept(rank) for rank in self.ranks],
            "moved": rounded(np.linalg.norm(target.delta) / np.linalg.norm(target.weight)),
        }

    def _loss_rows(self) -> list[dict[str, Any]]:
        """For each change of the adapters the mean change of the loss with its 95 % interval over studies."""
        rows, base = [], self.losses.get("as trained")
        for name, losses in self.losses.items():
            change = np.asarray(losses) - base
            half = 1.96 * change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else 0.0
            ends = rounded(np.array([change.mean(), change.mean() - half, change.mean() + half]))
            rows.append({"name": name, "loss": float(np.mean(losses)), "change": ends})
        return rows

    def verdict(self) -> str:
        """What the loss says about all adapters together, in words."""
        row = next((row for row in self._loss_rows() if row["name"] == "without any"), None)
        if row is None:
            return "The loss was not measured: it needs studies with reports."
        (change, low, high), studies = row["change"], len(self.losses["as trained"])
        told = f"Without its adapters the model's loss changes by {change:+.4f} nats per token"
        told += f" (95 % interval {low:+.4f} to {high:+.4f}, {studies} studies). "
        if abs(change) < MATTERS or low <= 0 <= high:
            return told + (
                "So they do nothing here. Adapters matter where the images differ from those that the "
                "encoder has seen; notebook 03 tunes them on such images."
            )
        return told + ("So they matter here." if change > 0 else "So they do harm here.")

    def figure(self) -> Picture:
        """ΔW of the targets that were trained."""
        maps, columns = {}, ()
        for target in self.targets:
            if target.delta is not None:
                values = self._target(target)
                shown = [target.matrices.index(name) for name in values["matrices"]]
                whole = np.abs(target.delta[shown])
                maps[f"{target.name}"], columns = list(pooled(whole)), values["matrices"]
        if not maps:
            return Picture((4, 0.3), alt="No adapter was trained in this run.")
        figure = map_grid(maps, "Size of ΔW after training", columns)
        figure.alt += f" {self.verdict()}"
        return figure

    def captions(self) -> Sequence[str]:
        """Cost of every target at the rank of the training, and the verdict of the loss."""
        costs = ", ".join(f"{target.name} {target.parameters(self.rank):,}" for target in self.targets)
        return [f"Weights at rank {self.rank}: {costs}.", self.verdict()]


def pooled(matrices: np.ndarray) -> np.ndarray:
    """(n, rows, columns) → root mean squares of at most 32 × 32 cells: single weights are only noise."""
    squares = np.square(matrices)
    for _ in range(2):  # rows, then columns: each time the last axis but one, which then becomes the last
        edges = np.linspace(0, squares.shape[1], min(squares.shape[1], _CELLS) + 1).astype(int)
        sums = np.add.reduceat(squares, edges[:-1], axis=1)
        squares = (sums / np.diff(edges)[:, None]).swapaxes(1, 2)
    return np.sqrt(squares)
