"""The pictures of a page as text inside the file: PNG data and outlines for inline SVG."""

from __future__ import annotations

import base64
from typing import Any

import contourpy
import numpy as np
from PIL import Image

from emrrg_lib.interpret.style import Picture, encode_png, grey_image, heat_rgba, png_bytes

LARGEST_SIDE = 224  # pixels of an X-ray on the page; keeps 24 examples below 4 MB
_HEAT_SIDE = 48  # pixels of a heat map; the browser smooths it up


def figure_picture(figure: Picture) -> dict[str, Any]:
    """A figure for an <img>; 100 pixels an inch, so that type keeps one size all over the page."""
    source = _uri(png_bytes(figure, 140, colours=256))
    return {"source": source, "width": int(figure.get_figwidth() * 100), "alt": figure.alt}


def xray_picture(image: np.ndarray, name: str, alt: str) -> dict[str, Any]:
    """An X-ray whose picture others of the page reuse by its name."""
    grey = _shrink(grey_image(image))
    return _frame(grey, alt) | {"name": name, "source": _uri(encode_png(grey))}


def overlay_picture(
    image: np.ndarray, name: str, weights: np.ndarray, peak: float, mask: np.ndarray | None,
    alt: str,
) -> dict[str, Any]:
    """The X-ray `name` again, with one view's (rows, cols) weights and a mask's outline on it."""
    grey = _shrink(grey_image(image))
    outline = "" if mask is None or not np.any(mask) else mask_outline(mask, *grey.shape[::-1])
    heat = _uri(encode_png(heat_rgba(weights, peak, (_HEAT_SIDE, _HEAT_SIDE))))
    return _frame(grey, alt) | {"uses": name, "heat": heat, "outline": outline}


def mask_outline(mask: np.ndarray, width: float, height: float) -> str:
    """SVG path of the edge of a (H, W) mask, scaled to width × height."""
    padded = np.pad(np.asarray(mask, dtype=float), 1)
    scale = np.array([width / np.shape(mask)[1], height / np.shape(mask)[0]])
    paths = []
    for line in contourpy.contour_generator(z=padded).lines(0.5):
        points = (line - 0.5) * scale  # the frame of zeros moved everything by one pixel
        paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(paths)


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _frame(grey: np.ndarray, alt: str) -> dict[str, Any]:
    return {"width": grey.shape[1], "height": grey.shape[0], "alt": alt}


def _shrink(grey: np.ndarray) -> np.ndarray:
    """(H, W) no larger than the page needs."""
    scale = min(1.0, LARGEST_SIDE / max(grey.shape))
    size = [max(1, round(side * scale)) for side in grey.shape[::-1]]
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.LANCZOS))
