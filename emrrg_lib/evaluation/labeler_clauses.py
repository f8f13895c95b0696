"""The language side of the report labeler: sentences, the clauses in them, and how far a cue reaches.

A cue (:mod:`~emrrg_lib.evaluation.labeler_cues`) acts on the mentions after it (or before it) in the same
sentence until its clause ends: at a stop word; at a bracket, a dash, a colon or a tag once the cue has named
something; and where a new subject begins that has its own verb.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from emrrg_lib.evaluation.labeler_cues import CUE, SEEN, SIZE

Cue = tuple[int, int, str]  # start, end, kind
Mention = tuple[str, int, int, int]  # observation, start, end, value before the cues: 1, 0 or -1

_EXPANSIONS = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        # Tags and bullets that begin a new line end the sentence; other tags, tabs and dashes end a clause.
        (r"</?(?:br|p|li|ul|ol|div|tr|td|th|table|h\d|hr)\b[^<>\n]{0,80}>|[•·●▪◦‣]", ". "),
        (r"</?[a-z][^<>\n]{0,80}>", " : "),
        (r"&[a-z]{2,6};", " "),
        (r"\t+| [-*]{1,3} |\s*(?:--+|[–—])\s*", " | "),
        (r"\(\s*\?\s*\)", " questioned"),
        (r"[\[{]", "("),
        (r"[\]}]", ")"),
        (r":(?!\d)", " : "),
        # Abbreviations: their full stop ends no sentence, also where the cleaning has set it apart (" . ").
        (r"\bvs?\b ?\.|\bvs\b|(?<=[a-z]) v (?=[a-z])", "versus "),
        (r"\be\.? ?g\b(?: ?\.)?,?", "for example "),
        (r"\bi\.? ?e\b(?: ?\.)?,?", "such as "),
        (r"\betc ?\.(?= (?:is|are|was|were|not|in|on|at|or|and)\b)", ""),
        (r"\b(?:(?:is|are|seems?) )?(?:more|less) likely than\b", "versus"),
        (r"\b(?:approx|ca)\b ?\.(?= ?\d)|\bapprox\b(?: ?\.)?", "about "),
        (r"\bno ?\. ?(?=\d)", "number "),
        (r"\bposs\b(?: ?\.)?", "possible "),
        (r"\bprob\b(?: ?\.)?", "probable "),
        (r"\b(drs?|mrs?|ms|prof|rt|lt|bilat|incl|fig|resp|cf|est|min|max) ?\.", r"\1 "),
        (r"\b([ap])\.?m\b\.?(?= (?:on|the|of|today|yesterday|and|is|was|in|film|study|exam)\b)", r"\1m"),
        (r"\band ?/? ?or\b", "or"),
        (r"\bw/o\b", "without"),
        (r"\bw/", "with "),
        (r"\br/o\b", "rule out"),
        (r"\bs/p\b", "status post"),
        (r"\bh/o\b", "history of"),
        (r"\bc/w\b", "consistent with"),
        (r"\bb/l\b", "bilateral"),
        (r"\bnon[\s-]+(?=[a-z])", "non"),
        (r"(?<!left)(?<!right) / (?=(?:left|right|bi|mild|small|moderate|large))", " | "),
        (r"(?<=[a-z])\s*/\s*(?=[a-z])", " or "),
        (r"(?:(?<=\s)|^)\?\s*(?=\w)", "questionable "),
        (r"(?<=\w)\s?\?", " questionmark."),
        (r"(?<=n)['’]t\b", " not"),
        (r"['’]", ""),
        # "pleural effusion or thickening" names the pleura once for both.
        (
            r"\bpleural (\w+) (or|and|versus) (?=(?:thickening|scarring|plaques?|fibrosis|fluid)\b)",
            r"pleural \1 \2 pleural ",
        ),
    )
)
_SKIPPED_SECTION = re.compile(
    r"\b(?:indications?|(?:clinical )?(?:history|information)|reason for (?:exam\w*|study)|"
    r"comparisons?|techniques?|procedure|examination|exam|study)\s*:"
    r"(?:.*?(?=\b(?:findings?|impressions?|conclusions?)\s*:)|[^.\n]*)",
    re.DOTALL,
)
_NEW_LINE = re.compile(r"(?<=[a-z)])[ \t]*\n(?=[ \t]*[A-Z][a-z])")  # no wrapped line: it begins anew
_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)|[;!]|\n\s*\n|\n(?=\s*(?:\d+\.|[-*]))")
_LONGEST = 100  # words; a longer "sentence" is a runaway text and is read in pieces
_SEPARATORS = re.compile(r"[^a-z0-9,|:()]+")
_MARKS = re.compile(r"([,|:()])")


def normalise(text: str) -> list[str]:
    """Cut a raw or cleaned report into sentences of lower-case words, single spaces and spaced marks.

    The marks that stay are the comma, brackets, ":" and "|" (a dash, a tab, a new line). Sections that hold
    no findings and empty sentences are dropped.
    """
    text = _SKIPPED_SECTION.sub(" ", _NEW_LINE.sub(" | ", text).lower())
    for pattern, replacement in _EXPANSIONS:
        text = pattern.sub(replacement, text)
    sentences = (
        _MARKS.sub(r" \1 ", _SEPARATORS.sub(" ", sentence)).split() for sentence in _SENTENCE_END.split(text)
    )
    return [
        " ".join(words[i : i + _LONGEST])
        for words in sentences
        if any(word[0].isalnum() for word in words)
        for i in range(0, len(words), _LONGEST)
    ]


# "seen" closes a clause ("no effusion seen ...") unless it describes ("no visualized ...")
_DESCRIBES = re.compile(
    r"(?<!\w)(?:no|or|nor|and|,|without|of|any|definite|acute|new|large|small|other|the|an?|not|\w+ly|"
    r"never) $|^$"
)
_FINITE = re.compile(
    r"(?<!\w)(?:is|are|was|were|has|have|had|shows?|demonstrates?|contains?|reveals?|appears?|remains?|"
    r"persists?|lies|ends?|terminates?|extends?|projects?|overl(?:ies|ay|ie)|measures?|displays?|suggests?|represents?|"
    r"reflects?|obscures?|may|might|could|can|cannot|should|will|would|looks?|courses?|unchanged|stable|"
    r"again)(?!\w)"
)
_LISTED = re.compile(  # what is said of a whole list: "no effusion and pneumothorax are seen"
    rf"(?:is|are|was|were|has|have|had)(?: been)? (?:(?!again)\w+ )?(?:{SEEN}|developed|occurred|"
    rf"appeared)(?!\w)"
)
_BREAKS = frozenset(
    ", | : ( ) and but or nor which that who whether if when as than although though no not without neither "
    "there seen identified noted visualized demonstrated appreciated detected present because".split()
)
_FRESH = frozenset(
    "the a an this these those both all it some several multiple bilateral his her their small mild moderate "
    "large trace tiny minimal stable persistent residual left right other "
    "previously known old chronic".split()
)
_PREPOSITIONS = frozenset(
    "in of at on to within over for with from near above below into than by behind through as between around "
    "along about without that which since after before across throughout under beneath "
    "beyond against suggest represent".split()
)
_ARTICLES = frozenset("the a an this these both".split())
_ACTIVE = frozenset("has have shows show demonstrates demonstrate contains contain reveals reveal".split())
_OWNERS = frozenset("heart lungs lung mediastinum cardiomediastinal".split())


_PLACE = re.compile(r" (?:at|in) (?:the|both|either) ")


def cues_of(sentence: str, named: list[Mention]) -> list[Cue]:
    """All cues of a normalised sentence in their order, with the starts of new clauses among them.

    `named` are its mentions: a description, or another mention, right behind one begins something new.
    """
    cues, ends = [], {mention[2] for mention in named}
    for match in CUE.finditer(sentence):
        start, end = match.span()
        idle = match["run_on"] and _DESCRIBES.search(sentence[:start])
        if not idle and (not match["described"] or start - 1 in ends):
            cues.append((start, end, match.lastgroup or ""))
    for _, start, end, _ in named:  # "no edema atelectasis at the left base"
        if start - 1 in ends and _PLACE.match(sentence, end) and " or " not in sentence[end:]:
            cues.append((start, start, "clause"))
    if any(kind in ("negated_before", "doubt_before", "doubt", "ignored") for _, _, kind in cues):
        cues += [(start, start, "clause") for start in set(_clause_starts(sentence, named))]
        cues.sort()
    return cues


def _clause_starts(sentence: str, named: list[Mention]) -> Iterator[int]:
    """Where a new subject begins that has its own verb ("no effusion and the heart is enlarged")."""
    spoken = False  # whether the clause before has its verb already ("no mass is seen and ...")
    for verb in _FINITE.finditer(sentence):
        words = sentence[: verb.start()].split()
        first = len(words)
        while first and words[first - 1] not in _BREAKS and not _FINITE.fullmatch(words[first - 1]):
            first -= 1
        subject, before = words[first:], words[first - 1] if first else ""
        listed = bool(_LISTED.match(sentence, verb.start())) and not spoken
        spoken = spoken or before != "there" or bool(subject)
        joined = before in ("and", ",") or before in _BREAKS and before.endswith(("ed", "en"))
        if not subject:
            if before == "and" and verb[0] in _ACTIVE:
                yield verb.start()
        elif joined and (subject[0] in _FRESH or not listed):
            yield len(" ".join(words[:first])) + 1
        elif before not in ("that", "which", "whether", "if", "than"):
            listed = listed and before not in ("or", "nor")  # the last item of a list: what follows is new
            yield from _inner_starts(words, first, listed, named)


def _inner_starts(words: list[str], first: int, listed: bool, named: list[Mention]) -> Iterator[int]:
    """Where a new subject begins without a comma or "and": at its article, or behind a mention."""
    ends, starts = {mention[2] for mention in named}, [mention[1] for mention in named]
    stop = len(" ".join(words))
    for i in range(first + 1, len(words)):
        start = len(" ".join(words[:i])) + 1
        article = words[i] in _ARTICLES or (words[i] in _OWNERS and not listed)
        follows = start - 1 in ends and not listed  # right behind a mention
        described = follows and (words[i] in _FRESH or any(start <= other < stop for other in starts))
        if described or article and words[i - 1] not in _PREPOSITIONS | _FRESH:
            yield start


_PRESENT = re.compile(r" (?:,|with|now) ")  # "history of failure with a small effusion"
_NEW_DOUBT = re.compile(r"(?:possibl|probabl|questionabl|perhaps|suspected)")
_ASIDE = re.compile(r"\( [^()]*\) ?")
_GOES_ON = re.compile(r" ?(?:or|nor|and no|,)(?!\w)")
_DESCRIBED = re.compile(rf" ?(?:an?|the|there|with|left|right|bilateral|{SIZE})(?!\w)")
_BESIDE = frozenset(("with", "which", "that"))
_VERBS = frozenset("is are was were has have shows show demonstrates demonstrate".split())


def state_before(mention: Mention, cues: list[Cue], named: list[Mention], sentence: str) -> tuple[str, int]:
    """What the cues up to the end of the mention leave in force, and where that began."""
    state, since, outside = "", 0, ("", 0)
    for start, end, kind in cues:
        if start >= mention[2]:
            break
        if kind == "clause" and start > mention[1]:
            continue
        if kind == "described" and sentence.startswith("and", start) and sentence.endswith(" of", 0, since):
            continue  # "removal of the tube and left catheter"
        if kind in ("stop", "end", "clause", "run_on", "described"):
            state = ""
        elif kind == "open":
            outside = (state, since)
            if state != "doubt" and _is_over(sentence, since, start, end, named):
                state = ""
        elif kind == "close":
            state, since = outside
        elif kind == "bar":
            dash = sentence[start] == "|" and sentence[since:start].strip()
            if dash and not _GOES_ON.match(sentence, end) or _is_over(sentence, since, start, end, named):
                state = ""
        elif kind in ("negated_before", "doubt_before", "ignored"):
            state, since = kind.removesuffix("_before"), end
        elif kind == "doubt" and state in ("", "unchanged"):
            state, since = "doubt", end
        elif kind == "pseudo" and state == "":
            state = "unchanged"
        elif kind == "doubt" and state == "negated" and _NEW_DOUBT.match(sentence, start):
            # "no consolidation possible small effusion": the list of the negation is over
            if any(since <= other[1] and other[2] <= start for other in named):
                state, since = "doubt", end
    if state == "ignored" and _PRESENT.search(sentence[since : mention[1]]):
        state = ""
    return state, since


def _is_over(sentence: str, since: int, start: int, end: int, named: list[Mention]) -> bool:
    """Whether a bracket or colon ends a cue: the cue has named something, or a description begins."""
    if _GOES_ON.match(sentence, end):
        return False
    return any(since <= first and last <= start for _, first, last, _ in named) or bool(
        _DESCRIBED.match(sentence, end)
    )


# "the left effusion and the right effusion is gone" speaks of the right one
_OWN_SUBJECT = re.compile(r"(?<!\w)and (?:the|an?|left|right) (?!.*(?:\band|,))")


def state_after(sentence: str, end: int, cues: list[Cue]) -> str:
    """What the first cue behind the mention says of it, if it belongs to the same clause."""
    depth = 0
    for start, _, kind in cues:
        beside = sentence.startswith(("rather", "instead"), start)  # "X rather than Y is favored"
        if start < end or beside or kind in ("pseudo", "run_on", "described", "bar"):
            continue
        if kind in ("open", "close"):
            depth += 1 if kind == "open" else -1
            continue
        between = sentence[end:start].strip()
        if depth > 0 and between != "(":
            continue
        elsewhere = between == "," and sentence.startswith(
            "none", start
        )  # "left effusion , none on the right"
        owner = _OWN_SUBJECT.search(between) and sentence.startswith(("is ", "was ", "has "), start)
        reaches = depth >= 0 and kind.endswith("_after") and not (elsewhere or owner)
        reaches = reaches and _reaches_back(between, kind)
        return kind.removesuffix("_after") if reaches else ""
    return ""


def _reaches_back(between: str, kind: str) -> bool:
    """Whether the words between a mention and a cue behind it leave the mention the cue's subject."""
    words = _ASIDE.sub("", f"{between} ").split()
    if words in ([",", "which"], ["which"]):  # "widening , which may be positional"
        return True
    mark = next((word for word in reversed(words) if word in "|:("), "")
    # "pneumothorax : none" speaks of the pneumothorax, "effusion | left lung not seen" of something else
    if mark and words[-1] != mark:
        return False
    if kind == "doubt_after" and not _BESIDE.isdisjoint(words):
        return False
    if not _VERBS.isdisjoint(words) and words[-1] != "and":  # "was small and is no longer seen"
        return False
    if "," not in words or "and" in words or "or" in words:
        return True
    return words[0] == words[-1] == "," and "no" not in words  # "edema , seen before , has resolved"
