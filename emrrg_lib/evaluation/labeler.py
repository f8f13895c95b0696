"""A rule labeler for the 14 CheXpert observations: pure Python, no download, no learned part.

Rules, in the order they are applied:

1. *Sections.* Where a report has headings, the indication, history, technique and comparison are left
   out: they say why the picture was taken.
2. *Normalise.* Text becomes lower case; "x/y" becomes "x or y"; hyphens become spaces. A sentence ends at
   a full stop that belongs neither to a number nor to an abbreviation ("vs.", "approx."). The rule reads
   raw reports and cleaned ones (" . ").
3. *Mentions.* The phrases of :mod:`~emrrg_lib.evaluation.labeler_words` are mentions. For the heart and the
   mediastinum, the anatomy and its attribute (enlarged, normal, borderline) are one mention; a list shares
   its attribute ("normal heart, mediastinum and lungs"). "Lungs are clear" mentions nothing.
4. *Cues.* Negation and doubt reach forward (or backward) inside the sentence to the end of their clause
   (:mod:`~emrrg_lib.evaluation.labeler_clauses`). "No change in" and "has not resolved" do not negate;
   "not seen on the prior" means new; "rule out" and "history of" take the mention away. Doubt inside a
   negation stays negated ("no opacity to suggest possible ..."). A question is open, also one that denies
   ("No pneumothorax?").
5. *Alternatives.* "X or Y", "X versus Y" and "X more likely than Y" without a negation make both neighbours
   uncertain, and also the items that a comma lists before them. An item before "with" or "and" keeps its
   value.
6. *Devices.* Only a denied or removed device is negated: "the tip is not seen" names a device.
7. *Over mentions.* Any positive wins; otherwise any uncertain wins; otherwise the label is negated.
8. *No Finding* is 1 when nothing but Support Devices is positive or uncertain and no other disease
   (emphysema, hernia, scoliosis, ...) is asserted. Otherwise it is None, never 0.

Choices where practice differs: "likely" and "suggestive of" assert (1); "unlikely" negates; "no new X"
negates; "upper limits of normal" is normal, "borderline" is uncertain. A "stable" heart without a size says
nothing. Sternotomy wires and clips do not count as support devices, and a broken one does not count as a
fracture. Calcified granulomas and nodules do not count as lung lesions; cancer and cavities do. A compression
deformity does not count as a fracture; a compression fracture does. Vascular congestion counts as edema. A
finding that may be due to rotation or technique is uncertain. Blunted angles alone are not an effusion, and
scars are not an opacity.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation import labeler_words as table
from emrrg_lib.evaluation.labeler_clauses import Cue, Mention, cues_of, normalise, state_after, state_before
from emrrg_lib.files import InputError

VERSION = "emrrg-rules-4"
"""Written beside every table made with these rules."""

DEVICES = "Support Devices"


def _whole_words(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)")


_PHRASES = {name: _whole_words(patterns) for name, patterns in table.PHRASES.items()}
_NOT_MENTIONED = {name: _whole_words(patterns) for name, patterns in table.NOT_MENTIONED.items()}
_SUBJECTS = {name: _whole_words((pattern,)) for name, pattern in table.SUBJECTS.items()}
_BLOCKERS = _whole_words(table.BLOCKERS)
_MIMICS = _whole_words(table.MIMICS)
_ATTRIBUTE = _whole_words(
    (
        rf"(?P<borderline>{table.BORDERLINE})",
        rf"(?P<normal>{table.NORMAL})",
        rf"(?P<enlarged>{table.ENLARGED})",
    )
)
_ATTRIBUTE_VALUE = {"borderline": -1, "normal": 0, "enlarged": 1}
_PREDICATE = re.compile(
    r"(?:(?<!there )(?:is|are|was|were)|appears?|remains?|size|contours?|silhouette|heart|mediastinum|"
    r"lungs|hila)"
    r"(?: not)?(?: \w+ly)? $"
)
_CLAUSE_END = re.compile(
    r"(?<!\w)(?:but(?! (?:may|might|could|is|are|appears?|remains?|still|not|stable))|"
    r"however|although|with|there|which|[|])(?!\w)"
)
_VERB = re.compile(r" (?:is|are|was|were|has|have|shows?|demonstrates?) ")
_ALTERNATIVE = re.compile(r"(?<!\w)(?:or|versus)(?!\w)")
_OR = re.compile(r"(?<!\w)or(?!\w)")
_OPEN_OR = re.compile(
    r" or (?!(?:more|less|so|greater|larger|smaller|other\w*|even|left|right|both|any|no|not|without|near|to|"
    r"the like|a|an|is|are|was|were)(?!\w))\w"
)
_VERSUS = re.compile(r"(?<!\w)versus(?! \d)(?!\w)")
_APART = re.compile(
    r"(?<!\w)(?:with|and|due|from|but|is|are|was|were|has|have|there|without|no|which|[|:()])(?!\w)"
)
_COMMA = re.compile(r" , (?:\w+ ){0,3}")
_NEXT_SUBJECT = re.compile(r" (?:,|and|or|with|[|:]) ")


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
    """Label one sentence of :func:`~emrrg_lib.evaluation.labeler_clauses.normalise`.

    Returns:
        (observation, value) for every mention, and whether another disease is asserted.
    """
    mentions = _mentions(sentence)
    others = [("", match.start(), match.end(), 1) for match in _BLOCKERS.finditer(sentence)]
    if not mentions and not others:
        return (), False
    named = mentions + others
    cues = cues_of(sentence, named)
    open_ended = _alternatives(sentence, named, cues) if _ALTERNATIVE.search(sentence) else set()
    values = [(m[0], _value(sentence, m, cues, named, m in open_ended)) for m in mentions]
    blocked = any(_value(sentence, other, cues, named, False) in (1, -1) for other in others)
    return tuple((name, value) for name, value in values if value is not None), blocked


def _mentions(sentence: str) -> list[Mention]:
    """Rule 3: every phrase, and every subject with its attribute."""
    mentions = []
    for name, pattern in _PHRASES.items():
        excluded = _NOT_MENTIONED.get(name)
        spans = None
        for match in pattern.finditer(sentence):
            if spans is None:
                spans = [m.span() for m in excluded.finditer(sentence)] if excluded else []
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
    after it up to a stop decides ("heart size and vascularity are normal"), and where there is none,
    the attribute of the list that it ends ("normal lungs, heart and mediastinum").
    """
    before = [m for m in _ATTRIBUTE.finditer(sentence, 0, end) if m.end() <= start][-1:]
    shared = []
    for attribute in before:
        gap = sentence[attribute.end() : start].split()
        found = [(name, attribute.start(), end, _attribute_value(sentence, attribute))]
        predicate = _PREDICATE.search(sentence[: attribute.start()])
        if len(gap) <= 3 and "," not in gap and not predicate:
            return found
        listed = attribute.lastgroup == "normal" or "," not in gap
        if gap and table.ORGANS.issuperset(gap) and gap[0] not in (",", "and") and listed and not predicate:
            shared = found
    stop = _CLAUSE_END.search(sentence, end + 2)
    attribute = _ATTRIBUTE.search(sentence, end, stop.start() - 1 if stop else len(sentence))
    if attribute is None or shared and _NEXT_SUBJECT.search(sentence, end, attribute.start()):
        return shared
    return [(name, start, attribute.end(), _attribute_value(sentence, attribute))]


