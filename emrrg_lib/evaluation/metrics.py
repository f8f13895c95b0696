"""The table of metrics: each row says how a metric is named, where it is shown and how it is computed.

`metrics.json`, the scores of single studies, intervals, comparisons, `emrrg evaluate table`, the page of a
run and the figure of an ablation all read this table. So a new word-overlap metric is one row of
:data:`METRICS` with its formula; a new clinical one is a row and its value in
:func:`emrrg_lib.evaluation.clinical.clinical_row`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation.clinical import AVERAGES
from emrrg_lib.evaluation.meteor import meteor_score

WORDS, FINDING, COSTS, OTHER = "Word overlap", "F1 of each finding", "Costs", "Other"
LEARNED = "By models"
INVERTED = ("radcliq_v1",)  # metrics of which 1 / (the mean) is printed too, as leaderboards do
CLINICAL = {
    "CE13": "Findings, 13 labels",
    "CE14": "Findings, 14 labels",
    "CE5": "Findings, CheXpert's five",
    "CE13neg": "Findings, 13 labels, uncertain as absent",
    "CE14neg": "Findings, 14 labels, uncertain as absent",
}
"""How the keys of a clinical group begin → its heading."""

_SMALL, _TINY = 1e-9, 1e-15  # pycocoevalcap's guards against division by zero; no smoothing


@dataclass(frozen=True)
class NlgStatistics:
    """The numbers from which the word-overlap metrics are computed, one row a study (N studies).

    Attributes:
        references, hypotheses: the N texts, on one line each.
        bleu_correct: (N, 4) n-grams of the hypothesis found in the reference (clipped), n = 1..4.
        bleu_guess: (N, 4) n-grams of the hypothesis.
        hypothesis_words, reference_words: (N,).
        rouge: (N,) ROUGE-L of each study.
        cider: (N,) CIDEr of each study, document frequencies from the references of all N.
        meteor: (N, 23) alignment statistics, or None where METEOR cannot be computed.
    """

    references: Sequence[str]
    hypotheses: Sequence[str]
    bleu_correct: np.ndarray
    bleu_guess: np.ndarray
    hypothesis_words: np.ndarray
    reference_words: np.ndarray
    rouge: np.ndarray
    cider: np.ndarray
    meteor: np.ndarray | None


Weights = np.ndarray | None
Formula = Callable[[NlgStatistics, Weights], np.ndarray | None]


def total(values: np.ndarray, weights: Weights) -> np.ndarray:
    """Sums (R, …) of per-study values (N, …) over R weighted sets; None: each study is a set, R = N."""
    return values if weights is None else weights @ values


def mean(values: np.ndarray, weights: Weights) -> np.ndarray:
    """Means (R,) of per-study values (N,); `weights` as in :func:`total`."""
    return values if weights is None else weights @ values / weights.sum(axis=1)


def bleu_score(
    correct: np.ndarray, guess: np.ndarray, hypothesis_words: np.ndarray, reference_words: np.ndarray
) -> np.ndarray:
    """BLEU-1..4 of summed counts, brevity penalty against the reference length.

    Args:
        correct: (..., 4) clipped matches. guess: (..., 4) n-grams of the hypotheses.
        hypothesis_words, reference_words: (...).

    Returns:
        float64 (..., 4).
    """
    precision = (correct + _TINY) / (guess + _SMALL)
    bleu = np.cumprod(precision, axis=-1) ** (1.0 / np.arange(1, 5))
    ratio = (hypothesis_words + _TINY) / (reference_words + _SMALL)
    penalty = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    return bleu * penalty[..., None]


def _bleu(n: int) -> Formula:
    def score(s: NlgStatistics, weights: Weights) -> np.ndarray:
        counts = (s.bleu_correct, s.bleu_guess, s.hypothesis_words, s.reference_words)
        return bleu_score(*(total(values, weights) for values in counts))[..., n - 1]

    return score


def _meteor(s: NlgStatistics, weights: Weights) -> np.ndarray | None:
    return None if s.meteor is None else meteor_score(total(s.meteor, weights))


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        label: printed name on the page.
        group: heading above the label.
        score: the formula of a word-overlap metric. It takes the statistics of N studies and weights
            (R, N), how often each study counts in each of R sets (None: each study by itself). It
            returns float64 (R,), or None where the metric cannot be computed. Other rows have none.
        main: whether it is a column of the page's first table; all others are in the folded one.
        judged: whether `metrics.json` says if the model differs in it from each control.
        column: name of its column in `data/published` and in `emrrg evaluate table`; "" for no column.
        heading: head of that column, and its name in figures; "" takes the label.
        decimals: digits printed in that column.
        panel: whether an ablation's figure has a panel of it.
        sorts: whether the page can sort its studies by it.
    """

    label: str
    group: str = WORDS
    score: Formula | None = None
    main: bool = False
    judged: bool = False
    column: str = ""
    heading: str = ""
    decimals: int = 3
    panel: bool = False
    sorts: bool = False

    @property
    def title(self) -> str:
        """Its name in tables and figures without groups."""
        return self.heading or self.label

    @property
    def full(self) -> str:
        """Its name where no heading above it says the group."""
        name = self.label.replace("\u2011", "-")
        if self.group == FINDING:
            return f"F1 of {name}"
        return f"{name} ({self.group})" if self.group in CLINICAL.values() else name

    @property
    def clinical(self) -> bool:
        """Whether it is computed from labels, so that the labeler matters."""
        return self.group in CLINICAL.values() or self.group == FINDING


