"""Colours and drawing helpers that every picture shares; no global matplotlib state."""

from __future__ import annotations

import base64
import html
import io
import re
from functools import cache
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image

INK, MUTED, RULE, PAPER = "#1f2933", "#5d6875", "#ccd3da", "#ffffff"
# These four differ in all types of colour blindness.
BLUE, ORANGE, GREEN, PURPLE = "#2f6ea8", "#c85f00", "#00795c", "#7a4f9c"
BLUE_FILL, ORANGE_FILL = "#dce9f5", "#ffe2c4"
MATCH_FILL = "#ffe680"
OUTLINE = "#39d0ff"  # a finding's mask: cyan is clear on grey and on the warm heat map

# Dark red to bright yellow: the brightness always rises, so the map is also clear in grey.
HEAT_STOPS = ["#5c0f3f", "#c32f27", "#f06a1d", "#fca52c", "#ffe14a"]
HEAT = LinearSegmentedColormap.from_list("emrrg_heat", HEAT_STOPS)
# Purple below zero, white at zero, orange above: safe for all common kinds of colour blindness.
SIGNED = LinearSegmentedColormap.from_list(
    "emrrg_signed", ["#3f1f69", "#7a5aa6", "#c4b5dc", "#ffffff", "#fbc98e", "#e07b13", "#7f3b08"]
)


class Picture(Figure):
    """A matplotlib Figure that belongs to no pyplot window and carries its text alternative `alt`.

    In Jupyter it shows itself as an `html_image` of 100 pixels an inch; its plain text is `alt`.
    """

    def __init__(self, *args: Any, alt: str = "", facecolor: str = PAPER, **kwargs: Any) -> None:
        super().__init__(*args, facecolor=facecolor, **kwargs)
        FigureCanvasAgg(self)
        self.alt = alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        width = round(self.get_figwidth() * 100)
        return {"text/html": html_image(png_bytes(self), self.alt, width), "text/plain": self.alt}


def html_image(content: bytes, alt: str, width: int | None = None, kind: str = "png") -> str:
    """The `<img>` of an image file, which holds the picture and its sentence.

    Viewers of notebooks read no description of an image/png output; every one of them reads this `alt`.

    Args:
        content: the file. kind: its format, "png" or "gif".
        alt: the picture in a sentence. width: in pixels of the page; None takes the picture's own.
    """
    size = f' width="{width}"' if width else ""
    return f'<img alt="{html.escape(alt)}"{size} src="{data_uri(content, kind)}">'


def data_uri(content: bytes, kind: str = "png") -> str:
    """The address that holds an image file itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def png_bytes(figure: Figure, dpi: float = 200, colours: int | None = None) -> bytes:
    """Renders a figure to PNG; with only so many `colours`, the file is about three times smaller."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    if colours is None:
        return buffer.getvalue()
    with Image.open(buffer) as image:
        return encode_png(np.asarray(image.convert("RGB")), colours=colours)


def encode_png(pixels: np.ndarray, colours: int | None = None) -> bytes:
    """(H, W), (H, W, 3) or (H, W, 4) uint8 -> PNG file content, with a palette of `colours`."""
    image = Image.fromarray(pixels)
    if colours is not None:
        # MAXCOVERAGE keeps the rare colours of a colour bar, which the default drops
        image = image.convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def grey_image(image: np.ndarray) -> np.ndarray:
    """Any picture array as (H, W) uint8.

    Args:
        image: (H, W), (H, W, 3) or (3, H, W); uint8, or floats that are stretched to the full
            range.

    Raises:
        ValueError: if the shape is none of these or the picture is empty.
    """
    image = np.asarray(image)
    if image.ndim == 3 and (image.shape[-1] == 3 or image.shape[0] in (1, 3)):
        mean = image.mean(axis=-1 if image.shape[-1] == 3 else 0)
        image = mean.round().astype(np.uint8) if image.dtype == np.uint8 else mean
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"an image must be (H, W), (H, W, 3) or (3, H, W), but its shape is {image.shape}.")
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    return np.uint8(np.round((image - low) / (high - low if high > low else 1.0) * 255))


def heat_rgba(weights: np.ndarray, peak: float, size: tuple[int, int], smooth: bool = True) -> np.ndarray:
    """Attention weights of one view as a see-through layer for its X-ray.

    Args:
        weights: (rows, cols), not negative.
        peak: the weight that is drawn at full strength, the same for all views of one word.
        size: (height, width) in pixels of the layer.
        smooth: False keeps the patches as squares.

    Returns:
        (height, width, 4) uint8; colour and opacity both rise with the weight.
    """
    scaled = np.clip(np.asarray(weights, dtype=np.float32) / (peak if peak > 0 else 1.0), 0, 1)
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    scaled = np.clip(np.asarray(Image.fromarray(scaled).resize((size[1], size[0]), method)), 0, 1)
    rgba = HEAT(scaled)
    rgba[..., 3] = 0.85 * np.clip((scaled - 0.08) / 0.6, 0, 1)
    return np.uint8(np.round(rgba * 255))


@cache
def text_width(text: str, size: float) -> float:
    """Width of one line of text in points, known before anything is drawn."""
    text = re.sub(r"\s", " ", text)  # a line break is as wide as a space
    font = FontProperties(family="DejaVu Sans", size=size)
    measure = text_to_path.get_text_width_height_descent
    # With a stop on both sides, leading and trailing spaces count.
    return float(measure(f".{text}.", font, ismath=False)[0] - measure("..", font, ismath=False)[0])
