"""The parts of the figures, placed in inches: one X-ray, one gate strip, one card with a marked text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from emrrg_lib.interpret.style import (
    HEAT,
    INK,
    MATCH_FILL,
    MUTED,
    OUTLINE,
    RULE,
    SIGNED,
    grey_image,
    heat_rgba,
    text_width,
)
from emrrg_lib.trace import Trace, Word

GATE_ROW, GATE_GAP = 0.24, 0.1  # inches: one layer's row, air between lines
GATE_TYPE = 7.5  # font size of the words
GATE_LEFT, GATE_RIGHT = 1.25, 0.75  # inches: layer names, colour bar
GATE_CELL = 0.185  # inches: narrowest token that still leaves room for a slanted word
HEAT_SIDE = 400  # pixels of the layer over an X-ray at most
LINE = 1.42  # line height of text in font sizes
CARD_LEFT, CARD_TOP, CARD_REST = 0.14, 0.32, 0.5  # inches: margin of a card's text, height to it, around it


def inch_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in inches from the upper left corner of the figure."""
    full_width, full_height = figure.get_size_inches()
    bottom = full_height - top - height
    place = (left / full_width, bottom / full_height, width / full_width, height / full_height)
    return figure.add_axes(place)


def inch_text(
    figure: Figure, left: float, top: float, text: str, size: float, colour: str = INK, weight: str = "normal"
) -> None:
    """Text whose base line starts at a place in inches from the upper left corner of the figure."""
    width, height = figure.get_size_inches()
    look = {"fontsize": size, "color": colour, "weight": weight, "parse_math": False}
    figure.text(left / width, 1 - top / height, text, **look)


def plain_axes(axes: Axes, size: float = 8) -> None:
    """A pale grid behind the data, labels without ticks, and only the left and the lower edge."""
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=size, colors=INK, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)


def label_axes(axes: Axes, x: str, y: str, columns: int = 1) -> None:
    """Names of the axes and a legend of so many columns without a frame, on `plain_axes`."""
    axes.set_xlabel(x, fontsize=8.5, color=INK)
    axes.set_ylabel(y, fontsize=8.5, color=INK)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=columns)
    plain_axes(axes)


def draw_xray(axes: Axes, image: np.ndarray, title: str = "") -> tuple[int, int]:
    """One X-ray in grey without ticks; returns its (height, width) in pixels."""
    grey = grey_image(image)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=8.5, color=INK, pad=4)
    return grey.shape


