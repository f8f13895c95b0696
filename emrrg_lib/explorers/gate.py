"""Gate: token × layer heat map, and the report written again with a gate scaled (paper §3.4, Eq. 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from emrrg_lib.explorers.base import Choice, Explorer
from emrrg_lib.interpret import panels
from emrrg_lib.interpret.figures import WIDTH
from emrrg_lib.interpret.page_example import figure_picture
from emrrg_lib.interpret.style import Picture
from emrrg_lib.interpret.words import describe_trace
from emrrg_lib.trace import Trace

STEPS = 20  # slider positions from closed to as trained
STORED = (0, 5, 10, 15, 20)  # the five whose reports a page carries
_TYPE = 9.25  # font size of the report; its letters keep their width when rounded to pixels
_MARGIN = 0.1  # inches


class GateExplorer(Explorer):
    """tanh(gate) · tanh(α) of every token and layer; scaling a gate writes the report again.

    Args:
        trace: the record of the report as the model wrote it.
        regenerate: {layer id: scale of its gate} → the Trace of the report written with them. Every choice
            calls it once. Without it, the explorer shows the gates as they are.
    """

    title = "What the gates let in"
    explains = (
        "Each column is a word, each row a hybrid layer; white is a closed gate. Scale the gates: "
        "the report is written again; words that differ from the model's own report are marked."
    )
    kind = "pictures"

    def __init__(
        self, trace: Trace, regenerate: Callable[[Mapping[int, float]], Trace] | None = None
    ) -> None:
        self.trace, self.regenerate = trace, regenerate
        self._written: dict[tuple[int, int], Trace] = {}

    def choices(self) -> list[Choice]:
        if self.regenerate is None:
            return []
        layers = ["all layers", *(f"layer {layer}" for layer in self.trace.layer_ids)]
        scales = [f"{step / STEPS:.2f}" for step in range(STEPS + 1)]
        return [Choice("layer", "Scale the gate of", layers), Choice("scale", "to", scales, STEPS, True)]

    def written(self, layer: int = 0, scale: int = STEPS) -> Trace:
        """The report with the gates of all layers (0) or of the n-th hybrid layer at scale / STEPS."""
        if scale == STEPS or self.regenerate is None:
            return self.trace
        if (layer, scale) not in self._written:
            chosen = self.trace.layer_ids if layer == 0 else (self.trace.layer_ids[layer - 1],)
            self._written[layer, scale] = self.regenerate(dict.fromkeys(chosen, scale / STEPS))
        return self._written[layer, scale]

    def waiting(self, layer: int = 0, scale: int = STEPS) -> str:
        known = scale == STEPS or (layer, scale) in self._written
        return super().waiting() if known else f"writing the report again, gate at {scale / STEPS:.2f} …"

    def draw(self, layer: int = 0, scale: int = STEPS) -> Picture:
        trace = self.written(layer, scale)
        card, gate = _card_height(trace), panels.gate_height(trace, WIDTH - 2 * _MARGIN)
        figure = Picture((WIDTH, card + gate + 0.35))
        name = f"layer {self.trace.layer_ids[layer - 1]}" if layer else "all layers"
        in_words = draw_card(figure, 0.1, self.trace, trace, f"{name} at {scale / STEPS:.2f}")
        peak = float(np.abs(self.trace.gate).max(initial=0.0))  # one scale for all: closing turns pale
        panels.draw_gate(figure, trace, _MARGIN, card + 0.25, WIDTH - 2 * _MARGIN, peak)
        figure.alt = f"{in_words} {describe_trace(trace)}"
        return figure

    def figure(self) -> Picture:
        """The gates as trained, and the reports at the five stored positions of all gates."""
        steps = STORED[::-1] if self.regenerate else STORED[-1:]
        traces = [self.written(0, step) for step in steps]
        heights = [_card_height(trace) + 0.08 for trace in traces]
        gate = panels.gate_height(self.trace, WIDTH - 2 * _MARGIN)
        figure = Picture((WIDTH, sum(heights) + gate + 0.35))
        panels.draw_gate(figure, self.trace, _MARGIN, 0.1, WIDTH - 2 * _MARGIN)
        in_words, top = [describe_trace(self.trace)], gate + 0.25
        for step, trace, height in zip(steps, traces, heights, strict=True):
            in_words.append(draw_card(figure, top, self.trace, trace, f"all layers at {step / STEPS:.2f}"))
            top += height
        figure.alt = " ".join(in_words)
        return figure

    def page_choices(self) -> list[Choice]:
        scales = [f"{step / STEPS:.2f}" for step in STORED]
        return [Choice("scale", "Scale all gates to", scales, 4, slider=True)] if self.regenerate else []

    def page(self) -> dict[str, Any]:
        drawn = [self.draw(0, step) for step in (STORED if self.regenerate else STORED[-1:])]
        return {
            "pictures": [figure_picture(figure) for figure in drawn],
            "states": [[number, figure.alt] for number, figure in enumerate(drawn)],
        }


def changed_words(before: Trace, after: Trace) -> list[bool]:
    """For each word of `after`: True if the report before does not have it at this place."""
    old, new = ([word.text for word in trace.words()] for trace in (before, after))
    changed = np.ones(len(new), dtype=bool)
    for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
        changed[block.b : block.b + block.size] = False
    return changed.tolist()


def draw_card(figure: Picture, top: float, before: Trace, after: Trace, where: str) -> str:
    """Draws one report, its new words marked, and returns the same in words."""
    words, changed = [word.text for word in after.words()], changed_words(before, after)
    spans, at = [], 0
    for word, new in zip(words, changed, strict=True):
        spans += [(at, at + len(word))] * new
        at += len(word) + 1
    new = [word for word, is_new in zip(words, changed, strict=True) if is_new]
    lost = sum(changed_words(after, before))
    in_words = f"{len(new)} new words, {lost} gone" if new or lost else "the report as the model wrote it"
    title, report = f"Gate of {where}: {in_words}", " ".join(words)
    panels.draw_card(figure, (_MARGIN, top), WIDTH - 2 * _MARGIN, title, report, spans, _TYPE)
    marked = f", new are: {' '.join(new)}" if new else ""
    return f"{title}{marked}. The report: {report}"


def _card_height(trace: Trace) -> float:
    text = " ".join(word.text for word in trace.words())
    return panels.card_height(text, _TYPE, WIDTH - 2 * _MARGIN)
