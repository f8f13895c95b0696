"""A rule labeler for the 14 CheXpert observations: pure Python, no download, no learned part.

Rules, in the order they are applied:

1. *Sections.* Where a report has headings, indication, history, technique and comparison are left
   out: they say why the picture was taken.
2. *Normalise.* Lower case; "x/y" reads "x or y"; hyphens are spaces; sentences end at a full stop
   that is not inside a number. Works on raw reports and on cleaned ones (" . ").
3. *Mentions.* The phrases of :mod:`~emrrg_lib.evaluation.labeler_words`; for the heart and the
   mediastinum the anatomy together with the nearest attribute (enlarged, normal, borderline).
   "Lungs are clear" mentions nothing.
4. *Cues.* Negation and doubt reach forward (or backward) inside the sentence to the next stop; "no
   change in", "has not resolved" and their like are no negation; "rule out" and "history of" take
   the mention away. Doubt inside a negation stays negated ("no opacity to suggest possible ...").
5. *Alternatives.* "X or Y", "X versus Y" without a negation: both uncertain.
6. *Over mentions.* Any positive wins; else any uncertain; else negated. Negated and uncertain
   together are uncertain.
7. *No Finding* is 1 when nothing but Support Devices is positive or uncertain and no other disease
   (emphysema, hernia, scoliosis, ...) is asserted; otherwise None, never 0.

Choices where practice differs: "likely" and "suggestive of" assert (1); "unlikely" negates;
"no new X" negates; "upper limits of normal" is normal, "borderline" uncertain; a "stable" heart
without a size says nothing; sternotomy wires and clips are no support device; calcified granulomas
and nodules are no lung lesion; a compression deformity is no fracture, a compression fracture is;
vascular congestion counts as edema; what may be due to rotation or technique is uncertain; blunted
angles alone are no effusion; scars are no opacity.
"""

from __future__ import annotations

import re
from functools import lru_cache

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation import labeler_words as table
from emrrg_lib.evaluation.labeler_words import compile_cues
from emrrg_lib.files import InputError

VERSION = "emrrg-rules-2"
"""Written beside every table made with these rules."""

Cue = tuple[int, int, str]  # start, end, kind
Mention = tuple[str, int, int, int]  # observation, start, end, value before the cues: 1, 0 or -1


def _whole_words(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)")


_PHRASES = {name: _whole_words(patterns) for name, patterns in table.PHRASES.items()}
_NOT_MENTIONED = {name: _whole_words(patterns) for name, patterns in table.NOT_MENTIONED.items()}
_SUBJECTS = {name: _whole_words((pattern,)) for name, pattern in table.SUBJECTS.items()}
_BLOCKERS = _whole_words(table.BLOCKERS)
_CUES = compile_cues()
_ATTRIBUTE = _whole_words(
    (
        rf"(?P<borderline>{table.BORDERLINE})",
        rf"(?P<normal>{table.NORMAL})",
        rf"(?P<enlarged>{table.ENLARGED})",
    )
)
_ATTRIBUTE_VALUE = {"borderline": -1, "normal": 0, "enlarged": 1}
_PREDICATE = re.compile(
    r"(?:(?<!there )(?:is|are|was|were)|appears?|remains?|size|contours?|silhouette)"
    r"(?: not)?(?: \w+ly)? $"
)
_CLAUSE_END = re.compile(r"(?<!\w)(?:but|however|although|with|there|which)(?!\w)")
_VERB = re.compile(r" (?:is|are|was|were|has|have|shows?|demonstrates?) ")
_PRESENT = re.compile(r" (?:,|with|now) ")  # "history of failure with a small effusion"
_NEW_DOUBT = re.compile(r"(?:possibl|probabl|questionabl|perhaps|suspected)")
_ALTERNATIVE = re.compile(r"(?<!\w)(?:or|(?P<pair>(?<!, )(?:versus|vs)))(?!\w)")

