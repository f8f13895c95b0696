"""Bootstrap intervals against plain re-scoring, and paired differences."""

import random

import numpy as np
import pytest

from emrrg_lib.evaluation import intervals
from emrrg_lib.evaluation.clinical import clinical_scores
from emrrg_lib.evaluation.intervals import (
    bootstrap,
    paired_difference,
    point_scores,
    resample,
    scores_of,
    system_statistics,
)
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.evaluation.nlg import score_reports
from emrrg_lib.files import InputError

SENTENCES = (
    "the heart is enlarged .",
    "the heart is normal in size .",
    "no pleural effusion or pneumothorax .",
    "small left pleural effusion .",
    "the lungs are clear .",
    "possible right basilar atelectasis .",
)


def reports(seed, count):
    rng = random.Random(seed)
    return [" ".join(rng.sample(SENTENCES, k=rng.randint(1, 4))) for _ in range(count)]


@pytest.fixture(scope="module")
def systems():
    references = reports(0, 60)
    pairs = zip(references, reports(1, 60), strict=True)
    close = [r if i % 2 else h for i, (r, h) in enumerate(pairs)]
    return {
        "references": references,
        "close": system_statistics(references, close, meteor=False),
        "far": system_statistics(references, reports(2, 60), meteor=False),
        "texts": close,
    }


def test_point_scores_are_the_scores(systems):
    points = point_scores(systems["close"])
    scores = score_reports(systems["references"], systems["texts"], meteor=False)
    for name, value in scores.items():
        assert points[name] == (value if value is None else pytest.approx(value))
    labels = [[label_report(t) for t in systems[k]] for k in ("references", "texts")]
    assert points["CE13_micro_F1"] == pytest.approx(clinical_scores(*labels)["micro"]["F1"])


def test_a_resample_is_the_score_of_the_drawn_studies(systems):
    weights = resample(60, 3, seed=5)
    assert (weights.sum(axis=1) == 60).all()
    drawn = scores_of(systems["close"], weights)
    for row in range(3):
        index = np.repeat(np.arange(60), weights[row].astype(int))
        references = [systems["references"][i] for i in index]
        texts = [systems["texts"][i] for i in index]
        scores = score_reports(references, texts, meteor=False)
        for name in ("Bleu_1", "Bleu_4", "ROUGE_L"):  # CIDEr keeps the full set's frequencies
            assert drawn[name][row] == pytest.approx(scores[name])
        labels = [[label_report(t) for t in part] for part in (references, texts)]
        clinical = clinical_scores(*labels)
        for average in ("micro", "macro", "example"):
            assert drawn[f"CE13_{average}_F1"][row] == pytest.approx(clinical[average]["F1"])


def test_meteor_of_a_resample_is_the_formula_on_summed_statistics(systems):
    rows = np.zeros((60, 23))
    rows[:, 0] = rows[:, 1] = 10  # words of hypothesis and reference, no function words
    rows[:30, 4] = rows[:30, 5] = 10  # half of the studies match whole
    rows[:30, 21] = rows[:30, 22] = 10
    nlg = systems["close"].nlg
    system = intervals.SystemStatistics(
        type(nlg)(**{**vars(nlg), "meteor": rows}),
        systems["close"].reference_labels,
        systems["close"].hypothesis_labels,
    )
    assert point_scores(system)["METEOR"] == pytest.approx(0.5)
    low, high = bootstrap(system)["METEOR"]
    assert 0.3 < low < 0.5 < high < 0.7


def test_intervals_hold_the_score_and_are_seeded(systems):
    points, first = point_scores(systems["close"]), bootstrap(systems["close"], seed=3)
    assert set(first) == {name for name, value in points.items() if value is not None}
    for name in ("Bleu_1", "Bleu_4", "ROUGE_L", "CIDEr", "CE13_micro_F1", "CE14_example_F1"):
        low, high = first[name]
        assert low < points[name] < high
    assert first == bootstrap(systems["close"], seed=3)
    assert first != bootstrap(systems["close"], seed=4)


def test_interval_of_a_mean_has_the_textbook_width():
    values = np.random.default_rng(0).normal(size=400)
    low, high = intervals.percentiles(resample(400, 4000, seed=1) @ values / 400)
    expected = 2 * 1.96 * values.std() / 20
    assert high - low == pytest.approx(expected, rel=0.06)


def test_paired_difference_tells_real_from_chance(systems):
    better = paired_difference("Bleu_4", systems["close"], systems["far"])
    assert better.real and better.value > 0 and better.low < better.value < better.high
    swapped = paired_difference("Bleu_4", systems["far"], systems["close"])
    assert swapped.value == -better.value and swapped.low == pytest.approx(-better.high)
    same = paired_difference("CE13_micro_F1", systems["far"], systems["far"])
    assert not same.real and same.low == same.high == 0


def test_given_labels_replace_the_labeler(systems):
    references = systems["references"]
    labels = [label_report("There is a rib fracture.")] * 60
    system = system_statistics(references, references, labels, labels, meteor=False)
    assert point_scores(system)["CE_F1 Fracture"] == 1


def test_bad_input_is_refused(systems):
    other = system_statistics(reports(9, 60), reports(2, 60), meteor=False)
    with pytest.raises(InputError, match="same studies"):
        paired_difference("Bleu_4", systems["close"], other)
    with pytest.raises(InputError, match="No metric 'METEOR'"):
        paired_difference("METEOR", systems["close"], systems["far"])
    with pytest.raises(InputError, match="1 sets of labels for 2 reports"):
        system_statistics(["a", "b"], ["a", "b"], [label_report("a")], meteor=False)
