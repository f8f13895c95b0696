"""Lower half of the model picture: projector, language model, report (paper §3.4, §3.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emrrg_lib.interpret.picture_canvas import NOTE, Canvas
from emrrg_lib.interpret.style import (
    BLUE,
    BLUE_FILL,
    INK,
    MATCH_FILL,
    MUTED,
    ORANGE,
    ORANGE_FILL,
    PAPER,
    RULE,
    text_width,
)

if TYPE_CHECKING:
    from emrrg_lib.interpret.model_picture import ModelNumbers

TOP, HEIGHT = 304, 274
STACK = (352.0, 526.0)  # top and bottom of the decoder layers
STREAM, CROSS = 398.0, 504.0  # heights of the text stream and of the cross-attention branch


def draw_language(canvas: Canvas, numbers: ModelNumbers) -> None:
    """Draws the lower panels and the way from the encoder's output to the report."""
    _draw_projector(canvas, numbers)
    with canvas.part("llm", "hybrid", "gate"):
        canvas.panel(
            122, TOP, 596, HEIGHT, f"Language model with hybrid layers: {numbers.llm_name}", "§3.4"
        )
    _draw_stack(canvas, numbers)
    _draw_hybrid(canvas)
    _draw_gate(canvas)
    _draw_report(canvas)


def _draw_projector(canvas: Canvas, numbers: ModelNumbers) -> None:
    with canvas.part("projector"):
        canvas.arrow((885, 132), (896, 132), (896, 290), (58, 290), (58, 342), colour=BLUE)
        canvas.text(
            450, 290, f"visual tokens  {numbers.patches + 1} × {numbers.encoder_width}",
            colour=BLUE, bbox={"facecolor": canvas.colour(PAPER), "edgecolor": "none", "pad": 3}
        )
        canvas.box(12, 344, 92, 42, "projector", "trained", f"to width {numbers.llm_width}")
        canvas.arrow((58, 386), (58, 408))
        canvas.cells(52, 412, [(BLUE_FILL, BLUE)] * 7, side=12, gap=4, upright=True)
        canvas.text(88, 452, "V", 9.6, weight="bold")
        canvas.text(91, 476, f"{numbers.patches + 1} ×\n{numbers.llm_width}", colour=MUTED)
        canvas.arrow((58, 522), (58, 571), (266, 571), (266, 521), colour=BLUE)


def _draw_stack(canvas: Canvas, numbers: ModelNumbers) -> None:
    """The decoder layers as bars, the first one at the bottom, the hybrid ones in orange."""
    pitch = min(24.0, (STACK[1] - STACK[0]) / numbers.llm_depth)
    top = STACK[1] - pitch * numbers.llm_depth
    with canvas.part("llm", "hybrid"):
        labelled = STACK[1] + 99
        for layer in range(numbers.llm_depth):
            y = STACK[1] - (layer + 1) * pitch
            hybrid = layer in numbers.hybrid_layers
            fill, edge = (ORANGE_FILL, ORANGE) if hybrid else (BLUE_FILL, BLUE)
            canvas.rounded(160, y + 0.12 * pitch, 56, 0.76 * pitch, 1.5, fill, edge, 0.8, 3)
            if hybrid and labelled - y > 11:
                canvas.text(154, y + pitch / 2, str(layer), NOTE, ORANGE, ha="right")
                labelled = y
        if numbers.hybrid_layers:
            y = STACK[1] - (max(numbers.hybrid_layers) + 1) * pitch
            canvas.triangle(
                (216, y), (238, STACK[0]), (238, 562), (216, y + pitch), colour="#fdeedd"
            )
    with canvas.part("llm"):
        canvas.arrow((188, 538), (188, 529))
        canvas.box(142, 538, 92, 27, "prompt and\nreport so far", size=NOTE)
        canvas.arrow((188, top), (188, 338), (744, 338))
        canvas.box(560, 327, 62, 21, "LM head", "frozen")