def _attribute_value(sentence: str, attribute: re.Match[str]) -> int:
    """1 for enlarged and "not normal", 0 for normal, -1 for borderline."""
    if attribute.lastgroup == "normal" and sentence.endswith("not ", 0, attribute.start()):
        return 1
    return _ATTRIBUTE_VALUE[attribute.lastgroup or ""]


def _value(
    sentence: str, mention: Mention, cues: list[Cue], named: list[Mention], alternative: bool
) -> int | None:
    """Rules 4 to 6: the value of one mention, None where a cue takes the mention away."""
    name, start, end, value = mention
    state, since = state_before(mention, cues, named, sentence)
    if (
        name == DEVICES
        and state in ("negated", "doubt")
        and _device_is_there(sentence, mention, since, named)
    ):
        state = ""
    # "the heart is enlarged" is complete; the words behind it speak of something else
    after = "" if _VERB.search(sentence[start:end]) else state_after(sentence, end, cues)
    if name == DEVICES and (
        table.PART_BEFORE.search(sentence[:start]) or table.PART_AFTER.match(sentence, end)
    ):
        after = ""
    if "ignored" in (state, after):
        return None
    if after == "asked":
        return -1
    if value == 0 or "negated" in (state, after):
        return 0
    if "doubt" in (state, after):
        return -1
    # "no change in effusion or edema" lists what is there; any other "or" leaves it open
    return -1 if alternative and state != "unchanged" else value


