"""The examples of a run's page: X-rays, both reports with shared words marked, labels, gates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from emrrg_lib.interpret.describe import view_name
from emrrg_lib.interpret.example import Example, Overlay
from emrrg_lib.interpret.figures import gate_strip
from emrrg_lib.interpret.matching import Match, count_words, matching_spans
from emrrg_lib.interpret.page_html import figure_tag, number, overlay_svg, xray_svg
from emrrg_lib.interpret.page_tables import metric_name

NORMAL = "No Finding"
_STRIP = 11.6  # inches: the width of a card


def example_section(examples: Sequence[Example]) -> str:
    """All examples under one row of controls, which stay hidden where scripts do not run."""
    if not examples:
        return ""
    cards = "".join(_card(index, example) for index, example in enumerate(examples))
    return f'{_controls(examples)}<div id="cards">{cards}</div>'


def compare_labels(
    reference: Mapping[str, int | None] | None, hypothesis: Mapping[str, int | None] | None
) -> dict[str, list[str]] | None:
    """Observations both reports name, only the reference names, only the generated report names.

    Uncertain (-1) counts as named. None where either side has no labels.

    Returns:
        {"agreed": [...], "missed": [...], "invented": [...]}.
    """
    if reference is None or hypothesis is None:
        return None
    left = [name for name, value in reference.items() if value in (1, -1)]
    right = [name for name, value in hypothesis.items() if value in (1, -1)]
    return {
        "agreed": [name for name in left if name in right],
        "missed": [name for name in left if name not in right],
        "invented": [name for name in right if name not in left],
    }


def marked_html(text: str, spans: Sequence[tuple[tuple[int, int], int]]) -> str:
    """Escaped text with <mark> around each (start, stop) span; the number names its twin."""
    pieces, at = [], 0
    for (start, stop), twin in sorted(spans):
        pieces.append(escape(text[at:start]))
        pieces.append(f'<mark data-twin="{twin}">{escape(text[start:stop])}</mark>')
        at = stop
    return "".join([*pieces, escape(text[at:])])


def _card(index: int, example: Example) -> str:
    matches = matching_spans(example.reference, example.hypothesis)
    labels = compare_labels(example.labels_reference, example.labels_hypothesis)
    name = f"x{index}"
    views = ""
    for view, image in enumerate(example.images):
        alt = f"X-ray of study {example.id}, {view_name(view)}"
        picture = xray_svg(image, f"{name}v{view}", alt)
        views += f"<figure>{picture}<figcaption>{view_name(view)}</figcaption></figure>"
    return (
        f'<article class="example" aria-labelledby="{name}" {_data(index, example, labels)}>'
        f'<h3 id="{name}">Study {escape(example.id)}</h3>{_scores(example.scores)}{_chips(labels)}'
        f'<div class="study"><div class="views">{views}</div>{_texts(example, matches)}</div>'
        f"{_inside(name, example)}</article>"
    )


def _texts(example: Example, matches: Sequence[Match]) -> str:
    left = [(match.reference, twin) for twin, match in enumerate(matches)]
    right = [(match.hypothesis, twin) for twin, match in enumerate(matches)]
    reference = marked_html(example.reference, left)
    hypothesis = marked_html(example.hypothesis, right)
    shared, total = sum(match.words for match in matches), count_words(example.hypothesis)
    return (
        f'<div class="texts"><div><h4>Reference</h4><p class="report">{reference}</p></div>'
        f'<div><h4>Generated</h4><p class="report">{hypothesis}</p>'
        f'<p class="small">{shared} of {total} words shared in runs of two or more</p></div></div>'
    )


def _inside(name: str, example: Example) -> str:
    """The fold with the gate strip and the overlays; nothing where neither was recorded."""
    parts = []
    if example.overlays:
        words = "".join(_overlay(name, example, overlay) for overlay in example.overlays)
        outlined = any(overlay.masks is not None for overlay in example.overlays)
        legend = " Outline: where the finding really is." if outlined else ""
        parts.append(
            f'<h4>Where the finding words look</h4><div class="overlays">{words}</div>'
            f'<p class="small">Each word on its own scale, strongest patch brightest.{legend}</p>'
        )
    if example.trace is not None and example.trace.tokens:
        strip = figure_tag(gate_strip(example.trace, _STRIP))
        parts.append(f"<h4>How far each word opened the gates</h4>{strip}")
    if not parts:
        return ""
    return f"<details open><summary>Inside the model</summary>{''.join(parts)}</details>"


def _overlay(name: str, example: Example, overlay: Overlay) -> str:
    weights = np.asarray(overlay.weights, dtype=np.float32)
    if len(weights) != len(example.images):
        raise ValueError(
            f"The overlay “{overlay.caption}” of study {example.id} has {len(weights)} views, "
            f"but the study has {len(example.images)} images."
        )
    peak = float(weights.max())
    pictures = "".join(
        overlay_svg(
            image, f"{name}v{view}", weights[view], peak,
            None if overlay.masks is None else overlay.masks[view],
            overlay.alt if view == 0 else f"The same word on the {view_name(view)}."
        )
        for view, image in enumerate(example.images)
    )
    note = f" <span>{escape(overlay.note)}</span>" if overlay.note else ""
    return (
        f'<figure><div class="pair">{pictures}</div>'
        f"<figcaption><b>{escape(overlay.caption)}</b>{note}</figcaption></figure>"
    )


def _scores(scores: Mapping[str, float | None]) -> str:
    if not scores:
        return ""
    items = "".join(
        f"<div><dt>{escape(metric_name(key)[1])}</dt><dd>{number(value)}</dd></div>"
        for key, value in scores.items()
    )
    return f'<dl class="scores">{items}</dl>'


def _chips(labels: Mapping[str, Sequence[str]] | None) -> str:
    """Agreed, missed and invented observations; sign and word say it, not the colour alone."""
    if labels is None:
        return ""
    signs = {"agreed": "✓", "missed": "−", "invented": "+"}
    chips = "".join(
        f'<li class="{kind}"><span aria-hidden="true">{sign}</span> '
        f"{escape(name)} <i>{kind}</i></li>"
        for kind, sign in signs.items()
        for name in labels[kind]
    )
    return f'<ul class="chips" aria-label="Findings">{chips}</ul>' if chips else ""


def _data(index: int, example: Example, labels: Mapping[str, Sequence[str]] | None) -> str:
    """data- attributes that the sorting and filtering of the page reads."""
    labels = labels or {"agreed": [], "missed": [], "invented": []}
    named = [*labels["agreed"], *labels["missed"], *labels["invented"]]
    values: dict[str, Any] = {
        "order": index, "labels": "|".join(named), "missed": len(labels["missed"]),
        "invented": len(labels["invented"]),
        "abnormal": int(any(name != NORMAL for name in labels["agreed"] + labels["missed"]))
    }
    values |= {_slug(key): score for key, score in example.scores.items() if score is not None}
    return " ".join(f'data-{key}="{escape(str(value))}"' for key, value in values.items())


def _slug(key: str) -> str:
    """The name of a score as a data- attribute."""
    return "score-" + re.sub(r"[^a-z0-9]+", "-", key.lower())


def _controls(examples: Sequence[Example]) -> str:
    """Sort and filter; shown by the page's script alone."""
    sorts = "".join(
        f'<option value="{_slug(key)}:{way}">{escape(metric_name(key)[1])}, {word} first</option>'
        for key in dict.fromkeys(key for example in examples for key in example.scores)
        for way, word in (("down", "highest"), ("up", "lowest"))
    )
    names: set[str] = set()
    for example in examples:
        labels = compare_labels(example.labels_reference, example.labels_hypothesis) or {}
        names.update(*labels.values())
    options = "".join(
        f'<option value="{escape(name)}">{escape(name)}</option>' for name in sorted(names)
    )
    kinds = (
        ("", "all studies"), ("abnormal", "with findings"), ("normal", "without findings"),
        ("missed", "something missed"), ("invented", "something invented")
    )
    show = "".join(f'<option value="{value}">{text}</option>' for value, text in kinds)
    return (
        '<form id="controls" hidden>'
        '<label>Sort <select name="sort"><option value="order:up">as in the file</option>'
        f'{sorts}</select></label><label>Show <select name="kind">{show}</select></label>'
        '<label>Finding <select name="label"><option value="">any</option>'
        f"{options}</select></label>"
        '<label>Words <input type="search" name="words" placeholder="in either report"></label>'
        '<button type="button" name="fold">Fold the insides</button>'
        '<output aria-live="polite"></output></form>'
    )
