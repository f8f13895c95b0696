"""Clinical efficacy: do the generated reports name the same observations as the references?

Four averages are in use, and published tables seldom say which one they print (NOTES M3): *micro* (all
decisions of all studies pooled), *macro* (mean over observations), *weighted* (mean over observations, each
as often as the references have it) and *example-based* (mean over studies; 0 for a study where reference and
report are both empty, so that even the references themselves stay below 1). This module computes all four,
for both readings of "uncertain", with and without "No Finding", and for the five observations that CheXpert's
authors chose: a constant normal report has a micro-F1 of .58 with "No Finding", 0 without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.files import InputError

UNCERTAIN = ("positive", "negative")
AVERAGES = ("micro", "macro", "weighted", "example")
FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
"""The observations of CheXpert's competition (Irvin et al. 2019), which papers call the top 5."""

_CODES = {None: -2, 1: 1, 0: 0, -1: -1}
_ALL = list(range(len(OBSERVATIONS)))
_FINDINGS = [i for i in _ALL if OBSERVATIONS[i] != "No Finding"]
_FIVE = [OBSERVATIONS.index(name) for name in FIVE]

Labels = Mapping[str, int | None]


def label_codes(labels: Sequence[Labels]) -> np.ndarray:
    """Labels as numbers.

    Args:
        labels: one mapping a study, observation -> 1, 0, -1 or None; all 14 must be there.

    Returns:
        int8 (N, 14) in the order of OBSERVATIONS; -2 is the code of None.

    Raises:
        InputError: an observation is missing or a value is not one of the four.
    """
    codes = np.empty((len(labels), len(OBSERVATIONS)), dtype=np.int8)
    for study, row in enumerate(labels):
        for column, name in enumerate(OBSERVATIONS):
            if name not in row:
                raise InputError(f"The labels of study {study} lack the observation {name!r}.")
            if row[name] not in _CODES:
                raise InputError(f"{name!r} of study {study} is {row[name]!r}: labels are 1, 0, -1 or None.")
            codes[study, column] = _CODES[row[name]]
    return codes


def positive(codes: np.ndarray, uncertain: str = "positive") -> np.ndarray:
    """Which observations count as present: bool (N, 14) from int8 (N, 14) of :func:`label_codes`.

    `uncertain` says whether -1 counts as ``"positive"`` or ``"negative"``; InputError for anything else.
    """
    if uncertain not in UNCERTAIN:
        raise InputError(f"Unknown reading of uncertain {uncertain!r}: positive or negative.")
    return (codes == 1) | (codes == -1) if uncertain == "positive" else codes == 1


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Division where nothing over nothing is 0, as in the published code."""
    return numerator / np.where(denominator == 0, 1, denominator)


def _p_r_f1(both: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    return {"P": _ratio(both, predicted), "R": _ratio(both, true), "F1": _ratio(2 * both, predicted + true)}


def corpus_efficacy(
    reference: np.ndarray, hypothesis: np.ndarray, weights: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Efficacy of weighted sets of studies.

    Args:
        reference, hypothesis: bool (N, L), the observations of the reference and of the generated report.
        weights: (R, N) how often each study counts in each of R sets.

    Returns:
        ``{"micro_P": (R,), ..., "example_F1": (R,)}`` and, per observation,
        ``{"P": (R, L), "R": (R, L), "F1": (R, L)}``.
    """
    both = (reference & hypothesis).astype(np.float64)
    predicted, true = hypothesis.astype(np.float64), reference.astype(np.float64)
    per_label = _p_r_f1(weights @ both, weights @ predicted, weights @ true)
    pooled = _p_r_f1((weights @ both).sum(1), (weights @ predicted).sum(1), (weights @ true).sum(1))
    studies = _p_r_f1(both.sum(1), predicted.sum(1), true.sum(1))
    count, support = weights.sum(axis=1), weights @ true
    averages = {}
    for name in ("P", "R", "F1"):
        averages[f"micro_{name}"] = pooled[name]
        averages[f"macro_{name}"] = per_label[name].mean(axis=1)
        averages[f"weighted_{name}"] = _ratio((per_label[name] * support).sum(1), support.sum(1))
        averages[f"example_{name}"] = weights @ studies[name] / count
    return averages, per_label


