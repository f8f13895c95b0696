"""Figures of one report: the gate strip, the attention of words, the whole study; and the loss curve.

Every function takes a `Trace`, arrays and texts, never a model, and returns a `Picture`: a matplotlib
Figure with a text alternative in `alt`. The notebooks show these figures, and the page of a run holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from emrrg_lib.interpret import panels
from emrrg_lib.interpret.panels import inch_axes, inch_text
from emrrg_lib.interpret.style import BLUE, MUTED, ORANGE, SHARED_FILLS, Picture
from emrrg_lib.interpret.words import (
    count_words,
    default_words,
    describe_place,
    describe_trace,
    mark_kind,
    naming_words,
    sentence_marks,
    shared_marks,
    view_name,
    widest_layer,
)
from emrrg_lib.trace import Trace

WIDTH = 9.0  # inches; 900 pixels in a notebook
_BAR = 0.75  # inches kept for a colour bar

Images = Sequence[np.ndarray] | np.ndarray


def gate_strip(trace: Trace, width: float = WIDTH) -> Picture:
    """Draws how far each token opened the gate of each hybrid layer (paper §3.4, Eq. 2).

    It is a layers × tokens heat map of tanh(w_g·S + b_g)·tanh(α), white at 0, with the words under it. Long
    reports continue on the next line; `width` is in inches.
    """
    height = panels.gate_height(trace, width - 0.2)
    figure = Picture((width, height + 0.2), alt=describe_trace(trace))
    panels.draw_gate(figure, trace, 0.1, 0.1, width - 0.2)
    return figure


def attention_overlay(
    images: Images,
    trace: Trace,
    word: int,
    layer: int,
    *,
    heads: str | int | Sequence[int] = "mean",
    masks: np.ndarray | None = None,
) -> Picture:
    """Draws the attention of one word over every view (paper §3.4, Eq. 1).

    Args:
        images: one array per view, each (H, W), (H, W, 3) or (3, H, W).
        trace: the record of the report.
        word: position in `trace.words()`.
        layer: position on the trace's layer axis.
        heads: as in `Trace.word_attention`.
        masks: (view, H, W) bool, the finding's true place, drawn as an outline.

    Raises:
        ValueError: if the number of images is not that of the views, or the word or layer does not exist.
    """
    images = one_image_per_view(images, trace)
    weights = trace.word_attention(word, layer, heads)
    side = min(3.2, (WIDTH - _BAR - 0.2) / len(images) - 0.1)
    text, name = trace.words()[word].text, f"layer {trace.layer_ids[layer]}"
    alt = f"Attention of the word “{text}” in {name}: {describe_place(weights)}."
    size = (0.2 + len(images) * (side + 0.1) + _BAR, side + 0.85)
    figure = Picture(size, alt=alt)
    inch_text(figure, 0.15, 0.27, f"“{text}” looks here · {name}", 10.5)
    peak = max(float(weights.max()), 1e-6)
    for view, image in enumerate(images):
        axes = inch_axes(figure, 0.15 + view * (side + 0.1), 0.65, side, side)
        title = f"{view_name(view)} · {weights[view].sum():.0%} of the attention"
        mask = None if masks is None else masks[view]
        panels.draw_overlay(axes, image, weights[view], peak, title, mask)
    bar = inch_axes(figure, 0.2 + len(images) * (side + 0.1), 0.65 + side * 0.1, 0.12, side * 0.8)
    panels.colour_bar(bar, peak, "weight of one patch")
    return figure


def draw_word(
    figure: Picture,
    images: Sequence[np.ndarray],
    trace: Trace,
    word: int,
    layer: int,
    corner: tuple[float, float],
    side: float,
    masks: Mapping[str, np.ndarray] | None = None,
) -> str:
    """Draws one word's attention over its views, `side` inches each; returns a sentence about it.

    `masks` are finding → (view, H, W) bool; the mask of the word's own finding becomes an outline.
    """
    left, top = corner
    named = {item.word_index: item for item in naming_words(trace)}
    caption = named[word].caption if word in named else trace.words()[word].text
    mask = (masks or {}).get(named[word].finding) if word in named else None
    weights = trace.word_attention(word, layer)
    inch_text(figure, left, top + 0.24, caption, 9)
    for view, image in enumerate(images):
        axes = inch_axes(figure, left + view * (side + 0.03), top + 0.32, side, side)
        panels.draw_overlay(
            axes, image, weights[view], float(weights.max()), mask=None if mask is None else mask[view]
        )
    return f"“{caption}”: {describe_place(weights)}."


def overlay_rows(
    rows: Mapping[str, tuple[np.ndarray, Sequence[np.ndarray], np.ndarray | None]],
    columns: Sequence[str],
    title: str,
) -> Picture:
    """Draws maps over X-rays, one line for each name, each map on its own scale.

    Args:
        rows: name → the X-ray (H, W), its maps (rows, cols), and a place (H, W) bool to outline or None.
        columns: names of the maps.
    """
    side = min(2.0, (WIDTH - 1.2) / len(columns) - 0.08)
    alt = [f"{title}, over X-rays, in {', '.join(columns)}."]
    figure = Picture((1.2 + len(columns) * (side + 0.08), 0.6 + len(rows) * (side + 0.1)))
    inch_text(figure, 0.1, 0.22, title, 9.5)
    for line, (name, (image, maps, mask)) in enumerate(rows.items()):
        top = 0.55 + line * (side + 0.1)
        inch_text(figure, 0.1, top + side / 2, name, 8.5)
        alt.append(f"{name.capitalize()}, first map: {describe_place(np.asarray(maps[0])[None])}.")
        for place, values in enumerate(maps):
            axes = inch_axes(figure, 1.15 + place * (side + 0.08), top, side, side)
            heading = columns[place] if line == 0 else ""
            panels.draw_overlay(axes, image, values, float(np.max(values)), heading, mask)
    figure.alt = " ".join(alt)
    return figure


def loss_curve(
    steps: Sequence[float],
    losses: Sequence[float],
    validation: Sequence[tuple[float, float]] = (),
) -> Picture:
    """Draws the training loss over steps: pale as logged, dark as a running mean, and dots on validation.

    Args:
        steps: optimiser steps, rising.
        losses: mean negative log-likelihood in nats per report token, one per step.
        validation: (step, loss) pairs.

    Raises:
        ValueError: if steps and losses differ in length or are empty.
    """
    if len(steps) != len(losses) or not len(steps):
        raise ValueError(f"steps ({len(steps)}) and losses ({len(losses)}) must be equally many, at least 1.")
    steps, losses = np.asarray(steps, dtype=float), np.asarray(losses, dtype=float)
    smooth = running_mean(losses)
    alt = f"Training loss: {losses[0]:.2f} nats per token at first, {smooth[-1]:.2f} at step {steps[-1]:.0f}."
    figure = Picture((6.4, 2.9), alt=alt)
    axes = inch_axes(figure, 0.65, 0.2, 6.4 - 0.85, 2.2)
    axes.plot(steps, losses, color=BLUE, alpha=0.3, linewidth=1, label="training, as logged")
    axes.plot(steps, smooth, color=BLUE, linewidth=1.8, label="training, running mean")
    if len(validation):
        points = zip(*validation, strict=True)
        axes.plot(*points, "o-", color=ORANGE, linewidth=1.4, markersize=4, label="validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # no half steps
    panels.label_axes(axes, "step", "loss (nats per token)")
    return figure


def running_mean(values: np.ndarray) -> np.ndarray:
    """(n,) → (n,): centred mean over a twentieth of the curve; at its ends over fewer values."""
    window = 2 * max(1, len(values) // 40) + 1
    return pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()


def one_image_per_view(images: Images, trace: Trace) -> list[np.ndarray]:
    """The images as a list; one array without a view axis counts as one view.

    Raises:
        ValueError: if their number is not the trace's number of views.
    """
    if isinstance(images, np.ndarray):
        flat = images.ndim == 2 or (images.ndim == 3 and images.shape[-1] == 3)
        images = [images] if flat else images
    views = [np.asarray(image) for image in images]
    if len(views) != trace.views:
        raise ValueError(f"{len(views)} image(s) given, but the trace has {trace.views} view(s).")
    return views


_XRAY, _TYPE, _MARGIN = 2.05, 8.5, 0.15  # inches of an X-ray, font size of reports, inches of air

Card = tuple[str, str, list[panels.Span]]  # title, text, marked character spans


def study_figure(images: Images, reference: str | None, generated: str, trace: Trace) -> Picture:
    """Draws one study on one page: X-rays, both reports, the gate, and the words that name a finding.

    Args:
        images: one array per view.
        reference: the radiologist's report, or None.
        generated: the model's report.
        trace: the record of the generated report. The maps are those of the widest open gate.

    Raises:
        ValueError: if the number of images is not that of the views.
    """
    images, layer = one_image_per_view(images, trace), widest_layer(trace)
    text_left = _MARGIN + len(images) * (_XRAY + 0.06) + 0.1
    card_width = WIDTH - text_left - 0.1
    cards = _cards(reference, generated)
    heights = [panels.card_height(text, _TYPE, card_width) for _, text, _ in cards]
    gate_top = max(_XRAY + 0.35, sum(heights) + 0.1 * len(heights)) + 0.35
    words_top = gate_top + panels.gate_height(trace, WIDTH - 0.2) + 0.2
    words = default_words(trace, 3)
    side = min(1.42, (WIDTH - 0.3) / max(1, len(words)) / len(images) - 0.1)
    total = words_top + (side + 0.4 if words else 0)
    in_words = "" if reference is None else f"Reference report: {reference} "
    alt = f"X-rays of one study. {in_words}Generated report: {generated} {describe_trace(trace)}"
    figure = Picture((WIDTH, total), alt=alt)
    for view, image in enumerate(images):
        axes = inch_axes(figure, _MARGIN + view * (_XRAY + 0.06), 0.3, _XRAY, _XRAY)
        panels.draw_xray(axes, image, view_name(view))
    top = 0.08
    for (title, text, spans), height in zip(cards, heights, strict=True):
        panels.draw_card(figure, (text_left, top), card_width, title, text, spans, _TYPE)
        top += height + 0.1
    title = "Gate: how much of the image each word let in, by layer"
    inch_text(figure, _MARGIN, gate_top - 0.12, title, 9, MUTED, weight="bold")
    panels.draw_gate(figure, trace, 0.1, gate_top, WIDTH - 0.2)
    if words:
        title = f"Where words look · layer {trace.layer_ids[layer]}"
        inch_text(figure, _MARGIN, words_top, title, 9, MUTED, weight="bold")
    for position, word in enumerate(words):
        left = _MARGIN + position * (len(images) * (side + 0.03) + 0.2)
        draw_word(figure, images, trace, word, layer, (left, words_top - 0.02), side)
    return figure


def _cards(reference: str | None, generated: str) -> list[Card]:
    if reference is None:
        return [("Generated report", generated, [])]
    marks = shared_marks(reference, [generated])
    spans = [[(mark.start, mark.stop) for mark in side] for side in marks]
    shared = sum(count_words(generated[mark.start : mark.stop]) for mark in marks[1])
    title = f"Generated report · {shared} of {count_words(generated)} words shared"
    return [("Reference report", reference, spans[0]), (title, generated, spans[1])]


def reports_figure(
    images: Sequence[np.ndarray], reference: str, reports: Sequence[tuple[str, str]]
) -> Picture:
    """Draws one study as the paper's Fig. 3: X-rays, the reference and the systems' reports.

    Sentences that say the same as the reference have the colours of `SHARED_FILLS`.

    Args:
        images: one array per view; none leaves them out.
        reports: name and text of each system.
    """
    marks = sentence_marks(reference, [text for _, text in reports])
    cards = [("Reference report", reference), *reports]
    left = _MARGIN + len(images) * (_XRAY + 0.06)
    width = WIDTH - left - 0.1
    heights = [panels.card_height(text, _TYPE, width) for _, text in cards]
    total = max((_XRAY + 0.35) * bool(len(images)), sum(heights) + 0.1 * len(heights)) + 0.1
    alt = "X-rays of one study and its reports. " * bool(len(images)) + " ".join(
        f"{n}: {t}" for n, t in cards
    )
    figure = Picture((WIDTH, total), alt=alt)
    for view, image in enumerate(images):
        axes = inch_axes(figure, _MARGIN + view * (_XRAY + 0.06), 0.3, _XRAY, _XRAY)
        panels.draw_xray(axes, image, view_name(view))
    top = 0.08
    for (title, text), height, side in zip(cards, heights, marks, strict=True):
        spans = [(m.start, m.stop, SHARED_FILLS[mark_kind(m, len(reports))]) for m in side]
        panels.draw_card(figure, (left, top), width, title, text, spans, _TYPE)
        top += height + 0.1
    return figure
