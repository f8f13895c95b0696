"""Word-overlap scores against pycocoevalcap."""

import random

import numpy as np
import pandas as pd
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from emrrg_lib.evaluation.nlg import score_each, score_reports
from emrrg_lib.files import InputError

WORDS = (
    "the heart is normal in size . no pleural effusion or pneumothorax lungs are clear there "
    "is a small left opacity enlarged stable"
).split()


def texts(seed, count, longest=40):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(count)]


def published(references, hypotheses):
    """Scores of pycocoevalcap itself, METEOR left out."""
    gts = {i: [text] for i, text in enumerate(references)}
    res = {i: [text] for i, text in enumerate(hypotheses)}
    bleu, each = Bleu(4).compute_score(gts, res, verbose=0)
    scores = {f"Bleu_{n}": bleu[n - 1] for n in range(1, 5)}
    scores["ROUGE_L"], _ = Rouge().compute_score(gts, res)
    scores["CIDEr"], cider = Cider().compute_score(gts, res)
    return scores, each, cider


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_pycocoevalcap(seed):
    references, hypotheses = texts(seed, 30), texts(seed + 100, 30)
    hypotheses[:3] = references[:3]
    hypotheses[3], hypotheses[4] = "", "  spaced   out  ."
    references[5] = hypotheses[5] = "unrelated only here"
    ours = score_reports(references, hypotheses, meteor=False)
    theirs, each, cider = published(references, hypotheses)
    assert {k: v for k, v in ours.items() if k != "METEOR"} == pytest.approx(theirs, abs=1e-9)
    singles = score_each(references, hypotheses, meteor=False)
    for n in range(1, 5):
        assert [s[f"Bleu_{n}"] for s in singles] == pytest.approx(each[n - 1], abs=1e-9)
    assert [s["CIDEr"] for s in singles] == pytest.approx(list(cider), abs=1e-9)


def test_white_space_rules():
    plain = score_reports(["a b c d e"], ["a b c d"], meteor=False)
    assert score_reports(["a b\tc d e"], ["a b c\nd"], meteor=False) == plain
    assert score_reports(["a b\r\nc d e"], ["a b c d"], meteor=False) == plain
    # A run of spaces holds empty tokens for ROUGE-L, as in the published code.
    spaced = score_reports(["a b c d e"], ["a b  c d"], meteor=False)
    assert spaced["Bleu_4"] == plain["Bleu_4"] and spaced["ROUGE_L"] < plain["ROUGE_L"]


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [("", ""), ("a b", ""), ("", "a b"), (" . ", " . "), ("élargi – naïve ß", "élargi ß 漢字")],
)
def test_odd_texts_give_finite_scores(reference, hypothesis):
    for set_of in ([reference], [reference, "the lungs are clear"]):
        scores = score_reports(set_of, [hypothesis, "the lungs"][: len(set_of)], meteor=False)
        assert all(np.isfinite(v) for k, v in scores.items() if k != "METEOR")


def test_ten_thousand_words():
    long = [" ".join(texts(seed, 550)) for seed in (3, 4)]
    assert len(long[0].split()) > 10_000
    scores = score_reports(texts(1, 2), [texts(2, 1)[0], long[0]], meteor=False)
    assert 0 < scores["Bleu_1"] < 0.1
    assert 0.2 < score_reports(long[:1], long[1:], meteor=False)["ROUGE_L"] < 1


@pytest.mark.parametrize("seed", range(3))
def test_rouge_of_long_and_odd_texts_equals_pycocoevalcap(seed):
    pairs = [(" ".join(texts(seed, 12)), " ".join(texts(seed + 9, 9))), ("a", "b"), ("", ""), (" ", "a  b")]
    for reference, hypothesis in pairs:
        ours = score_reports([reference], [hypothesis], meteor=False)["ROUGE_L"]
        assert ours == pytest.approx(Rouge().calc_score([hypothesis], [reference]), abs=1e-12)


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        (["a"], [], "1 references but 0 hypotheses"),
        ([], [], "empty"),
        (["a"], [None], "Item 0 of the hypotheses"),
        ([1], ["a"], "Item 0 of the references"),
        ("a", ["a"], "list of texts"),
        (["a"], b"a", "list of texts, not bytes"),
        (["a"], (text for text in "a"), "list of texts, not generator"),
        (None, ["a"], "list of texts, not NoneType"),
        ([["a"]], ["a"], "Item 0 of the references must be text, not list"),
        # the shape of pycocoevalcap: the ids would be scored
        ({"s1": ["a"]}, {"s1": ["a"]}, "in one order, not dict"),
        (["a"], {"s1": "a"}, "hypotheses must be a list of texts in one order, not dict"),
        ({"s1": "a"}.keys(), ["a"], "in one order, not dict_keys"),
        (["a", "b"], {"a", "b"}, "in one order, not set"),
        (["a", "b"], frozenset(("a", "b")), "in one order, not frozenset"),
    ],
)
def test_bad_input_is_refused(references, hypotheses, message):
    for score in (score_reports, score_each):
        with pytest.raises(InputError, match=message):
            score(references, hypotheses)


def test_any_ordered_texts_are_scored():
    listed = score_reports(["a b c", "d e f"], ["a b d", "d e f"], meteor=False)
    for kind in (tuple, np.array, pd.Series, lambda texts: dict(enumerate(texts)).values()):
        assert score_reports(kind(["a b c", "d e f"]), kind(["a b d", "d e f"]), meteor=False) == listed
