"""The common part of all explorers: choices go in, a picture with its sentence comes out, in three forms."""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import display

from emrrg_lib.files import InputError, write_text
from emrrg_lib.interpret.page_example import figure_picture, render
from emrrg_lib.interpret.style import HEAT, Picture

MOST_BYTES = 2_000_000  # of a page
_LIVE_DPI = 110  # of a live picture, shown at 100 pixels an inch
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Choice:
    """One thing that can be chosen: a list, or a slider where the options have an order.

    Attributes:
        name: keyword of `Explorer.draw`. label: as printed. options: their names, in order.
        value: the option chosen at first. slider: whether it is a slider.
    """

    name: str
    label: str
    options: Sequence[str]
    value: int = 0
    slider: bool = False


class Live(widgets.VBox):
    """A live explorer: `controls` by name, the `picture`, and its sentence in words (`read_out`)."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.controls = {choice.name: _control(choice) for choice in explorer.choices()}
        self.picture, self.read_out = widgets.HTML(), widgets.HTML()
        wrap = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "2px 16px"}
        row = widgets.Box(list(self.controls.values()), layout=wrap)
        super().__init__([row, *explorer.extras(self.controls), self.picture, self.read_out])
        for control in self.controls.values():
            control.observe(self.answer, "value")
        self.answer()

    def answer(self, change: Any = None) -> None:
        """Draws the choice of the controls; a note is under the picture until the new one is there."""
        at = {name: control.value for name, control in self.controls.items()}
        self.read_out.value = _status(self.explorer.waiting(**at))
        try:
            self._show(self.explorer.draw(**at))
        except Exception as error:  # the note must not stay; the cell or the log gets the traceback
            self.picture.value = ""
            self.read_out.value = _status(f"not drawn: {type(error).__name__}: {error}")
            raise

    def _show(self, picture: Picture) -> None:
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=_LIVE_DPI, pil_kwargs={"compress_level": 1})  # for haste
        source = base64.b64encode(buffer.getvalue()).decode("ascii")
        width = round(picture.get_figwidth() * 100)
        self.picture.value = (
            f'<img src="data:image/png;base64,{source}" alt="{escape(picture.alt)}" '
            f'width="{width}" style="display:block; max-width:100%">'
        )
        self.read_out.value = _status(picture.alt)


class Explorer(ABC):
    """One explorer; a choice is given by the number of its option.

    Attributes:
        title, explains: head of the page. kind: the function of `explorer.js` that draws the page.
    """

    title: str
    explains: str
    kind: str

    @abstractmethod
    def choices(self) -> list[Choice]:
        """The choices of the live form."""

    @abstractmethod
    def draw(self, **at: int) -> Picture:
        """The picture of one choice; its `alt` is the read-out."""

    @abstractmethod
    def figure(self) -> Picture:
        """The still twin: several choices side by side, for print and for code hosts."""

    @abstractmethod
    def page(self) -> dict[str, Any]:
        """JSON values for the script of the page."""

    def page_choices(self) -> list[Choice]:
        """The choices on the page, where no kernel computes."""
        return self.choices()

    def extras(self, controls: dict[str, widgets.Widget]) -> Sequence[widgets.Widget]:
        """Further widgets of the live form, which set the controls."""
        return ()

    def waiting(self, **at: int) -> str:
        """The note under the picture until the new one is there."""
        return "drawing …"

    def widget(self) -> Live:
        """The live form; needs a running kernel."""
        return Live(self)

    def html(self, path: str | Path) -> Path:
        """Writes one page that needs nothing else: no network, no kernel. Returns its path.

        Raises:
            InputError: the page would be larger than 2 MB.
        """
        text = render(
            "explorer.html",
            _HERE,
            _HERE.parent / "interpret",
            title=self.title,
            explains=self.explains,
            choices=self.page_choices(),
            still=figure_picture(self.figure()),
            data=self.page() | {"kind": self.kind, "colours": _colours()},
        )
        if len(text.encode()) > MOST_BYTES:
            raise InputError(
                f"the page of “{self.title}” would have {len(text.encode()) / 1e6:.1f} MB, more "
                "than 2: give it a shorter report or fewer matrices"
            )
        return write_text(path, text)

    def _ipython_display_(self) -> None:
        display(self.widget())
        display(self.figure())


def packed(values: np.ndarray) -> str:
    """uint8 array of any shape as base64 text, first axis slowest."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.uint8)).decode("ascii")


def quantised(maps: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """(n, cells), not negative → uint8 in 255ths of each map's largest value, and these values."""
    peaks = np.asarray(maps, dtype=np.float64).max(axis=1)
    scaled = np.round(255 * maps / np.where(peaks > 0, peaks, 1.0)[:, None])
    return scaled.astype(np.uint8), [float(f"{peak:.3g}") for peak in peaks]


def _colours() -> list[list[int]]:
    """The heat map's 256 colours with their opacity, the same as in `style.heat_rgba`."""
    share = np.linspace(0, 1, 256)
    alpha = 0.85 * np.clip((share - 0.08) / 0.6, 0, 1)
    return np.round(255 * np.column_stack([HEAT(share)[:, :3], alpha])).astype(int).tolist()


def _control(choice: Choice) -> widgets.Widget:
    options = [(text, number) for number, text in enumerate(choice.options)]
    given = {
        "options": options,
        "value": choice.value,
        "description": choice.label,
        "style": {"description_width": "initial"},
    }
    if choice.slider:
        return widgets.SelectionSlider(**given, continuous_update=False, layout={"width": "280px"})
    return widgets.Dropdown(**given, layout={"width": "max-content"})


def _status(text: str) -> str:
    return f'<p role="status" style="line-height:1.4; max-width:900px; margin:4px 0">{escape(text)}</p>'
