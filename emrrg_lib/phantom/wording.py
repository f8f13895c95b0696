"""Reports in the style of the Indiana University collection, and the labels they carry.

Every table is ordered by how often the wording is used: rank k has weight 1 / k^2, so the
first takes about 65 %, as skewed as real reports are. Labels follow CheXpert's conventions
as this kit documents them; each negative sentence lists what it negates.
"""

from __future__ import annotations

import numpy as np

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.phantom.phrases import (
    CLOSING,
    DENIAL,
    NEGATED,
    NORMAL,
    OTHER,
    PHRASE,
    POSITIVE,
    TERMS,
    UNCERTAIN,
)

ZIPF = 2.0
REGIONS = ("heart", "mediastinum", "lungs", "pleura", "bones", "devices", "other")
REGION_OF = {
    "cardiomegaly": "heart",
    "mediastinum": "mediastinum",
    "pneumothorax": "pleura",
    "effusion": "pleura",
    "pleural thickening": "pleura",
    "fracture": "bones",
    "device": "devices",
}
LUNG_ORDER = ("hyperinflation", "edema", "consolidation", "opacity", "atelectasis", "nodule")

PLEURA_BOTH = ("Pleural Effusion", "Pneumothorax")
EXTRA = ("Consolidation", "Pneumonia", "Lung Opacity", "Edema", "Lung Lesion")


def _zipf(rng: np.random.Generator, items):
    weights = np.arange(1, len(items) + 1) ** -ZIPF
    return items[int(rng.choice(len(items), p=weights / weights.sum()))]


def _words(finding: dict) -> dict[str, str]:
    """Slot values of the templates for one finding."""
    side, place = finding["side"] or "", finding["place"]
    severity = finding["severity"] or ""
    both = side == "both"
    zone = {"lower": "base", "middle": "midlung", "upper": "upper lung"}.get(place, "")
    lobe = "lingula" if (side, place) == ("left", "middle") else f"{side} {place} lobe"
    words = {
        "side": "bilateral" if both else side,
        "the_side": "both sides" if both else f"the {side}",
        "size": severity,
        "grade": severity,
        "lobe": lobe,
        "lobar": "lingular" if lobe == "lingula" else lobe,
        "zone": f"{side} {zone}",
        "what": "mass" if severity == "large" else "nodule",
        "where": place or "",
        "part": place or "",
        "effusion": "effusions" if both else "effusion",
        "be": "are" if both else "is a",
        "is_": "are" if both else "is",
    }
    return words | {key.capitalize(): value.capitalize() for key, value in words.items()}


def _positive(finding: dict, rng: np.random.Generator) -> str:
    kind, words = finding["kind"], _words(finding)
    if finding["uncertain"]:
        phrase = PHRASE[kind].format(**words)
        template = _zipf(rng, UNCERTAIN)
        return template.format(phrase=phrase, Phrase=phrase[0].upper() + phrase[1:])
    table = POSITIVE[finding["place"] if kind == "device" else kind]
    return _zipf(rng, table).format(**words)


def _deny(observations, rng: np.random.Generator) -> tuple[str, dict]:
    """One negative sentence over a list of observations and the zeros it sets."""
    terms = [TERMS[o] for o in observations]
    joined = terms[0] if len(terms) == 1 else " or ".join(terms)
    if len(terms) > 2:
        joined = ", ".join(terms[:-1]) + ", or " + terms[-1]
    return _zipf(rng, DENIAL).format(what=joined), dict.fromkeys(observations, 0)


def _normal(key: str, rng: np.random.Generator) -> tuple[str, dict]:
    return _zipf(rng, NORMAL[key]), dict.fromkeys(NEGATED.get(key, ()), 0)


def _heart_and_mediastinum(present: set, rng) -> dict[str, list[tuple[str, dict]]]:
    out: dict[str, list] = {"heart": [], "mediastinum": []}
    normal = [
        key
        for key, kind in (("heart", "cardiomegaly"), ("mediastinum", "mediastinum"))
        if kind not in present
    ]
    if len(normal) == 2 and rng.random() < 0.2:
        out["heart"].append(_normal("both", rng))
        return out
    for key, omitted in (("heart", 0.04), ("mediastinum", 0.15)):
        if key in normal and rng.random() >= omitted:
            out[key].append(_normal(key, rng))
    return out


