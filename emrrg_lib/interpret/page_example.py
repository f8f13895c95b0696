"""The examples of a run's page: X-rays, reports with shared words marked, labels, gates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from emrrg_lib.interpret.describe import view_name
from emrrg_lib.interpret.example import Example, Labels, Overlay, SystemReport
from emrrg_lib.interpret.figures import gate_strip
from emrrg_lib.interpret.matching import Mark, count_words, shared_marks
from emrrg_lib.interpret.page_pictures import figure_picture, overlay_picture, xray_picture
from emrrg_lib.interpret.page_tables import metric_name

NORMAL = "No Finding"
SORTED_BY = ("Bleu_4", "CIDEr", "CE_F1")  # scores that the examples can be sorted by
_STRIP = 11.6  # inches: the width of a card


def compare_labels(reference: Labels | None, hypothesis: Labels | None) -> dict[str, list[str]] | None:
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


def example_cards(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """What the template needs of every study.

    Raises:
        ValueError: an overlay has not one view an image.
    """
    return [_card(index, example) for index, example in enumerate(examples)]


def controls(cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the reader can sort by, as data- attribute -> name, and the findings to filter by."""
    sorts = {"order": "as in the file", "id": "id", "length": "length of the reference"}
    systems = cards[0]["systems"] if cards else []
    for system in systems:
        for key in SORTED_BY:
            name = _slug(system["number"], key)
            if any(name in card["data"] for card in cards):
                sorts[name] = _score_name(key) + (f", {system['name']}" if len(systems) > 1 else "")
    findings = {name for card in cards for name in card["data"]["labels"].split("|") if name}
    return {"sorts": sorts, "findings": sorted(findings), "several": len(systems) > 1}


def _card(index: int, example: Example) -> dict[str, Any]:
    name = f"x{index}"
    marks = shared_marks(example.reference, [system.text for system in example.systems])
    systems = [_system(example, number, system, marks[number + 1])
               for number, system in enumerate(example.systems)]
    views = [xray_picture(image, f"{name}v{view}", f"X-ray of study {example.id}, {view_name(view)}")
             for view, image in enumerate(example.images)]
    gate = example.trace and example.trace.tokens and figure_picture(gate_strip(example.trace, _STRIP))
    return {
        "name": name, "id": example.id, "data": _data(index, example, systems),
        "views": [(picture, view_name(view)) for view, picture in enumerate(views)],
        "reference": _pieces(example.reference, marks[0]), "systems": systems, "gate": gate,
        "overlays": [_overlay(name, example, overlay) for overlay in example.overlays],
        "outlined": any(overlay.masks is not None for overlay in example.overlays),
    }


def _system(example: Example, number: int, system: SystemReport, marks: Sequence[Mark]) -> dict[str, Any]:
    labels = compare_labels(example.labels, system.labels)
    shared = [sum(count_words(system.text[mark.start : mark.stop]) for mark in chosen)
              for chosen in (marks, [mark for mark in marks if len(mark.systems) > 1])]
    scores = dict(system.scores)
    if labels is not None and any(labels.values()):
        agreed, wrong = len(labels["agreed"]), len(labels["missed"]) + len(labels["invented"])
        scores["CE_F1"] = 2 * agreed / (2 * agreed + wrong)
    return {"name": system.name, "pieces": _pieces(system.text, marks), "labels": labels,
            "shared": shared[0], "both": shared[1], "total": count_words(system.text), "scores": scores,
            "shown": [(_score_name(key), value) for key, value in scores.items()], "number": number}


def _pieces(text: str, marks: Sequence[Mark]) -> list[tuple[str, Mark | None, str]]:
    """The text cut at its marks: (piece, mark or None, "a", "b" or "ab")."""
    pieces, at = [], 0
    for mark in marks:
        pieces += [(text[at : mark.start], None, ""),
                   (text[mark.start : mark.stop], mark, "".join("ab"[s] for s in mark.systems))]
        at = mark.stop
    return [*pieces, (text[at:], None, "")]


def _overlay(name: str, example: Example, overlay: Overlay) -> dict[str, Any]:
    weights = np.asarray(overlay.weights, dtype=np.float32)
    if len(weights) != len(example.images):
        raise ValueError(
            f"The overlay “{overlay.caption}” of study {example.id} has {len(weights)} views, "
            f"but the study has {len(example.images)} images."
        )
    pictures = [
        overlay_picture(
            image, f"{name}v{view}", weights[view], float(weights.max()),
            None if overlay.masks is None else overlay.masks[view],
            overlay.alt if view == 0 else f"The same word on the {view_name(view)}.")
        for view, image in enumerate(example.images)
    ]
    return {"pictures": pictures, "caption": overlay.caption, "note": overlay.note}


def _data(index: int, example: Example, systems: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """data- attributes that the sorting and filtering of the page reads."""
    labels = [system["labels"] or {"agreed": [], "missed": [], "invented": []} for system in systems]
    named = {name for of in labels for names in of.values() for name in names}
    true = {name for of in labels for name in (*of["agreed"], *of["missed"])}
    values = {
        "order": index, "id": example.id, "length": count_words(example.reference),
        "labels": "|".join(sorted(named)), "abnormal": int(bool(true - {NORMAL})),
        "missed": len(labels[0]["missed"]), "invented": len(labels[0]["invented"]),
        "differ": int(any(of != labels[0] for of in labels)),
    }
    scores = ((_slug(system["number"], key), value) for system in systems
              for key, value in system["scores"].items())
    return values | {key: value for key, value in scores if value is not None}


def _score_name(key: str) -> str:
    return "CE F1" if key == "CE_F1" else metric_name(key)[1]


def _slug(number: int, key: str) -> str:
    """The name of a system's score as a data- attribute."""
    return f"score-{number}-" + re.sub(r"[^a-z0-9]+", "-", key.lower())
