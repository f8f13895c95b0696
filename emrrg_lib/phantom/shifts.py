"""Domain shifts: what another machine, or another hand, makes of the same films.

Tones change the grey values. Moves change places, so the masks move with the images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EDGE = 8  # pixels, the side of a block that is scrambled: the tiny encoder's patch


def _scrambled(images: np.ndarray) -> np.ndarray:
    """(…, H, W): the pixels of every block in one random order, the same for all blocks and images."""
    height, width = images.shape[-2:]
    order = np.random.default_rng(0).permutation(EDGE * EDGE)
    moved = images.copy()
    rows, columns = height // EDGE, width // EDGE  # what is left at the border stays
    inside = images[..., : rows * EDGE, : columns * EDGE]
    grid = inside.reshape(*images.shape[:-2], rows, EDGE, columns, EDGE).swapaxes(-3, -2)
    grid = grid.reshape(*grid.shape[:-2], -1)[..., order].reshape(grid.shape)
    moved[..., : rows * EDGE, : columns * EDGE] = grid.swapaxes(-3, -2).reshape(inside.shape)
    return moved


def _solarised(images: np.ndarray) -> np.ndarray:
    """Dark stays dark, middle grey becomes white, bright becomes dark again."""
    return np.where(images < 128, images * 2, 255 - (images.astype(int) - 128) * 2).astype(np.uint8)


def _coarse(images: np.ndarray, edge: int = 4) -> np.ndarray:
    """A detector with pixels `edge` times as wide: the mean of each block, at the old size."""
    height, width = images.shape[-2:]
    rows, columns = np.arange(0, height, edge), np.arange(0, width, edge)
    sums = np.add.reduceat(np.add.reduceat(images.astype(int), rows, -2), columns, -1)
    area = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    means = np.rint(sums / area).astype(np.uint8)
    return means.repeat(edge, -2)[..., :height, :].repeat(edge, -1)[..., :width]


def _exposed(images: np.ndarray) -> np.ndarray:
    """A film exposed too long: every tone darker, middle grey (128) becomes 56."""
    return np.rint(255 * (images / 255) ** 2.2).astype(np.uint8)


TONES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "inverted": lambda images: 255 - images,  # MONOCHROME1 read as MONOCHROME2
    "exposed": _exposed,
    "coarse": _coarse,
    "solarised": _solarised,
}
MOVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upside-down": lambda images: np.ascontiguousarray(images[..., ::-1, :]),
    "rotated": lambda images: np.rot90(images, axes=(-2, -1)).copy(),  # the cassette lay on its side
    "scrambled": _scrambled,
}
MIXED = ("inverted", "upside-down", "scrambled", "solarised")
SHIFTS = (*TONES, *MOVES, "mixed")


def shifted_arrays(
    images: np.ndarray, masks: list[np.ndarray], shift: str, index: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """One study's images and masks, each (views, H, W), under a shift.

    Args:
        shift: one of SHIFTS. index: the study's number; `mixed` takes the shifts of MIXED in turn.
    """
    name = MIXED[index % len(MIXED)] if shift == "mixed" else shift
    if name in TONES:
        return TONES[name](images), masks
    return MOVES[name](images), [MOVES[name](mask) for mask in masks]
