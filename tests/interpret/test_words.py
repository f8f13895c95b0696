"""The words that two reports share, the words that name a finding, and pictures in words."""

from __future__ import annotations

import itertools

import numpy as np
from toy_trace import make_trace

from emrrg_lib.interpret.words import (
    count_words,
    default_words,
    describe_place,
    describe_trace,
    naming_words,
    shared_marks,
)


def shared(reference, report):
    """The marked stretches of both texts, in reading order."""
    texts = (reference, report)
    sides = zip(texts, shared_marks(reference, [report]), strict=True)
    return [[text[mark.start : mark.stop] for mark in marks] for text, marks in sides]


def test_matching_takes_the_longest_runs_first():
    reference = "No pleural effusion or pneumothorax. The heart is normal in size."
    hypothesis = "The heart is normal. There is no pleural effusion."
    assert shared(reference, hypothesis) == [
        ["No pleural effusion", "The heart is normal"],
        ["The heart is normal", "no pleural effusion"],
    ]
    assert count_words(hypothesis) == 9


def test_matching_stops_at_sentences_and_short_runs():
    assert shared("Lungs are clear. Heart normal.", "clear heart") == [[], []]
    assert shared("a b c", "c b a") == [[], []]
    assert shared("", "anything here") == [[], []]
    assert shared("2.5 cm nodule", "a 2.5 cm mass") == [["2.5 cm"]] * 2


def test_matching_never_overlaps_and_always_agrees():
    rng = np.random.default_rng(5)
    for _ in range(30):
        texts = [" ".join(rng.choice(list("abcd."), 30)) for _ in range(2)]
        sides = shared_marks(texts[0], texts[1:])
        for marks in sides:
            assert all(one.stop <= other.start for one, other in itertools.pairwise(marks))
        left, right = (
            {mark.twin: text[mark.start : mark.stop] for mark in marks}
            for text, marks in zip(texts, sides, strict=True)
        )
        assert left == right and all("." not in run and len(run.split()) > 1 for run in left.values())


def test_shared_marks_tell_who_shares_what():
    """The colours of the paper's Fig. 3: first report alone, second alone, both."""
    reference = "The heart is enlarged. Small left effusion."
    reports = ["The heart is normal. Small left effusion.", "The heart is enlarged, effusion is small left."]
    marks = shared_marks(reference, reports)
    told = [
        [(text[m.start : m.stop], m.systems) for m in side]
        for text, side in zip([reference, *reports], marks, strict=True)
    ]
    heart, left, effusion = ("The heart is", (0, 1)), ("Small left", (0, 1)), ("effusion", (0,))
    assert told[0] == [heart, ("enlarged", (1,)), left, effusion]
    assert told[1] == [heart, left, effusion]
    assert told[2] == [heart, ("enlarged", (1,)), ("small left", (0, 1))]
    twins = [{m.twin: told[side][i][0].lower() for i, m in enumerate(marks[side])} for side in range(3)]
    assert all(twins[0][twin] == text for side in twins[1:] for twin, text in side.items())


def test_empty_texts_share_nothing():
    assert shared_marks("", ["", "a"]) == [[], [], []]


def tokens_of(text):
    return tuple(text.replace(".", " .").replace(" ", "\x00 ").split("\x00"))


def test_naming_words_affirmed_first():
    text = "No pneumothorax . Possible pneumonia . The heart is enlarged . There is an effusion ."
    found = naming_words(make_trace(tokens_of(text)))
    assert [(word.text, word.value) for word in found] == [
        ("enlarged", 1),
        ("effusion", 1),
        ("pneumonia", -1),
        ("pneumothorax", 0),
    ]
    assert [word.caption for word in found][2:] == ["pneumonia (uncertain)", "pneumothorax (negative)"]
    assert len(naming_words(make_trace(tokens_of(text)), limit=2)) == 2


def test_naming_words_keep_the_affirming_sentence():
    trace = make_trace(tokens_of("No left effusion . Small right effusion ."))
    (word,) = naming_words(trace)
    assert word.value == 1 and word.word_index == 6


def test_words_without_findings_fall_back_to_open_gates():
    tokens = (" Hello", " world", " .")
    gate = np.array([[0.1, -0.9, 0.99], [0.0, 0.0, 0.0]])
    trace = make_trace(tokens, gate=gate)
    assert default_words(trace, 1) == [1]
    assert default_words(make_trace(()), 3) == []
    assert default_words(make_trace((" .", " ,")), 1) in (
        [0],
        [1],
    )  # a report without a letter has places too


def test_describe_names_the_strongest_place():
    weights = np.zeros((2, 6, 6))
    weights[1, 5, 0] = 1
    assert describe_place(weights) == "most in the lower left of the lateral view"
    assert describe_place(np.zeros((1, 2, 2))) == "nowhere in particular"
    gate = np.zeros((2, 12))
    gate[1, 8] = -0.25
    text = describe_trace(make_trace(gate=gate))
    assert "-0.25 at “effusion” in layer 6" in text and "“enlarged” looks" in text
