"""Bootstrap intervals: how far a score would move with another draw of the same test studies.

Studies are drawn with replacement. A resample is a row of counts, and every metric is a formula on
weighted sums of per-study statistics. So 1,000 resamples are a few matrix products. BLEU and METEOR
are recomputed from their summed counts, as corpus scores must be; ROUGE-L is a mean over studies;
CIDEr is a mean over studies with the document frequencies of the full set (re-estimating them for
every resample would change the metric with the draw).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache

import numpy as np

from emrrg_lib.evaluation.clinical import Labels, clinical_row, label_codes
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.evaluation.metrics import INVERTED, NlgStatistics, keys, mean
from emrrg_lib.evaluation.nlg import corpus_scores, nlg_statistics
from emrrg_lib.files import InputError

RESAMPLES = 1000
EXCHANGES = 10_000
_BATCH = 500  # exchanges drawn together: 30 MB for 3,858 studies
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class SystemStatistics:
    """The numbers from which every metric of one system is computed, one row a study.

    Attributes:
        nlg: counts of the word-overlap metrics.
        reference_labels, hypothesis_labels: int8 (N, 14), codes of :func:`~.clinical.label_codes`;
            None for a system without labels, which then has no clinical scores.
        learned: metric -> float64 (N,), values of :mod:`~.learned`; NaN where a study has none.
    """

    nlg: NlgStatistics
    reference_labels: np.ndarray
    hypothesis_labels: np.ndarray | None
    learned: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """System a minus system b on the same studies: the value on the full set and its interval."""

    metric: str
    value: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def system_statistics(
    references: Sequence[str],
    hypotheses: Sequence[str],
    reference_labels: Sequence[Labels] | None = None,
    hypothesis_labels: Sequence[Labels] | None = None,
    meteor: bool = True,
) -> SystemStatistics:
    """Collect the per-study statistics of one system.

    Args:
        references, hypotheses: N cleaned reports each, in the same order.
        reference_labels, hypothesis_labels: their labels; by default ``label_report`` reads them. If one
            hypothesis has None for its labels, then the system has no clinical scores.
        meteor: whether to compute METEOR (its Java process takes seconds to start).

    Raises:
        InputError: texts or labels that cannot be scored or are not N long.
    """
    nlg = nlg_statistics(references, hypotheses, meteor=meteor)
    if reference_labels is None:
        reference_labels = [label_report(text) for text in references]
    if hypothesis_labels is None:
        hypothesis_labels = [label_report(text) for text in hypotheses]
    for labels in (reference_labels, hypothesis_labels):
        if len(labels) != len(references):
            raise InputError(f"{len(labels)} sets of labels for {len(references)} reports.")
    codes = None if None in hypothesis_labels else label_codes(hypothesis_labels)
    return SystemStatistics(nlg, label_codes(reference_labels), codes)


def scores_of(system: SystemStatistics, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every metric of weighted sets of studies, under its name in ``metrics.json``.

    Args:
        system: statistics of N studies.
        weights: (R, N) counts; None means the full set once.

    Returns:
        metric -> float64 (R,).
    """
    if weights is None:
        weights = np.ones((1, len(system.reference_labels)))
    scores = corpus_scores(system.nlg, weights)
    if system.hypothesis_labels is not None:
        scores |= clinical_row(system.reference_labels, system.hypothesis_labels, weights)
    scores |= {name: mean(values, weights) for name, values in system.learned.items()}
    return scores | {f"1/{name}": 1 / scores[name] for name in INVERTED if name in scores}


def point_scores(system: SystemStatistics) -> dict[str, float | None]:
    """Every metric on the full set; a word-overlap metric is None where it cannot be computed."""
    return dict.fromkeys(keys("score")) | {name: float(value[0]) for name, value in scores_of(system).items()}