def draw_overlay(
    axes: Axes,
    image: np.ndarray,
    weights: np.ndarray,
    peak: float,
    title: str = "",
    mask: np.ndarray | None = None,
) -> None:
    """One X-ray, the (rows, cols) attention of one word over it, the finding's mask as outline."""
    height, width = draw_xray(axes, image, title)
    layer = heat_rgba(weights, peak, (min(4 * height, HEAT_SIDE), min(4 * width, HEAT_SIDE)))
    axes.imshow(layer, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear")
    if mask is not None and np.any(mask):
        rows, cols = np.shape(mask)
        x = (np.arange(cols) + 0.5) * width / cols - 0.5
        y = (np.arange(rows) + 0.5) * height / rows - 0.5
        axes.contour(x, y, np.asarray(mask, dtype=float), levels=[0.5], colors=OUTLINE, linewidths=1.2)


def colour_bar(axes: Axes, peak: float, label: str, signed: bool = False) -> None:
    """A slim upright colour bar with three ticks in `axes`, from 0 or, signed, from -peak."""
    low = -peak if signed else 0.0
    ticks = [low, (low + peak) / 2, peak]
    mappable = ScalarMappable(Normalize(low, peak), SIGNED if signed else HEAT)
    bar = axes.figure.colorbar(mappable, cax=axes)
    bar.set_ticks(ticks, labels=[f"{tick:{'+.2f' if signed else '.2g'}}" if tick else "0" for tick in ticks])
    bar.ax.tick_params(labelsize=7.5, length=2, color=MUTED, labelcolor=INK)
    bar.outline.set_edgecolor(RULE)
    bar.set_label(label, fontsize=7.5, color=MUTED)


def gate_lines(trace: Trace, width: float) -> list[list[Word]]:
    """Breaks the report into equally long lines that fit `width` inches, never inside a word."""
    room = max(8, int((width - GATE_LEFT - GATE_RIGHT) / GATE_CELL))
    fewest = max(1, math.ceil(len(trace.tokens) / room))
    even = math.ceil(len(trace.tokens) / fewest)
    lines: list[list[Word]] = []
    for word in trace.words():
        first = lines[-1][0].start if lines else 0
        if not lines or word.start - first >= even or word.stop - first > room:
            lines.append([])
        lines[-1].append(word)
    return lines


def _gate_line_height(trace: Trace) -> float:
    """Inches of one line: a row per layer, the longest word at 60 degrees, and the air below."""
    longest = max((text_width(word.text, GATE_TYPE) for word in trace.words()), default=0.0)
    return GATE_ROW * max(1, len(trace.layer_ids)) + (longest * 0.87 + 12) / 72 + GATE_GAP


def gate_height(trace: Trace, width: float) -> float:
    """Inches that `draw_gate` needs."""
    return max(1, len(gate_lines(trace, width))) * _gate_line_height(trace) - GATE_GAP


def draw_gate(figure: Figure, trace: Trace, left: float, top: float, width: float) -> None:
    """Draws the layers × tokens heat map of the gate, its words under it, and one colour bar."""
    lines = gate_lines(trace, width)
    peak = max(float(np.abs(trace.gate).max(initial=0.0)), 1e-6)
    room = max((line[-1].stop - line[0].start for line in lines), default=1)
    cell = min((width - GATE_LEFT - GATE_RIGHT) / room, 0.42)
    body = GATE_ROW * max(1, len(trace.layer_ids))
    for number, line in enumerate(lines):
        corner = left + GATE_LEFT, top + number * _gate_line_height(trace)
        axes = inch_axes(figure, *corner, cell * (line[-1].stop - line[0].start), body)
        _draw_gate_line(axes, trace, line, peak)
    bar = inch_axes(figure, left + width - GATE_RIGHT + 0.15, top, 0.1, body)
    colour_bar(bar, peak, "gate", signed=True)


def _draw_gate_line(axes: Axes, trace: Trace, line: list[Word], peak: float) -> None:
    start, stop, layers = line[0].start, line[-1].stop, len(trace.layer_ids)
    cells = {"cmap": SIGNED, "vmin": -peak, "vmax": peak, "edgecolors": RULE, "linewidth": 0.3}
    axes.pcolormesh(np.arange(start, stop + 1), np.arange(layers + 1), trace.gate[:, start:stop], **cells)
    names = [
        f"layer {layer}   tanh α {warm_up:+.2f}"
        for layer, warm_up in zip(trace.layer_ids, trace.warm_up, strict=True)
    ]
    axes.set(ylim=(layers, 0), xticks=[])
    axes.set_yticks(np.arange(layers) + 0.5, names, fontsize=7.5, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_color(RULE)
    below = axes.get_xaxis_transform()
    slanted = {"rotation": 60, "rotation_mode": "anchor", "ha": "right", "va": "center", "parse_math": False}
    for word in line:
        if word.stop - word.start > 1:  # a bracket under the tokens that spell one word
            bracket = [word.start + 0.15, word.stop - 0.15], [-0.05, -0.05]
            axes.plot(*bracket, transform=below, color=MUTED, linewidth=0.9, clip_on=False)
        axes.annotate(
            word.text,
            ((word.start + word.stop) / 2, 0),
            xycoords=below,
            xytext=(2, -6),
            textcoords="offset points",
            fontsize=GATE_TYPE,
            color=INK,
            **slanted,
        )


Span = tuple[int, int] | tuple[int, int, str]  # start, stop, colour (MATCH_FILL)


def card_height(text: str, size: float, width: float) -> float:
    """Inches that `draw_card` needs."""
    return len(_lines(text, size, width)) * size * LINE / 72 + CARD_REST


def draw_card(
    figure: Figure,
    corner: tuple[float, float],
    width: float,
    title: str,
    text: str,
    spans: Sequence[Span],
    size: float,
) -> None:
    """A card with a title and a text, wrapped, whose character spans (start, stop, colour) are marked.

    Args:
        figure: to draw in. corner: left and top in inches. width: in inches, see `card_height`.
        title, text, spans: the content of the card. size: font size of the text in points.
    """
    height = card_height(text, size, width)
    axes = inch_axes(figure, *corner, width, height)
    axes.set_axis_off()
    axes.set(xlim=(0, width * 72), ylim=(height * 72, 0))  # in points from the upper left corner
    style = {"boxstyle": "round,pad=0,rounding_size=5", "facecolor": "#f7f9fb", "edgecolor": RULE}
    axes.add_patch(FancyBboxPatch((2.2, 2.2), width * 72 - 4.4, height * 72 - 4.4, linewidth=0.9, **style))
    left, top, plain = CARD_LEFT * 72, CARD_TOP * 72, {"va": "baseline", "parse_math": False}
    axes.text(left, 15.8, title, fontsize=8, color=MUTED, weight="bold", **plain)
    for number, (start, stop) in enumerate(_lines(text, size, width)):
        y = top + number * size * LINE
        for low, high, *colour in spans:
            if (low := max(low, start)) < (high := min(high, stop)):
                x, end = (left + text_width(text[start:place], size) for place in (low, high))
                mark = Rectangle(
                    (x - 0.6, y), end - x + 1.2, size * 1.22, color=(*colour, MATCH_FILL)[0], linewidth=0
                )
                axes.add_patch(mark)
        for word in re.finditer(r"\S+", text[start:stop]):  # word by word: no drift against the marks
            x = left + text_width(text[start : start + word.start()], size)
            axes.text(x, y + size * 0.98, word.group(), fontsize=size, color=INK, zorder=3, **plain)


def _lines(text: str, size: float, width: float) -> list[tuple[int, int]]:
    """The character spans of the lines of a card `width` inches wide; they break between words."""
    lines: list[tuple[int, int]] = []
    for word in re.finditer(r"\S+", text):
        start = lines[-1][0] if lines else 0
        if lines and text_width(text[start : word.end()], size) <= (width - 2 * CARD_LEFT) * 72:
            lines[-1] = (start, word.end())
        else:
            lines.append(word.span())
    return lines