def _lungs_and_pleura(present: set, rng) -> dict[str, list[tuple[str, dict]]]:
    out: dict[str, list] = {"lungs": [], "pleura": []}
    sick = present & set(LUNG_ORDER) - {"hyperinflation"}
    kinds = {
        "consolidation": "Consolidation",
        "opacity": "Lung Opacity",
        "edema": "Edema",
        "nodule": "Lung Lesion",
    }
    barred = {label for kind, label in kinds.items() if kind in present}
    if sick & {"consolidation", "opacity"}:
        barred |= {"Consolidation", "Lung Opacity", "Pneumonia"}
    open_terms = [o for o in EXTRA if o not in barred]
    pleura = [
        o for o, kind in zip(PLEURA_BOTH, ("effusion", "pneumothorax"), strict=True) if kind not in present
    ]
    if not sick and rng.random() < 0.92:
        out["lungs"].append(_normal("lungs", rng))
    if len(pleura) == 2 and "Consolidation" in open_terms and rng.random() < 0.15:
        out["pleura"].append(_deny(["Consolidation", *pleura], rng))
        return out
    if open_terms and rng.random() < 0.3:
        out["lungs"].append(_deny([_zipf(rng, open_terms)], rng))
    if pleura and rng.random() < 0.93:
        out["pleura"].append(_deny(pleura, rng))
    return out


def compose(findings, rng: np.random.Generator) -> tuple[str, dict[str, int | None]]:
    """Writes a report and labels it.

    Args:
        findings: Findings with kind, label, side, place, severity and uncertain.
        rng: Chooses wordings, omissions and order; nothing else depends on it.

    Returns:
        The report in natural case, and observation -> 1 / 0 / -1 / None as worded.
    """
    present = {f["kind"] for f in findings}
    parts: dict[str, list[tuple[str, dict]]] = {region: [] for region in REGIONS}
    parts |= _heart_and_mediastinum(present, rng)
    parts |= _lungs_and_pleura(present, rng)
    rank = {kind: k for k, kind in enumerate(LUNG_ORDER)}
    for f in sorted(findings, key=lambda f: -rank.get(f["kind"], 9)):
        value = {f["label"]: -1 if f["uncertain"] else 1} if f["label"] else {}
        region = REGION_OF.get(f["kind"], "lungs")
        parts[region].insert(0, (_positive(f, rng), value))
    if "fracture" not in present and rng.random() < 0.85:
        parts["bones"].append(_normal("bones", rng) if rng.random() < 0.9 else _deny(["Fracture"], rng))
    if rng.random() < 0.15:
        parts["other"].append((_zipf(rng, OTHER), {}))
    if not present and rng.random() < 0.12:
        parts["other"].append((_zipf(rng, CLOSING), {}))
    order = list(REGIONS)
    if rng.random() >= 0.65:
        first = order.pop(int(rng.choice([2, 3, 5], p=[0.6, 0.15, 0.25])))
        order.insert(0, first)
    sentences = [part for region in order for part in parts[region]]
    labels: dict[str, int | None] = dict.fromkeys(OBSERVATIONS)
    for _, marks in sentences:
        labels |= marks
    sick = any(v in (1, -1) for o, v in labels.items() if o != "Support Devices")
    if not sick and "hyperinflation" not in present:
        labels["No Finding"] = 1
    return " ".join(text for text, _ in sentences), labels


def reword(findings, rng: np.random.Generator) -> str:
    """Returns a new report for the same findings: the oracle of word overlap."""
    return compose(findings, rng)[0]


class _MostProbable:
    """Stands in for a random generator: every draw is its most probable outcome."""

    def random(self) -> float:
        return 0.5

    def choice(self, count, p) -> int:
        return int(np.argmax(p))


def commonest_wording(findings) -> str:
    """Returns the report that always takes the commonest wording: the ceiling of word overlap."""
    return compose(findings, _MostProbable())[0]
