"""One study on one page: X-rays, both reports, gate strip, and where the finding words look."""

from __future__ import annotations

from emrrg_lib.interpret import panels
from emrrg_lib.interpret.describe import default_words, describe, view_name, widest_layer
from emrrg_lib.interpret.figures import WIDTH, Images, draw_word, one_image_per_view
from emrrg_lib.interpret.matching import count_words, matching_spans
from emrrg_lib.interpret.panels import inch_axes, inch_text
from emrrg_lib.interpret.style import MUTED, PAPER, Picture
from emrrg_lib.interpret.trace import Trace

_XRAY, _TYPE, _MARGIN = 2.05, 8.5, 0.15  # inches of an X-ray, font size of reports, inches of air

Card = tuple[str, str, list[tuple[int, int]]]  # title, text, marked character spans


def study_figure(
    images: Images, reference: str | None, generated: str, trace: Trace, layer: int | None = None
) -> Picture:
    """Draws what a reader of one study wants to see at once.

    Args:
        images: one array a view.
        reference: the radiologist's report; None where there is none.
        generated: the model's report.
        trace: the record of the generated report.
        layer: position on the trace's layer axis; by default the one whose gate opens widest.

    Raises:
        ValueError: if there is not one image a view, or the layer does not exist.
    """
    images = one_image_per_view(images, trace)
    layer = widest_layer(trace) if layer is None else layer
    text_left = _MARGIN + len(images) * (_XRAY + 0.06) + 0.1
    card_width = WIDTH - text_left - 0.1
    cards = _cards(reference, generated)
    heights = [panels.text_height(card[1], _TYPE, card_width - 0.28) + 0.5 for card in cards]
    gate_top = max(_XRAY + 0.35, sum(heights) + 0.1 * len(heights)) + 0.35
    words_top = gate_top + panels.gate_height(trace, WIDTH - 0.2) + 0.2
    words = default_words(trace, 3)
    side = min(1.42, (WIDTH - 0.3) / max(1, len(words)) / len(images) - 0.1)
    total = words_top + (side + 0.4 if words else 0)
    figure = Picture((WIDTH, total), facecolor=PAPER, alt=_alt(reference, generated, trace))
    for view, image in enumerate(images):
        axes = inch_axes(figure, _MARGIN + view * (_XRAY + 0.06), 0.3, _XRAY, _XRAY)
        panels.draw_xray(axes, image, view_name(view))
    top = 0.08
    for (title, text, spans), height in zip(cards, heights, strict=True):
        body = panels.text_card(figure, text_left, top, card_width, height, title)
        panels.draw_marked_text(body, text, spans, _TYPE, card_width - 0.28)
        top += height + 0.1
    _heading(figure, gate_top - 0.12, "Gate: how much of the image each word let in, by layer")
    panels.draw_gate(figure, trace, 0.1, gate_top, WIDTH - 0.2)
    if words:
        _heading(figure, words_top, f"Where words look · layer {trace.layer_ids[layer]}")
    for position, word in enumerate(words):
        left = _MARGIN + position * (len(images) * (side + 0.03) + 0.2)
        draw_word(figure, images, trace, word, layer, (left, words_top - 0.02), side)
    return figure


def _cards(reference: str | None, generated: str) -> list[Card]:
    if reference is None:
        return [("Generated report", generated, [])]
    matches = matching_spans(reference, generated)
    shared, total = sum(match.words for match in matches), count_words(generated)
    title = f"Generated report · {shared} of {total} words shared"
    return [
        ("Reference report", reference, [match.reference for match in matches]),
        (title, generated, [match.hypothesis for match in matches]),
    ]


def _heading(figure: Picture, top: float, text: str) -> None:
    inch_text(figure, _MARGIN, top, text, 9, MUTED, weight="bold")


def _alt(reference: str | None, generated: str, trace: Trace) -> str:
    told = "" if reference is None else f"Reference report: {reference} "
    return f"X-rays of one study. {told}Generated report: {generated} {describe(trace)}"
