"""Which words of a report name a finding: the words whose attention is worth looking at first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.evaluation.localization import NAMING, naming_span
from emrrg_lib.interpret.trace import Trace, Word

_ENDS = ".;:!?"


@dataclass(frozen=True)
class NamingWord:
    """A word of `trace.words()` that names a finding.

    Attributes:
        word_index: position in `trace.words()`.
        text: the word.
        finding: CheXpert observation it names.
        value: what its sentence says of the finding: 1 present, -1 uncertain, 0 absent or normal.
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
    """Finds the words that name a finding: affirmed, then uncertain, then negative ones.

    Args:
        trace: the record of one generated report.
        limit: how many to return at most; None for all.

    Returns:
        One word a finding, in the sentence that affirms it most.
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
            if finding not in found or _rank(new) < _rank(found[finding]):
                found[finding] = new
    ordered = sorted(found.values(), key=lambda word: (_rank(word), word.word_index))
    return tuple(ordered[:limit])


def _rank(word: NamingWord) -> int:
    return (1, -1, 0).index(word.value)


def _sentences(words: Sequence[Word]) -> Iterator[list[tuple[int, Word]]]:
    """The words of each sentence with their positions, without the marks that end it."""
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

    Whether the sentence affirms or denies the finding is the labeler's business, not asked here.
    """
    text = " ".join(word.text for _, word in sentence)
    span = naming_span(text, finding, affirmed=False) if finding in NAMING else None
    return None if span is None else sentence[text.count(" ", 0, span[0])][0]
