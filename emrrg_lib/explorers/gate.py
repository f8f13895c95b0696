"""Words and gates: where a word looks; how far a token opens a gate, and the report with a gate scaled.

The paper's §3.4, Eq. 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from emrrg_lib.explorers.base import XRAY_SIDE, Explorer, quantised, rounded
from emrrg_lib.interpret.figures import WIDTH, Images, draw_word, gate_strip, one_image_per_view
from emrrg_lib.interpret.page_example import mask_outline, xray_picture
from emrrg_lib.interpret.panels import inch_text
from emrrg_lib.interpret.style import MUTED, Picture
from emrrg_lib.interpret.words import default_words, view_name, widest_layer
from emrrg_lib.trace import Trace

_MOST_CELLS = 1_200_000  # of the maps in a view; with more, the single heads stay out
STEPS = 20  # slider positions from closed to as trained
STORED = (0, 5, 10, 15, 20)  # those of all layers whose reports a page carries; single layers are closed


class WordExplorer(Explorer):
    """Pick a word and see its cross-attention; pick a patch and see which words look there.

    Args:
        images: one array per view, each (H, W), (H, W, 3) or (3, H, W).
        trace: the record of the report.
        masks: finding → (view, H, W) bool, true places that can be laid over.

    Raises:
        ValueError: the number of images is not that of the views, or the trace has no word.
    """

    title = "Where words look"
    explains = (
        "Point at a word: the map shows where it looks. Point at a patch of the X-ray: the stronger a "
        "word's ground, the more it looks there. A click keeps the choice."
    )
    kind = "words"

    def __init__(self, images: Images, trace: Trace, masks: Mapping[str, np.ndarray] | None = None) -> None:
        self.images, self.trace, self.masks = one_image_per_view(images, trace), trace, dict(masks or {})
        self.words = [word.text for word in trace.words()]
        if not self.words:
            raise ValueError("the trace has no word to look at: generate a report with trace=True first.")
        # (layer, head choice, word, view · patch); the first two head choices are mean and max
        tokens = [trace.attention[:, :, word.start : word.stop].mean(axis=2) for word in trace.words()]
        heads = np.stack(tokens, axis=2).reshape(len(trace.layer_ids), trace.heads, len(tokens), -1)
        joined = [heads.mean(axis=1, keepdims=True), heads.max(axis=1, keepdims=True)]
        self.maps = np.concatenate([*joined, heads], axis=1)

    def data(self, live: bool) -> dict[str, Any]:
        trace, word, layer = self.trace, default_words(self.trace, 1)[0], widest_layer(self.trace)
        maps = self.maps if self.maps.size <= _MOST_CELLS else self.maps[:, :2]
        values, peaks = quantised(maps.reshape(-1, maps.shape[-1]))
        names = [view_name(view) for view in range(trace.views)]
        heads = ["mean of all", "largest of all", *(f"head {head}" for head in range(trace.heads))]
        return {
            "words": self.words,
            "grid": trace.grid,
            "names": names,
            "views": [
                xray_picture(image, f"X-ray, {name}", XRAY_SIDE)
                for image, name in zip(self.images, names, strict=True)
            ],
            "outlines": {
                finding: [mask_outline(mask, 100, 100) for mask in masks]
                for finding, masks in self.masks.items()
            },
            "layers": [f"layer {number}" for number in trace.layer_ids],
            "heads": heads[: maps.shape[1]],
            "maps": values,
            "peaks": peaks,
            "start": {"word": word, "layer": layer, "patch": int(maps[layer, 0, word].argmax())},
        }

    def figure(self) -> Picture:
        """Three words, in every hybrid layer, mean over the heads; the true place of each as an outline."""
        words, views = default_words(self.trace, 3), len(self.images)
        side = min((WIDTH - 0.2) / len(words) / views - 0.12, 1.42)
        height, column = side + 0.42, views * (side + 0.03) + 0.2
        size = (0.2 + column * len(words), 0.1 + len(self.trace.layer_ids) * (height + 0.2))
        figure, in_words = Picture(size), []
        for layer, number in enumerate(self.trace.layer_ids):
            top = 0.2 + layer * (height + 0.2)
            inch_text(figure, 0.15, top + 0.05, f"Layer {number}", 8.5, MUTED, weight="bold")
            for place, word in enumerate(words):
                corner = (0.15 + place * column, top)
                sentence = draw_word(figure, self.images, self.trace, word, layer, corner, side, self.masks)
                in_words.append(f"Layer {number}: {sentence}")
        figure.alt = "Where words look, layer by layer. " + " ".join(in_words)
        return figure


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