def resample(studies: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Draw studies with replacement: float64 (R, N), how often each study was drawn; rows sum to N.

    The same seed draws the same studies for every system of the same size.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(studies, np.full(studies, 1 / studies), size=resamples).astype(float)


@lru_cache(maxsize=32)  # a table's differences need the draws of its intervals again
def resampled_scores(system: SystemStatistics, seed: int) -> dict[str, np.ndarray]:
    """Every metric of every draw: metric -> float64 (RESAMPLES,)."""
    return scores_of(system, resample(len(system.reference_labels), seed=seed))


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval of (R,) resampled values."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap(system: SystemStatistics, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Percentile intervals (low, high) of every metric, by study."""
    return {name: percentiles(values) for name, values in resampled_scores(system, seed).items()}


def paired_differences(system_a: SystemStatistics, system_b: SystemStatistics) -> list[Difference]:
    """The differences a - b with intervals; both systems see the same drawn studies.

    Returns:
        One difference for each metric that both systems have.

    Raises:
        InputError: the systems were not scored on the same references.
    """
    if not (
        np.array_equal(system_a.nlg.reference_words, system_b.nlg.reference_words)
        and np.array_equal(system_a.reference_labels, system_b.reference_labels)
    ):
        raise InputError("The two systems have different references: compare them on the same studies.")
    full_a, full_b = scores_of(system_a), scores_of(system_b)
    drawn_a, drawn_b = resampled_scores(system_a, 0), resampled_scores(system_b, 0)
    return [
        Difference(name, float(full[0] - full_b[name][0]), *percentiles(drawn_a[name] - drawn_b[name]))
        for name, full in full_a.items()
        if name in full_b
    ]


def exchange_p_values(
    system_a: SystemStatistics, system_b: SystemStatistics, seed: int = 0
) -> dict[str, float]:
    """Two-sided p-value of every metric by paired randomisation: could the two systems be one?

    Each of EXCHANGES draws exchanges the two reports of about half the studies, and counts whether the
    difference is at least as large as the real one. The smallest p-value is 1 / (EXCHANGES + 1).

    Args:
        system_a, system_b: on the same studies.
    """
    both, studies = _stacked(system_a, system_b), len(system_a.reference_labels)
    rng = np.random.default_rng(seed)

    def differences(kept: np.ndarray) -> dict[str, np.ndarray]:
        first, second = (scores_of(both, np.hstack(pair)) for pair in ((kept, 1 - kept), (1 - kept, kept)))
        return {name: np.abs(first[name] - second[name]) for name in first}

    real = differences(np.ones((1, studies)))
    extreme = dict.fromkeys(real, 0)
    for _ in range(EXCHANGES // _BATCH):
        for name, drawn in differences(rng.integers(2, size=(_BATCH, studies)).astype(float)).items():
            extreme[name] += int((drawn >= real[name][0] - 1e-12).sum())
    return {name: (count + 1) / (EXCHANGES + 1) for name, count in extreme.items()}


def _stacked(a: SystemStatistics, b: SystemStatistics) -> SystemStatistics:
    """The studies of a, then those of b, as one system: weights choose whose report of a study counts."""
    join = {}
    for name in (item.name for item in fields(NlgStatistics)):
        pair = getattr(a.nlg, name), getattr(b.nlg, name)
        if pair[0] is None or pair[1] is None:
            join[name] = None
        else:
            join[name] = [*pair[0], *pair[1]] if isinstance(pair[0], list) else np.concatenate(pair)
    labelled = a.hypothesis_labels is not None and b.hypothesis_labels is not None
    return SystemStatistics(
        NlgStatistics(**join),
        np.concatenate([a.reference_labels, b.reference_labels]),
        np.concatenate([a.hypothesis_labels, b.hypothesis_labels]) if labelled else None,
        {name: np.concatenate([a.learned[name], b.learned[name]]) for name in a.learned if name in b.learned},
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the same order: valid for any dependence."""
    order = np.argsort(p_values, kind="stable")
    raised = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1, np.maximum.accumulate(raised))
    return corrected.tolist()


def paired_difference(metric: str, system_a: SystemStatistics, system_b: SystemStatistics) -> Difference:
    """One metric of :func:`paired_differences`; InputError where it is unknown."""
    differences = {d.metric: d for d in paired_differences(system_a, system_b)}
    if metric not in differences:
        raise InputError(f"No metric {metric!r} here: choose one of {', '.join(differences)}.")
    return differences[metric]
