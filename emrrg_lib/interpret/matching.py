"""Which stretches of words two reports share: the coloured marks of the paper's Fig. 3."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"(?P<word>\w+(?:[.'’/-]\w+)*)|(?P<end>[.!?;:\n])")


@dataclass(frozen=True)
class Match:
    """One shared stretch: character spans [start, stop) in both texts, and its words' number."""

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


def matching_spans(reference: str, hypothesis: str, min_words: int = 2) -> list[Match]:
    """Finds the stretches of words that both texts share, longest first taken, none overlapping.

    The longest common run of words is marked in both texts, then the longest among what is left,
    down to `min_words`. Case and punctuation do not count; a run never crosses the end of a
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
    if min_words < 1:
        raise ValueError(f"min_words must be at least 1, but it is {min_words}.")
    left, right = _tokens(reference), _tokens(hypothesis)
    left_free, right_free = [True] * len(left), [True] * len(right)
    matches = []
    while True:
        length, i, j = _longest_common_run(left, right, left_free, right_free)
        if length < min_words:
            return sorted(matches, key=lambda match: match.hypothesis)
        left_free[i : i + length] = [False] * length
        right_free[j : j + length] = [False] * length
        spans = [(side[k].start, side[k + length - 1].stop) for side, k in ((left, i), (right, j))]
        matches.append(Match(spans[0], spans[1], length))


def count_words(text: str) -> int:
    """Number of words as `matching_spans` counts them."""
    return len(_tokens(text))


def _tokens(text: str) -> list[_Token]:
    """Words of `text`; sentence marks only raise the sentence number."""
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
    """(length, start in left, start in right) of the longest free run; the earliest wins."""
    best = (0, 0, 0)
    runs = [0] * (
        len(right) + 1
    )  # runs[j + 1]: length of the common run that ends at left[i - 1], right[j]
    for i, a in enumerate(left):
        row = [0] * (len(right) + 1)
        for j, b in enumerate(right):
            if a.text != b.text or not (left_free[i] and right_free[j]):
                continue
            inside = (
                i > 0
                and j > 0
                and left[i - 1].sentence == a.sentence
                and right[j - 1].sentence == b.sentence
            )
            row[j + 1] = 1 + (runs[j] if inside else 0)
            if row[j + 1] > best[0]:
                best = (row[j + 1], i + 1 - row[j + 1], j + 1 - row[j + 1])
        runs = row
    return best
