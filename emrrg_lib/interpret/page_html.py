"""Small pieces of HTML for the page of a run: pictures inside the file, tables, numbers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import contourpy
import numpy as np
from PIL import Image

from emrrg_lib.interpret.style import Picture, encode_png, grey_image, heat_rgba, png_bytes

LARGEST_SIDE = 224  # pixels of an X-ray on the page; keeps 24 examples below 4 MB
_HEAT_SIDE = 48  # pixels of a heat map; the browser smooths it up


def data_uri(png: bytes) -> str:
    """PNG file content as a URI that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def figure_tag(figure: Picture, caption: str = "", dpi: float = 140) -> str:
    """A figure as an <img> inside the page, with its own text alternative.

    The width is the figure's at 100 pixels an inch, so that type keeps one size all over the page.
    """
    source = data_uri(png_bytes(figure, dpi, colours=256))
    width = int(figure.get_figwidth() * 100)
    image = f'<img class="card" src="{source}" width="{width}" alt="{escape(figure.alt)}">'
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="wide">{image}{below}</figure>'


def xray_svg(image: np.ndarray, name: str, alt: str) -> str:
    """An X-ray as an inline SVG whose picture other SVGs reuse by `#name`."""
    grey = _shrink(grey_image(image))
    size = _size(grey)
    picture = f'<image id="{escape(name)}" href="{data_uri(encode_png(grey))}" {size}/>'
    return _svg(grey, alt, picture)


def overlay_svg(
    image: np.ndarray, name: str, weights: np.ndarray, peak: float, mask: np.ndarray | None,
    alt: str,
) -> str:
    """The X-ray `name` again, with one view's (rows, cols) weights and a mask's outline on it."""
    grey = _shrink(grey_image(image))
    heat = data_uri(encode_png(heat_rgba(weights, peak, (_HEAT_SIDE, _HEAT_SIDE))))
    layers = f'<use href="#{escape(name)}"/>'
    layers += f'<image href="{heat}" {_size(grey)} preserveAspectRatio="none"/>'
    if mask is not None and np.any(mask):
        layers += f'<path class="mask" d="{mask_outline(mask, *grey.shape[::-1])}"/>'
    return _svg(grey, alt, layers)


def mask_outline(mask: np.ndarray, width: float, height: float) -> str:
    """SVG path of the edge of a (H, W) mask, scaled to width × height."""
    padded = np.pad(np.asarray(mask, dtype=float), 1)
    scale = np.array([width / np.shape(mask)[1], height / np.shape(mask)[0]])
    paths = []
    for line in contourpy.contour_generator(z=padded).lines(0.5):
        points = (line - 0.5) * scale  # the frame of zeros moved everything by one pixel
        paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(paths)


def _svg(grey: np.ndarray, alt: str, content: str) -> str:
    box = f"0 0 {grey.shape[1]} {grey.shape[0]}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(alt)}">{content}</svg>'


def _size(grey: np.ndarray) -> str:
    return f'width="{grey.shape[1]}" height="{grey.shape[0]}"'


def _shrink(grey: np.ndarray) -> np.ndarray:
    """(H, W) no larger than the page needs."""
    scale = LARGEST_SIDE / max(grey.shape)
    if scale >= 1:
        return grey
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.LANCZOS))


def table(caption: str, head: str, rows: Sequence[str], label: str) -> str:
    """A table that scrolls sideways by itself and can be reached by keyboard."""
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
        f"<table><caption>{escape(caption)}</caption><thead>{head}</thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def number(value: float | None) -> str:
    """A score as text; "–" where it is missing."""
    if value is None or not np.isfinite(value):
        return '<span class="none" title="not available">–</span>'
    return f"{value:.3f}"


def bar_cell(value: float | None, longest: float, interval: Sequence[float] | None = None) -> str:
    """A table cell: a number, a bar under it, and its interval in small type."""
    known = value is not None and np.isfinite(value) and longest > 0
    share = max(0.0, min(1.0, value / longest)) if known else 0.0
    small = ""
    if interval is not None and None not in interval:
        # Without the leading zero, so that thirteen columns fit.
        low, high = (f"{end:.3f}".replace("0.", ".", 1) for end in interval)
        small = f"<small>{low}–{high}</small>"
    return f'<td class="num" style="--share:{100 * share:.0f}%">{number(value)}{small}</td>'
