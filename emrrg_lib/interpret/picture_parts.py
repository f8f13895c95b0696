"""The parts of the model picture that depend on the model's numbers: X-ray, patches, layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emrrg_lib.interpret.picture_canvas import FILLS, Canvas
from emrrg_lib.interpret.style import ORANGE

if TYPE_CHECKING:
    from emrrg_lib.interpret.model_picture import ModelNumbers

_SKETCH = 96  # pixels of the sketched X-ray


def draw_xray(canvas: Canvas, numbers: ModelNumbers, x: float, y: float, side: float) -> None:
    """A sketched X-ray."""
    canvas.image(chest_sketch(_SKETCH), x, y, side)


def draw_patches(canvas: Canvas, numbers: ModelNumbers, x: float, y: float, side: float) -> None:
    """The sketched X-ray, cut into the model's patches by white gaps."""
    cell = max(4, 288 // numbers.side)
    index = (np.arange(numbers.side * cell) * _SKETCH) // (numbers.side * cell)
    large = chest_sketch(_SKETCH)[np.ix_(index, index)]
    gap = np.arange(numbers.side * cell) % cell == 0
    large[gap, :], large[:, gap] = 1.0, 1.0
    canvas.image(large, x, y, side)


def draw_stack(
    canvas: Canvas, numbers: ModelNumbers, x: float, y: float, width: float, height: float
) -> None:
    """The decoder layers as bars, the first one at the bottom, the hybrid ones in orange.

    The arrow to the report starts at the top of the stack, the lens to the close-up at the last
    hybrid layer.
    """
    pitch, bottom = min(24.0, height / numbers.llm_depth), y + height
    labelled = bottom + 99
    for layer in range(numbers.llm_depth):
        top = bottom - (layer + 1) * pitch
        hybrid = layer in numbers.hybrid_layers
        fill, edge = FILLS["trained" if hybrid else "frozen"]
        canvas.rounded(x, top + 0.12 * pitch, width, 0.76 * pitch, 1.5, fill, edge, 0.8, 3)
        if hybrid and labelled - top > 11:
            canvas.text(x - 6, top + pitch / 2, str(layer), colour=ORANGE, ha="right")
            labelled = top
    if numbers.hybrid_layers:
        top = bottom - (max(numbers.hybrid_layers) + 1) * pitch
        right = x + width
        canvas.triangle(
            (right, top), (right + 22, y), (right + 22, bottom + 36), (right, top + pitch), colour="#fdeedd"
        )
    with canvas.part("llm"):
        middle = x + width / 2
        canvas.arrow((middle, bottom - pitch * numbers.llm_depth), (middle, y - 14), (744, y - 14))


def chest_sketch(side: int) -> np.ndarray:
    """(side, side) floats in 0 to 1: a chest X-ray as a child would draw it, for pictures only."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]

    def blob(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
        return 1 / (1 + np.exp(8 * (radius - 1)))

    body = np.maximum(blob(0, 0.35, 0.92, 1.15), blob(0, -0.95, 0.3, 0.5))
    lungs = np.clip(blob(-0.45, 0.0, 0.34, 0.68) + blob(0.45, 0.0, 0.34, 0.68), 0, 1)
    dome = 0.32 + 0.25 * np.cos(3.2 * (np.abs(x) - 0.4))
    lungs = lungs / (1 + np.exp(45 * (y - dome)))
    ribs = 0.5 + 0.5 * np.cos(22 * (y - 0.45 * np.abs(x) ** 1.6))
    tissue = 0.72 * body - 0.5 * lungs + 0.09 * ribs * lungs
    bone = 0.22 * np.exp(-((x / 0.09) ** 2)) * body
    heart = 0.36 * blob(0.16, 0.3, 0.3, 0.32) * lungs
    return np.clip(tissue + bone + heart + 0.03, 0, 1)