def _device_is_there(sentence: str, mention: Mention, since: int, named: list[Mention]) -> bool:
    """Rule 6: whether a negation or doubt before a device speaks of something else."""
    _, start, end, _ = mention
    between = sentence[since:start]
    if table.PART_AFTER.match(sentence, end) or table.ABOUT_DEVICE.search(between):
        return True
    other = any(since <= first and last <= start for name, first, last, _ in named if name != DEVICES)
    return other and " or " not in between and bool(table.IN_PLACE.match(sentence, end))


def _alternatives(sentence: str, named: list[Mention], cues: list[Cue]) -> set[Mention]:
    """Rule 5: the mentions that "or" or "versus" joins to a neighbour, and those listed before them."""
    denials = [
        start
        for start, _, kind in cues
        if kind not in ("doubt", "doubt_before", "run_on", "described", "clause")
    ]

    def joined(start: int, end: int) -> bool:
        gap = sentence[start:end]
        apart = len(gap.split()) > 6 or _APART.search(gap)
        return not apart and not any(start <= denial < end for denial in denials)

    inner = [a for a in named if not a[0] and any(b[0] and b[1] <= a[1] and a[2] <= b[2] for b in named)]
    named = [mention for mention in named if mention not in inner]
    mimics = [("", match.start(), match.end(), 1) for match in _MIMICS.finditer(sentence)]
    spans = sorted(named + mimics, key=lambda mention: mention[1:3])
    found: set[Mention] = set()
    for right in reversed(spans):
        nearest = max((left[2] for left in spans if left[2] <= right[1]), default=0)
        gap = sentence[nearest : right[1]]
        choice = _OR.search(gap)
        if not (choice or _COMMA.fullmatch(gap)) or not joined(nearest, right[1]):
            continue
        lefts = [left for left in spans if left[2] == nearest]
        if choice and right[0] and any(left[0] == right[0] for left in lefts):
            continue  # "nodule or mass" is a lung lesion either way
        for left in lefts:
            if choice:
                found |= {left, right}
            elif right in found and left[0] not in ("Lung Opacity", "Consolidation"):
                found.add(left)
    for mention in spans:  # "fracture or vascular groove": the other side has no name here
        if mention not in found and _OPEN_OR.match(sentence, mention[2]):
            following = [m[0] for m in spans if mention[2] < m[1] <= mention[2] + 40]
            if mention[0] not in following:
                found.add(mention)
    for versus in _VERSUS.finditer(sentence):  # it joins its two neighbours only, whatever they are
        lefts = [m for m in named if m[2] <= versus.start() and joined(m[2], versus.start())]
        rights = [m for m in named if m[1] >= versus.end() and joined(versus.end(), m[1])]
        last, first = max((m[2] for m in lefts), default=0), min((m[1] for m in rights), default=0)
        sides = [m for m in lefts if m[2] == last], [m for m in rights if m[1] == first]
        if not {m[0] for m in sides[0]} & {m[0] for m in sides[1]}:
            found.update(*sides)
    return found