def _draw_hybrid(canvas: Canvas) -> None:
    with canvas.part("hybrid", "gate"):
        canvas.rounded(238, STACK[0], 470, 210, 8, PAPER, ORANGE, 1.0, 1)
    with canvas.part("hybrid"):
        canvas.text(250, 366, "one hybrid layer", NOTE, ORANGE, ha="left", weight="bold")
        canvas.arrow((240, STREAM), (252, STREAM))
        canvas.box(254, STREAM - 14, 46, 28, "norm", "frozen")
        canvas.arrow((300, STREAM), (324, STREAM))
        canvas.box(326, STREAM - 18, 100, 36, "self-attention", "frozen")
        canvas.arrow((426, STREAM), (557, STREAM))
        canvas.text(444, STREAM - 9, "S", 9.6, weight="bold")
        canvas.operator(566, STREAM, "+")
        canvas.arrow((575, STREAM), (590, STREAM))
        canvas.box(592, STREAM - 14, 50, 28, "o_proj", "frozen")
        canvas.arrow((642, STREAM), (654, STREAM))
        canvas.box(656, STREAM - 14, 42, 28, "MLP", "frozen")
        canvas.arrow((376, STREAM + 18), (376, CROSS - 24))
        canvas.text(387, (STREAM + CROSS) / 2 - 2, "Q", 9.6, weight="bold")
        canvas.box(244, CROSS - 14, 46, 28, "norm", "frozen")
        canvas.arrow((290, CROSS), (324, CROSS), colour=BLUE)
        canvas.box(326, CROSS - 22, 100, 44, "cross-attention", "trained", "$W_k V,\\;W_v V$")
        canvas.arrow((426, CROSS), (491, CROSS))
        canvas.text(446, CROSS - 10, "X′", 9.6, weight="bold")
        canvas.text(
            472, 547, r"$S \leftarrow S + X' \cdot \tanh(w_g \cdot S + b_g) \cdot \tanh(\alpha)$",
            9.4
        )
        canvas.text(700, 547, "Eq. 1, 2", NOTE, MUTED, ha="right")


def _draw_gate(canvas: Canvas) -> None:
    with canvas.part("gate"):
        canvas.arrow((500, STREAM), (500, 430))
        canvas.box(450, 432, 100, 30, r"tanh($w_g \cdot S + b_g$)", "trained")
        canvas.arrow((500, 462), (500, CROSS - 9))
        canvas.operator(500, CROSS, "×")
        canvas.arrow((509, CROSS), (557, CROSS))
        canvas.operator(566, CROSS, "×")
        canvas.box(612, CROSS - 17, 82, 34, r"tanh($\alpha$)", "trained", r"$\alpha$ starts at 0")
        canvas.arrow((612, CROSS), (575, CROSS))
        canvas.arrow((566, CROSS - 9), (566, STREAM + 9))
        canvas.text(577, 447, "gate: one value per\ntoken and layer", NOTE, MUTED, ha="left")


def _draw_report(canvas: Canvas) -> None:
    lines = (
        "The heart is mildly", "enlarged. There is a", "small right pleural", "effusion. No",
        "pneumothorax."
    )
    with canvas.part("report"):
        canvas.panel(732, TOP, 160, HEIGHT, "Report", "§3.5")
        canvas.rounded(746, 332, 132, 112, 6, PAPER, RULE, 1.0, 2)
        for row, words in ((2, lines[2]), (3, "effusion")):
            canvas.rounded(
                754, 340 + 19 * row, text_width(words, 8.2) / 0.72 + 4, 18, 2, MATCH_FILL,
                MATCH_FILL, 0, 3
            )
        for index, line in enumerate(lines):
            canvas.text(756, 349 + 19 * index, line, 8.2, ha="left")
        canvas.text(812, 464, "word by word,", NOTE, MUTED)
        canvas.text(812, 478, "by beam search", NOTE, MUTED)
        canvas.text(812, 512, "training loss", NOTE, INK, weight="bold")
        canvas.text(812, 540, r"$-\sum_i \log p(y_i \mid \mathrm{prompt}, y_{<i})$", 8.2)