_SKIPPED_SECTION = re.compile(
    r"\b(?:indications?|(?:clinical )?(?:history|information)|reason for (?:exam\w*|study)|"
    r"comparisons?|techniques?|procedure|examination|exam|study)\s*:"
    r"(?:.*?(?=\b(?:findings?|impressions?|conclusions?)\s*:)|[^.\n]*)",
    re.DOTALL,
)
_EXPANSIONS = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"\band ?/? ?or\b", "or"),
        (r"\bw/o\b", "without"),
        (r"\bw/", "with "),
        (r"\br/o\b", "rule out"),
        (r"\bs/p\b", "status post"),
        (r"\bh/o\b", "history of"),
        (r"\bc/w\b", "consistent with"),
        (r"\bb/l\b", "bilateral"),
        (r"\bnon[\s-]+(?=[a-z])", "non"),
        (r"(?<=[a-z])\s*/\s*(?=[a-z])", " or "),
        (r"(?:(?<=\s)|^)\?\s*(?=\w)", "questionable "),
        (r"'", ""),
    )
)
_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)|[;!?]|\n\s*\n|\n(?=\s*(?:\d+\.|[-*]))")
_LONGEST = 100  # words; a longer "sentence" is a runaway text and is read in pieces
_SEPARATORS = re.compile(r"[^a-z0-9,]+")


def normalise(text: str) -> list[str]:
    """Cut a raw or cleaned report into sentences of lower-case words, single spaces and spaced commas.

    Sections that hold no findings and empty sentences are dropped.
    """
    text = _SKIPPED_SECTION.sub(" ", text.lower())
    for pattern, replacement in _EXPANSIONS:
        text = pattern.sub(replacement, text)
    sentences = (
        " ".join(_SEPARATORS.sub(" ", sentence).replace(",", " , ").split())
        for sentence in _SENTENCE_END.split(text)
    )
    words = (sentence.split(" ") for sentence in sentences if sentence)
    return [" ".join(w[i : i + _LONGEST]) for w in words for i in range(0, len(w), _LONGEST)]


def label_report(text: str) -> dict[str, int | None]:
    """Label one report.

    Args:
        text: the report, raw or cleaned by any rule of :func:`emrrg_lib.data.clean_report`.

    Returns:
        Observation -> 1 positive, 0 negated, -1 uncertain, None not mentioned, for the 14
        observations in their published order. A text without words has no label at all.

    Raises:
        InputError: the report is not text.
    """
    if not isinstance(text, str):
        raise InputError(f"A report to label must be text, not {type(text).__name__}.")
    sentences = normalise(text)
    labels: dict[str, int | None] = dict.fromkeys(OBSERVATIONS)
    abnormal = False
    for sentence in sentences:
        values, blocked = label_sentence(sentence)
        abnormal = abnormal or blocked
        for name, value in values:
            labels[name] = _stronger(labels[name], value)
    seen = (value for name, value in labels.items() if name != "Support Devices")
    if sentences and not abnormal and not any(seen):
        labels["No Finding"] = 1
    return labels


def _stronger(first: int | None, second: int) -> int:
    """Positive beats uncertain beats negated."""
    if first is None:
        return second
    return max(first, second, key=(0, -1, 1).index)


@lru_cache(maxsize=50_000)  # real reports repeat their sentences
def label_sentence(sentence: str) -> tuple[tuple[tuple[str, int], ...], bool]:
    """Label one sentence of :func:`normalise`.

    Returns:
        (observation, value) for every mention, and whether another disease is asserted.
    """
    mentions = _mentions(sentence)
    others = [("", match.start(), match.end(), 1) for match in _BLOCKERS.finditer(sentence)]
    if not mentions and not others:
        return (), False
    cues = [(m.start(), m.end(), m.lastgroup or "") for m in _CUES.finditer(sentence)]
    named = mentions + others
    values = [(mention[0], _value(sentence, mention, cues, named)) for mention in mentions]
    blocked = any(_value(sentence, other, cues, named) in (1, -1) for other in others)
    return tuple((name, value) for name, value in values if value is not None), blocked


def _mentions(sentence: str) -> list[Mention]:
    """Rule 3: every phrase, and every subject with its attribute."""
    mentions = []
    for name, pattern in _PHRASES.items():
        excluded = _NOT_MENTIONED.get(name)
        spans = [m.span() for m in excluded.finditer(sentence)] if excluded else []
        for match in pattern.finditer(sentence):
            start, end = match.span()
            if not any(start < last and first < end for first, last in spans):
                mentions.append((name, start, end, 1))
    for name, pattern in _SUBJECTS.items():
        for match in pattern.finditer(sentence):
            if not table.SUBJECT_AS_PLACE.search(sentence[: match.start()]):
                mentions += _subject_mention(sentence, name, match.start(), match.end())
    return mentions


