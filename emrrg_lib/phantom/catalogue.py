"""The kinds of finding, how often they occur, and the lot that draws a study's findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from emrrg_lib.phantom import findings as do

ANY: dict = {None: 1.0}
LATERAL = {"right": 0.5, "left": 0.5}
LEFT_FIRST = {"left": 0.5, "right": 0.5}
ANY_SIDE = {"right": 0.38, "left": 0.37, "both": 0.25}
BOTH = {"both": 1.0}
GRADES = {"mild": 0.4, "moderate": 0.4, "severe": 0.2}
TWO_GRADES = {"mild": 0.5, "moderate": 0.5}
SIZES = {"small": 0.5, "moderate": 0.3, "large": 0.2}
TWO_SIZES = {"small": 0.6, "large": 0.4}
ZONES = {"upper": 0.35, "middle": 0.25, "lower": 0.4}
BASE = {"lower": 1.0}
PLEURA = {"apical": 0.5, "lateral": 0.5}
RIB = {"posterior": 0.3, "lateral": 0.4, "anterior": 0.3}
DEVICES = {"pacemaker": 0.4, "catheter": 0.2, "port catheter": 0.2, "tube": 0.2}


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    Attributes:
        label: Observation it makes positive, or None.
        weight: Relative frequency.
        threshold: Own path length in mm above which a pixel belongs to the mask.
        prepare: Changes the patient before the chest is built, or None.
        add: Adds bodies and tubes to the built chest, or None (then it has no mask).
        sides, places, severities: Value -> probability.
    """

    label: str | None
    weight: float
    threshold: float
    prepare: Callable | None = None
    add: Callable | None = None
    sides: dict = field(default_factory=lambda: ANY)
    places: dict = field(default_factory=lambda: ANY)
    severities: dict = field(default_factory=lambda: ANY)


KINDS: dict[str, Kind] = {
    # kind: label, weight, threshold, prepare, add, sides, places, severities
    "cardiomegaly": Kind("Cardiomegaly", 10.5, 8, do.big_heart, do.heart_shape, severities=GRADES),
    "mediastinum": Kind("Enlarged Cardiomediastinum", 5.5, 8, do.wide_mediastinum, do.mediastinum_shape),
    "nodule": Kind("Lung Lesion", 8.5, 2, None, do.nodule, LATERAL, ZONES, TWO_SIZES),
    "opacity": Kind("Lung Opacity", 9.5, 12, None, do.opacity, LATERAL, ZONES),
    "edema": Kind("Edema", 10.5, 30, do.wet_lungs, do.haze, BOTH, ANY, GRADES),
    "consolidation": Kind("Consolidation", 10.5, 15, None, do.consolidation, LATERAL, ZONES),
    "atelectasis": Kind("Atelectasis", 11.5, 4, do.raise_dome, do.bands, LATERAL, BASE, TWO_GRADES),
    "pneumothorax": Kind("Pneumothorax", 13.5, 40, do.collapse, do.free_air, LATERAL, ANY, SIZES),
    "effusion": Kind("Pleural Effusion", 16, 10, None, do.effusion, ANY_SIDE, ANY, SIZES),
    "pleural thickening": Kind("Pleural Other", 6, 4, None, do.thick_pleura, LATERAL, PLEURA),
    "fracture": Kind("Fracture", 5.5, 2, do.break_rib, do.callus, LATERAL, RIB),
    "device": Kind("Support Devices", 8.5, 0.6, None, do.device, LEFT_FIRST, DEVICES),
    "hyperinflation": Kind(None, 10, 1, do.air_trapping, None, BOTH),
}

APART = (
    ("edema", "pneumothorax"),
    ("edema", "hyperinflation"),
    ("atelectasis", "hyperinflation"),
    ("effusion", "hyperinflation"),
)
"""Pairs of kinds that are never drawn together."""


def clash(kind: str, present: Iterable[str]) -> bool:
    """Whether a kind cannot be drawn beside those that are present."""
    return any((kind, other) in APART or (other, kind) in APART for other in present)


def _pick(rng: np.random.Generator, odds: dict) -> str | None:
    values = list(odds)
    return values[int(rng.choice(len(values), p=np.array(list(odds.values()))))]


def _claims(f: dict) -> set[tuple[str, str]]:
    """Lung zones a finding covers; two findings never cover the same zone."""
    sides = ("right", "left") if f["side"] == "both" else (f["side"],)
    zones = {
        "nodule": (f["place"],),
        "opacity": (f["place"],),
        "consolidation": (f["place"],),
        "atelectasis": ("lower",),
        "pneumothorax": ("upper", "middle", "lower", "wall"),
        "effusion": ("lower", "middle", "upper")[: 3 if f["severity"] == "large" else 1],
        "pleural thickening": ("upper" if f["place"] == "apical" else "wall",),
        "edema": ("middle",),
    }.get(f["kind"], ())
    return {(side, zone) for side in sides for zone in zones}


def draw_one(rng: np.random.Generator, name: str, **given) -> dict:
    """One finding of this kind; side, place and severity are drawn where they are not given."""
    kind = KINDS[name]
    f = {
        "kind": name,
        "label": kind.label,
        "side": _pick(rng, kind.sides),
        "place": _pick(rng, kind.places),
        "severity": _pick(rng, kind.severities),
        "uncertain": bool(rng.random() < 0.1) and name not in ("device", "hyperinflation"),
        **given,
    }
    if f["side"] == "both" and f["severity"] == "large":
        f["severity"] = "moderate"
    if name == "consolidation" and f["side"] == "left" and f["place"] == "middle":
        f["place"] = "lower"
    if name == "device" and f["place"] == "pacemaker" and "side" not in given:
        f["side"] = "left" if rng.random() < 0.85 else "right"
    if name == "device" and f["place"] == "tube":
        f["side"] = None
    return f


def draw_findings(rng: np.random.Generator) -> list[dict]:
    """Draws the findings of one study: none in 40 %, else one to three, rarely four."""
    if rng.random() < 0.40:
        return []
    wanted = int(rng.choice([1, 2, 3, 4], p=[0.27, 0.42, 0.25, 0.06]))
    names = list(KINDS)
    odds = np.array([KINDS[name].weight for name in names])
    found: list[dict] = []
    taken: set[tuple[str, str]] = set()
    for _ in range(40):
        f = draw_one(rng, names[int(rng.choice(len(names), p=odds / odds.sum()))])
        present = {g["kind"] for g in found}
        fits = f["kind"] not in present and not clash(f["kind"], present)
        if fits and not (_claims(f) & taken):
            found.append(f)
            taken |= _claims(f)
        if len(found) == wanted:
            break
    return sorted(found, key=lambda f: names.index(f["kind"]))
