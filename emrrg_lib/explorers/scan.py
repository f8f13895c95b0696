"""Scan: four paths over the grid, the memory of the state, the share of each direction (paper §3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from emrrg_lib.explorers.base import XRAY_SIDE, Explorer, packed, rounded
from emrrg_lib.interpret.figures_vision import DIRECTION_NAMES, map_grid
from emrrg_lib.interpret.page_example import xray_picture
from emrrg_lib.interpret.style import Picture, grey_image


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
