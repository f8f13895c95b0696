"""Gate: every token's gate in every layer, and the report written anew with a gate scaled (§3.4, Eq. 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from emrrg_lib.explorers.base import Explorer, rounded
from emrrg_lib.interpret.figures import gate_strip
from emrrg_lib.interpret.style import Picture
from emrrg_lib.trace import Trace

STEPS = 20  # slider positions from closed to as trained
STORED = (0, 5, 10, 15, 20)  # those of all layers whose reports a page carries; single layers are closed


class GateExplorer(Explorer):
    """tanh(gate) · tanh(α) of every token and layer; scaling a gate writes the report anew.

    Args:
        trace: the record of the report as the model wrote it.
        regenerate: {layer id: scale of its gate} → the Trace of the report written with them. Every choice
            calls it once. Without it, the explorer shows the gates as they are.
    """

    title = "What the gates let in"
    explains = (
        "Over each word, one row a hybrid layer and one column a token: how far the gate opens. Orange "
        "and purple let the image in with opposite signs; no colour is a closed gate."
    )
    kind = "gate"

    def __init__(
        self, trace: Trace, regenerate: Callable[[Mapping[int, float]], Trace] | None = None
    ) -> None:
        self.trace, self.regenerate = trace, regenerate
        self._written: dict[tuple[int, int], Trace] = {}

    def written(self, layer: int = 0, scale: int = STEPS) -> Trace:
        """The report with the gates of all layers (0) or of the n-th hybrid layer at scale / STEPS."""
        if scale == STEPS or self.regenerate is None:
            return self.trace
        if (layer, scale) not in self._written:
            chosen = self.trace.layer_ids if layer == 0 else (self.trace.layer_ids[layer - 1],)
            self._written[layer, scale] = self.regenerate(dict.fromkeys(chosen, scale / STEPS))
        return self._written[layer, scale]

    def reply(self, layer: int, scale: int) -> dict[str, Any]:
        """The report of one choice: words [text, start, stop, new?], old words gone, gates, heads."""
        trace = self.written(layer, scale)
        new, gone = changed_words(self.trace, trace), changed_words(trace, self.trace)
        return {
            "words": [
                [word.text, word.start, word.stop, is_new]
                for word, is_new in zip(trace.words(), new, strict=True)
            ],
            "gone": gone,
            "gate": rounded(trace.gate),
            "heads": rounded(trace.attention.sum(axis=(3, 4))),  # (layer, head, token): share on patches
        }

    def _states(self) -> list[tuple[int, int]]:
        """The choices, (layer, scale), of a page."""
        if self.regenerate is None:
            return [(0, STEPS)]
        single = [(layer + 1, scale) for layer in range(len(self.trace.layer_ids)) for scale in (0, STEPS)]
        return [*((0, scale) for scale in STORED), *single]

    def data(self, live: bool) -> dict[str, Any]:
        states = [(0, STEPS)] if live else self._states()
        return {
            "layers": self.trace.layer_ids,
            "warm_up": rounded(self.trace.warm_up),
            "steps": STEPS,
            "writes": self.regenerate is not None,
            "answers": {f"{layer}:{scale}": self.reply(layer, scale) for layer, scale in states},
        }

    def figure(self) -> Picture:
        """The gates as trained."""
        return gate_strip(self.trace)

    def captions(self) -> Sequence[str]:
        """The reports at the stored positions of all gates."""
        steps = STORED[::-1] if self.regenerate else STORED[-1:]
        return [f"Gates of all layers at {step / STEPS:.2f}: {self.written(0, step).text}" for step in steps]


def changed_words(before: Trace, after: Trace) -> list[bool]:
    """For each word of `after`: True if the report before does not have it at this place."""
    old, new = ([word.text for word in trace.words()] for trace in (before, after))
    changed = np.ones(len(new), dtype=bool)
    for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
        changed[block.b : block.b + block.size] = False
    return changed.tolist()
