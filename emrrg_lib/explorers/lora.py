"""Partial LoRA: the rows that a target touches, the cost of a rank, the change by training (paper §3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from emrrg_lib.explorers.base import Choice, Explorer
from emrrg_lib.interpret import panels
from emrrg_lib.interpret.figures import WIDTH
from emrrg_lib.interpret.page_example import figure_picture
from emrrg_lib.interpret.panels import inch_axes, inch_text
from emrrg_lib.interpret.style import HEAT, INK, MUTED, ORANGE, ORANGE_FILL, PAPER, RULE, Picture

RANKS = (1, 2, 4, 8, 16, 32, 64)
_SHOWN, _CELLS = 8, 32  # matrices drawn side by side at most; cells along a side of one


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
    """Choose a target and a rank: touched rows, parameters, and the weight change after training.

    Args:
        targets: the choices; those with a delta come first. rank: the rank of the training.
    """

    title = "Partial LoRA, target by target"
    explains = (
        "Orange: the rows that the target touches. Beside it ΔW = scale · B · A after training, one "
        "panel a matrix; at a smaller rank, the best approximation of it."
    )
    kind = "pictures"

    def __init__(self, targets: Sequence[LoraTarget], rank: int = 8) -> None:
        self.targets, self.rank = list(targets), rank

    def choices(self) -> list[Choice]:
        nearest = int(np.argmin(np.abs(np.log2(RANKS) - np.log2(self.rank))))
        return [
            Choice("target", "Target", [target.name for target in self.targets]),
            Choice("rank", "Rank", [str(rank) for rank in RANKS], nearest, slider=True),
        ]

    def sentences(self, target: LoraTarget, rank: int) -> str:
        """Numbers of one choice, in words."""
        n, out, width = target.weight.shape
        low, high = target.rows
        cost = f"{n} · {rank} · ({width} + {high - low}) = {target.parameters(rank):,} weights"
        several = "matrix" if n == 1 else "matrices"
        rows = f"rows {low} to {high - 1} of {n} {several} of {out} × {width}"
        in_words = f"Target {target.name}: {rows}; rank {rank} costs {cost}. "
        if target.delta is None:
            return in_words + "No adapter of this target was trained in this run."
        size = np.linalg.norm(target.delta) / np.linalg.norm(target.weight)
        return in_words + (
            f"Training changed the matrices by {size:.1%} of their size; {target.kept(rank):.0%} "
            f"of that is left at rank {rank}."
        )

    def draw(self, target: int, rank: int) -> Picture:
        chosen, rank = self.targets[target], RANKS[rank]
        figure = Picture((WIDTH, 2.9), alt=self.sentences(chosen, rank))
        inch_text(figure, 0.15, 0.24, f"Target {chosen.name}", 10)
        draw_rows(inch_axes(figure, 0.5, 0.4, 1.1, 2.3), chosen)
        if chosen.delta is None:
            inch_text(figure, 2.2, 1.4, "No adapter of this target was trained in this run.", 10, MUTED)
        else:
            draw_change(figure, chosen, rank, 2.0, 0.4, 2.3)
        return figure

    def figure(self) -> Picture:
        """All targets with their cost, and the change of those that were trained."""
        trained = [target for target in self.targets if target.delta is not None]
        figure = Picture((WIDTH, 2.5 + 2.2 * len(trained)))
        wide = (WIDTH - 0.2) / len(self.targets)
        for place, target in enumerate(self.targets):
            left = 0.1 + place * wide
            inch_text(figure, left + 0.05, 0.24, target.name, 9, weight="bold")
            draw_rows(inch_axes(figure, left + 0.3, 0.4, wide - 0.4, 1.5), target)
            inch_text(figure, left + 0.05, 2.12, f"{target.parameters(self.rank):,}", 8.5)
        inch_text(figure, 0.15, 2.32, f"weights at rank {self.rank}", 8, MUTED)
        for place, target in enumerate(trained):
            top = 2.5 + 2.2 * place
            title = f"{target.name}: size of ΔW after training"
            inch_text(figure, 0.15, top + 0.2, title, 9, MUTED, weight="bold")
            draw_change(figure, target, self.rank, 0.4, top + 0.3, 1.6)
        figure.alt = " ".join(self.sentences(target, self.rank) for target in self.targets)
        return figure

    def page(self) -> dict[str, Any]:
        pictures, states = [], []
        for number, target in enumerate(self.targets):
            for place, rank in enumerate(RANKS):
                if target.delta is not None or place == 0:  # untrained: the picture is the same at every rank
                    pictures.append(figure_picture(self.draw(number, place)))
                states.append([len(pictures) - 1, self.sentences(target, rank)])
        return {"pictures": pictures, "states": states}


def draw_rows(axes: Axes, target: LoraTarget) -> None:
    """The matrix as a box with its named row blocks; touched rows are orange and hatched."""
    rows = target.weight.shape[1]
    axes.set(xlim=(0, 1), ylim=(rows, 0), xticks=[])
    low, high = target.rows
    hatched = {"facecolor": ORANGE_FILL, "edgecolor": ORANGE, "hatch": "///", "linewidth": 0}
    axes.add_patch(Rectangle((0, low), 1, high - low, **hatched))
    for name, (start, stop) in target.blocks.items():
        axes.axhline(stop, color=MUTED, linewidth=0.8)
        label = axes.text(0.5, (start + stop) / 2, name, ha="center", va="center", fontsize=8.5, color=INK)
        label.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 1.2, "alpha": 0.85})
    axes.set_yticks([low, high])
    axes.tick_params(labelsize=7, length=2, color=MUTED, labelcolor=INK)
    axes.spines[:].set_color(MUTED)


def draw_change(
    figure: Picture, target: LoraTarget, rank: int, left: float, top: float, height: float
) -> None:
    """The size of ΔW of up to eight matrices at a rank, with a colour bar; untouched rows stay white."""
    _, out, width = target.weight.shape
    shown = np.linspace(0, len(target.weight) - 1, min(len(target.weight), _SHOWN)).round().astype(int)
    change = pooled(target.change(rank)[shown])
    peak = max(float(pooled(target.change(max(RANKS))[shown]).max()), 1e-9)
    wide = (WIDTH - left - 0.95) / len(shown)
    for place, number in enumerate(shown):
        axes = inch_axes(figure, left + place * wide, top + 0.2, wide - 0.1, height - 0.2)
        rows = (0, width, *target.rows[::-1])
        axes.imshow(change[place], cmap=HEAT, vmin=0, vmax=peak, aspect="auto", extent=rows)
        axes.set(xlim=(0, width), ylim=(out, 0), xticks=[], yticks=[])
        axes.set_title(target.matrices[number], fontsize=7.5, color=INK, pad=3)
        axes.spines[:].set_color(RULE)
    bar = inch_axes(figure, WIDTH - 0.85, top + 0.2 + height * 0.1, 0.1, height * 0.7)
    panels.colour_bar(bar, peak, f"size of ΔW, rank {rank}")


def pooled(matrices: np.ndarray) -> np.ndarray:
    """(n, rows, columns) → root mean squares of at most 32 × 32 cells: single weights are only noise."""
    squares = np.square(matrices)
    for _ in range(2):  # rows, then columns: each time the last axis but one, which then becomes the last
        edges = np.linspace(0, squares.shape[1], min(squares.shape[1], _CELLS) + 1).astype(int)
        sums = np.add.reduceat(squares, edges[:-1], axis=1)
        squares = (sums / np.diff(edges)[:, None]).swapaxes(1, 2)
    return np.sqrt(squares)
