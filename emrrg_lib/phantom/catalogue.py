"""The kinds of finding, how often they occur, and the lot that draws a study's findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from emrrg_lib.phantom import findings as change

ANY: dict = {None: 1.0}
LATERAL = {"right": 0.5, "left": 0.5}
BOTH = {"both": 1.0}
GRADES = {"mild": 0.4, "moderate": 0.4, "severe": 0.2}
SIZES = {"small": 0.5, "moderate": 0.3, "large": 0.2}
ZONES = {"upper": 0.35, "middle": 0.25, "lower": 0.4}


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
        excludes: Kinds that cannot be drawn together with it.
    """

    label: str | None
    weight: float
    threshold: float
    prepare: Callable | None = None
    add: Callable | None = None
    sides: dict = field(default_factory=lambda: ANY)
    places: dict = field(default_factory=lambda: ANY)
    severities: dict = field(default_factory=lambda: ANY)
    excludes: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "cardiomegaly": Kind("Cardiomegaly", 10.5, 8.0, change.big_heart, change.heart_shape, severities=GRADES),
    "mediastinum": Kind(
        "Enlarged Cardiomediastinum",
        5.5,
        8.0,
        change.wide_mediastinum,
        change.mediastinum_shape,
    ),
    "nodule": Kind(
        "Lung Lesion",
        8.5,
        2.0,
        add=change.nodule,
        sides=LATERAL,
        places=ZONES,
        severities={"small": 0.6, "large": 0.4},
    ),
    "opacity": Kind("Lung Opacity", 9.5, 12.0, add=change.opacity, sides=LATERAL, places=ZONES),
    "edema": Kind(
        "Edema",
        10.5,
        30.0,
        change.wet_lungs,
        change.haze,
        sides=BOTH,
        severities=GRADES,
        excludes=("pneumothorax", "hyperinflation"),
    ),
    "consolidation": Kind("Consolidation", 10.5, 15.0, add=change.consolidation, sides=LATERAL, places=ZONES),
    "atelectasis": Kind(
        "Atelectasis",
        11.5,
        4.0,
        change.raise_dome,
        change.bands,
        sides=LATERAL,
        places={"lower": 1.0},
        severities={"mild": 0.5, "moderate": 0.5},
        excludes=("hyperinflation",),
    ),
    "pneumothorax": Kind(
        "Pneumothorax",
        13.5,
        40.0,
        change.collapse,
        change.free_air,
        sides=LATERAL,
        severities=SIZES,
        excludes=("edema",),
    ),
    "effusion": Kind(
        "Pleural Effusion",
        16,
        10.0,
        add=change.effusion,
        sides={"right": 0.38, "left": 0.37, "both": 0.25},
        severities=SIZES,
        excludes=("hyperinflation",),
    ),
    "pleural thickening": Kind(
        "Pleural Other",
        6,
        4.0,
        add=change.thick_pleura,
        sides=LATERAL,
        places={"apical": 0.5, "lateral": 0.5},
    ),
    "fracture": Kind(
        "Fracture",
        5.5,
        2.0,
        change.break_rib,
        change.callus,
        sides=LATERAL,
        places={"posterior": 0.3, "lateral": 0.4, "anterior": 0.3},
    ),
    "device": Kind(
        "Support Devices",
        8.5,
        0.6,
        add=change.device,
        sides={"left": 0.5, "right": 0.5},
        places={"pacemaker": 0.4, "catheter": 0.2, "port catheter": 0.2, "tube": 0.2},
    ),
    "hyperinflation": Kind(
        None,
        10,
        1.0,
        change.air_trapping,
        sides=BOTH,
        excludes=("edema", "atelectasis", "effusion"),
    ),
}


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
        clash = f["kind"] in present or present & set(KINDS[f["kind"]].excludes)
        clash = clash or any(f["kind"] in KINDS[k].excludes for k in present)
        if not clash and not (_claims(f) & taken):
            found.append(f)
            taken |= _claims(f)
        if len(found) == wanted:
            break
    return sorted(found, key=lambda f: names.index(f["kind"]))
