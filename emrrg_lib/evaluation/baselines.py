"""Controls of every score table: reports written without the image, and a linear head on the encoder.

On the real IU test split one constant sentence reaches the word-overlap scores of published models
(NOTES M2). So a model's scores mean something only in comparison with these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.study import Study
from emrrg_lib.evaluation.metrics import bleu_score
from emrrg_lib.evaluation.nlg import check_texts
from emrrg_lib.files import InputError
from emrrg_lib.phantom import commonest_wording, reword

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""L2 strengths tried by :func:`fit_linear_head`."""


def _occurrences(text: str) -> Counter[tuple[tuple[str, ...], int]]:
    """Every n-gram (n = 1..4) with its running number: (gram, 1), (gram, 2), ... once each."""
    words, seen = text.split(), Counter()
    marked: Counter[tuple[tuple[str, ...], int]] = Counter()
    for n in range(1, 5):
        for start in range(len(words) - n + 1):
            gram = tuple(words[start : start + n])
            seen[gram] += 1
            marked[gram, seen[gram]] = 1
    return marked


def constant_bleu(candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Corpus BLEU-1..4 of every candidate given to all references, equal to pycocoevalcap.

    The k-th occurrence of an n-gram in a candidate is matched by every reference that has the
    n-gram k times, so one table of those counts serves all candidates: no pair is ever compared.

    Args:
        candidates, references: C and V cleaned reports.

    Returns:
        float64 (C, 4).
    """
    matched, studies = Counter(), len(references)
    for reference in references:
        matched.update(_occurrences(reference))
    correct = np.zeros((len(candidates), 4))
    for row, candidate in enumerate(candidates):
        for gram, number in _occurrences(candidate):
            correct[row, len(gram) - 1] += matched[gram, number]
    words = np.array([len(candidate.split()) for candidate in candidates], dtype=float)
    guess = studies * np.maximum(0, words[:, None] - np.arange(4))
    total = np.full(len(candidates), float(sum(len(r.split()) for r in references)))
    return bleu_score(correct, guess, studies * words, total)


def constant_report(train_reports: Sequence[str], val_reports: Sequence[str]) -> str:
    """The training report that scores best on validation when every study gets it.

    All reports are cleaned. The candidate with the highest corpus BLEU-4 wins; of equals, the first.
    Raises InputError where one of the lists is empty, or an item is not a text.
    """
    check_texts(val_reports, val_reports)
    check_texts(train_reports, train_reports)
    candidates = list(dict.fromkeys(train_reports))
    return candidates[int(constant_bleu(candidates, val_reports)[:, 3].argmax())]


def text_controls(
    train_reports: Sequence[str], val_reports: Sequence[str], studies: int, seed: int
) -> dict[str, list[str]]:
    """The controls that need no image, by the names of score tables: `studies` reports each.

    Of equally good or equally frequent reports the first is taken; the random ones are drawn with
    replacement. InputError for an empty list.
    """
    constant = constant_report(train_reports, val_reports)
    drawn = np.random.default_rng(seed).integers(len(train_reports), size=studies)
    return {
        "constant report": [constant] * studies,
        "most frequent report": [Counter(train_reports).most_common(1)[0][0]] * studies,
        "random training report": [train_reports[index] for index in drawn],
    }


def oracles(studies: Sequence[Study], seed: int, rule: str) -> dict[str, list[str]]:
    """Reports of a perfect reader. Only phantoms have them, because their findings are known."""
    if any(study.findings is None for study in studies):
        return {}
    rng = np.random.default_rng(seed)
    return {
        "oracle re-wording": [clean_report(reword(s.findings, rng), rule) for s in studies],
        "oracle, commonest wording": [clean_report(commonest_wording(s.findings), rule) for s in studies],
    }


def derangement(studies: int, seed: int) -> list[int]:
    """A random permutation of range(studies) in which no study keeps its place (one cycle)."""
    if studies < 2:
        raise InputError("Shuffling between studies needs at least two studies.")
    order = np.random.default_rng(seed).permutation(studies).tolist()
    taken = [0] * studies
    for study, source in pairwise([*order, order[0]]):
        taken[study] = source
    return taken


def shuffled(hypotheses: Sequence, seed: int) -> list:
    """Gives every study the report (or image) of another study; InputError for fewer than two studies."""
    return [hypotheses[source] for source in derangement(len(hypotheses), seed)]


def nearest_neighbour(
    features_train: np.ndarray, reports_train: Sequence[str], features_test: np.ndarray
) -> list[str]:
    """The report of the training study that is most like the test study (cosine); of equals, the first.

    Args:
        features_train: float (N, D), one row a training study. reports_train: N reports.
        features_test: float (M, D).

    Raises:
        InputError: the sizes do not fit.
    """
    train, test = np.asarray(features_train, float), np.asarray(features_test, float)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise InputError(f"Features of shape {train.shape} and {test.shape} cannot be compared.")
    if len(train) != len(reports_train) or len(train) == 0:
        raise InputError(f"{len(train)} training features but {len(reports_train)} reports.")
    centre = train.mean(axis=0)  # features of one encoder share a large common part
    train, test = train - centre, test - centre
    norms = np.linalg.norm(train, axis=1)
    units = (train / np.where(norms == 0, 1, norms)[:, None]).T
    return [reports_train[(features @ units).argmax()] for features in test]


@dataclass(frozen=True)
class LinearHead:
    """A fitted linear head.

    Attributes:
        weight, bias: float64 (D, L) and (L,).
        mean, scale: float64 (D,); a feature is standardised as (feature - mean) / scale.
        thresholds: float64 (L,), on the probability.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    thresholds: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float64 (N, L) from float (N, D)."""
        logits = (np.asarray(features, float) - self.mean) / self.scale @ self.weight + self.bias
        return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """bool (N, L): which observations the head finds in float (N, D)."""
        return self.probabilities(features) >= self.thresholds

    def labels(self, features: np.ndarray, observations: Sequence[str]) -> list[dict[str, int | None]]:
        """The predictions as labels for ``clinical_scores``: 1, or None where nothing is found."""
        return [
            {name: 1 if found else None for name, found in zip(observations, row, strict=True)}
            for row in self.predict(features)
        ]


def fit_linear_head(
    features: np.ndarray, targets: np.ndarray, val_features: np.ndarray, val_targets: np.ndarray
) -> LinearHead:
    """Fits a logistic regression on frozen features: the ceiling for finding recognition.

    One independent output per observation, L-BFGS, features standardised on training; the L2
    strength is chosen by mean validation F1, the threshold of each output by its validation F1.

    Args:
        features, targets: float (N, D) and bool (N, L), training.
        val_features, val_targets: float (M, D) and bool (M, L).

    Raises:
        InputError: the sizes do not fit.
    """
    x, y = np.asarray(features, float), np.asarray(targets, float)
    val_x, val_y = np.asarray(val_features, float), np.asarray(val_targets, bool)
    if len(x) != len(y) or len(val_x) != len(val_y) or x.shape[1] != val_x.shape[1]:
        raise InputError(
            f"Features {x.shape} and targets {y.shape}, or their validation parts "
            f"{val_x.shape} and {val_y.shape}, do not fit each other."
        )
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    heads = []
    for penalty in PENALTIES:
        head = LinearHead(*_logistic((x - mean) / scale, y, penalty), mean, scale, np.zeros(y.shape[1]))
        thresholds, f1 = _best_thresholds(head.probabilities(val_x), val_y)
        heads.append((float(f1.mean()), replace(head, thresholds=thresholds)))
    return max(heads, key=lambda pair: pair[0])[1]


def _logistic(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the mean cross entropy plus penalty/2 |W|^2; the bias is free."""
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    weight = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(y.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        logits = inputs @ weight + bias
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        loss = entropy.mean(dim=0).sum() + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach().numpy(), bias.detach().numpy()


def _best_thresholds(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per column, the threshold with the best F1 and that F1; never below all scores."""
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, hits = np.take_along_axis(scores, order, 0), np.take_along_axis(truth, order, 0)
    found = np.cumsum(hits, axis=0)
    f1 = 2 * found / (np.arange(1, len(scores) + 1)[:, None] + truth.sum(axis=0))
    f1[:-1][ranked[:-1] == ranked[1:]] = 0  # a threshold cannot separate equal scores
    best = f1.argmax(axis=0)
    column = np.arange(scores.shape[1])
    below = np.minimum(best + 1, len(scores) - 1)
    # Half way to the next lower score, so that unseen scores just below still count.
    thresholds = (ranked[best, column] + ranked[below, column]) / 2
    absent = ~truth.any(axis=0)
    return np.where(absent, np.inf, thresholds), np.where(absent, 0.0, f1[best, column])