def clinical_scores(
    reference_labels: Sequence[Labels],
    hypothesis_labels: Sequence[Labels],
    uncertain: str = "positive",
    no_finding: bool = False,
) -> dict:
    """Clinical efficacy of a set of generated reports.

    Args:
        reference_labels, hypothesis_labels: labels of N reference and N generated reports, in one order.
        uncertain: how -1 counts, ``"positive"`` or ``"negative"``.
        no_finding: whether "No Finding" is one of the observations (14) or left out (13).

    Returns:
        ``{"micro": {"P", "R", "F1"}, "macro": ..., "weighted": ..., "example": ..., "labels": {observation:
        {"P", "R", "F1", "reference", "hypothesis"}}, "studies", "observations", "uncertain"}``;
        "reference" and "hypothesis" are the numbers of studies with the observation.

    Raises:
        InputError: unequal or empty lists, missing observations, an unknown policy.
    """
    if len(reference_labels) != len(hypothesis_labels):
        raise InputError(
            f"{len(reference_labels)} reference labels but {len(hypothesis_labels)} of reports: "
            "give one set of labels for every study on both sides."
        )
    if len(reference_labels) == 0:
        raise InputError("There is nothing to score: the lists of labels are empty.")
    kept = _ALL if no_finding else _FINDINGS
    reference = positive(label_codes(reference_labels), uncertain)[:, kept]
    hypothesis = positive(label_codes(hypothesis_labels), uncertain)[:, kept]
    averages, per_label = corpus_efficacy(reference, hypothesis, np.ones((1, len(reference))))
    scores: dict = {
        average: {name: float(averages[f"{average}_{name}"][0]) for name in ("P", "R", "F1")}
        for average in AVERAGES
    }
    scores["labels"] = {
        OBSERVATIONS[column]: {
            **{name: float(per_label[name][0, i]) for name in ("P", "R", "F1")},
            "reference": int(reference[:, i].sum()),
            "hypothesis": int(hypothesis[:, i].sum()),
        }
        for i, column in enumerate(kept)
    }
    return scores | {"studies": len(reference), "observations": len(kept), "uncertain": uncertain}


def clinical_row(reference: np.ndarray, hypothesis: np.ndarray, weights: np.ndarray) -> dict:
    """All efficacy metrics of a score table under their names in ``metrics.json``.

    ``CE13_*`` leaves "No Finding" out, ``CE14_*`` keeps it, ``CE5_*`` has FIVE only; in all three an
    uncertain label counts as present. ``CE13neg_*`` and ``CE14neg_*`` count it as absent.
    ``CE_F1 <observation>`` is the F1 of one observation, uncertain counted as present.

    Args:
        reference, hypothesis: int8 (N, 14) of :func:`label_codes`.
        weights: (R, N) as in :func:`corpus_efficacy`.

    Returns:
        metric -> float64 (R,).
    """
    row: dict[str, np.ndarray] = {}
    for policy, mark in (("positive", ""), ("negative", "neg")):
        true, found = positive(reference, policy), positive(hypothesis, policy)
        for kept in (_FINDINGS, _ALL):
            averages, per_label = corpus_efficacy(true[:, kept], found[:, kept], weights)
            row |= {f"CE{len(kept)}{mark}_{name}": value for name, value in averages.items()}
        if policy == "positive":
            averages, _ = corpus_efficacy(true[:, _FIVE], found[:, _FIVE], weights)
            row |= {f"CE5_{name}": value for name, value in averages.items()}
            row |= {f"CE_F1 {name}": per_label["F1"][:, i] for i, name in enumerate(OBSERVATIONS)}
    return row
