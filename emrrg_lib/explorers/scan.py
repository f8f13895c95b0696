"""Scan: four paths over the grid, the memory of the state, the share of each direction (paper §3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes

from emrrg_lib.explorers.base import Choice, Explorer, packed, quantised
from emrrg_lib.interpret import panels
from emrrg_lib.interpret.figures import WIDTH
from emrrg_lib.interpret.figures_vision import DIRECTION_NAMES
from emrrg_lib.interpret.page_example import xray_picture
from emrrg_lib.interpret.panels import inch_axes, inch_text
from emrrg_lib.interpret.style import INK, MUTED, OUTLINE, PAPER, Picture


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
    """Walk a scan step by step and see what its state holds; drop a direction, see the output change.

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
        "Left: the path of one scan; the warmer a patch, the more of it the state still holds. "
        "Right: the size of the block's output, or how it changes when a direction is dropped."
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
        size = np.sqrt(np.mean(np.square(full), axis=1))
        change = np.sqrt(np.mean(np.square(without - full), axis=2))
        self.maps = np.concatenate([size[None], change])[:, self.patches]  # (1 + G, M)
        self.share = np.linalg.norm(without - full, axis=(1, 2)) / np.linalg.norm(full)

    def choices(self) -> list[Choice]:
        steps = [str(step + 1) for step in range(self.orders.shape[1])]
        return [
            Choice("direction", "Direction", self.names),
            Choice("step", "Step", steps, len(steps) // 3, slider=True),
            Choice("drop", "Drop", ["no direction", *self.names]),
        ]

    def extras(self, controls: dict[str, widgets.Widget]) -> Sequence[widgets.Widget]:
        """A play button that walks the steps."""
        play = widgets.Play(max=len(controls["step"].options) - 1, value=controls["step"].value, interval=700)
        play.observe(lambda change: controls["step"].set_trait("value", change["new"]), "value")
        controls["step"].observe(lambda change: play.set_trait("value", change["new"]), "value")
        return [widgets.HBox([widgets.Label("Walk:"), play])]

    def held(self, direction: int, step: int) -> np.ndarray:
        """(rows, cols): the amount of each patch in the state after a step (from 0)."""
        tokens = np.zeros(self.orders.shape[1])
        tokens[self.orders[direction]] = self.memory[direction, step]
        return tokens[self.patches].reshape(self.grid)

    def draw(self, direction: int, step: int, drop: int) -> Picture:
        side = 3.4
        figure = Picture((2 * side + 1.4, side + 0.75))
        self.draw_path(inch_axes(figure, 0.1, 0.4, side, side), direction, step)
        inch_text(figure, 0.1, 0.24, f"{self.names[direction]} · step {step + 1}", 9.5)
        axes, peak = inch_axes(figure, side + 0.4, 0.4, side, side), float(self.maps[drop].max())
        panels.draw_overlay(axes, self.image, self.maps[drop].reshape(self.grid), peak, smooth=False)
        inch_text(figure, side + 0.4, 0.24, self._effect(drop), 9.5)
        bar = inch_axes(figure, 2 * side + 0.55, 0.4 + side * 0.1, 0.12, side * 0.8)
        panels.colour_bar(bar, peak, "root mean square of a token")
        figure.alt = f"{self.read_step(direction, step)} {self._effect(drop)}."
        return figure

    def draw_path(self, axes: Axes, direction: int, step: int) -> None:
        """The X-ray, the amount of each patch in the state, and the path up to the step."""
        held = self.held(direction, step)
        panels.draw_overlay(axes, self.image, held, float(held.max()), smooth=False)
        height, width = np.shape(axes.images[0].get_array())[:2]
        seen = [token for token in self.orders[direction, : step + 1] if token in self.patches]
        row, col = np.divmod(np.searchsorted(self.patches, seen), self.grid[1])
        x, y = (col + 0.5) * width / self.grid[1] - 0.5, (row + 0.5) * height / self.grid[0] - 0.5
        axes.plot(x, y, color=PAPER, linewidth=1.3, alpha=0.9)
        axes.plot(x, y, color=INK, linewidth=0.6)
        axes.plot(x[-1:], y[-1:], "o", markersize=7, color=OUTLINE, markeredgecolor=INK)

    def read_step(self, direction: int, step: int) -> str:
        """One step in words."""
        token, last = self.orders[direction, step], self.memory[direction, step]
        row, col = divmod(int(np.searchsorted(self.patches, token)), self.grid[1])
        place = f"row {row + 1}, column {col + 1}" if token in self.patches else "the cls token"
        recent = last[max(0, step - self.grid[1] + 1) : step + 1].sum() / max(last.sum(), 1e-12)
        return (
            f"Direction {self.names[direction]}, step {step + 1} of {len(last)}: {place}. The last "
            f"{min(step + 1, self.grid[1])} tokens make {recent:.0%} of what the state holds."
        )

    def _effect(self, drop: int) -> str:
        if not drop:
            return "Output of the block, all directions"
        return f"Without {self.names[drop - 1]}: the output changes by {self.share[drop - 1]:.0%}"

    def figure(self) -> Picture:
        """Every direction at two steps, and the change of the block's output without it."""
        G, L = self.orders.shape
        side, steps = (WIDTH - 0.2) / G - 0.08, (L // 3, L - 1)
        figure = Picture((WIDTH, 0.1 + 3 * (side + 0.3)))
        peak, in_words = float(self.maps[1:].max()), []
        for direction in range(G):
            left = 0.1 + direction * (side + 0.08)
            for place, step in enumerate(steps):
                top = 0.1 + place * (side + 0.3)
                inch_text(figure, left, top + 0.17, f"{self.names[direction]}, step {step + 1}", 8.5)
                self.draw_path(inch_axes(figure, left, top + 0.25, side, side), direction, step)
            top = 0.1 + len(steps) * (side + 0.3)
            effect = f"dropped: output changes by {self.share[direction]:.0%}"
            inch_text(figure, left, top + 0.17, effect, 8.5, MUTED)
            axes, change = inch_axes(figure, left, top + 0.25, side, side), self.maps[1 + direction]
            panels.draw_overlay(axes, self.image, change.reshape(self.grid), peak, smooth=False)
            in_words.append(f"{self.read_step(direction, steps[0])} {self._effect(direction + 1)}.")
        figure.alt = " ".join(in_words)
        return figure

    def page(self) -> dict[str, Any]:
        memory, _ = quantised(self.memory.reshape(-1, self.memory.shape[-1]))
        maps, _ = quantised(self.maps)
        G, L = self.orders.shape
        return {
            "grid": self.grid,
            "orders": self.orders.tolist(),
            "patches": self.patches.tolist(),
            "view": xray_picture(self.image, "", "X-ray"),
            "memory": packed(memory),
            "maps": packed(maps),
            "effects": [self._effect(drop) for drop in range(G + 1)],
            "told": [[self.read_step(direction, step) for step in range(L)] for direction in range(G)],
        }
