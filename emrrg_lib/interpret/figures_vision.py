"""Figures of the encoder: patches, maps of features, scan orders, plain curves (paper §3.2).

They take arrays, never a model. Maps run from dark (lowest) to bright (highest): they are clear in grey too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from emrrg_lib.interpret.panels import draw_xray, inch_axes, inch_text, plain_axes
from emrrg_lib.interpret.style import BLUE, HEAT, INK, MUTED, ORANGE, PAPER, Picture, html_image


@dataclass(frozen=True, repr=False)
class Animation:
    """A GIF file that Jupyter shows as an `html_image`; its plain text is `alt`."""

    data: bytes
    alt: str

    def _repr_html_(self) -> str:
        return html_image(self.data, self.alt, kind="gif")

    def __repr__(self) -> str:
        return self.alt


DIRECTION_NAMES = ("rows", "rows backwards", "columns", "columns backwards")
_CELL, _MARGIN = 11, ((20, 0), (0, 34), (0, 0))  # pixels of a patch, and around a grid, in a scan picture
_LINES = (("-", "o", BLUE), ("--", "s", ORANGE), (":", "^", INK), ("-.", "D", MUTED))


def patch_grid(image: np.ndarray, patch_size: int, marked: Sequence[int] = ()) -> Picture:
    """An X-ray (H, W) under its patch grid; beside it, enlarged, the marked patches (row-major numbers)."""
    height, columns = len(image), image.shape[1] // patch_size
    title = f"{height // patch_size} × {columns} patches of {patch_size} × {patch_size}"
    figure = Picture(
        (4.1 + 1.65 * len(marked), 4.2),
        alt=f"An X-ray cut into {title}; enlarged: patches {', '.join(map(str, marked))}.",
    )
    axes = inch_axes(figure, 0.1, 0.35, 3.7, 3.7)
    draw_xray(axes, image, title)
    for edge in np.arange(0, height + 1, patch_size) - 0.5:
        axes.axvline(edge, color=PAPER, linewidth=0.5)
        axes.axhline(edge, color=PAPER, linewidth=0.5)
    for place, number in enumerate(marked):
        row, column = (patch_size * index for index in divmod(number, columns))
        axes.add_patch(Rectangle((column, row), patch_size, patch_size, fill=False, edgecolor=ORANGE))
        name = axes.text(
            column + patch_size / 2 - 0.5, row - 2, str(number), color=PAPER, fontsize=8, ha="center"
        )
        name.set_bbox({"facecolor": INK, "edgecolor": "none", "pad": 1})
        one = inch_axes(figure, 4.05 + 1.65 * place, 1.4, 1.5, 1.5)
        one.imshow(image[row : row + patch_size, column : column + patch_size], cmap="gray", vmin=0, vmax=255)
        one.set_title(f"patch {number}", fontsize=8.5, color=INK)
        one.set_axis_off()
    return figure


def map_grid(
    rows: Mapping[str, Sequence[np.ndarray]],
    title: str,
    columns: Sequence[str] = (),
    image: np.ndarray | Mapping[str, np.ndarray] | None = None,
    bars: bool = False,
) -> Picture:
    """Small maps (rows, cols) from dark to bright, one line per name; each map has a scale of its own.

    Args:
        rows: name → the maps of its line. columns: names above the maps of the first line.
        image: an X-ray with which every line begins, or name → the X-ray of that line.
        bars: the maps of a line share one scale, and a colour bar at its end shows it.
    """
    count, lead = max(map(len, rows.values())), image is not None
    side = min(1.25, 7.6 / (count + lead))
    alt = [
        name + (f" from {_ends(maps)[0]} to {_ends(maps)[1]}" if bars else "") for name, maps in rows.items()
    ]
    figure = Picture(
        (1.35 + (count + lead) * (side + 0.08) + 0.65 * bars, 0.6 + len(rows) * (side + 0.1)),
        alt=f"{title}: {', '.join(alt)}.",
    )
    inch_text(figure, 0.1, 0.22, title, 9.5)
    for line, (name, maps) in enumerate(rows.items()):
        top = 0.5 + line * (side + 0.1)
        inch_text(figure, 0.1, top + side / 2, name, 8.5)
        first = [image[name] if isinstance(image, Mapping) else image] if lead else []
        low, high = (np.min(maps), np.max(maps)) if bars else (None, None)
        for place, values in enumerate([*first, *maps]):
            axes = inch_axes(figure, 1.3 + place * (side + 0.08), top, side, side)
            axes.set_axis_off()
            if place < lead:
                axes.imshow(values, cmap="gray", interpolation="nearest")
            else:
                drawn = axes.imshow(values, cmap=HEAT, vmin=low, vmax=high, interpolation="nearest")
            if line == 0 and 0 <= place - lead < len(columns):
                axes.set_title(columns[place - lead], fontsize=8, color=MUTED, pad=2)
        if bars:
            cax = inch_axes(figure, 1.3 + (place + 1) * (side + 0.08), top + 0.08, 0.1, side - 0.16)
            figure.colorbar(drawn, cax=cax).set_ticks([low, high], labels=_ends(maps))
            cax.tick_params(labelsize=7.5, length=2, color=MUTED, labelcolor=INK)
    return figure


def _ends(maps: Sequence[np.ndarray]) -> list[str]:
    """The lowest and the highest value of some maps, with two digits."""
    return [f"{value:.2g}" for value in (np.min(maps), np.max(maps))]


def scan_frames(orders: np.ndarray, steps: Sequence[int]) -> Picture:
    """The patches that each direction has read after so many tokens: dark, and the last one orange.

    `orders` (G, side² + 1) holds token numbers in scan order. The cls token has no place in the image; its
    centre shows it. The last column also shows the path.
    """
    alt = f"{', '.join(DIRECTION_NAMES[: len(orders)])}: read after {', '.join(map(str, steps))} tokens."
    figure = Picture((1.5 + 1.3 * len(steps), 0.45 + 1.3 * len(orders)), alt=alt)
    for line, order in enumerate(orders):
        inch_text(figure, 0.1, 1.0 + 1.3 * line, DIRECTION_NAMES[line], 8.5)
        for column, step in enumerate(steps):
            axes = inch_axes(figure, 1.45 + 1.3 * column, 0.35 + 1.3 * line, 1.2, 1.2)
            axes.imshow(_scan_cells(order, step))
            axes.set_axis_off()
            axes.set_title("" if line else f"after {step}", fontsize=8.5, color=INK, pad=3)
        places = _places(order) + _CELL / 2
        axes.plot(places[:, 1], places[:, 0], "-o", markevery=[0], color=INK, linewidth=0.8, markersize=4)
    return figure


def scan_animation(orders: np.ndarray, every: int = 3) -> Animation:
    """The frames of `scan_frames` as a GIF of about ten kilobytes, side by side; it runs three times."""
    frames = []
    for step in [*range(1, orders.shape[1], every), orders.shape[1]]:
        cells = [np.pad(_scan_cells(order, step), _MARGIN, constant_values=255) for order in orders]
        frame = Image.fromarray(np.hstack(cells))
        for g, name in enumerate(DIRECTION_NAMES[: len(orders)]):
            ImageDraw.Draw(frame).text((g * cells[0].shape[1], 3), name, fill=INK)
        frames.append(frame.quantize(16))
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100, loop=2)
    return Animation(buffer.getvalue(), "Animation: the four scans fill the patch grid.")


def _places(order: np.ndarray) -> np.ndarray:
    """(L,) tokens → (L, 2): top and left edge of their cells in pixels; the cls token lies in the centre."""
    side, middle = int(np.sqrt(len(order))), len(order) // 2
    places = np.stack(np.divmod(order - (order > middle), side), axis=1) * _CELL
    places[order == middle] = (side - 1) * _CELL // 2
    return places


def _scan_cells(order: np.ndarray, step: int) -> np.ndarray:
    """uint8 RGB picture of the grid after `step` tokens."""
    side, middle = int(np.sqrt(len(order))) * _CELL, len(order) // 2
    pixels = np.full((side, side, 3), 243, dtype=np.uint8)
    read = list(zip(order, _places(order), strict=True))[:step]
    for token, (top, left) in sorted(read, key=lambda item: item[0] == middle):  # cls lies over the patches
        name = ORANGE if token == order[step - 1] else INK if token == middle else "#9dbbd8"
        pixels[top : top + _CELL - 1, left : left + _CELL - 1] = np.uint8(np.multiply(to_rgb(name), 255))
    return pixels


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    title: str,
    log: bool = False,
) -> Picture:
    """Plain curves, name → (x values, y values); they differ by dash and mark as well as by colour."""
    figure = Picture((6.4, 3.1), alt=f"{title}: {', '.join(lines)}, {y} over {x}.")
    axes = inch_axes(figure, 0.75, 0.35, 5.45, 2.2)
    for number, (name, (across, up)) in enumerate(lines.items()):
        dash, marker, colour = _LINES[number % len(_LINES)]
        axes.plot(across, up, dash, marker=marker, markersize=3.5, color=colour, linewidth=1.5, label=name)
    if log:
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(across, [f"{value:g}" for value in across])
        axes.minorticks_off()
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=9.5, color=INK, loc="left")
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure
