"""Figures of pre-training: clusters and their mask (stage 1), pictures side by side, a similarity matrix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emrrg_lib.interpret.panels import inch_axes
from emrrg_lib.interpret.style import INK, ORANGE, PAPER, Picture


def grey_pictures(
    pictures: Mapping[str, np.ndarray], alt: str, span: float | None = None, numbered: int = 0
) -> Picture:
    """Pictures (H, W) side by side in grey, each from its least to its largest value, or from -span to span.

    With `numbered` the first one carries a grid of so many numbered cells a side.
    """
    side = min(2.7, 9 / len(pictures) - 0.15)
    figure = Picture((len(pictures) * (side + 0.15) + 0.1, side + 0.45), alt=alt)
    low, high = (None, None) if span is None else (-span, span)
    for place, (title, values) in enumerate(pictures.items()):
        axes = inch_axes(figure, 0.1 + place * (side + 0.15), 0.35, side, side)
        grey = {} if place == 0 and numbered else {"vmin": low, "vmax": high}
        axes.imshow(values, cmap="gray", **grey)
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_axis_off()
        edge = len(values) / numbered if numbered and place == 0 else 0
        for number in range(numbered**2 if edge else 0):
            row, column = divmod(number, numbered)
            box = {"facecolor": INK, "pad": 2, "linewidth": 0}
            middle = ((column + 0.5) * edge, (row + 0.5) * edge)
            axes.text(*middle, str(number + 1), color=PAPER, fontsize=12, ha="center", va="center", bbox=box)
            for line in (axes.axhline, axes.axvline):
                line(row * edge - 0.5, color=PAPER, linewidth=1)
    return figure


def similarity_map(matrix: np.ndarray, border: int, title: str, alt: str) -> Picture:
    """Cosines (images, reports), dark where they fit, with lines after the first `border` ones."""
    figure = Picture((5.4, 4.4), alt=alt)
    axes = inch_axes(figure, 0.7, 0.35, 3.5, 3.5)
    shown = axes.imshow(matrix, cmap="Greys")
    for line in (axes.axhline, axes.axvline):
        line(border - 0.5, color=ORANGE)
    axes.set(xlabel="report", ylabel="image")
    axes.set_title(title, fontsize=9, color=INK)
    figure.colorbar(shown, cax=inch_axes(figure, 4.35, 0.35, 0.15, 3.5), label="cosine similarity")
    return figure
