"""The words that reports share, the words that name a finding, and pictures in words for alt texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import Match, SequenceMatcher
from itertools import groupby

import numpy as np

from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.evaluation.pointing import NAMING, naming_span
from emrrg_lib.trace import Trace, Word

VIEW_NAMES = ("frontal view", "lateral view")
_ENDS = ".;:!?"
_RANK = {1: 0, -1: 1, 0: 2}  # of the values of a finding: affirmed, uncertain, negative
_TOKEN = re.compile(r"(\w+(?:[.'’/-]\w+)*)|[.!?;:\n]")  # a word, or the end of a sentence


@dataclass(frozen=True)
class Mark:
    """A marked stretch [start, stop) of a text.

    Attributes:
        start, stop: character span.
        systems: the reports that share it with the reference, by number.
        twin: the same number on the same words in every text.
    """

    start: int
    stop: int
    systems: tuple[int, ...]
    twin: int


def shared_marks(reference: str, reports: Sequence[str]) -> list[list[Mark]]:
    """Marks the words that each report shares with the reference: the colours of the paper's Fig. 3.

    The longest common run of words is marked in both texts, then the longest one among the other words,
    down to two words. Case and punctuation do not count; a run never crosses the end of a sentence.

    Returns:
        The marks of the reference, then those of every report, in reading order. A stretch ends
        where the systems that share it, or their runs, change.
    """
    left, *rights = (list(_TOKEN.finditer(text)) for text in (reference, *reports))
    runs = [_common_runs(left, right) for right in rights]
    owners: list[dict[int, int]] = [{} for _ in left]  # reference word -> {system: its run}
    for system, found in enumerate(runs):
        for number, run in enumerate(found):
            for word in range(run.a, run.a + run.size):
                owners[word][system] = number
    marks: list[list[Mark]] = [[] for _ in range(len(reports) + 1)]
    stretches = groupby(range(len(left)), key=lambda word: sorted(owners[word].items()))
    for twin, (who, words) in enumerate((key, list(group)) for key, group in stretches if key):
        systems = tuple(system for system, _ in who)
        places = [(0, left, words[0])]
        for system, number in who:
            run = runs[system][number]
            places.append((system + 1, rights[system], words[0] - run.a + run.b))
        for text, tokens, first in places:
            last = tokens[first + len(words) - 1]
            marks[text].append(Mark(tokens[first].start(), last.end(), systems, twin))
    return [sorted(side, key=lambda mark: mark.start) for side in marks]


def _common_runs(left: list[re.Match], right: list[re.Match]) -> list[Match]:
    """The common runs of two or more words, longest first, of equals the earliest; none overlaps another."""
    # "<" and ">" equal nothing on the other side: the ends of sentences, and words that have their run
    a, b = ([(token[1] or mark).lower() for token in side] for side, mark in ((left, "<"), (right, ">")))
    runs = []
    while (run := SequenceMatcher(None, a, b, autojunk=False).find_longest_match()).size > 1:
        a[run.a : run.a + run.size] = "<" * run.size
        b[run.b : run.b + run.size] = ">" * run.size
        runs.append(run)
    return runs


def sentence_marks(reference: str, reports: Sequence[str]) -> list[list[Mark]]:
    """Marks whole sentences that say the same as one of the reference, as the paper's Fig. 3 does.

    Two sentences match where they share at least three quarters of their words (Dice) and the labeler reads
    the same findings in both, so that "no effusion" never matches "effusion". The paper matched by eye.

    Returns:
        As `shared_marks`.
    """
    left, *rights = (_sentence_spans(text) for text in (reference, *reports))
    partners = [[_partner(sentence, left) for sentence in right] for right in rights]
    owners = [tuple(s for s, found in enumerate(partners) if place in found) for place in range(len(left))]
    marks = [[Mark(*span, owners[i], i) for i, (span, *_) in enumerate(left) if owners[i]]]
    for right, found in zip(rights, partners, strict=True):
        pairs = zip(right, found, strict=True)
        marks.append([Mark(*span, owners[i], i) for (span, *_), i in pairs if i is not None])
    return marks


_Sentence = tuple[tuple[int, int], Counter[str], dict[str, int | None]]


def _sentence_spans(text: str) -> list[_Sentence]:
    """Every sentence of a text: its span, its words, its labels."""
    sentences: list[_Sentence] = []
    for ends, tokens in groupby(_TOKEN.finditer(text), key=lambda token: token[1] is None):
        words = [] if ends else list(tokens)
        if words:
            span = words[0].start(), words[-1].end()
            counted = Counter(word[1].lower() for word in words)
            sentences.append((span, counted, label_report(text[slice(*span)])))
    return sentences


def _partner(sentence: _Sentence, others: Sequence[_Sentence]) -> int | None:
    """Which sentence of `others` says the same, the one with the most words in common."""
    _, words, labels = sentence
    shares = [2 * (words & other).total() / (words.total() + other.total()) for _, other, _ in others]
    fit = [place for place, share in enumerate(shares) if share >= 0.75 and others[place][2] == labels]
    return max(fit, key=lambda place: shares[place], default=None)


def mark_kind(mark: Mark, systems: int) -> str:
    """Its colour: of two systems "a" or "b" for one, "ab" for both; of more "a" for one, "ab" for several."""
    if systems > 2:
        return "ab" if len(mark.systems) > 1 else "a"
    return "".join("ab"[system] for system in mark.systems)


def count_words(text: str) -> int:
    """Number of words as `shared_marks` counts them."""
    return sum(token[1] is not None for token in _TOKEN.finditer(text))


@dataclass(frozen=True)
class NamingWord:
    """A word of `trace.words()` that names a finding.

    Attributes:
        word_index: position in `trace.words()`.
        text: the word.
        finding: CheXpert observation it names.
        value: its sentence says that the finding is present (1), uncertain (-1), or absent or normal (0).
    """

    word_index: int
    text: str
    finding: str
    value: int

    @property
    def negated(self) -> bool:
        """Whether the sentence says that the finding is not there."""
        return self.value == 0

    @property
    def caption(self) -> str:
        """The word as it is printed beside its picture."""
        return self.text + {1: "", -1: " (uncertain)", 0: " (negative)"}[self.value]


def naming_words(trace: Trace, limit: int | None = None) -> tuple[NamingWord, ...]:
    """Finds the words that name a finding, at most `limit`: affirmed, then uncertain, then negative ones.

    Returns:
        One word per finding, in the sentence that affirms it most.
    """
    words = trace.words()
    found: dict[str, NamingWord] = {}
    for sentence in _sentences(words):
        labels = label_report(" ".join(word.text for _, word in sentence))
        for finding, value in labels.items():
            index = _carrier(finding, sentence) if value is not None else None
            if index is None:
                continue
            new = NamingWord(index, words[index].text, finding, value)
            if finding not in found or _RANK[value] < _RANK[found[finding].value]:
                found[finding] = new
    ordered = sorted(found.values(), key=lambda word: (_RANK[word.value], word.word_index))
    return tuple(ordered[:limit])


def _sentences(words: Sequence[Word]) -> Iterator[list[tuple[int, Word]]]:
    """The words of each sentence with their positions; the marks that end a sentence are left out."""
    sentence: list[tuple[int, Word]] = []
    for index, word in enumerate(words):
        if word.text[0] not in _ENDS:
            sentence.append((index, word))
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _carrier(finding: str, sentence: list[tuple[int, Word]]) -> int | None:
    """Position of the most telling word for a finding, None where the sentence has none.

    The labeler decides whether the sentence affirms or denies the finding; here both count.
    """
    text = " ".join(word.text for _, word in sentence)
    span = naming_span(text, finding, affirmed=False) if finding in NAMING else None
    return None if span is None else sentence[text.count(" ", 0, span[0])][0]


def view_name(view: int) -> str:
    """Name of a view by its place in a study."""
    return VIEW_NAMES[view] if view < len(VIEW_NAMES) else f"view {view + 1}"


def widest_layer(trace: Trace) -> int:
    """Position of the hybrid layer whose gate opens widest on average."""
    return int(np.abs(trace.gate).mean(axis=1).argmax()) if trace.gate.size else 0


def default_words(trace: Trace, limit: int) -> list[int]:
    """Positions of the words worth a picture.

    These are the words that name a finding. A report without such words gives the words with the
    widest open gates, at most four; a punctuation mark counts only where there is nothing else.
    """
    named = [item.word_index for item in naming_words(trace, limit)]
    if named:
        return named
    words = list(enumerate(trace.words()))
    openness = [
        (np.abs(trace.gate[:, word.start : word.stop]).max(initial=0.0), -index)
        for index, word in [(i, w) for i, w in words if w.text[0].isalnum()] or words
    ]
    return sorted(-index for _, index in sorted(openness, reverse=True)[: min(4, limit)])


def describe_place(weights: np.ndarray) -> str:
    """The strongest patch of (view, rows, cols) weights in words, as seen in the picture."""
    if not weights.size or weights.max() <= 0:
        return "nowhere in particular"
    view, row, col = np.unravel_index(int(weights.argmax()), weights.shape)
    height = ("upper", "middle", "lower")[min(2, 3 * row // weights.shape[1])]
    side = ("left", "centre", "right")[min(2, 3 * col // weights.shape[2])]
    place = "centre" if (height, side) == ("middle", "centre") else f"{height} {side}"
    return f"most in the {place} of the {view_name(view)}"


def describe_trace(trace: Trace) -> str:
    """A sentence or two about the gates of a trace and the place of its first finding, for alt texts."""
    words = trace.words()
    if not words or not trace.layer_ids:
        return "An empty trace: no word was generated or no hybrid layer is installed."
    layers = ", ".join(str(layer) for layer in trace.layer_ids)
    opening = f"Gates of {len(words)} words in hybrid layers {layers}: "
    widest = np.abs(trace.gate).max()
    if not widest > 0:
        return opening + "all closed, so the report was written without the image."
    layer, token = np.unravel_index(int(np.abs(trace.gate).argmax()), trace.gate.shape)
    at = next((word.text for word in words if word.start <= token < word.stop), words[0].text)
    text = (
        f"{opening}mean opening {np.abs(trace.gate).mean():.2f}, widest "
        f"{trace.gate[layer, token]:+.2f} at “{at}” in layer {trace.layer_ids[layer]}."
    )
    for focus in naming_words(trace, 1):
        place = describe_place(trace.word_attention(focus.word_index, widest_layer(trace)))
        text += f" The word “{focus.text}” looks {place}."
    return text
