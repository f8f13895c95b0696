"""Reports in the style of the Indiana University collection, and the labels they carry.

The wordings are in `words.json`; every list is ordered by how often a wording is used. Rank k has weight
1 / k^2, so the first takes about 65 %, as skewed as real reports are. Labels follow CheXpert's conventions
as this kit documents them; each negative sentence lists what it negates.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emrrg_lib.data.study import OBSERVATIONS

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
LUNG_KINDS = {
    "consolidation": "Consolidation",
    "opacity": "Lung Opacity",
    "edema": "Edema",
    "nodule": "Lung Lesion",
}
LUNG_ORDER = ("hyperinflation", "edema", "consolidation", "opacity", "atelectasis", "nodule")
PLEURA_BOTH = {"effusion": "Pleural Effusion", "pneumothorax": "Pneumothorax"}
EXTRA = ("Consolidation", "Pneumonia", "Lung Opacity", "Edema", "Lung Lesion")
Sentence = tuple[str, dict[str, int | None]]  # a text and the labels that it sets


@dataclass(frozen=True)
class Words:
    """The wordings that reports are made of; templates have places such as {side}.

    Attributes:
        positive: Kind of finding (or device) -> sentences that say it is present.
        uncertain: Sentences that say a {phrase} is possible; phrase: kind -> that phrase.
        normal: Region -> sentences that say it is normal; negated: region -> labels they set to 0.
        denial: Sentences that say {what} is absent; terms: observation -> its name there.
        other, closing: Sentences without a label: about other regions, and at the end.
        skew: Rank k of a list has weight k ** -skew.
    """

    positive: dict[str, Sequence[str]]
    uncertain: Sequence[str]
    phrase: dict[str, str]
    normal: dict[str, Sequence[str]]
    negated: dict[str, Sequence[str]]
    denial: Sequence[str]
    terms: dict[str, str]
    other: Sequence[str]
    closing: Sequence[str]
    skew: float = 2.0


WORDS = Words(**json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8")))


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


class _Writer:
    """Chooses the sentences of one report: each method returns sentences with the labels they set."""

    def __init__(self, rng: np.random.Generator, words: Words) -> None:
        self.rng, self.words = rng, words

    def pick(self, items: Sequence[str]) -> str:
        weights = np.arange(1, len(items) + 1) ** -self.words.skew
        return items[int(self.rng.choice(len(items), p=weights / weights.sum()))]

    def positive(self, finding: dict) -> str:
        kind, words = finding["kind"], _words(finding)
        if finding["uncertain"]:
            phrase = self.words.phrase[kind].format(**words)
            template = self.pick(self.words.uncertain)
            return template.format(phrase=phrase, Phrase=phrase[0].upper() + phrase[1:])
        table = self.words.positive[finding["place"] if kind == "device" else kind]
        return self.pick(table).format(**words)

    def deny(self, observations: Sequence[str]) -> Sentence:
        """One negative sentence over a list of observations and the zeros it sets."""
        terms = [self.words.terms[o] for o in observations]
        joined = " or ".join(terms)
        if len(terms) > 2:
            joined = ", ".join(terms[:-1]) + ", or " + terms[-1]
        return self.pick(self.words.denial).format(what=joined), dict.fromkeys(observations, 0)

    def normal(self, region: str) -> Sentence:
        return self.pick(self.words.normal[region]), dict.fromkeys(self.words.negated.get(region, ()), 0)

    def heart_and_mediastinum(self, present: set[str]) -> dict[str, list[Sentence]]:
        out: dict[str, list[Sentence]] = {"heart": [], "mediastinum": []}
        kinds = {"heart": "cardiomegaly", "mediastinum": "mediastinum"}
        normal = [region for region, kind in kinds.items() if kind not in present]
        if len(normal) == 2 and self.rng.random() < 0.2:
            out["heart"].append(self.normal("both"))
            return out
        for region, omitted in (("heart", 0.04), ("mediastinum", 0.15)):
            if region in normal and self.rng.random() >= omitted:
                out[region].append(self.normal(region))
        return out

    def lungs_and_pleura(self, present: set[str]) -> dict[str, list[Sentence]]:
        out: dict[str, list[Sentence]] = {"lungs": [], "pleura": []}
        sick = present & set(LUNG_ORDER) - {"hyperinflation"}
        barred = {label for kind, label in LUNG_KINDS.items() if kind in present}
        if sick & {"consolidation", "opacity"}:
            barred |= {"Consolidation", "Lung Opacity", "Pneumonia"}
        open_terms = [o for o in EXTRA if o not in barred]
        pleura = [o for kind, o in PLEURA_BOTH.items() if kind not in present]
        if not sick and self.rng.random() < 0.92:
            out["lungs"].append(self.normal("lungs"))
        if len(pleura) == 2 and "Consolidation" in open_terms and self.rng.random() < 0.15:
            out["pleura"].append(self.deny(["Consolidation", *pleura]))
            return out
        if open_terms and self.rng.random() < 0.3:
            out["lungs"].append(self.deny([self.pick(open_terms)]))
        if pleura and self.rng.random() < 0.93:
            out["pleura"].append(self.deny(pleura))
        return out


def compose(findings, rng: np.random.Generator, words: Words = WORDS) -> Sentence:
    """Writes a report and labels it.

    Args:
        findings: Findings with kind, label, side, place, severity and uncertain.
        rng: Chooses wordings, omissions and order; nothing else depends on it.
        words: The wordings to choose from.

    Returns:
        The report in natural case, and observation -> 1 / 0 / -1 / None as worded.
    """
    writer, present = _Writer(rng, words), {f["kind"] for f in findings}
    parts: dict[str, list[Sentence]] = {region: [] for region in REGIONS}
    parts |= writer.heart_and_mediastinum(present)
    parts |= writer.lungs_and_pleura(present)
    rank = {kind: k for k, kind in enumerate(LUNG_ORDER)}
    for f in sorted(findings, key=lambda f: -rank.get(f["kind"], 9)):
        value = {f["label"]: -1 if f["uncertain"] else 1} if f["label"] else {}
        region = REGION_OF.get(f["kind"], "lungs")
        parts[region].insert(0, (writer.positive(f), value))
    if "fracture" not in present and rng.random() < 0.85:
        parts["bones"].append(writer.normal("bones") if rng.random() < 0.9 else writer.deny(["Fracture"]))
    if rng.random() < 0.15:
        parts["other"].append((writer.pick(words.other), {}))
    if not present and rng.random() < 0.12:
        parts["other"].append((writer.pick(words.closing), {}))
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
    """Takes the place of a random generator: every draw gives its most probable outcome."""

    def random(self) -> float:
        return 0.5

    def choice(self, count, p) -> int:
        return int(np.argmax(p))


def commonest_wording(findings) -> str:
    """Returns the report that always takes the commonest wording: the ceiling of word overlap."""
    return compose(findings, _MostProbable())[0]
