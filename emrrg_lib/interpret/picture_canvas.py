"""Boxes, arrows and marks for the picture of the model, in pixels of a 900 pixel wide page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path

from emrrg_lib.interpret import style

LABEL, NOTE = 8.6, 7.6  # font sizes in points; 7.6 points are 10.5 pixels on a 900 pixel page
FILLS = {  # kind of a box or square -> fill and edge
    "frozen": (style.BLUE_FILL, style.BLUE),
    "trained": (style.ORANGE_FILL, style.ORANGE),
    "plain": (style.PAPER, "#8993a0"),
    "cls": (style.GREEN_FILL, style.GREEN),
    "grid": (style.PAPER, "#b9c2cc"),
}
_DIM = 0.80  # how far an unlit part fades into the paper

Point = tuple[float, float]


class Canvas:
    """Draws on axes whose data units are pixels, y downwards.

    What is drawn inside `part(name)` fades unless `name` is lit. A colour is a name of `style` in
    small letters, such as "blue_fill", or "#rrggbb".
    """

    def __init__(self, axes: Axes, lit: frozenset[str]) -> None:
        self.axes = axes
        self.lit = lit
        self._faded = False

    @contextmanager
    def part(self, *names: str) -> Iterator[None]:
        """Everything drawn inside belongs to these parts of the model; without any it never fades."""
        before, self._faded = self._faded, bool(names and self.lit) and self.lit.isdisjoint(names)
        yield
        self._faded = before

    def colour(self, colour: str) -> tuple[float, float, float]:
        """The colour, or its pale form where the present part is not lit."""
        fade = _DIM if self._faded else 0.0
        return tuple((1 - fade) * value + fade for value in to_rgb(getattr(style, colour.upper(), colour)))

    def text(
        self, x: float, y: float, text: str, size: float = NOTE, colour: str = "ink", **how: object
    ) -> None:
        """One text, centred on (x, y) unless told otherwise."""
        how = {"ha": "center", "va": "center", "linespacing": 1.25, "zorder": 6, **how}
        self.axes.text(x, y, text, fontsize=size, color=self.colour(colour), **how)

    def panel(self, x: float, y: float, width: float, height: float, title: str, section: str) -> None:
        """A large pale frame with the name of a stage and its paper section."""
        self.rounded(x, y, width, height, 10, "#f6f8fa", "rule", 1.0, 0)
        self.text(x + 12, y + 16, title, 9.2, weight="bold", ha="left")
        self.text(x + width - 12, y + 16, section, colour="muted", ha="right")

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        label: str,
        kind: str = "plain",
        note: str = "",
        size: float = LABEL,
    ) -> None:
        """One operation, filled and marked by `kind`: frozen, trained or plain (no weights)."""
        self.rounded(x, y, width, height, 5, *FILLS[kind], 1.1, 3)
        middle = y + height / 2
        self.text(x + width / 2, middle - (7 if note else 0), label, size)
        if note:
            self.text(x + width / 2, middle + 8, note, colour="muted")
        if kind != "plain":
            self.mark(x + width - 1, y + 1, kind)

    def mark(self, x: float, y: float, kind: str) -> None:
        """A snow crystal (frozen) or a flame (trained) in a small disc."""
        edge = self.colour(FILLS[kind][1])
        disc = Circle((x, y), 6.5, facecolor=self.colour("paper"), edgecolor=edge, linewidth=0.9, zorder=7)
        self.axes.add_patch(disc)
        if kind == "trained":
            self.axes.add_patch(PathPatch(_flame(x, y), facecolor=edge, linewidth=0, zorder=8))
            return
        for angle in np.deg2rad((30, 90, 150)):
            dx, dy = 4.2 * np.cos(angle), 4.2 * np.sin(angle)
            self.axes.plot([x - dx, x + dx], [y - dy, y + dy], color=edge, linewidth=0.9, zorder=8)

    def tag(self, x: float, y: float, text: str, width: float) -> None:
        """A small trained label that sits on what it changes: a LoRA."""
        self.rounded(x - width / 2, y - 8.5, width, 17, 8.5, "orange", "orange", 0, 7)
        self.text(x, y + 0.4, text, colour="paper", weight="bold", zorder=8)

    def arrow(self, *points: Point, colour: str = "ink", width: float = 1.2, order: float = 2) -> None:
        """A line through the points with rounded corners and an arrow head at its end."""
        self.axes.add_patch(
            FancyArrowPatch(
                path=_rounded_line(points),
                arrowstyle="-|>,head_length=4.2,head_width=2.4",
                mutation_scale=1,
                facecolor=self.colour(colour),
                edgecolor=self.colour(colour),
                linewidth=width,
                zorder=order,
                joinstyle="round",
                capstyle="butt",
                shrinkA=0,
                shrinkB=0,
            )
        )

    def operator(self, x: float, y: float, sign: str) -> None:
        """A small circle with + or × in it."""
        ink = self.colour("ink")
        disc = Circle((x, y), 8, facecolor=self.colour("paper"), edgecolor=ink, linewidth=1.1, zorder=4)
        self.axes.add_patch(disc)
        for dx, dy in {"+": ((4, 0), (0, 4)), "×": ((3, 3), (3, -3))}[sign]:
            self.axes.plot([x - dx, x + dx], [y - dy, y + dy], color=ink, linewidth=1.1, zorder=5)

    def cells(
        self,
        x: float,
        y: float,
        count: int,
        side: float,
        gap: float,
        kind: str = "frozen",
        cls: int | None = None,
        upright: bool = False,
    ) -> None:
        """A row (or column) of squares: tokens, the one at `cls` being the cls token."""
        for index in range(count):
            fill, edge = map(self.colour, FILLS["cls" if index == cls else kind])
            step = index * (side + gap)
            corner = (x, y + step) if upright else (x + step, y)
            square = Rectangle(corner, side, side, facecolor=fill, edgecolor=edge, linewidth=0.9, zorder=4)
            self.axes.add_patch(square)

    def image(self, pixels: np.ndarray, x: float, y: float, side: float) -> None:
        """A square picture in grey, values 0 to 1."""
        shade = pixels * (1 - _DIM) + _DIM if self._faded else pixels
        self.axes.imshow(
            shade,
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(x, x + side, y + side, y),
            zorder=3,
            aspect="auto",
            interpolation="antialiased",
        )

    def triangle(self, *points: Point, colour: str) -> None:
        """A filled shape behind everything: the lens from a layer to its close-up."""
        self.axes.add_patch(Polygon(points, facecolor=self.colour(colour), linewidth=0, zorder=1))

    def rounded(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        radius: float,
        fill: str,
        edge: str,
        line: float,
        order: float,
    ) -> None:
        """A rectangle with round corners."""
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y),
                width,
                height,
                boxstyle=f"round,pad=0,rounding_size={radius}",
                linewidth=line,
                facecolor=self.colour(fill),
                edgecolor=self.colour(edge),
                zorder=order,
            )
        )


def _rounded_line(points: Sequence[Point], radius: float = 7) -> Path:
    """A path through the points whose corners are rounded off."""
    corners = np.array(points, dtype=float)
    vertices, codes = [corners[0]], [Path.MOVETO]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        ways = [before - corner, after - corner]
        near = [corner + way * min(radius / np.hypot(*way), 0.5) for way in ways]
        vertices += [near[0], corner, near[1]]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path([*vertices, corners[-1]], [*codes, Path.LINETO])


def _flame(x: float, y: float) -> Path:
    """A drop with a bent tip around (x, y), about 8 pixels high."""
    shape = [
        (0, 4.6),
        (-4.6, 4.4),
        (-4.0, -0.6),
        (-0.6, -4.8),
        (0.2, -2.0),
        (1.0, -1.6),
        (1.6, -2.6),
        (4.4, 0.6),
        (4.2, 4.4),
        (0, 4.6),
    ]
    codes = [Path.MOVETO] + [Path.CURVE4] * 9
    return Path([(x + dx, y + dy) for dx, dy in shape], codes)
