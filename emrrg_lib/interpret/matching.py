"""The stretches of words that two reports share: the coloured marks of the paper's Fig. 3."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

_TOKEN = re.compile(r"(?P<word>\w+(?:[.'’/-]\w+)*)|(?P<end>[.!?;:\n])")


@dataclass(frozen=True)
class Match:
    """One shared stretch: its character span [start, stop) in each text, and its number of words."""

    reference: tuple[int, int]
    hypothesis: tuple[int, int]
    words: int


@dataclass(frozen=True)
class _Token:
    """A lower-cased word with its place in the text; `sentence` counts sentence ends before it."""

    text: str
    start: int
    stop: int
    sentence: int


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


def matching_spans(reference: str, hypothesis: str, min_words: int = 2) -> list[Match]:
    """Finds the stretches of words that both texts share; none overlaps another.

    The longest common run of words is marked in both texts, then the longest one among the other
    words, down to `min_words`. Case and punctuation do not count; a run never crosses the end of a
    sentence.

    Args:
        reference: the radiologist's report.
        hypothesis: the generated report.
        min_words: shortest run that counts, at least 1.

    Returns:
        Matches ordered by their place in the hypothesis.

    Raises:
        ValueError: if min_words is below 1.
    """
    left, right = _tokens(reference), _tokens(hypothesis)
    matches = [
        Match(_span(left, i, n), _span(right, j, n), n) for n, i, j in _common_runs(left, right, min_words)
    ]
    return sorted(matches, key=lambda match: match.hypothesis)


def shared_marks(reference: str, reports: Sequence[str]) -> list[list[Mark]]:
    """Marks the words that each report shares with the reference: the colours of the paper's Fig. 3.

    Returns:
        The marks of the reference, then those of every report, in reading order. A stretch ends
        where the systems that share it, or their runs (see `matching_spans`), change.
    """
    left, rights = _tokens(reference), [_tokens(report) for report in reports]
    runs = [_common_runs(left, right, 2) for right in rights]
    owners: list[dict[int, int]] = [{} for _ in left]  # reference word -> {system: its run}
    for system, found in enumerate(runs):
        for number, (length, i, _) in enumerate(found):
            for word in range(i, i + length):
                owners[word][system] = number
    marks: list[list[Mark]] = [[] for _ in range(len(reports) + 1)]
    stretches = groupby(range(len(left)), key=lambda word: sorted(owners[word].items()))
    for twin, (who, words) in enumerate((key, list(group)) for key, group in stretches if key):
        systems = tuple(system for system, _ in who)
        marks[0].append(Mark(*_span(left, words[0], len(words)), systems, twin))
        for system, number in who:
            _, i, j = runs[system][number]
            span = _span(rights[system], words[0] - i + j, len(words))
            marks[system + 1].append(Mark(*span, systems, twin))
    return [sorted(side, key=lambda mark: mark.start) for side in marks]


def _span(tokens: list[_Token], first: int, length: int) -> tuple[int, int]:
    return tokens[first].start, tokens[first + length - 1].stop


def _common_runs(left: list[_Token], right: list[_Token], min_words: int) -> list[tuple[int, int, int]]:
    """(length, start in left, start in right) of the common runs, none overlapping another."""
    if min_words < 1:
        raise ValueError(f"min_words must be at least 1, but it is {min_words}.")
    left_free, right_free = [True] * len(left), [True] * len(right)
    runs = []
    while True:
        length, i, j = _longest_common_run(left, right, left_free, right_free)
        if length < min_words:
            return runs
        left_free[i : i + length] = [False] * length
        right_free[j : j + length] = [False] * length
        runs.append((length, i, j))


def count_words(text: str) -> int:
    """Number of words as `matching_spans` counts them."""
    return len(_tokens(text))


def _tokens(text: str) -> list[_Token]:
    """The words of `text`; a mark that ends a sentence only raises the sentence number."""
    tokens, sentence = [], 0
    for found in _TOKEN.finditer(text):
        if found["end"]:
            sentence += 1
        else:
            tokens.append(_Token(found["word"].lower(), found.start(), found.end(), sentence))
    return tokens


def _longest_common_run(
    left: list[_Token], right: list[_Token], left_free: list[bool], right_free: list[bool]
) -> tuple[int, int, int]:
    """(length, start in left, start in right) of the longest free run; of equals, the earliest."""
    best = (0, 0, 0)
    runs = [0] * (len(right) + 1)  # runs[j + 1]: the common run ending at left[i - 1], right[j]
    for i, a in enumerate(left):
        row = [0] * (len(right) + 1)
        for j, b in enumerate(right):
            if a.text != b.text or not (left_free[i] and right_free[j]):
                continue
            inside = i and j and left[i - 1].sentence == a.sentence and right[j - 1].sentence == b.sentence
            row[j + 1] = 1 + (runs[j] if inside else 0)
            if row[j + 1] > best[0]:
                best = (row[j + 1], i + 1 - row[j + 1], j + 1 - row[j + 1])
        runs = row
    return best
