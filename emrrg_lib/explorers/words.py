"""Word ↔ patch: the patches that a word looks at, the words that look at a patch (paper §3.4, Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from emrrg_lib.explorers.base import XRAY_SIDE, Explorer, quantised
from emrrg_lib.interpret.figures import WIDTH, Images, draw_word, one_image_per_view
from emrrg_lib.interpret.page_example import mask_outline, xray_picture
from emrrg_lib.interpret.panels import inch_text
from emrrg_lib.interpret.style import MUTED, Picture
from emrrg_lib.interpret.words import default_words, view_name, widest_layer
from emrrg_lib.trace import Trace

_MOST_CELLS = 1_200_000  # of the maps in a view; with more, the single heads stay out


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
