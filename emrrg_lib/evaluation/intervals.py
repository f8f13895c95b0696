"""Bootstrap intervals: how far a score would move with another draw of the same test studies.

Studies are drawn with replacement; a resample is a row of counts, and every metric is a formula on
weighted sums of per-study statistics, so 1,000 resamples are a few matrix products. BLEU and METEOR
are recomputed from their summed counts, as corpus scores must be; ROUGE-L is a mean over studies;
CIDEr is a mean over studies with the document frequencies of the full set (re-estimating them for
every resample would change the metric with the draw).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emrrg_lib.errors import InputError
from emrrg_lib.evaluation.clinical import clinical_row, label_codes, label_report
from emrrg_lib.evaluation.nlg import NlgStatistics, corpus_scores, nlg_statistics

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class SystemStatistics:
    """What every metric of one system is computed from, one row a study.

    Attributes:
        nlg: counts of the word-overlap metrics.
        reference_labels: int8 (N, 14), codes of :func:`~.clinical.label_codes`.
        hypothesis_labels: int8 (N, 14).
    """

    nlg: NlgStatistics
    reference_labels: np.ndarray
    hypothesis_labels: np.ndarray

    @property
    def studies(self) -> int:
        """Number of studies N."""
        return len(self.reference_labels)


@dataclass(frozen=True)
class Difference:
    """System a minus system b on the same studies.

    Attributes:
        metric: its name.
        value: the difference on the full set.
        low: lower end of the interval.
        high: upper end.
    """

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
    reference_labels: Sequence[Mapping[str, int | None]] | None = None,
    hypothesis_labels: Sequence[Mapping[str, int | None]] | None = None,
    meteor: bool = True,
) -> SystemStatistics:
    """Collect the per-study statistics of one system.

    Args:
        references: N cleaned reference reports.
        hypotheses: N cleaned generated reports, in the same order.
        reference_labels: labels of the references; by default ``label_report`` reads them.
        hypothesis_labels: labels of the generated reports; by default the same.
        meteor: whether to compute METEOR (its Java process takes seconds to start).

    Returns:
        The statistics.

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
    return SystemStatistics(nlg, label_codes(reference_labels), label_codes(hypothesis_labels))


def scores_of(system: SystemStatistics, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every metric of weighted sets of studies.

    Args:
        system: statistics of N studies.
        weights: (R, N) counts; None means the full set once.

    Returns:
        metric -> float64 (R,), with the names of ``metrics.json``.
    """
    if weights is None:
        weights = np.ones((1, system.studies))
    clinical = clinical_row(system.reference_labels, system.hypothesis_labels, weights)
    return corpus_scores(system.nlg, weights) | clinical


def point_scores(system: SystemStatistics) -> dict[str, float | None]:
    """Every metric on the full set; METEOR is None where it cannot be computed."""
    scores: dict[str, float | None] = {
        name: float(value[0]) for name, value in scores_of(system).items()
    }
    scores.setdefault("METEOR", None)
    return scores


def resample(studies: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Draw studies with replacement.

    Args:
        studies: N.
        resamples: R.
        seed: the same seed draws the same studies for every system of the same size.

    Returns:
        float64 (R, N): how often each study was drawn; every row sums to N.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(studies, np.full(studies, 1 / studies), size=resamples).astype(float)


def percentiles(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of (R,) resampled values."""
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap(
    system: SystemStatistics, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of every metric, by study.

    Args:
        system: statistics of N studies.
        resamples: number of draws.
        seed: of the draws.
        level: coverage.

    Returns:
        metric -> (low, high).
    """
    drawn = scores_of(system, resample(system.studies, resamples, seed))
    return {name: percentiles(values, level) for name, values in drawn.items()}


def paired_difference(
    metric: str,
    system_a: SystemStatistics,
    system_b: SystemStatistics,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """The difference a - b with its interval; both systems see the same drawn studies.

    Args:
        metric: a name of :func:`scores_of`.
        system_a: statistics on N studies.
        system_b: statistics on the same studies in the same order.
        resamples: number of draws.
        seed: of the draws.
        level: coverage.

    Returns:
        The difference.

    Raises:
        InputError: the systems were not scored on the same references, or the metric is unknown.
    """
    same = system_a.studies == system_b.studies and all(
        np.array_equal(a, b)
        for a, b in (
            (system_a.nlg.reference_words, system_b.nlg.reference_words),
            (system_a.reference_labels, system_b.reference_labels),
        )
    )
    if not same:
        raise InputError(
            "The two systems have different reference reports: compare them on the same studies."
        )
    full_a, full_b = scores_of(system_a), scores_of(system_b)
    for scores in (full_a, full_b):
        if metric not in scores:
            raise InputError(f"No metric {metric!r} here: choose one of {', '.join(scores)}.")
    weights = resample(system_a.studies, resamples, seed)
    drawn = scores_of(system_a, weights)[metric] - scores_of(system_b, weights)[metric]
    return Difference(
        metric, float(full_a[metric][0] - full_b[metric][0]), *percentiles(drawn, level)
    )
