"""Word-overlap scores: BLEU-1..4, ROUGE-L, METEOR and CIDEr of pycocoevalcap 1.2.

Conventions of the published code (NOTES M1): white space separates the tokens
(no PTB tokenizer), and both texts have been cleaned before (:mod:`emrrg_lib.data.cleaning`).
Every score is a formula on *per-study statistics* (:mod:`emrrg_lib.evaluation.metrics`), so that the same
few functions give the corpus score, the score of one study and all bootstrap resamples.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set, Sized
from functools import cache

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider

from emrrg_lib.evaluation.meteor import MeteorUnavailable, alignment_statistics
from emrrg_lib.evaluation.metrics import METRICS, NlgStatistics, Weights, keys
from emrrg_lib.files import InputError

_LINE_BREAKS = re.compile(r"\r\n|[\r\n\t]")
_ROUGE_BETA = 1.2


def check_texts(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Refuses reports that cannot be scored.

    Raises:
        InputError: a bare string, a mapping or set, lists of unequal length, empty lists, or an item that is
            not a text.
    """
    for name, texts in (("references", references), ("hypotheses", hypotheses)):
        if isinstance(texts, str | bytes) or not isinstance(texts, Sized):
            raise InputError(f"The {name} must be a list of texts, not {type(texts).__name__}.")
        if isinstance(texts, Mapping | Set):  # pycocoevalcap takes {id: [text]}; here the ids would be scored
            raise InputError(
                f"The {name} must be a list of texts in one order, not {type(texts).__name__}: give "
                "[texts[0] for texts in the_dict.values()]."
            )
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"Item {index} of the {name} must be text, not {type(text).__name__}.")
    if len(references) != len(hypotheses):
        raise InputError(
            f"{len(references)} references but {len(hypotheses)} hypotheses: "
            "give one generated report for every reference."
        )
    if len(references) == 0:
        raise InputError("There is nothing to score: the lists of reports are empty.")


def nlg_statistics(
    references: Sequence[str], hypotheses: Sequence[str], meteor: bool = True
) -> NlgStatistics:
    """Per-study statistics of every metric; arguments and errors as in :func:`score_reports`.

    Where Java is missing ``meteor`` is None, with the reason and one warning.
    """
    check_texts(references, hypotheses)
    references, hypotheses = (
        [_LINE_BREAKS.sub(" ", text) for text in texts] for texts in (references, hypotheses)
    )
    pairs = list(zip(references, hypotheses, strict=True))
    counts = BleuScorer(n=4)
    for reference, hypothesis in pairs:
        counts += (hypothesis, [reference])
    return NlgStatistics(
        references=references,
        hypotheses=hypotheses,
        bleu_correct=np.array([study["correct"] for study in counts.ctest], dtype=np.float64),
        bleu_guess=np.array([study["guess"] for study in counts.ctest], dtype=np.float64),
        hypothesis_words=np.array([study["testlen"] for study in counts.ctest], dtype=np.float64),
        reference_words=np.array([lengths[0] for lengths, _ in counts.crefs], dtype=np.float64),
        rouge=np.array([_rouge(*(text.split(" ") for text in pair)) for pair in pairs]),
        cider=_cider(references, hypotheses),
        meteor=_meteor(references, hypotheses) if meteor else None,
    )


def _rouge(reference: list[str], hypothesis: list[str]) -> float:
    """ROUGE-L of one pair, as in pycocoevalcap.

    Its table of the longest common subsequence takes minutes and a gigabyte for two texts of 10,000
    words; here one integer holds a column of the table, a bit a word (Hyyrö 2004).
    """
    places: defaultdict[str, int] = defaultdict(int)
    for index, word in enumerate(reference):
        places[word] |= 1 << index
    every = free = (1 << len(reference)) - 1
    for word in hypothesis:
        found = free & places.get(word, 0)
        free = (free + found | free - found) & every
    common = len(reference) - free.bit_count()
    precision, recall = common / len(hypothesis), common / len(reference)
    if not common:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _cider(references: list[str], hypotheses: list[str]) -> np.ndarray:
    if not any(reference.split() for reference in references):
        return np.zeros(len(references))  # no n-gram has a document frequency
    _, scores = Cider().compute_score(
        {key: [text] for key, text in enumerate(references)},
        {key: [text] for key, text in enumerate(hypotheses)},
    )
    return np.asarray(scores, dtype=np.float64)


def meteor_available(references: Sequence[str], hypotheses: Sequence[str]) -> bool:
    """Asks for METEOR of many texts in one run of Java; whether it can be computed. Warns where not."""
    return _meteor(references, hypotheses) is not None


def _meteor(references: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray | None:
    try:
        return alignment_statistics(references, hypotheses)
    except MeteorUnavailable as error:
        _warn_once(str(error))
        return None


@cache
def _warn_once(reason: str) -> None:
    """A training run that scores every epoch says it once."""
    warnings.warn(f"METEOR is not computed: {reason}", RuntimeWarning, stacklevel=5)


def corpus_scores(statistics: NlgStatistics, weights: Weights) -> dict[str, np.ndarray]:
    """The scores of weighted sets of studies.

    Args:
        statistics: of N studies.
        weights: (R, N) how often each study counts in each of R sets: ones for the plain score, drawn
            counts for a bootstrap. None scores each study by itself, R = N.

    Returns:
        metric -> float64 (R,). A metric is absent where it cannot be computed, as METEOR without Java.
        CIDEr keeps the document frequencies of all N references.
    """
    scores = {key: METRICS[key].score(statistics, weights) for key in keys("score")}
    return {key: values for key, values in scores.items() if values is not None}


def score_reports(
    references: Sequence[str], hypotheses: Sequence[str], meteor: bool = True
) -> dict[str, float | None]:
    """Corpus scores, equal to pycocoevalcap 1.2 on white-space tokens.

    A newline or tab becomes one space; runs of spaces stay (ROUGE-L counts an empty token between
    them, as the published code does); METEOR's line is collapsed and freed of "|||".

    Args:
        references: N cleaned reference reports.
        hypotheses: N cleaned generated reports, in the same order.
        meteor: False leaves METEOR out (None), as validation during training does; its Java process
            takes seconds to start.

    Returns:
        The word-overlap metrics of :data:`~emrrg_lib.evaluation.metrics.METRICS` as fractions (CIDEr is
        not bounded by 1). METEOR is None, with a warning that says why, where no Java works.

    Raises:
        InputError: unequal lengths, empty lists, an item that is not text.
    """
    statistics = nlg_statistics(references, hypotheses, meteor)
    return _rows(corpus_scores(statistics, np.ones((1, len(references)))), 1)[0]


def score_each(
    references: Sequence[str], hypotheses: Sequence[str], meteor: bool = True
) -> list[dict[str, float | None]]:
    """The same metrics for every study by itself; CIDEr keeps the whole set's frequencies.

    Arguments, keys and errors: see :func:`score_reports`.
    """
    statistics = nlg_statistics(references, hypotheses, meteor)
    return _rows(corpus_scores(statistics, None), len(references))


def _rows(scores: Mapping[str, np.ndarray], count: int) -> list[dict[str, float | None]]:
    """One dict of all metrics for each of `count` sets."""
    names = keys("score")
    return [
        {name: float(scores[name][row]) if name in scores else None for name in names} for row in range(count)
    ]
