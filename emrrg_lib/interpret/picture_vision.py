"""Upper half of the model picture: image, patches, tokens, Mamba block (paper §3.2, §3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emrrg_lib.interpret.picture_canvas import LABEL, NOTE, Canvas
from emrrg_lib.interpret.style import BLUE, BLUE_FILL, GREEN, GREEN_FILL, MUTED, ORANGE, PURPLE

if TYPE_CHECKING:
    from emrrg_lib.interpret.model_picture import ModelNumbers

TOP, HEIGHT = 8, 268
MAIN = 132.0  # height of the block's main line


def draw_vision(canvas: Canvas, numbers: ModelNumbers) -> None:
    """Draws both upper panels and the way from image to encoder output."""
    with canvas.part("image", "patches", "tokens"):
        canvas.panel(8, TOP, 252, HEIGHT, "Input encoding", "§3.2")
    _draw_input(canvas, numbers)
    with canvas.part("mamba", "scan", "partial_lora"):
        canvas.panel(
            274, TOP, 618, HEIGHT, f"Vision Mamba encoder, {numbers.encoder_depth} blocks",
            "§3.2, §3.3"
        )
    _draw_block(canvas, numbers)
    _draw_scan(canvas)


def _draw_input(canvas: Canvas, numbers: ModelNumbers) -> None:
    picture = chest_sketch(96)
    with canvas.part("image"):
        canvas.image(picture, 20, 46, 88, 88)
        canvas.text(64, 150, f"{numbers.image_size} × {numbers.image_size} × 3", colour=MUTED)
    with canvas.part("patches"):
        canvas.arrow((111, 90), (129, 90))
        canvas.image(_cut(picture, numbers.side), 133, 40, 102, 102)
        patch = f"{numbers.patch_size} × {numbers.patch_size}"
        canvas.text(184, 152, f"{numbers.patches} patches of {patch}", colour=MUTED)
    with canvas.part("tokens"):
        canvas.arrow((184, 161), (184, 173))
        canvas.box(140, 175, 98, 26, "patch embed", "frozen")
        canvas.arrow((140, 188), (129, 188), (129, 211))
        token, cls = (BLUE_FILL, BLUE), (GREEN_FILL, GREEN)
        canvas.cells(24, 214, [token] * 6 + [cls] + [token] * 6, side=12, gap=4.4)
        canvas.text(129, 237, "cls in the middle", colour=GREEN)
        canvas.text(
            129, 256, f"{numbers.patches + 1} × {numbers.encoder_width}, position added",
            colour=MUTED
        )


def _draw_block(canvas: Canvas, numbers: ModelNumbers) -> None:
    with canvas.part("mamba"):
        canvas.arrow((236, 220), (267, 220), (267, MAIN), (287, MAIN))
        canvas.box(289, MAIN - 14, 44, 28, "norm", "frozen")
        canvas.arrow((333, MAIN), (348, MAIN))
        canvas.box(350, MAIN - 34, 68, 68, "in_proj", "frozen")
        for text, y in (("X rows", MAIN - 23), ("Z rows", MAIN + 23)):
            canvas.text(384, y, text, NOTE, MUTED)
        canvas.arrow((418, MAIN - 24), (432, MAIN - 24), (432, 88), (458, 88))
        canvas.arrow((418, MAIN + 24), (432, MAIN + 24), (432, 204), (458, 204))
        canvas.text(446, 77, "X", 9.6, weight="bold")
        canvas.text(446, 193, "Z", 9.6, weight="bold")
        canvas.box(460, 74, 56, 28, "conv 1d", "frozen")
        canvas.arrow((516, 88), (550, 88))
        canvas.arrow((488, 102), (488, 120))
        canvas.box(460, 122, 56, 36, "x_proj", "frozen", "dt B C")
        canvas.arrow((516, 140), (550, 140))
        canvas.box(460, 191, 56, 26, "SiLU")
        canvas.arrow((516, 204), (709, 204), (709, MAIN + 9))
        canvas.arrow((690, MAIN), (700, MAIN))
        canvas.operator(709, MAIN, "×")
        canvas.arrow((718, MAIN), (728, MAIN))
        canvas.box(730, MAIN - 14, 56, 28, "out_proj", "frozen")
        canvas.arrow((786, MAIN), (794, MAIN))
        canvas.operator(803, MAIN, "+")
        canvas.arrow((812, MAIN), (822, MAIN))
        canvas.box(824, MAIN - 14, 36, 28, "MLP", "frozen")
        canvas.arrow((860, MAIN), (867, MAIN))
        canvas.operator(876, MAIN, "+")
        canvas.arrow((278, MAIN), (278, 240), (803, 240), (803, MAIN + 9))
        canvas.arrow((817, MAIN), (817, 92), (876, 92), (876, MAIN - 9))
        canvas.text(583, 230, "residual", colour=MUTED)
        canvas.text(
            583, 259, "SiLU(Z) gates every direction; the mean of the four goes on", colour=MUTED
        )
    with canvas.part("partial_lora"):
        canvas.tag(372, 70, f"Partial LoRA  r {numbers.lora_rank}", 112)
        canvas.tag(372, 190, f"LoRA  r {numbers.lora_rank}", 76)
        canvas.arrow((372, 78), (372, MAIN - 35), colour=ORANGE)
        canvas.arrow((372, 182), (372, MAIN + 35), colour=ORANGE)
        canvas.text(372, 54, "on the X rows alone", NOTE, ORANGE)
        canvas.text(372, 207, "on all of in_proj", NOTE, ORANGE)


def _draw_scan(canvas: Canvas) -> None:
    names = (("rows →", (1, 0)), ("← rows", (-1, 0)), ("columns ↓", (0, 1)), ("columns ↑", (0, -1)))
    with canvas.part("scan"):
        canvas.box(552, 44, 138, 142, "")
        canvas.text(621, 57, "selective scan", LABEL)
        for index, (name, step) in enumerate(names):
            x, y = 567 + (index % 2) * 71, 69 + (index // 2) * 58
            _scan_path(canvas, x, y, 36, step)
            canvas.text(x + 18, y + 46, name, NOTE, MUTED)


def _scan_path(canvas: Canvas, x: float, y: float, side: float, step: tuple[int, int]) -> None:
    """Three parallel arrows over a small grid: the order in which one scan reads the patches."""
    canvas.cells(x, y, [("#ffffff", "#b9c2cc")], side=side)
    for lane in (0.2, 0.5, 0.8):
        along, across = (0.1, 0.9) if sum(step) > 0 else (0.9, 0.1), lane
        ends = (
            [(along[0], across), (along[1], across)]
            if step[0]
            else [(across, along[0]), (across, along[1])]
        )
        canvas.arrow(
            *((x + side * u, y + side * v) for u, v in ends), colour=PURPLE, width=1.1, order=6
        )


def _cut(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture as side × side patches with white gaps between them."""
    cell = max(4, 288 // side)
    index = (np.arange(side * cell) * picture.shape[0]) // (side * cell)
    large = picture[np.ix_(index, index)].copy()
    gap = np.arange(side * cell) % cell == 0
    large[gap, :], large[:, gap] = 1.0, 1.0
    return large


def chest_sketch(side: int) -> np.ndarray:
    """(side, side) floats in 0 to 1: a chest X-ray as a child would draw it, for pictures only."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]

    def blob(cx: float, cy: float, rx: float, ry: float, edge: float = 8.0) -> np.ndarray:
        radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
        return 1 / (1 + np.exp(edge * (radius - 1)))

    body = np.maximum(blob(0, 0.35, 0.92, 1.15), blob(0, -0.95, 0.3, 0.5))
    lungs = np.clip(blob(-0.45, 0.0, 0.34, 0.68) + blob(0.45, 0.0, 0.34, 0.68), 0, 1)
    dome = 0.32 + 0.25 * np.cos(3.2 * (np.abs(x) - 0.4))
    lungs = lungs / (1 + np.exp(45 * (y - dome)))
    ribs = 0.5 + 0.5 * np.cos(22 * (y - 0.45 * np.abs(x) ** 1.6))
    tissue = 0.72 * body - 0.5 * lungs + 0.09 * ribs * lungs
    bone = 0.22 * np.exp(-((x / 0.09) ** 2)) * body
    heart = 0.36 * blob(0.16, 0.3, 0.3, 0.32) * lungs
    return np.clip(tissue + bone + heart + 0.03, 0, 1)
