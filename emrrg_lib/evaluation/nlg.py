"""Word-overlap scores: BLEU-1..4, ROUGE-L, METEOR and CIDEr of pycocoevalcap 1.2.

Conventions of the published code (NOTES M1): tokens are what stands between white
space (no PTB tokenizer), and both texts have been cleaned before (:mod:`emrrg_lib.data.cleaning`).
Every score is a formula on *per-study statistics* (:class:`NlgStatistics`), so that the same few
functions give the corpus score, the score of one study and all bootstrap resamples.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider

from emrrg_lib.evaluation.meteor import MeteorUnavailable, alignment_statistics, meteor_score
from emrrg_lib.files import InputError

NLG_METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "METEOR", "CIDEr")

_LINE_BREAKS = re.compile(r"\r\n|[\r\n\t]")
_SMALL, _TINY = 1e-9, 1e-15  # pycocoevalcap's guards against division by zero; no smoothing
_ROUGE_BETA = 1.2


@dataclass(frozen=True)
class NlgStatistics:
    """What the scores are computed from, one row a study (N studies).

    Attributes:
        bleu_correct: (N, 4) n-grams of the hypothesis found in the reference (clipped), n = 1..4.
        bleu_guess: (N, 4) n-grams of the hypothesis.
        hypothesis_words, reference_words: (N,).
        rouge: (N,) ROUGE-L of each study.
        cider: (N,) CIDEr of each study, document frequencies from the references of all N.
        meteor: (N, 23) alignment statistics, or None where METEOR cannot be computed.
        meteor_missing: the reason, "" when METEOR is there.
    """

    bleu_correct: np.ndarray
    bleu_guess: np.ndarray
    hypothesis_words: np.ndarray
    reference_words: np.ndarray
    rouge: np.ndarray
    cider: np.ndarray
    meteor: np.ndarray | None
    meteor_missing: str = ""


def check_texts(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Refuse what cannot be scored.

    Raises:
        InputError: a bare string, lists of unequal length, empty lists, or an item that is no text.
    """
    for name, texts in (("references", references), ("hypotheses", hypotheses)):
        if isinstance(texts, str):
            raise InputError(f"The {name} must be a list of texts, not one text.")
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
    rows, missing = _meteor(references, hypotheses) if meteor else (None, "not asked for")
    return NlgStatistics(
        bleu_correct=np.array([study["correct"] for study in counts.ctest], dtype=np.float64),
        bleu_guess=np.array([study["guess"] for study in counts.ctest], dtype=np.float64),
        hypothesis_words=np.array([study["testlen"] for study in counts.ctest], dtype=np.float64),
        reference_words=np.array([lengths[0] for lengths, _ in counts.crefs], dtype=np.float64),
        rouge=np.array([_rouge(*(text.split(" ") for text in pair)) for pair in pairs]),
        cider=_cider(references, hypotheses),
        meteor=rows,
        meteor_missing=missing,
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


def _meteor(references: list[str], hypotheses: list[str]) -> tuple[np.ndarray | None, str]:
    try:
        return alignment_statistics(references, hypotheses), ""
    except MeteorUnavailable as error:
        _warn_once(str(error))
        return None, str(error)


@cache
def _warn_once(reason: str) -> None:
    """A training run that scores every epoch says it once."""
    warnings.warn(f"METEOR is not computed: {reason}", RuntimeWarning, stacklevel=5)


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


def corpus_scores(statistics: NlgStatistics, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The corpus scores of weighted sets of studies.

    Args:
        statistics: of N studies.
        weights: (R, N) how often each study counts in each of R sets: ones for the plain score,
            drawn counts for a bootstrap, one-hot rows for single studies.

    Returns:
        metric -> float64 (R,); METEOR is absent where it cannot be computed. CIDEr keeps the
        document frequencies of all N references.
    """
    s = statistics
    bleu = bleu_score(
        weights @ s.bleu_correct,
        weights @ s.bleu_guess,
        weights @ s.hypothesis_words,
        weights @ s.reference_words,
    )
    studies = weights.sum(axis=1)
    scores = {f"Bleu_{n}": bleu[:, n - 1] for n in range(1, 5)}
    scores["ROUGE_L"] = weights @ s.rouge / studies
    if s.meteor is not None:
        scores["METEOR"] = meteor_score(weights @ s.meteor)
    scores["CIDEr"] = weights @ s.cider / studies
    return scores


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
        The seven metrics of :data:`NLG_METRICS` as fractions (CIDEr is not bounded by 1). METEOR
        is None, with a warning that says why, where no Java works.

    Raises:
        InputError: unequal lengths, empty lists, an item that is not text.
    """
    statistics = nlg_statistics(references, hypotheses, meteor)
    scores = corpus_scores(statistics, np.ones((1, len(references))))
    return {name: float(scores[name][0]) if name in scores else None for name in NLG_METRICS}


def score_each(
    references: Sequence[str], hypotheses: Sequence[str], meteor: bool = True
) -> list[dict[str, float | None]]:
    """The same metrics for every study by itself; CIDEr keeps the whole set's frequencies.

    Arguments, keys and errors: see :func:`score_reports`.
    """
    s = nlg_statistics(references, hypotheses, meteor)
    bleu = bleu_score(s.bleu_correct, s.bleu_guess, s.hypothesis_words, s.reference_words)
    scores = {f"Bleu_{n}": bleu[:, n - 1] for n in range(1, 5)} | {"ROUGE_L": s.rouge, "CIDEr": s.cider}
    if s.meteor is not None:
        scores["METEOR"] = meteor_score(s.meteor)
    return [
        {name: float(scores[name][study]) if name in scores else None for name in NLG_METRICS}
        for study in range(len(references))
    ]
