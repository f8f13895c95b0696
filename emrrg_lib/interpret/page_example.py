"""One study on the page of a run: X-rays, reports with shared words marked, labels, scores, its explorers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from emrrg_lib.evaluation.metrics import keys, metric
from emrrg_lib.interpret.style import Picture, data_uri, encode_png, grey_image, png_bytes
from emrrg_lib.interpret.words import (
    Mark,
    count_words,
    mark_kind,
    sentence_marks,
    shared_marks,
    view_name,
)
from emrrg_lib.trace import Trace

LARGEST_SIDE = 224  # pixels of an X-ray on the page; keeps 24 examples below 4 MB
NORMAL = "No Finding"

Labels = Mapping[str, int | None]  # observation → 1, 0, -1 (uncertain) or None


@dataclass(frozen=True)
class SystemReport:
    """One system's report: its name, its text, the labels read from it (or None), its scores."""

    name: str
    text: str
    labels: Labels | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """One study of the page.

    Attributes:
        id: the study's name.
        images: one array per view, (H, W), (H, W, 3) or (3, H, W).
        reference: the radiologist's report.
        systems: the generated reports to compare with it, the same ones on all studies.
        labels: the reference's labels, or None.
        trace: the record of the first system's report, for the figure of its gates.
        explorer: link to the page of its explorers, which the card shows.
    """

    id: str
    images: Sequence[np.ndarray]
    reference: str
    systems: Sequence[SystemReport]
    labels: Labels | None = None
    trace: Trace | None = None
    explorer: str = ""


def render(template: str, *folders: Path, **values: Any) -> str:
    """A page from its Jinja template, found in the folders; every text is escaped, no name may be missing."""
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def figure_picture(figure: Picture) -> dict[str, Any]:
    """A figure for an <img>; 100 pixels an inch, so that type keeps one size all over the page."""
    source = data_uri(png_bytes(figure, 140, colours=256))
    return {"source": source, "width": int(figure.get_figwidth() * 100), "alt": figure.alt}


def xray_picture(image: np.ndarray, alt: str, most: int = LARGEST_SIDE) -> dict[str, Any]:
    """An X-ray of at most `most` pixels a side for a page."""
    grey = grey_image(image)
    scale = min(1.0, most / max(grey.shape))
    width, height = (max(1, round(side * scale)) for side in grey.shape[::-1])
    grey = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS))
    return {"source": data_uri(encode_png(grey)), "width": width, "height": height, "alt": alt}


def mask_outline(mask: np.ndarray, width: float, height: float) -> str:
    """SVG path of the edge of a (H, W) mask, scaled to width × height."""
    padded = np.pad(np.asarray(mask, dtype=float), 1)
    scale = np.array([width / np.shape(mask)[1], height / np.shape(mask)[0]])
    paths = []
    for line in contourpy.contour_generator(z=padded).lines(0.5):
        points = (line - 0.5) * scale  # the frame of zeros moved everything by one pixel
        paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(paths)


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


def page_controls(cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The keys to sort by, as data- attribute → name, and the findings to filter by."""
    sorts = {"order": "as in the file", "id": "id", "length": "length of the reference"}
    systems = cards[0]["systems"] if cards else []
    for number, system in enumerate(systems):
        for key in keys("sorts"):
            if any(_slug(number, key) in card["data"] for card in cards):
                of = f", {system['name']}" if len(systems) > 1 else ""
                sorts[_slug(number, key)] = _score_name(key) + of
    findings = {name for card in cards for name in card["data"]["labels"].split("|") if name}
    others = "both systems" if len(systems) == 2 else "other systems too"
    return {"sorts": sorts, "findings": sorted(findings), "several": len(systems) > 1, "others": others}


def example_card(index: int, example: Example) -> dict[str, Any]:
    """The values that the template needs of the study with this place on the page."""
    marks, *own = shared_marks(example.reference, [system.text for system in example.systems])
    systems = [_system(example, system, found) for system, found in zip(example.systems, own, strict=True)]
    views = [
        xray_picture(image, f"X-ray of study {example.id}, {view_name(view)}")
        for view, image in enumerate(example.images)
    ]
    return {
        "name": f"x{index}",
        "id": example.id,
        "data": _data(index, example, systems),
        "views": [(picture, view_name(view)) for view, picture in enumerate(views)],
        "reference": _pieces(example.reference, marks, len(systems)),
        "systems": systems,
        "sentences": _sentences(example),
        "explorer": example.explorer,
    }


def _system(example: Example, system: SystemReport, marks: Sequence[Mark]) -> dict[str, Any]:
    labels, scores = compare_labels(example.labels, system.labels), dict(system.scores)
    if labels is not None and any(labels.values()):
        agreed, wrong = len(labels["agreed"]), len(labels["missed"]) + len(labels["invented"])
        scores["CE_F1"] = 2 * agreed / (2 * agreed + wrong)
    words = [count_words(system.text[mark.start : mark.stop]) for mark in marks]
    return {
        "name": system.name,
        "pieces": _pieces(system.text, marks, len(example.systems)),
        "labels": labels,
        "shared": sum(words),
        "both": sum(count for count, mark in zip(words, marks, strict=True) if len(mark.systems) > 1),
        "total": count_words(system.text),
        "scores": scores,
        "shown": [(_score_name(key), value) for key, value in scores.items()],
    }


def _sentences(example: Example) -> list[tuple[str, list]]:
    """The reports cut at the sentences that match the reference; [] where none does."""
    texts = [example.reference, *(system.text for system in example.systems)]
    found, names = sentence_marks(texts[0], texts[1:]), ["Reference", *(s.name for s in example.systems)]
    pieces = [_pieces(text, marks, len(example.systems)) for text, marks in zip(texts, found, strict=True)]
    return list(zip(names, pieces, strict=True)) if any(found) else []


def _pieces(text: str, marks: Sequence[Mark], systems: int) -> list[tuple[str, Mark | None, str]]:
    """The text cut at its marks: (piece, mark or None, "a", "b" or "ab")."""
    pieces, at = [], 0
    for mark in marks:
        pieces += [
            (text[at : mark.start], None, ""),
            (text[mark.start : mark.stop], mark, mark_kind(mark, systems)),
        ]
        at = mark.stop
    return [*pieces, (text[at:], None, "")]


def _data(index: int, example: Example, systems: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The data- attributes by which the page sorts and filters."""
    labels = [system["labels"] or {"agreed": [], "missed": [], "invented": []} for system in systems]
    named = {name for of in labels for names in of.values() for name in names}
    true = {name for of in labels for name in (*of["agreed"], *of["missed"])}
    values = {
        "order": index,
        "id": example.id,
        "length": count_words(example.reference),
        "labels": "|".join(sorted(named)),
        "abnormal": int(bool(true - {NORMAL})),
        "missed": len(labels[0]["missed"]),
        "invented": len(labels[0]["invented"]),
        "differ": int(any(of != labels[0] for of in labels)),
    }
    return values | {
        _slug(number, key): value
        for number, system in enumerate(systems)
        for key, value in system["scores"].items()
        if value is not None
    }


def _score_name(key: str) -> str:
    return "CE F1" if key == "CE_F1" else metric(key).label


def _slug(number: int, key: str) -> str:
    """The name of a system's score as a data- attribute."""
    return f"score-{number}-" + re.sub(r"[^a-z0-9]+", "-", key.lower())
