"""Word ↔ patch: the patches that a word looks at, the words that look at a patch (paper §3.4, Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.patches import Rectangle

from emrrg_lib.explorers.base import Choice, Explorer, packed, quantised
from emrrg_lib.interpret.figures import WIDTH, Images, attention_overlay, draw_word, one_image_per_view
from emrrg_lib.interpret.page_example import mask_outline, xray_picture
from emrrg_lib.interpret.panels import inch_text
from emrrg_lib.interpret.style import INK, MUTED, PAPER, Picture
from emrrg_lib.interpret.words import default_words, view_name, widest_layer
from emrrg_lib.trace import Trace

_MOST_CELLS = 1_200_000  # of the maps in a page; with more, the single heads stay out
_WHITE, _SHADE = np.array([255, 255, 255]), np.array([252, 165, 44])


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
        "Pick a word: the map shows where it looks. Pick a patch, by a click on the X-ray or with "
        "the sliders: the darker a word, the more it looks there."
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

    def choices(self) -> list[Choice]:
        trace, word, layer = self.trace, default_words(self.trace, 1)[0], widest_layer(self.trace)
        view, row, col = np.unravel_index(int(self.maps[layer, 0, word].argmax()), (trace.views, *trace.grid))
        rows, cols = ([str(place + 1) for place in range(side)] for side in trace.grid)
        heads = ["mean of all", "largest of all", *(f"head {head}" for head in range(trace.heads))]
        return [
            Choice("word", "Word", self.words, word, slider=True),
            Choice("layer", "Layer", [f"layer {layer}" for layer in trace.layer_ids], layer),
            Choice("head", "Head", heads),
            Choice("outline", "Outline", ["nothing", *self.masks]),
            Choice("view", "Patch in the", [view_name(number) for number in range(trace.views)], int(view)),
            Choice("row", "Patch row", rows, int(row), slider=True),
            Choice("col", "Patch column", cols, int(col), slider=True),
        ]

    def looks(self, layer: int, head: int, view: int, row: int, col: int) -> np.ndarray:
        """(word,) how much each word looks at one patch."""
        place = np.ravel_multi_index((view, row, col), (self.trace.views, *self.trace.grid))
        return self.maps[layer, head, :, place]

    def draw(self, word: int, layer: int, head: int, outline: int, view: int, row: int, col: int) -> Picture:
        heads = ("mean", "max")[head] if head < 2 else head - 2
        mask = list(self.masks.values())[outline - 1] if outline else None
        figure = attention_overlay(self.images, self.trace, word, layer, heads=heads, masks=mask)
        pixels = np.shape(figure.axes[view].images[0].get_array())[:2]
        height, width = np.divide(pixels, self.trace.grid)
        corner = (col * width - 0.5, row * height - 0.5)
        for colour, line in ((INK, 3.2), (PAPER, 1.4)):  # seen on dark and on bright ground
            figure.axes[view].add_patch(
                Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line)
            )
        looks = self.looks(layer, head, view, row, col)
        most = ", ".join(f"“{self.words[index]}” {looks[index]:.1%}" for index in np.argsort(-looks)[:3])
        figure.alt += (
            f" The framed patch, row {row + 1}, column {col + 1} of the {view_name(view)}, is "
            f"looked at most by {most}."
        )
        return figure

    def extras(self, controls: dict[str, widgets.Widget]) -> Sequence[widgets.Widget]:
        """The report as buttons, shaded by how much each word looks at the patch."""
        layout = {"width": "auto", "height": "26px", "margin": "1px", "padding": "0 5px"}
        buttons = [widgets.Button(description=word, layout=layout) for word in self.words]
        row = widgets.Box(buttons, layout={"flex_flow": "row wrap", "max_width": "900px"})
        row.add_class(name := f"emrrg-words-{id(row)}")
        colours, rule = widgets.HTML(), "." + name + " button:nth-child({}) {{{}}}"

        def shade(change: Any = None) -> None:  # one style sheet: a message for every button would be slow
            at = {name: control.value for name, control in controls.items()}
            looks = self.looks(*(at[name] for name in ("layer", "head", "view", "row", "col")))
            shares = looks[:, None] / max(looks.max(), 1e-9)
            shades = np.round(_WHITE + shares * (_SHADE - _WHITE)).astype(int).tolist()
            rules = [
                rule.format(number, f"background: rgb{tuple(shade)}; color: {INK}")
                for number, shade in enumerate(shades, start=1)
            ]
            rules.append(rule.format(at["word"] + 1, "font-weight: bold; text-decoration: underline"))
            colours.value = f"<style>{''.join(rules)}</style>"

        for number, button in enumerate(buttons):
            button.on_click(lambda _, number=number: controls["word"].set_trait("value", number))
        for control in controls.values():
            control.observe(shade, "value")
        shade()
        return [row, colours]

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

    def page_choices(self) -> list[Choice]:
        choices = {choice.name: choice for choice in self.choices()}
        choices["head"] = replace(choices["head"], options=choices["head"].options[: self._page_heads()])
        return list(choices.values())

    def _page_heads(self) -> int:
        return self.maps.shape[1] if self.maps.size <= _MOST_CELLS else 2

    def page(self) -> dict[str, Any]:
        maps = self.maps[:, : self._page_heads()]
        values, peaks = quantised(maps.reshape(-1, maps.shape[-1]))
        views = [
            xray_picture(image, "", f"X-ray, {view_name(view)}") for view, image in enumerate(self.images)
        ]
        sizes = [(view["width"], view["height"]) for view in views]
        outlines = [
            [mask_outline(mask, *size) for mask, size in zip(masks, sizes, strict=True)]
            for masks in self.masks.values()
        ]
        return {
            "words": self.words,
            "heads": maps.shape[1],
            "grid": self.trace.grid,
            "views": views,
            "names": [view_name(view) for view in range(len(views))],
            "outlines": outlines,
            "maps": packed(values),
            "peaks": peaks,
        }
