"""One study on the page of a run: X-rays, reports with shared words marked, labels, scores, gates, maps."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from emrrg_lib.evaluation.metrics import keys
from emrrg_lib.files import InputError
from emrrg_lib.interpret.figures import gate_strip
from emrrg_lib.interpret.matching import Mark, count_words, shared_marks
from emrrg_lib.interpret.page_tables import metric_name
from emrrg_lib.interpret.style import Picture, encode_png, grey_image, heat_rgba, png_bytes
from emrrg_lib.interpret.words import describe_place, naming_words, view_name, widest_layer
from emrrg_lib.trace import Trace

LARGEST_SIDE = 224  # pixels of an X-ray on the page; keeps 24 examples below 4 MB
_HEAT_SIDE = 48  # pixels of a heat map; the browser enlarges it smoothly
NORMAL = "No Finding"
_STRIP = 11.6  # inches: the width of a card

Labels = Mapping[str, int | None]  # observation → 1, 0, -1 (uncertain) or None


@dataclass(frozen=True)
class Overlay:
    """The place where one word looked, ready to be drawn.

    Attributes:
        caption: the word, as it is printed.
        weights: (view, rows, cols) attention, see `Trace.word_attention`.
        note: a few words under it, such as the layer.
        masks: (view, H, W) bool, the finding's true place, drawn as an outline; None where it is unknown.
    """

    caption: str
    weights: np.ndarray
    note: str = ""
    masks: np.ndarray | None = None

    @property
    def alt(self) -> str:
        """The picture in words."""
        return f"The word “{self.caption}” looks {describe_place(np.asarray(self.weights))}."


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
        systems: the generated reports to compare with it, one or two, the same on all studies.
        labels: the reference's labels, or None.
        trace: the record of the first system's report, for the gate strip.
        overlays: the words of that report whose attention is drawn.
    """

    id: str
    images: Sequence[np.ndarray]
    reference: str
    systems: Sequence[SystemReport]
    labels: Labels | None = None
    trace: Trace | None = None
    overlays: Sequence[Overlay] = ()


def overlays_from_trace(
    trace: Trace, layer: int | None = None, limit: int = 3, masks: Mapping[str, np.ndarray] | None = None
) -> tuple[Overlay, ...]:
    """Overlays of the words that name a finding, affirmed ones first.

    Args:
        trace: the record of one generated report.
        layer: position on the trace's layer axis; by default the one whose gate opens widest on average.
        limit: how many words at most.
        masks: observation → (view, H, W) bool, the true places, for words whose sentence affirms the finding.
    """
    layer = widest_layer(trace) if layer is None else layer
    return tuple(
        Overlay(
            word.caption,
            trace.word_attention(word.word_index, layer),
            f"layer {trace.layer_ids[layer]}",
            None if word.negated else (masks or {}).get(word.finding),
        )
        for word in naming_words(trace, limit)
    )


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
    source = _uri(png_bytes(figure, 140, colours=256))
    return {"source": source, "width": int(figure.get_figwidth() * 100), "alt": figure.alt}


def xray_picture(image: np.ndarray, name: str, alt: str) -> dict[str, Any]:
    """An X-ray for an inline <svg>; other pictures of the page reuse it by its name."""
    grey = grey_image(image)
    scale = min(1.0, LARGEST_SIDE / max(grey.shape))
    width, height = (max(1, round(side * scale)) for side in grey.shape[::-1])
    grey = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS))
    return {"name": name, "source": _uri(encode_png(grey)), "width": width, "height": height, "alt": alt}


def overlay_picture(
    xray: Mapping[str, Any], weights: np.ndarray, peak: float, mask: np.ndarray | None, alt: str
) -> dict[str, Any]:
    """An `xray_picture` again, with one view's (rows, cols) weights and a mask's outline on it."""
    size = {key: xray[key] for key in ("width", "height")}
    outline = "" if mask is None or not np.any(mask) else mask_outline(mask, **size)
    heat = _uri(encode_png(heat_rgba(weights, peak, (_HEAT_SIDE, _HEAT_SIDE))))
    return {"uses": xray["name"], "heat": heat, "outline": outline, "alt": alt, **size}


