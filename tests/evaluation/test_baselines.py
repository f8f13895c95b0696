"""Controls: the constant report, shuffling, neighbours and the linear head."""

import random

import numpy as np
import pytest

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation.baselines import (
    constant_bleu,
    constant_report,
    derangement,
    fit_linear_head,
    nearest_neighbour,
    shuffled,
    text_controls,
)
from emrrg_lib.evaluation.nlg import score_reports
from emrrg_lib.files import InputError

WORDS = "the heart is normal lungs are clear no effusion . small left opacity".split()


def texts(seed, count):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 25))) for _ in range(count)]


def test_constant_bleu_equals_scoring_the_constant():
    candidates, references = [*texts(0, 6), "", "clear", "no no no no"], texts(1, 20)
    bleu = constant_bleu(candidates, references)
    for row, candidate in zip(bleu, candidates, strict=True):
        scores = score_reports(references, [candidate] * 20, meteor=False)
        assert row == pytest.approx([scores[f"Bleu_{n}"] for n in range(1, 5)], abs=1e-12)


def test_constant_report_is_the_best_training_report_on_validation():
    train, val = texts(2, 40), texts(3, 25)
    best = constant_report(train + train, val)
    by_hand = max(train, key=lambda text: score_reports(val, [text] * len(val), meteor=False)["Bleu_4"])
    assert best == by_hand


def test_constant_report_is_fast_at_the_size_of_iu_xray():
    assert constant_report(texts(4, 2000), texts(5, 300))  # pairwise scoring would take minutes


def test_most_frequent_and_random_reports():
    train = ["a b", "c d", "c d", "a b", "e"]
    first, again, other = (text_controls(train, ["a b"], 200, seed) for seed in (1, 1, 2))
    assert first["most frequent report"] == ["a b"] * 200
    drawn = first["random training report"]
    assert len(drawn) == 200 and set(drawn) == set(train)
    assert drawn == again["random training report"] != other["random training report"]


@pytest.mark.parametrize("studies", [2, 3, 10, 101])
def test_shuffled_leaves_no_study_its_own(studies):
    for seed in range(20):
        order = derangement(studies, seed)
        assert sorted(order) == list(range(studies))
        assert all(place != source for place, source in enumerate(order))
    assert shuffled(list("abcde"), 3) == [list("abcde")[i] for i in derangement(5, 3)]
    assert len({tuple(derangement(10, seed)) for seed in range(20)}) > 15


def test_nearest_neighbour_finds_the_report_of_the_most_similar_study():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 8)) + 5  # a large common part must not hide the differences
    reports = [f"report {i}" for i in range(20)]
    picked = [3, 17, 0]
    near = features[picked] + rng.normal(scale=0.01, size=(3, 8))
    assert nearest_neighbour(features, reports, near) == [reports[i] for i in picked]


def problem(studies, seed):
    """Features in which observation 0 is linear, 1 rare and linear, 2 noise, 3 never there."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(studies, 12)) * 10 + 3
    targets = np.zeros((studies, 4), bool)
    targets[:, 0] = features[:, 0] > 3
    targets[:, 1] = features[:, 1] > 17
    targets[:, 2] = rng.random(studies) < 0.3
    return features, targets


def test_linear_head_learns_what_is_linear():
    head = fit_linear_head(*problem(800, 0), *problem(400, 1))
    features, targets = problem(400, 2)
    found = head.predict(features)
    both = (found & targets).sum(0)
    f1 = 2 * both / np.maximum(1, found.sum(0) + targets.sum(0))
    assert f1[0] > 0.95 and f1[1] > 0.7
    assert not found[:, 3].any()
    assert np.all((head.probabilities(features) >= 0) & (head.probabilities(features) <= 1))
    assert head.labels(features[:1], OBSERVATIONS[:4])[0].keys() == set(OBSERVATIONS[:4])
    again = fit_linear_head(*problem(800, 0), *problem(400, 1))
    assert np.array_equal(head.weight, again.weight)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="empty"):
        constant_report([], ["a"])
    with pytest.raises(InputError, match="empty"):
        text_controls([], ["a"], 1, 0)
    with pytest.raises(InputError, match="two studies"):
        shuffled(["a"], 0)
    with pytest.raises(InputError, match="cannot be compared"):
        nearest_neighbour(np.ones((2, 3)), ["a", "b"], np.ones((2, 4)))
    with pytest.raises(InputError, match="reports"):
        nearest_neighbour(np.ones((2, 3)), ["a"], np.ones((2, 3)))
    with pytest.raises(InputError, match="do not fit"):
        fit_linear_head(np.ones((2, 3)), np.ones((3, 1)), np.ones((2, 3)), np.ones((2, 1)))