def _word(name: str, score: Formula, best: bool = False, key: str = "") -> dict[str, Metric]:
    """A word-overlap metric that papers print. No line breaks at the hyphen of its label, U+2011."""
    label, key = name.replace("-", "\u2011"), key or name
    return {key: Metric(label, WORDS, score, True, best, key, name, panel=best, sorts=best)}


def _clinical(group: str, **chosen: Metric) -> dict[str, Metric]:
    """The twelve averages of a group: flags are those of `chosen`, by the end of the key."""
    rows = {}
    for average in AVERAGES:
        for value in ("P", "R", "F1"):
            label = f"{'per study' if average == 'example' else average} {value}"
            row = chosen.get(f"{average}_{value}", Metric(""))
            rows[f"{group}_{average}_{value}"] = replace(row, label=label, group=CLINICAL[group])
    return rows


def _learned(**labels: str) -> dict[str, Metric]:
    """Metrics whose values a model gives, see :mod:`emrrg_lib.evaluation.learned`."""
    return {key: Metric(label, LEARNED, None, True, True, key, label) for key, label in labels.items()}


_MAIN = Metric("", main=True)

METRICS: dict[str, Metric] = {
    **_word("BLEU-1", _bleu(1), key="Bleu_1"),
    **_word("BLEU-2", _bleu(2), key="Bleu_2"),
    **_word("BLEU-3", _bleu(3), key="Bleu_3"),
    **_word("BLEU-4", _bleu(4), key="Bleu_4", best=True),
    **_word("ROUGE-L", lambda s, weights: mean(s.rouge, weights), key="ROUGE_L"),
    **_word("METEOR", _meteor),
    **_word("CIDEr", lambda s, weights: mean(s.cider, weights), best=True),
    **_clinical(
        "CE14",
        micro_P=Metric("", column="CE_P", heading="CE P"),
        micro_R=Metric("", column="CE_R", heading="CE R"),
        micro_F1=Metric("", main=True, column="CE_F1", heading="CE F1"),
    ),
    **_clinical(
        "CE13",
        micro_P=_MAIN,
        micro_R=_MAIN,
        micro_F1=Metric("", main=True, judged=True, column="CE13_F1", heading="CE F1, 13", panel=True),
        macro_F1=_MAIN,
        weighted_F1=_MAIN,
        example_F1=_MAIN,
    ),
    **_clinical("CE5", micro_F1=_MAIN),
    **_clinical("CE13neg"),
    **_clinical("CE14neg"),
    **_learned(
        radgraph_simple="RadGraph, simple",
        radgraph_partial="RadGraph, partial",
        radgraph_complete="RadGraph, complete",
        radgraph_radcliq="RadGraph, entities and relations",
        bertscore="BERTScore, distilbert",
        bertscore_distilroberta="BERTScore",
        bertscore_local="BERTScore, other model",
        radeval_bertscore="RadEval-BERTScore",
        ratescore="RaTEScore",
        semb_score="SembScore",
        green="GREEN",
        radcliq_v1="RadCliQ\u2011v1, low is good",
        crimson="CRIMSON",
        srrbert_weighted_f1="SRR\u2011BERT F1",
        srrbert_weighted_precision="SRR\u2011BERT P",
        srrbert_weighted_recall="SRR\u2011BERT R",
        temporal_f1="Temporal F1",
        f1chexbert_sample_acc_5="RadEval CheXbert, right in all 5",
        f1chexbert_sample_acc_all="RadEval CheXbert, right in all 14",
        bleu="RadEval BLEU\u20114",
        rouge1="RadEval ROUGE\u20111",
        rouge2="RadEval ROUGE\u20112",
        rougeL="RadEval ROUGE\u2011L",
    ),
    "1/radcliq_v1": Metric("1/RadCliQ\u2011v1", LEARNED, None, True, True, "1/radcliq_v1"),
    **{f"CE_F1 {name}": Metric(name, FINDING) for name in OBSERVATIONS},
    "CE_F1": Metric("CE F1", OTHER, sorts=True),  # of one study on the page, by the names of its findings
    "minutes": Metric("minutes", COSTS, column="minutes", decimals=2),
    "seconds": Metric("s a report", COSTS, column="seconds", decimals=2),
    "training_minutes": Metric("training, min", COSTS, column="training_minutes", decimals=2),
    "parameters_millions": Metric(
        "tuned, M", COSTS, column="parameters_millions", heading="tuned, M", decimals=2
    ),
}
"""Key in `metrics.json` → metric, in the order of printed tables."""


def keys(flag: str) -> list[str]:
    """Keys of the metrics with a flag, such as "main", "judged", "panel", "sorts" or "score"."""
    return [key for key, metric in METRICS.items() if getattr(metric, flag)]


def columns() -> dict[str, tuple[str, Metric]]:
    """Column of a published table → (key, metric)."""
    return {metric.column: (key, metric) for key, metric in METRICS.items() if metric.column}


def metric(key: str) -> Metric:
    """The row of a key; a key that the table lacks gets one in the group "Other"."""
    return METRICS.get(key, Metric(key.replace("_", " "), OTHER))


def place_on_page(key: str) -> int:
    """Rank of a metric's group on the page."""
    groups = [WORDS, *CLINICAL.values(), LEARNED, FINDING, COSTS, OTHER]
    return groups.index(metric(key).group) if metric(key).group in groups else len(groups)