def mask_outline(mask: np.ndarray, width: float, height: float) -> str:
    """SVG path of the edge of a (H, W) mask, scaled to width × height."""
    padded = np.pad(np.asarray(mask, dtype=float), 1)
    scale = np.array([width / np.shape(mask)[1], height / np.shape(mask)[0]])
    paths = []
    for line in contourpy.contour_generator(z=padded).lines(0.5):
        points = (line - 0.5) * scale  # the frame of zeros moved everything by one pixel
        paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(paths)


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


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
    """The values that the template needs of every study.

    Raises:
        InputError: an overlay does not have one view per image.
    """
    return [_card(index, example) for index, example in enumerate(examples)]


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
    return {"sorts": sorts, "findings": sorted(findings), "several": len(systems) > 1}


def _card(index: int, example: Example) -> dict[str, Any]:
    marks, *own = shared_marks(example.reference, [system.text for system in example.systems])
    systems = [_system(example, system, found) for system, found in zip(example.systems, own, strict=True)]
    views = [
        xray_picture(image, f"x{index}v{view}", f"X-ray of study {example.id}, {view_name(view)}")
        for view, image in enumerate(example.images)
    ]
    gate = example.trace and example.trace.tokens and figure_picture(gate_strip(example.trace, _STRIP))
    return {
        "name": f"x{index}",
        "id": example.id,
        "data": _data(index, example, systems),
        "views": [(picture, view_name(view)) for view, picture in enumerate(views)],
        "reference": _pieces(example.reference, marks),
        "systems": systems,
        "gate": gate,
        "overlays": [_overlay(example, overlay, views) for overlay in example.overlays],
        "outlined": any(overlay.masks is not None for overlay in example.overlays),
    }


def _system(example: Example, system: SystemReport, marks: Sequence[Mark]) -> dict[str, Any]:
    labels, scores = compare_labels(example.labels, system.labels), dict(system.scores)
    if labels is not None and any(labels.values()):
        agreed, wrong = len(labels["agreed"]), len(labels["missed"]) + len(labels["invented"])
        scores["CE_F1"] = 2 * agreed / (2 * agreed + wrong)
    words = [count_words(system.text[mark.start : mark.stop]) for mark in marks]
    return {
        "name": system.name,
        "pieces": _pieces(system.text, marks),
        "labels": labels,
        "shared": sum(words),
        "both": sum(count for count, mark in zip(words, marks, strict=True) if len(mark.systems) > 1),
        "total": count_words(system.text),
        "scores": scores,
        "shown": [(_score_name(key), value) for key, value in scores.items()],
    }


def _pieces(text: str, marks: Sequence[Mark]) -> list[tuple[str, Mark | None, str]]:
    """The text cut at its marks: (piece, mark or None, "a", "b" or "ab")."""
    pieces, at = [], 0
    for mark in marks:
        pieces += [
            (text[at : mark.start], None, ""),
            (text[mark.start : mark.stop], mark, "".join("ab"[s] for s in mark.systems)),
        ]
        at = mark.stop
    return [*pieces, (text[at:], None, "")]


def _overlay(example: Example, overlay: Overlay, xrays: Sequence[dict[str, Any]]) -> dict[str, Any]:
    weights = np.asarray(overlay.weights, dtype=np.float32)
    if len(weights) != len(xrays):
        raise InputError(
            f"The overlay “{overlay.caption}” of study {example.id} has {len(weights)} views, "
            f"but the study has {len(xrays)} images."
        )
    masks, peak = [None] * len(xrays) if overlay.masks is None else overlay.masks, float(weights.max())
    pictures = []
    for view, (xray, mask) in enumerate(zip(xrays, masks, strict=True)):
        alt = f"The same word on the {view_name(view)}." if view else overlay.alt
        pictures.append(overlay_picture(xray, weights[view], peak, mask, alt))
    return {"pictures": pictures, "caption": overlay.caption, "note": overlay.note}


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
    return "CE F1" if key == "CE_F1" else metric_name(key)[1]


def _slug(number: int, key: str) -> str:
    """The name of a system's score as a data- attribute."""
    return f"score-{number}-" + re.sub(r"[^a-z0-9]+", "-", key.lower())
