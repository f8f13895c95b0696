"""The parts of the figures, placed in inches: one X-ray, one gate strip, one marked text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import FancyBboxPatch, Rectangle

from emrrg_lib.interpret.style import (
    HEAT,
    INK,
    MATCH_FILL,
    MUTED,
    OUTLINE,
    RULE,
    SIGNED,
    Picture,
    grey_image,
    heat_rgba,
    text_width,
    wrap_words,
)
from emrrg_lib.trace import Trace, Word

GATE_ROW, GATE_GAP = 0.24, 0.1  # inches: one layer's row, air between lines
GATE_TYPE = 7.5  # font size of the words
GATE_LEFT, GATE_RIGHT = 1.25, 0.75  # inches: layer names, colour bar
GATE_CELL = 0.185  # inches: narrowest token that still leaves room for a slanted word
LINE = 1.42  # line height of text in font sizes


def inch_axes(figure: Picture, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in inches from the upper left corner of the figure."""
    full_width, full_height = figure.get_size_inches()
    bottom = full_height - top - height
    place = (left / full_width, bottom / full_height, width / full_width, height / full_height)
    return figure.add_axes(place)


def inch_text(
    figure: Picture,
    left: float,
    top: float,
    text: str,
    size: float,
    colour: str = INK,
    weight: str = "normal",
) -> None:
    """Text whose base line starts at a place in inches from the upper left corner of the figure."""
    width, height = figure.get_size_inches()
    figure.text(
        left / width, 1 - top / height, text, fontsize=size, color=colour, weight=weight, parse_math=False
    )


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
    smooth: bool = True,
) -> None:
    """One X-ray, the (rows, cols) attention of one word over it, the finding's mask as outline."""
    height, width = draw_xray(axes, image, title)
    layer = heat_rgba(weights, peak, (4 * height, 4 * width), smooth)
    axes.imshow(layer, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear")
    if mask is not None and np.any(mask):
        rows, cols = np.shape(mask)
        x = (np.arange(cols) + 0.5) * width / cols - 0.5
        y = (np.arange(rows) + 0.5) * height / rows - 0.5
        axes.contour(x, y, np.asarray(mask, dtype=float), levels=[0.5], colors=OUTLINE, linewidths=1.2)


def colour_bar(figure: Picture, axes: Axes, low: float, high: float, label: str, signed: bool) -> None:
    """A slim upright colour bar with three ticks in `axes`."""
    mappable = ScalarMappable(Normalize(low, high), SIGNED if signed else HEAT)
    bar = figure.colorbar(mappable, cax=axes, ticks=[low, (low + high) / 2, high])
    bar.ax.set_yticklabels([_number(value, signed) for value in (low, (low + high) / 2, high)])
    bar.ax.tick_params(labelsize=7.5, length=2, color=MUTED, labelcolor=INK)
    bar.outline.set_edgecolor(RULE)
    bar.set_label(label, fontsize=7.5, color=MUTED)


def _number(value: float, signed: bool) -> str:
    if value == 0:
        return "0"
    return f"{value:+.2f}" if signed else f"{value:.2g}"


def gate_lines(trace: Trace, width: float) -> list[list[Word]]:
    """Breaks the report into equally long lines that fit `width` inches, never inside a word."""
    words = trace.words()
    room = max(8, int((width - GATE_LEFT - GATE_RIGHT) / GATE_CELL))
    fewest = max(1, math.ceil(len(trace.tokens) / room))
    even = math.ceil(len(trace.tokens) / fewest)
    lines: list[list[Word]] = []
    for word in words:
        first = lines[-1][0].start if lines else 0
        if not lines or word.start - first >= even or word.stop - first > room:
            lines.append([])
        lines[-1].append(word)
    return lines


def gate_height(trace: Trace, width: float) -> float:
    """Inches that `draw_gate` needs."""
    lines = max(1, len(gate_lines(trace, width)))
    line = GATE_ROW * max(1, len(trace.layer_ids)) + _words_height(trace)
    return lines * (line + GATE_GAP) - GATE_GAP


def _words_height(trace: Trace) -> float:
    """Inches that the longest word takes, written at 60 degrees."""
    longest = max((text_width(word.text, GATE_TYPE) for word in trace.words()), default=0.0)
    return (longest * 0.87 + 12) / 72


def draw_gate(
    figure: Picture, trace: Trace, left: float, top: float, width: float, peak: float = 0.0
) -> None:
    """Draws the layers × tokens heat map of the gate, its words under it, and one colour bar.

    The bar ends at the widest gate, or at `peak` where that is more.
    """
    lines = gate_lines(trace, width)
    peak = max(float(np.abs(trace.gate).max(initial=0.0)), peak, 1e-6)
    room = max((line[-1].stop - line[0].start for line in lines), default=1)
    cell = min((width - GATE_LEFT - GATE_RIGHT) / room, 0.42)
    body = GATE_ROW * max(1, len(trace.layer_ids))
    for number, line in enumerate(lines):
        tokens = line[-1].stop - line[0].start
        line_top = top + number * (body + _words_height(trace) + GATE_GAP)
        axes = inch_axes(figure, left + GATE_LEFT, line_top, cell * tokens, body)
        _draw_gate_line(axes, trace, line, peak)
    bar = inch_axes(figure, left + width - GATE_RIGHT + 0.15, top, 0.1, body)
    colour_bar(figure, bar, -peak, peak, "gate", signed=True)


def _draw_gate_line(axes: Axes, trace: Trace, line: list[Word], peak: float) -> None:
    start, stop = line[0].start, line[-1].stop
    layers = len(trace.layer_ids)
    axes.pcolormesh(
        np.arange(start, stop + 1),
        np.arange(layers + 1),
        trace.gate[:, start:stop],
        cmap=SIGNED,
        vmin=-peak,
        vmax=peak,
        edgecolors=RULE,
        linewidth=0.3,
    )
    axes.set_ylim(layers, 0)
    names = [
        f"layer {layer}   tanh α {warm_up:+.2f}"
        for layer, warm_up in zip(trace.layer_ids, trace.warm_up, strict=True)
    ]
    axes.set_yticks(np.arange(layers) + 0.5, names, fontsize=7.5, color=INK)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color(RULE)
    below = axes.get_xaxis_transform()
    for word in line:
        centre = (word.start + word.stop) / 2
        if word.stop - word.start > 1:  # a bracket under the tokens that spell one word
            axes.plot(
                [word.start + 0.15, word.stop - 0.15],
                [-0.05, -0.05],
                transform=below,
                color=MUTED,
                linewidth=0.9,
                clip_on=False,
            )
        axes.annotate(
            word.text,
            (centre, 0),
            xycoords=below,
            xytext=(2, -6),
            textcoords="offset points",
            rotation=60,
            rotation_mode="anchor",
            ha="right",
            va="center",
            fontsize=GATE_TYPE,
            color=INK,
            parse_math=False,
        )


def text_height(text: str, size: float, width: float) -> float:
    """Inches that `draw_marked_text` needs for the words of `text` alone."""
    lines = wrap_words(text.split(), size, width * 72)
    return len(lines) * size * LINE / 72


def draw_marked_text(
    axes: Axes, text: str, spans: Sequence[tuple[int, int]], size: float, width: float
) -> None:
    """Writes `text` wrapped to `width` inches, with the character spans [start, stop) marked.

    The axes must be `width` inches wide and have their data limits in points, origin at the upper
    left.
    """
    found = list(re.finditer(r"\S+", text))
    words, starts = [word.group() for word in found], [word.start() for word in found]
    y = 0.0
    for line in wrap_words(words, size, width * 72):
        x = 0.0
        for index in line:
            word, start = words[index], starts[index]
            step = text_width(word, size) + text_width(" ", size)
            for low, high in _marked_part(start, len(word), spans):
                goes_on = _goes_on(start, len(word), high, spans) and index != line[-1]
                left = x + text_width(word[:low], size)
                right = x + (step if goes_on else text_width(word[:high], size))
                corner, wide = (left - 0.6, y), right - left + 1.2
                axes.add_patch(Rectangle(corner, wide, size * 1.22, color=MATCH_FILL, linewidth=0))
            axes.text(
                x, y + size * 0.98, word, fontsize=size, color=INK, va="baseline", parse_math=False, zorder=3
            )
            x += step
        y += size * LINE


def _marked_part(start: int, length: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of the word at `start` inside a span, counted from the word's first letter."""
    parts = [(max(low - start, 0), min(high - start, length)) for low, high in spans]
    return [(low, high) for low, high in parts if low < high]


def _goes_on(start: int, length: int, high: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether the mark that ends at letter `high` of this word runs on into the space after it."""
    return high == length and any(low < start + length < stop for low, stop in spans)


def text_card(figure: Picture, left: float, top: float, width: float, height: float, title: str) -> Axes:
    """A card with a title; returns axes for its body in points, origin at the upper left."""
    frame = inch_axes(figure, left, top, width, height)
    frame.set_axis_off()
    frame.set(xlim=(0, width), ylim=(height, 0))
    frame.add_patch(
        FancyBboxPatch(
            (0.03, 0.03),
            width - 0.06,
            height - 0.06,
            boxstyle="round,pad=0,rounding_size=0.07",
            facecolor="#f7f9fb",
            edgecolor=RULE,
            linewidth=0.9,
        )
    )
    frame.text(0.14, 0.22, title, fontsize=8, color=MUTED, weight="bold", va="baseline", parse_math=False)
    body = inch_axes(figure, left + 0.14, top + 0.32, width - 0.28, height - 0.42)
    body.set_axis_off()
    body.set(xlim=(0, (width - 0.28) * 72), ylim=((height - 0.42) * 72, 0))
    return body
