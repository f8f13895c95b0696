"""The common part of all explorers: arrays go in; one view shows them live, on a page, and as a still."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from IPython.display import display

from emrrg_lib.files import InputError, write_text
from emrrg_lib.interpret.page_example import figure_picture, render
from emrrg_lib.interpret.style import HEAT_STOPS, Picture

MOST_BYTES = 3_000_000  # of the arrays of one explorer, as JSON
XRAY_SIDE = 448  # pixels of an X-ray in a view
_HERE = Path(__file__).parent
_PARTS = ("view.js", "words_gate.js", "scan_lora.js")  # of one ES module
MODULE = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _PARTS)
STYLE = (_HERE / "view.css").read_text(encoding="utf-8")


class View(anywidget.AnyWidget):
    """The live view, which the JavaScript files of this folder draw.

    Attributes:
        data: the arrays of the explorer. request: what the view asks of the kernel, with its `number`.
        answer: the answer to the request of the same `number`, or the `error` that stopped it.
    """

    _esm, _css = MODULE, STYLE
    data = traitlets.Dict().tag(sync=True)
    request = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        super().__init__(data=explorer.whole(live=True))
        self.observe(self._reply, "request")

    def _reply(self, change: dict[str, Any]) -> None:
        number = change["new"].get("number")
        asked = {name: value for name, value in change["new"].items() if name != "number"}
        try:
            answer = self.explorer.reply(**asked)
        except (Exception, KeyboardInterrupt) as error:  # the view says it; nothing else would
            answer = {"error": f"{type(error).__name__}: {error}"}
        self.answer = answer | {"number": number}


class Explorer(ABC):
    """One explorer.

    Attributes:
        title, explains: its head. kind: the function of the ES module that draws it.
    """

    title: str
    explains: str
    kind: str

    @abstractmethod
    def data(self, live: bool) -> dict[str, Any]:
        """JSON values for the view; not `live`: all that a page without a kernel needs."""

    @abstractmethod
    def figure(self) -> Picture:
        """The still: a part of the same arrays, for print and for code hosts."""

    def captions(self) -> Sequence[str]:
        """Sentences below the still."""
        return ["Every map has its own scale from dark, the least, to bright, the most."]

    def reply(self, **asked: Any) -> dict[str, Any]:
        """The answer to a request of the live view."""
        raise InputError(f"“{self.title}” computes nothing in the kernel, but was asked {asked}")

    def whole(self, live: bool) -> dict[str, Any]:
        """`data` with what every view needs."""
        head = {"kind": self.kind, "title": self.title, "explains": self.explains, "heat": HEAT_STOPS}
        return self.data(live) | head | {"live": live}

    def widget(self) -> View:
        """The live view; needs a running kernel."""
        return View(self)

    def html(self, path: str | Path) -> Path:
        """Writes `explorer_html` of this explorer alone; returns the path. InputError: see there."""
        return write_text(path, explorer_html([self], self.title))

    def _ipython_display_(self) -> None:
        display(self.widget())
        display(Still(self))

    def _display_(self) -> View:  # marimo asks for it
        return self.widget()


class Still:
    """The still of an explorer, folded, with a heading; Jupyter and code hosts show it as HTML."""

    def __init__(self, explorer: Explorer) -> None:
        figure = explorer.figure()
        self.picture, self.alt = figure_picture(figure), figure.alt
        self.title, self.captions = f"Still picture: {explorer.title}", list(explorer.captions())

    def _repr_html_(self) -> str:
        picture, lines = self.picture, "".join(f"<p>{escape(line)}</p>" for line in self.captions)
        return (
            f'<details class="emrrg-still"><summary>{escape(self.title)}</summary>'
            f'<img src="{picture["source"]}" alt="{escape(self.alt)}" width="{picture["width"]}" '
            f'style="max-width: 100%; height: auto; background: #fff">{lines}</details>'
        )

    def __repr__(self) -> str:
        return f"{self.title}. {self.alt}"


def explorer_html(explorers: Sequence[Explorer], title: str, note: str = "", stills: bool = True) -> str:
    """One page of explorers that needs nothing else: no network, no kernel.

    Args:
        explorers: shown one below the other. title, note: its head. stills: a folded still below each.

    Raises:
        InputError: the arrays of an explorer are larger than 3 MB.
    """
    data = [explorer.whole(live=False) for explorer in explorers]
    below = [Still(explorer)._repr_html_() if stills else "" for explorer in explorers]
    page = {"title": title, "note": note, "module": MODULE, "style": STYLE}
    for part in data:
        # the length as Python prints it is nearly that of the JSON
        if (size := len(str(part))) > MOST_BYTES:
            raise InputError(
                f"the page of “{part['title']}” would have {size / 1e6:.1f} MB, more than 3: give it a "
                "shorter report or fewer matrices"
            )
    return render("page.html", _HERE, **page, parts=list(zip(data, below, strict=True)))


def packed(values: np.ndarray) -> str:
    """uint8 array of any shape as base64 text, first axis slowest."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.uint8)).decode("ascii")


def quantised(maps: np.ndarray) -> tuple[str, list[float]]:
    """(n, cells), not negative → packed 255ths of each map's largest value, and these values."""
    peaks = np.asarray(maps, dtype=np.float64).max(axis=1)
    scaled = np.round(255 * maps / np.where(peaks > 0, peaks, 1.0)[:, None])
    return packed(scaled), rounded(peaks)


def rounded(values: np.ndarray) -> Any:
    """An array as nested lists of numbers with four significant digits."""
    if np.ndim(values):
        return [rounded(part) for part in values]
    return float(f"{values:.4g}")