def _subject_mention(sentence: str, name: str, start: int, end: int) -> list[Mention]:
    """The heart (or mediastinum) with the attribute that describes it, if there is one.

    An attribute right before the subject is its own ("normal heart size"); otherwise the first one
    after it up to a stop decides ("heart size and vascularity are normal").
    """
    before = [m for m in _ATTRIBUTE.finditer(sentence, 0, end) if m.end() <= start]
    for attribute in before[-1:]:
        gap = sentence[attribute.end() : start].split()
        predicate = _PREDICATE.search(sentence[: attribute.start()])
        if len(gap) <= 3 and "," not in gap and not predicate:
            return [(name, attribute.start(), end, _ATTRIBUTE_VALUE[attribute.lastgroup])]
    stop = _CLAUSE_END.search(sentence, end)
    attribute = _ATTRIBUTE.search(sentence, end, stop.start() - 1 if stop else len(sentence))
    if attribute is None:
        return []
    return [(name, start, attribute.end(), _ATTRIBUTE_VALUE[attribute.lastgroup])]


def _value(sentence: str, mention: Mention, cues: list[Cue], named: list[Mention]) -> int | None:
    """Rules 4 and 5: the value of one mention, None where a cue takes the mention away."""
    _, start, end, value = mention
    state = _state_before(mention, cues, named, sentence)
    # "the heart is enlarged" has said all; what follows speaks of something else
    after = "" if _VERB.search(sentence[start:end]) else _state_after(sentence, end, cues)
    if "ignored" in (state, after):
        return None
    if value == 0 or "negated" in (state, after):
        return 0
    if "doubt" in (state, after):
        return -1
    # "no change in effusion or edema" lists what is there; any other "or" leaves it open
    listed = state == "unchanged" or not _is_alternative(sentence, mention, cues, named)
    return value if listed else -1


def _state_before(mention: Mention, cues: list[Cue], named: list[Mention], sentence: str) -> str:
    """What the cues up to the end of the mention leave in force."""
    state, since = "", 0
    for start, end, kind in cues:
        if start >= mention[2]:
            break
        if kind == "stop":
            state = ""
        elif kind in ("negated_before", "doubt_before", "ignored"):
            state, since = kind.removesuffix("_before"), end
        elif kind == "doubt" and state in ("", "unchanged"):
            state = "doubt"
        elif kind == "pseudo" and state == "":
            state = "unchanged"
        elif kind == "doubt" and state == "negated" and _NEW_DOUBT.match(sentence, start):
            # "no consolidation possible small effusion": the list of the negation is over
            if any(since <= other[1] and other[2] <= start for other in named):
                state = "doubt"
    if state == "ignored" and _PRESENT.search(sentence[since : mention[1]]):
        state = ""
    return state


def _state_after(sentence: str, end: int, cues: list[Cue]) -> str:
    """What the first cue behind the mention says of it, if it belongs to the same clause."""
    for start, _, kind in cues:
        if start < end or kind == "pseudo":
            continue
        if not kind.endswith("_after"):
            return ""
        between = f" {sentence[end:start]} "
        listed = " and " in between or " or " in between
        if _VERB.search(between) or (" , " in between and not listed):
            return ""
        return kind.removesuffix("_after")
    return ""


def _is_alternative(sentence: str, mention: Mention, cues: list[Cue], named: list[Mention]) -> bool:
    """Whether "or" or "versus" joins the mention to something else named a few words away."""
    name, start, end, _ = mention
    for other, other_start, other_end, _ in named:
        if other == name:  # "nodule or mass" is a lung lesion either way
            continue
        left, right = (other_end, start) if other_end <= start else (end, other_start)
        between = sentence[left:right]
        joined = _ALTERNATIVE.search(between)
        if len(between.split()) > 5 or not joined:
            continue
        # "opacity, atelectasis versus pneumonia": versus joins its two neighbours only
        if joined["pair"] and any(left <= first and last <= right for _, first, last, _ in named):
            continue
        if not any(left <= cue_start < right for cue_start, _, _ in cues):
            return True
    return False
