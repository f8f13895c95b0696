"""The language side of the report labeler: sentences, the cues in them, and how far each cue reaches.

The idea is NegEx/ConText (Chapman et al. 2001; Harkema et al. 2009): a cue acts on the mentions after it
(or before it) in the same sentence until its clause ends. A clause ends at a stop word, at a bracket, a
dash, a colon or a tag once the cue has named something, and where a new subject with its own verb begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Cue = tuple[int, int, str]  # start, end, kind

_ADVERBS = (
    r"(?:\w+ly |interval |other |overt |obvious |gross |appreciable |further |much |major |"
    r"overall |significant |substantial |real |great |new |convincing |clear |acute |complete |full |"
    r"definite |visible |detectable )*"
)
_SEEN = (
    r"(?:seen|identified|noted|present|evident|visuali[sz]ed|demonstrated|appreciated|detected|observed|"
    r"found|apparent|visible|shown|suggested|suspected|recogni[sz]ed|delineated|there|discerned|"
    r"in (?:place|position))"
)
_BE = r"(?:is|are|was|were|be|been|has been|have been|had been|appears?|remains?)"
_PRIOR = r"(?:prior|previous|earlier|comparison|last|old|preceding|most recent|(?!to)\w+days?"
_PRIOR += r"|(?:study|film|exam\w*|radiograph|ct|images?|one) (?:of|from|dated|\w+ \w+ ago)(?! today))"
SIZE = r"(?:stable|unchanged|persistent|residual|mild\w*|moderate\w*|minimal\w*|small|tiny|trace|chronic|old"
SIZE += r"|healed|again|improv\w+|worsen\w+|increas\w+)"

CUES: dict[str, tuple[str, ...]] = {
    # A clause break that reads like a negation: "a nodule not seen on the prior" is new, lungs that are
    # "not clear" deny nothing.
    "stop": (
        rf"(?:{_BE} )?(?:not|never|absent) (?:\w+ ){{0,2}}?(?:{_SEEN} )?(?:\w+ )?(?:on|in|at|from) (?:the |a |any |"
        rf"her |his )?(?:\w+ ){{0,2}}{_PRIOR}",
        rf"(?:{_BE} )?not (?:\w+ )?{_SEEN} (?:previously|before|earlier|formerly|yesterday)",
        rf"(?:{_BE} )?not (?:\w+ )?(?:previously|formerly|yet) {_SEEN}",
        r"not (?:\w+ly |well )?(?:clear|normal|unremarkable|sharp|aerated|expanded|inflated|intact)(?! of)"
        r"(?! (?:whether|if))",
    ),
    # Reads like a negation, but the finding is there: "no change in the effusion".
    "pseudo": (
        rf"(?:no|without|not|little|nor) {_ADVERBS}(?:chang\w+|increas(?:e|ing|ed)|decreas\w+|improve\w*|"
        r"worsen\w*|progress\w*|differen\w+|resolv\w+|resolution|clear(?:ed|ing)|different|growth|"
        r"growing|expansion|extension)\b",
        rf"(?:no|without) {_ADVERBS}enlargement of"
        r"(?! (?:the )?(?:heart|cardi|mediast))",
        r"(?:no|not|neither) (?:\w+ly |any )?(?:worse|better|bigger|larger|smaller|greater|denser)\b",
        r"(?:has|have|had|did|does|do) not (?:\w+ )?(?:resolve|clear|change|improve|progress|worsen|grow|grown|"
        r"increase|decrease)(?:s|d|ed)?",
        rf"(?:(?:{_BE}|has|have) )?(?:all but|incompletely|partially|partly|nearly|almost|largely|mostly|not) "
        r"(?:\w+ )?(?:resolved|cleared)",
        r"(?:partial|incomplete|near|slight|some) (?:\w+ )?(?:clearing|resolution)",
        r"(?:has |have )?(?:resolved|cleared) (?:somewhat|partially|partly|slightly|in part)|nearly gone",
        r"(?:ensure|document|confirm|assess|evaluate|until|verify|establish|monitor|follow\w*)(?: \w+){0,3} "
        r"(?:resolution|clearing)(?: of)?",
        r"not only|no more than",
        r"not without",
        r"no longer (?:as|quite)",
    ),
    "doubt_before": (
        r"(?:can ?not|cant|can t|could not|unable to|difficult to|hard to|not possible to|"
        r"impossible to) (?:\w+ )?(?:exclude|rule out)",
        r"(?:does|do|did) not (?:\w+ )?(?:exclude|rule out)",
        r"not (?:allow|permit)\w* (?:for )?(?:the )?exclusion of",
        r"not (?:\w+ )?excluding|not (?:\w+ )?(?:excluded|ruled out) (?:is|are)",
        r"less likely|(?<=favored )over",
        r"no (?:\w+ )?(?:evidence|basis) to (?:exclude|rule out)",
        r"(?:not (?:\w+ )?(?:clear|certain|sure|known)|unclear|uncertain|unsure) (?:whether|if)",
    ),
    # After a mention, applied backwards.
    "doubt_after": (
        r"(?:can ?not|could not|cant|can t|can neither) (?:\w+ )?be (?:\w+ ){0,2}?(?:excluded|ruled out)",
        r"(?:can ?not|could not|can neither) be (?:confirmed|proven|established)(?: (?:n?or|and) (?:\w+ )?excluded)?",
        r"(?:is|are) (?:also |certainly |still |not )?(?:possible|questioned|suspected|questionable|"
        r"a (?:\w+ )?possibility|a (?:\w+ )?concern|probable|equivocal|uncertain|unclear|certain|indeterminate|"
        r"in question|favou?red|conceivable|raised)"
        r"(?=$| (?:[,|:()]|and|but|or|over|in|on|at|given|with)(?!\w))",
        r"remains? (?:an? )?(?:possible|possibility|concern|questionable|in question)",
        r"(?:is|are|was)? ?not (?:\w+ )?(?:excluded|ruled out)",
        r"(?:is|are|would be) (?:difficult|hard|impossible) to (?:exclude|rule out)"
        r"(?=$| (?:[,|:()]|in|on|at|given)(?!\w))",
        r"(?:may|might|could|can) (?:also )?be (?:present|considered|possible|there)",
        r"(?:may|might|could|can) be (?:\w+ )?(?:obscured|hidden|masked|missed)",
        r"(?:should|must|would) (?:also )?be (?:\w+ )?considered",
        r"(?:is|are|would be|remains?) (?:an? |also |another |differential )*considerations?",
        r"(?:is|are) (?:\w+ )?(?:in the differential|less likely)",
        r"(?:may|might|could) have (?:this|that|a similar|the same) appearance",
        # What the technique explains is no sure finding: "widening may be due to rotation".
        r"(?:may|might|could|likely|probably|possibly|perhaps)(?: be)? (?:due|secondary|related|attributable) to (?:\w+ ){0,3}"
        r"(?:rotation|technique|position\w*|projection|portable|supine|magnification|artifact\w*|inspiration)",
        r"(?:may|might|could|likely|probably) (?:be|represent|reflect) (?:an? )?(?:\w+ )?"
        r"(?:projection\w*|positional|artifact\w*|artefact\w*|technical)(?! or)",
        r"(?:suspected|possible|questioned)(?=$| [|:)])",
        r"(?:suspected|possible|likely) but not \w+",
        r"if (?:any|present)(?=$| ,)",
    ),
    # The report only says that such a thing could not be judged.
    "ignored_after": (
        r"(?:may|might|could|can) ?not be (?:\w+ )?(?:demonstrated|visible|seen|visuali[sz]ed|"
        r"evaluated|assessed)",
        r"(?:not|poorly|incompletely) (?:well |adequately |fully )?(?:evaluated|assessed)",
    ),
    "negated_after": (
        rf"{_BE} (?:not|no longer|never) (?:\w+ ){{0,2}}?{_SEEN}",
        rf"(?:not|no longer) (?:\w+ ){{0,2}}?{_SEEN}(?! (?:is|are)\b)",
        r"(?:has|have|had|did) not (?:\w+ )?(?:recur\w*|re ?accumulate\w*|return\w*|re ?develop\w*|re ?appear\w*|"
        r"develop\w*|appear(?:ed)?(?! \w+))",
        r"(?:has|have) (?:\w+ ){0,2}?(?:resolved|cleared|disappeared|vanished|subsided|abated|been (?:\w+ )?(?:removed|discontinued|"
        r"pulled(?! back)|taken out|explanted|decannulated)|healed completely)",
        r"(?:is|are|has|have) (?:now |all |completely |entirely |since )*gone",
        r"(?:disappeared|vanished|went away|gone)(?=$| [,|:)])",
        rf"{_BE} (?:\w+ )?(?:resolved|removed|excluded|ruled out|absent|discontinued|pulled(?! back)|doubtful|"
        r"improbable|doubted)",
        r"(?:now|completely|fully|since) (?:resolved|cleared|removed)",
        r"(?:resolved|removed|absent|cleared|discontinued)(?=$| [,|:)])",
        rf"{_BE} (?:(?:felt|thought|considered|believed) (?:to be )?|\w+ )?"
        r"(?:unlikely|negative)(?! (?:for|to|that))",
        rf"{_BE} (?:with)?in (?:normal limits|(?:the )?limits of normal)",
        r"removal(?! (?:of|and))",
        r"none",
        r"no(?=$| [|)])",
        r"(?:negative|unlikely)(?=$| [|)])",
    ),
    "negated_before": (
        r"not (?:seen|present|identified|noted|visuali[sz]ed) (?:is|are)",
        r"no|nothing|against|doubt|without|w o|not|nor|neither|never",
        r"(?:free|clear|devoid|absence|resolution|clearing|removal|disappearance) of|free from",
        r"negative for",
        r"(?:resolved|absent|removed|cleared)",
        r"(?:rather than|instead of|as opposed to)",
        r"unlikely(?: to (?:be|represent)| that)?",
        r"den(?:y|ies|ied)",
        r"lack of|lacks|lacking",
        r"excludes?",
    ),
    # Why the picture was taken is no finding.
    "ignored": (
        r"(?:rule out|r o|ruling out)",
        r"(?:eval(?:uat\w+)?|assess\w*|exam|looking|look|screen\w*|query|check) (?:\w+ )?for",
        r"evaluation of",
        r"(?:history|hx) of",
        r"(?:indication|reason for exam)",
        r"(?:treated|treatment) for",
        r"(?:to|please) exclude",
        r"(?:risk|factors?|at high \w+) (?:for|of)",
        r"^follow up(?! (?:of|ct|chest|exam\w*|imag\w*|film\w*|radiograph\w*|is|to|recommend\w*|in|with))",
    ),
    "doubt": (
        r"possib\w+",
        r"probabl\w+",
        r"potential(?:ly)?",
        r"question(?:able|ably)?(?: of)?",
        r"presum(?:ed|ably|ptive)",
        r"if any(?! \w+ (?:is|are))|perhaps|maybe|conceivabl[ey]|hint of|query|tentative\w*",
        r"equivocal",
        r"suspicio\w+(?: for| of)?",
        r"suspected",
        r"suspect",
        r"concern\w*(?: for| of| about)?",
        r"worrisome(?: for)?",
        r"suggestion of",
        r"(?:may|might|could|can|would)(?: \w+)? (?:represent|reflect|indicate|include|relate|"
        r"suggest|correspond|mean|signify|have|contain|also|obscure|hide|mask)",
        r"(?:may|might|could|would)(?: \w+)? be (?:\w+ ){0,3}"
        r"(?:secondary|due|related|attribut\w+) to",
        r"(?:may|might|could|can|would)(?: \w+)? be",
        r"may|might|could",
        r"correlat\w+ (?:\w+ ){0,5}(?:for|of)",
        r"(?:differential|ddx)",
        r"favou?r(?:ed|ing|s)?",
        r"consider(?:ation|ations)?(?: of| for)?",
        r"borderline",
        r"indeterminate for",
    ),
    "end": (
        r"but|however|although|though|despite|yet|while|whereas|(?<!or )otherwise",
        r"except(?: for)?|(?:aside|apart) from|other than",
        r"(?<!that )(?<!whether )(?<!if )there(?= (?:is|are|was|were|has|have|may|might|could|would|appears?|remains?)(?!\w))",
        r"(?:secondary|due|owing) to|because of",
        r"status post|after|following|post(?= (?:\w+ ){0,3}(?:placement|insertion|removal|procedure|intubation))",
        r"(?:re ?)?placement of|insertion of|replaced (?:by|with)|exchanged? for",
        rf"(?<!previously )(?<!earlier )(?<!formerly )(?<!initially )(?<!not ){_SEEN} ,(?! (?:or|and|no|nor)\b)",
        rf"(?:and|with) (?:an? |the |some )?(?:{SIZE}|(?:is|are)(?! (?:not|no|never)))",
        # "no effusion , small pneumothorax , or mass" goes on with its list.
        rf", (?:an? |the |some )?(?:{SIZE}|is|are)(?![^|:()]* n?or )",
        r"(?:, )?(?:and )?(?:the )?(?:lungs?|heart|mediastinum) (?:is|are)"
        r"(?! (?:possible|suspected|questioned|not (?:\w+ )?(?:excluded|ruled out)))",
    ),
    # A run-on sentence: "no effusion identified blunting of the recesses ...".
    "run_on": (
        r"(?<!previously )(?<!earlier )(?<!formerly )(?<!initially )(?<!not )(?:seen|identified|noted|visuali[sz]ed|"
        r"demonstrated|appreciated|detected)(?= \w)(?! (?:in|on|at|to|with\w*|within|from|by|over|near|along|above|"
        r"below|behind|through\w*|for|as|and|or|nor|no|not|is|are|was|were|today|currently|here|now|elsewhere|that|"
        r"which|\w+ly|this|bilaterally|adjacent|overlying|projecting|around|since|after)\b)",
        rf"{SIZE}(?![^|:()]* n?or )",
    ),
    "bar": (r"[|:]",),
    "open": (r"\(",),
    "close": (r"\)",),
}
"""Kind -> cues, as regular expressions on normalised text; kinds are tried in this order."""

_CUES = re.compile(
    "".join(
        (r"(?<!\w)(?:", "|".join(f"(?P<{kind}>{'|'.join(cues)})" for kind, cues in CUES.items()), r")(?!\w)")
    )
)

_EXPANSIONS = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        # Tags and bullets that begin a new line end the sentence; other tags, tabs and dashes end a clause.
        (r"</?(?:br|p|li|ul|ol|div|tr|td|th|table|h\d|hr)\b[^<>\n]{0,80}>|[•·●▪◦‣]", ". "),
        (r"</?[a-z][^<>\n]{0,80}>", " : "),
        (r"&[a-z]{2,6};", " "),
        (r"\t+| [-*]{1,3} |\s*(?:--+|[–—])\s*", " | "),
        (r"[\[{]", "("),
        (r"[\]}]", ")"),
        (r":(?!\d)", " : "),
        # Abbreviations: their full stop ends no sentence, also where the cleaning has set it apart (" . ").
        (r"\bvs?\b ?\.|\bvs\b|(?<=[a-z]) v (?=[a-z])", "versus "),
        (r"\b(?:e\.? ?g|i\.? ?e)\b(?: ?\.)?,?", "such as "),
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
        (r"(?<=[a-z])\s*/\s*(?=[a-z])", " or "),
        (r"(?:(?<=\s)|^)\?\s*(?=\w)", "questionable "),
        (r"(?<=\w)\s?\?", " questioned."),
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


_FINITE = re.compile(
    r"(?<!\w)(?:is|are|was|were|has|have|had|shows?|demonstrates?|contains?|reveals?|appears?|remains?|persists?|"
    r"lies|ends?|terminates?|extends?|projects?|overl(?:ies|ay|ie)|measures?|displays?|suggests?|represents?|"
    r"reflects?|obscures?|may|might|could|can|cannot|should|will|would|looks?|courses?|unchanged|stable|again)(?!\w)"
)
_LISTED = re.compile(  # what is said of a whole list: "no effusion and pneumothorax are seen"
    rf"(?:is|are|was|were|has|have|had)(?: been)? (?:(?!again)\w+ )?(?:{_SEEN}|developed|occurred|appeared)(?!\w)"
)
_BREAKS = frozenset(
    ", | : ( ) and but or nor which that who whether if when as than although though no not without neither "
    "there seen identified noted visualized demonstrated appreciated detected present because".split()
)
_FRESH = frozenset(
    "the a an this these those both all it some several multiple bilateral his her their small mild moderate "
    "large trace tiny minimal stable persistent residual left right other previously known old chronic".split()
)
_PREPOSITIONS = frozenset(
    "in of at on to within over for with from near above below into than by behind through as between around "
    "along about without that which across throughout under beneath beyond against suggest represent".split()
)
_ARTICLES = frozenset("the a an this these both".split())
_ACTIVE = frozenset("has have shows show demonstrates demonstrate contains contain reveals reveal".split())
_OWNERS = frozenset("heart lungs lung mediastinum cardiomediastinal".split())


def cues_of(sentence: str, ends: set[int]) -> list[Cue]:
    """All cues of a normalised sentence in their order, with the starts of new clauses among them.

    `ends` are the ends of its mentions: a description right behind one begins another.
    """
    cues = [(match.start(), match.end(), match.lastgroup or "") for match in _CUES.finditer(sentence)]
    if any(kind in ("negated_before", "doubt_before", "doubt", "ignored") for _, _, kind in cues):
        cues += [(start, start, "clause") for start in set(_clause_starts(sentence, ends))]
        cues.sort()
    return cues


def _clause_starts(sentence: str, ends: set[int]) -> Iterator[int]:
    """Where a new subject begins that has its own verb ("no effusion and the heart is enlarged")."""
    for verb in _FINITE.finditer(sentence):
        words = sentence[: verb.start()].split()
        first = len(words)
        while first and words[first - 1] not in _BREAKS and not _FINITE.fullmatch(words[first - 1]):
            first -= 1
        subject, before = words[first:], words[first - 1] if first else ""
        listed = _LISTED.match(sentence, verb.start())
        if not subject:
            if before == "and" and verb[0] in _ACTIVE:
                yield verb.start()
            continue
        joined = before in ("and", ",") or before in _BREAKS and before.endswith(("ed", "en"))
        if joined and (subject[0] in _FRESH or not listed):
            yield len(" ".join(words[:first])) + 1
        elif before not in ("that", "which", "whether", "if", "than"):
            yield from _inner_starts(words, first, bool(listed), ends)


def _inner_starts(words: list[str], first: int, listed: bool, ends: set[int]) -> Iterator[int]:
    """Where a new subject begins without a comma or "and": at its article, or behind a mention."""
    for i in range(first + 1, len(words)):
        start = len(" ".join(words[:i])) + 1
        article = words[i] in _ARTICLES or (words[i] in _OWNERS and not listed)
        described = words[i] in _FRESH and start - 1 in ends and not listed
        if described or article and words[i - 1] not in _PREPOSITIONS | _FRESH:
            yield start
            return
