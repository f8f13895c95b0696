"""Cue tables of the report labeler: the words that negate, doubt, or end the reach of another cue.

The idea is NegEx/ConText (Chapman et al. 2001; Harkema et al. 2009): a cue acts on the mentions
after it (or before it) in the same sentence until a stop. Within one place the first kind in
:data:`CUES` wins, so "no change in" is read before "no".
"""

from __future__ import annotations

import re

_ADVERBS = (
    r"(?:\w+ly |interval |other |overt |obvious |gross |appreciable |further |much |major |"
    r"overall |significant |substantial |real |great |new |convincing |clear |acute )*"
)
_SEEN = (
    r"(?:seen|identified|noted|present|evident|visuali[sz]ed|demonstrated|appreciated|detected|"
    r"observed|found|apparent|visible|shown|suggested|suspected|recogni[sz]ed|delineated|there)"
)
_BE = r"(?:is|are|was|were|be|been|has been|have been|appears?|remains?)"

CUES: dict[str, tuple[str, ...]] = {
    # Reads like a negation, but the finding is there: "no change in the effusion".
    "pseudo": (
        rf"(?:no|without|not|little|nor) {_ADVERBS}(?:chang\w+|increas(?:e|ing)|decreas\w+|"
        r"improve\w*|worsen\w*|progress\w*|differen\w+|resolv\w+|resolution|clear(?:ed|ing)|"
        r"different)\b", r"(?:has|have|had) not (?:\w+ )?(?:resolved|cleared|changed|improved|progressed)",
        rf"(?:(?:{_BE}|has|have) )?(?:incompletely|partially|partly|nearly|almost|not) (?:\w+ )?"
        r"(?:resolved|cleared)", r"(?:partial|incomplete|near|slight|some) (?:\w+ )?(?:clearing|resolution)",
        r"not only", r"not without",
        # A new finding: "a nodule not seen on the prior".
        r"not (?:\w+ ){0,2}(?:seen|present|identified|noted|visuali[sz]ed) (?:on|in) (?:the )?"
        r"(?:prior|previous|earlier|comparison|most recent)", r"no longer (?:as|quite)",
    ),
    "doubt_before": (
        r"(?:can ?not|can t|could not|unable to|difficult to|hard to|not possible to|"
        r"impossible to) (?:\w+ )?(?:exclude|rule out)",
        r"(?:does|do|did) not (?:\w+ )?(?:exclude|rule out)", r"not (?:\w+ )?excluding", r"less likely",
        r"no (?:\w+ )?(?:evidence|basis) to (?:exclude|rule out)",
    ),
    # After a mention, applied backwards.
    "doubt_after": (
        r"(?:can ?not|could not|can t) (?:\w+ )?be (?:\w+ )?(?:excluded|ruled out)",
        r"(?:is|are) (?:also |certainly |still )?(?:possible|questioned|suspected|questionable|"
        r"a possibility|probable|equivocal)(?=$| (?:,|and|but|in|on|at|given|with)\b)",
        r"(?:is|are|was)? ?not (?:\w+ )?(?:excluded|ruled out)",
        r"(?:is|are|would be) (?:difficult|hard|impossible) to (?:exclude|rule out)"
        r"(?=$| (?:,|in|on|at|given)\b)",
        r"(?:may|might|could|can) (?:also )?be (?:present|considered|possible|there)",
        r"(?:may|might|could|can) be (?:\w+ )?(?:obscured|hidden|masked|missed)",
        r"(?:should|must|would) (?:also )?be (?:\w+ )?considered",
        r"(?:is|are|would be|remains?) (?:an? |also |another |differential )*considerations?",
        r"(?:is|are) (?:\w+ )?(?:in the differential|less likely)",
        r"(?:may|might|could) have (?:this|that|a similar|the same) appearance",
        # What the technique explains is no sure finding: "widening may be due to rotation".
        r"(?:may|might|could|likely|probably)(?: be)? (?:due|secondary|related|attributable) to (?:\w+ ){0,3}"
        r"(?:rotation|technique|position\w*|projection|portable|supine|magnification|artifact\w*|inspiration)",
        r"suspected$", r"possible$",
        r"questioned$",
    ),
    # The report only says that such a thing could not be judged.
    "ignored_after": (
        r"(?:may|might|could|can) ?not be (?:\w+ )?(?:demonstrated|visible|seen|visuali[sz]ed|"
        r"evaluated|assessed)",
        r"(?:not|poorly|incompletely) (?:well |adequately |fully )?(?:evaluated|assessed)",
    ),
    "negated_after": (
        rf"{_BE} (?:not|no longer|never) (?:\w+ ){{0,2}}{_SEEN}",
        rf"(?:not|no longer) (?:\w+ ){{0,2}}{_SEEN}",
        r"(?:has|have) (?:\w+ )?(?:resolved|cleared|disappeared|been removed|healed completely)",
        rf"{_BE} (?:\w+ )?(?:resolved|removed|excluded|ruled out|absent)",
        r"(?:now|completely|fully|since) (?:resolved|cleared|removed)",
        r"(?:resolved|removed|absent|cleared)$",
        rf"{_BE} (?:(?:felt|thought|considered|believed) (?:to be )?|\w+ )?"
        r"(?:unlikely|negative)(?! (?:for|to))", r"removal(?! of)", r"none", r"no$", r"negative$",
        r"unlikely$",
    ),
    "negated_before": (
        r"no", r"nothing", r"against", r"doubt", r"without", r"w o", r"not", r"nor", r"neither", r"never",
        r"(?:free|clear|devoid|absence|resolution|clearing|removal|disappearance) of", r"negative for",
        r"(?:resolved|absent|removed)", r"(?:rather than|instead of|as opposed to)",
        r"unlikely(?: to (?:be|represent))?", r"den(?:y|ies|ied)", r"lack of|lacks|lacking", r"excludes?",
    ),
    # Why the picture was taken is no finding.
    "ignored": (
        r"(?:rule out|r o|ruling out)",
        r"(?:evaluat\w+|assess\w*|exam|looking|look|screen\w*|query|check) (?:\w+ )?for", r"evaluation of",
        r"(?:history|hx) of", r"(?:indication|reason for exam)", r"(?:treated|treatment) for",
        r"(?:to|please) exclude",
    ),
    "doubt": (
        r"possib\w+", r"probabl\w+", r"potential(?:ly)?", r"question(?:able|ably)?(?: of)?",
        r"presum(?:ed|ably|ptive)", r"perhaps", r"maybe", r"equivocal", r"suspicio\w+(?: for| of)?",
        r"suspected", r"suspect", r"concern\w*(?: for| of| about)?", r"worrisome(?: for)?", r"suggestion of",
        r"(?:may|might|could|can|would)(?: \w+)? (?:represent|reflect|indicate|include|relate|"
        r"suggest|correspond|mean|signify|have|contain|also|obscure|hide|mask)",
        r"(?:may|might|could|would)(?: \w+)? be (?:\w+ ){0,3}"
        r"(?:secondary|due|related|attribut\w+) to", r"(?:may|might|could|can|would)(?: \w+)? be",
        r"may|might|could", r"correlat\w+ (?:\w+ ){0,5}(?:for|of)", r"(?:differential|ddx)",
        r"favou?r(?:ed|ing|s)?", r"consider(?:ation|ations)?(?: of| for)?", r"borderline",
        r"indeterminate for",
    ),
    "stop": (
        r"but", r"however", r"although", r"though", r"despite", r"except(?: for)?", r"(?:aside|apart) from",
        r"other than", r"otherwise", r"yet", r"while", r"whereas", r"there (?:is|are|was|were|has|have)",
        r"(?:secondary|due|owing) to",
        r"(?:seen|identified|noted|present|visuali[sz]ed) ,(?! (?:or|and|no|nor)\b)", r"because of",
        r"status post|after|following",
        r"(?:,|and|with) (?:an? |the |some )?(?:stable|unchanged|persistent|residual|mild\w*|"
        r"moderate\w*|minimal\w*|small|tiny|trace|chronic|old|healed|again|is|are|improv\w+|"
        r"worsen\w+|increas\w+)", r"(?:, )?(?:and )?(?:the )?(?:lungs?|heart|mediastinum) (?:is|are)"
        r"(?! (?:possible|suspected|questioned|not (?:\w+ )?(?:excluded|ruled out)))",
    ),
}
"""Kind -> cues, as regular expressions on normalised text; kinds are tried in this order."""


def compile_cues() -> re.Pattern[str]:
    """One pattern with a named group per kind; a match consumes its text for all other kinds."""
    groups = (f"(?P<{kind}>{'|'.join(cues)})" for kind, cues in CUES.items())
    return re.compile(rf"(?<![\w])(?:{'|'.join(groups)})(?![\w])")
