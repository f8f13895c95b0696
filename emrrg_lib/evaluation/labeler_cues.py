"""Cue tables of the report labeler: the words that negate, doubt, or end the reach of another cue.

The idea is NegEx/ConText (Chapman et al. 2001; Harkema et al. 2009). Within one place the first kind in
:data:`CUES` wins, so "no change in" is read before "no". Every entry is a regular expression on normalised
text (see :func:`emrrg_lib.evaluation.labeler_clauses.normalise`).
"""

from __future__ import annotations

import re

_ADVERBS = (
    r"(?:\w+ly |interval |other |overt |obvious |gross |appreciable |further |much |major |"
    r"overall |significant |substantial |real |great |new |convincing |clear |acute |complete |full |"
    r"definite |visible |detectable )*"
)
SEEN = (
    r"(?:seen|identified|noted|present|evident|visuali[sz]ed|demonstrated|appreciated|detected|observed|"
    r"found|apparent|visible|shown|suggested|suspected|recogni[sz]ed|delineated|there|discerned|"
    r"in (?:place|position))"
)
_BE = r"(?:is|are|was|were|be|been|has been|have been|had been|appears?|remains?)"
_PRIOR = (
    r"(?:prior|previous|earlier|comparison|last|old|preceding|most recent|recent|initial|baseline|"
    r"first|original|outside|(?:19|20)\d\d|(?!to)\w+days?"
)
_PRIOR += r"|(?:study|film|exam\w*|radiograph|ct|images?|one) (?:of|from|dated|\w+ \w+ ago)(?! today))"
SIZE = r"(?:stable|unchanged|persistent|residual|mild\w*|moderate\w*|minimal\w*|small|tiny|trace|chronic|old"
SIZE += r"|healed|again|improv\w+|worsen\w+|increas\w+)"

CUES: dict[str, tuple[str, ...]] = {
    # A clause break that reads like a negation: "a nodule not seen on the prior" is new, lungs that are
    # "not clear" deny nothing.
    "stop": (
        rf"(?:{_BE} )?(?:not|never|absent) (?:\w+ ){{0,2}}?(?:{SEEN} )?(?:\w+ )?(?:on|in|at|from) (?:the "
        rf"|a |any |"
        rf"her |his )?(?:\w+ ){{0,2}}{_PRIOR}",
        rf"(?:{_BE} )?not (?:\w+ )?{SEEN} (?:previously|before|earlier|formerly|yesterday)",
        rf"(?:{_BE} )?not (?:\w+ )?(?:previously|formerly|yet) {SEEN}",
        rf"not well {SEEN} on (?:the )?(?:frontal|lateral|pa|ap)",
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
        r"(?:has|have|had|did|does|do) not (?:\w+ )?(?:resolve|clear|change|improve|progress|worsen|grow|"
        r"grown|"
        r"increase|decrease)(?:s|d|ed)?",
        rf"(?:(?:{_BE}|has|have) )?(?:all but|incompletely|partially|partly|nearly|almost|largely|mostly|"
        rf"not) "
        r"(?:\w+ )?(?:resolved|cleared)",
        r"(?:partial|incomplete|near|almost|nearly|slight|some) (?:\w+ )?(?:clearing|resolution)",
        r"(?:has |have )?(?:resolved|cleared) (?:somewhat|partially|partly|slightly|in part)|nearly gone",
        r"(?:ensure|document|confirm|assess|evaluate|until|verify|establish|monitor|follow\w*)(?: \w+){0,3} "
        r"(?:resolution|clearing)(?: of)?",
        r"not only|no more than|not (?:\w+ )?(?:specific|diagnostic)(?: for| of)?",
        r"not without",
        r"no longer (?:as|quite)",
    ),
    "doubt_before": (
        r"(?:can ?not|cant|can t|could not|unable to|difficult to|hard to|not possible to|"
        r"impossible to|not able to|inability to) (?:\w+ )?(?:exclude|rule out)|exclusion of",
        r"(?:does|do|did) not (?:\w+ )?(?:exclude|rule out)",
        r"not (?:allow|permit)\w* (?:for )?(?:the )?exclusion of",
        r"not (?:\w+ )?excluding|not (?:\w+ )?(?:excluded|ruled out) (?:is|are)",
        r"less likely|(?<=favored )over",
        r"(?:can)?not (?:be )?(?:certain|sure|clear) that (?:there is )?no",
        r"(?:probably|possibly|perhaps|presumably) (?:no|not|without)"
        r"(?! (?:\w+ )?(?:chang|longer|increas|decreas|improv|worse|diff)\w*)",
        r"no (?:\w+ )?(?:evidence|basis) to (?:exclude|rule out)",
        r"(?:not (?:\w+ )?(?:clear|certain|sure|known)|unclear|uncertain|unsure) (?:whether|if)",
    ),
    # After a mention, applied backwards.
    "doubt_after": (
        r"(?:can ?not|could not|cant|can t|can neither) (?:\w+ )?be (?:\w+ ){0,2}?(?:excluded|ruled out|"
        r"discounted|dismissed|eliminated)",
        r"(?:can ?not|could not|can neither) be (?:confirmed|proven|established)(?: (?:n?or|and) (?:\w+ "
        r")?excluded)?",
        r"(?:is|are) (?:also |certainly |still |not )?(?:possible|questioned|suspected|questionable|"
        r"a (?:\w+ )?possibility|a (?:\w+ )?concern|probable|equivocal|uncertain|unclear|certain|"
        r"indeterminate|"
        r"in question|favou?red|conceivable|raised)"
        r"(?=$| (?:[,|:()]|and|but|or|over|in|on|at|given|with|(?!cardiomeg|anom)\w+ly|by|based|because|"
        r"here|as|near|along|from|within|distal|proximal|behind|under|adjacent|rather)(?!\w))",
        r"remains? (?:an? )?(?:possible|possibility|concern|questionable|in question)",
        r"(?:is|are|was)? ?not (?:\w+ )?(?:excluded|ruled out)",
        r"(?:is|are|would be) (?:difficult|hard|impossible) to (?:exclude|rule out)"
        r"(?=$| (?:[,|:()]|in|on|at|given)(?!\w))",
        r"(?:may|might|could|can) (?:also )?be (?:present|considered|possible|there)",
        r"(?:may|might|could|can) be (?:\w+ )?(?:obscured|hidden|masked|missed)",
        r"(?:should|must|would|needs? to|has to) (?:also )?be (?:\w+ )?(?:considered|excluded|ruled out)",
        r"(?:is|are|would be|remains?) (?:an? |also |another |differential )*considerations?",
        r"(?:is|are) (?:\w+ )?(?:in the differential|less likely)",
        r"(?:may|might|could) have (?:this|that|a similar|the same) appearance",
        # What the technique explains is no sure finding: "widening may be due to rotation".
        r"(?:may|might|could|likely|probably|possibly|perhaps)(?: be)? (?:due|secondary|related|"
        r"attributable) to (?:\w+ ){0,3}"
        r"(?:rotation|technique|position\w*|projection|portable|supine|magnification|artifact\w*|"
        r"inspiration)",
        r"(?:may|might|could|likely|probably) (?:be|represent|reflect) (?:an? )?(?:\w+ )?"
        r"(?:projection\w*|positional|artifact\w*|artefact\w*|technical)(?! or)",
        r"(?:suspected|possible|questioned)(?=$| [|:)])",
        r"(?:suspected|possible|likely) but not \w+",
        r"if (?:any|present)(?=$| (?:,|is|are)(?!\w))",
    ),
    # The report only says that such a thing could not be judged.
    "ignored_after": (
        r"(?:may|might|could|can) ?not be (?:\w+ )?(?:demonstrated|visible|seen|visuali[sz]ed|"
        r"evaluated|assessed)",
        r"(?:not|poorly|incompletely) (?:well |adequately |fully )?(?:evaluated|assessed)",
        r"(?:is |are )?not well (?:seen|visuali[sz]ed|demonstrated|shown|appreciated)",
    ),
    # "No pneumothorax?" asks.
    "asked_after": (r"questionmark",),
    "negated_after": (
        rf"{_BE} (?:not|no longer|never) (?:\w+ ){{0,2}}?{SEEN}",
        rf"(?:not|no longer) (?:\w+ ){{0,2}}?{SEEN}(?! (?:is|are)\b)",
        r"(?:has|have|had|did) not (?:\w+ )?(?:recur\w*|re ?accumulate\w*|return\w*|re ?develop\w*|re "
        r"?appear\w*|"
        r"develop\w*|appear(?:ed)?(?! \w+))",
        r"(?:has|have) (?:\w+ ){0,2}?(?:resolved|cleared|disappeared|vanished|subsided|abated|been "
        r"(?:\w+ )?(?:removed|discontinued|"
        r"pulled(?! back)|taken out|explanted|decannulated)|healed completely)",
        r"(?:is|are|has|have) (?:now |all |completely |entirely |since )*gone",
        r"(?:disappeared|vanished|went away|gone)(?=$| [,|:)])",
        rf"{_BE} (?:\w+ )?(?:resolved|removed|excluded|ruled out|absent|discontinued|pulled(?! back)|"
        r"doubtful|improbable|doubted|lacking|not confirmed)(?! (?:that|whether|if))",
        r"(?:now|completely|fully|since) (?:resolved|cleared|removed)",
        r"(?:resolved|removed|absent|cleared|discontinued)(?=$| [,|:)])",
        rf"{_BE} (?:(?:felt|thought|considered|believed) (?:to be )?|\w+ )?"
        r"(?:unlikely|negative)(?! (?:for|to|that))",
        rf"{_BE} (?:with)?in (?:normal limits|(?:the )?limits of normal)",
        r"removal(?! (?:of|and))",
        r"none",
        r"no(?=$| [|)])",
        r"(?:negative|unlikely)(?=$| [|)])|(?:is|are) not (?:\w+ )?likely",
    ),
    "negated_before": (
        r"not (?:seen|present|identified|noted|visuali[sz]ed) (?:is|are)",
        r"no|nothing|against|doubt|without|w o|not|nor|neither|never",
        r"(?:free|clear|devoid|absence|resolution|clearing|removal|disappearance|clearance) of|free from",
        r"negative for",
        r"(?:resolved|absent|removed|cleared)",
        r"(?:rather than|instead of|as opposed to)",
        r"unlikely(?: to (?:be|represent)| that)?|not likely|doubtful (?:that|whether|if)",
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
        r"^follow up of(?!.* (?:recommend|suggest|advis|need|warrant|requir))",
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
        r"suspicio\w+(?: for| of)?|doubtful",
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
        r"indeterminate for|for example",
    ),
    "end": (
        r"but|however|although|though|despite|yet|while|whereas|(?<!or )otherwise",
        r"except(?: for)?|(?:aside|apart) from|other than",
        r"(?<!that )(?<!whether )(?<!if )there(?= (?:is|are|was|were|has|have|may|might|could|would|"
        r"appears?|remains?)(?!\w))",
        r"(?:secondary|due|owing) to|because of",
        r"status post|after|following|post(?= (?:\w+ ){0,3}(?:placement|insertion|removal|procedure|"
        r"intubation))",
        r"(?:re ?)?placement of|insertion of|replaced (?:by|with)|exchanged? for",
        rf"(?<!previously )(?<!earlier )(?<!formerly )(?<!initially )(?<!not ){SEEN} ,(?! (?:or|and|no|"
        rf"nor)\b)",
        r"(?:and|with) (?:an?|now)|, (?:an?(?![^|:()]* n?or an? )|now|with|just|only|merely)",
        r", (?:most )?likely|and (?:the )?presence of",
        r"(?:acute|active) (?:\w+ )?(?:findings?|abnormalit\w+|disease|process)(?= and (?!no |other ))",
        r", and(?= (?:\w+ ){1,4}(?:without|with no)(?!\w))",
        rf"(?:and|(?<!compatible )(?<!consistent )with) (?:an? |the |some )?"
        rf"(?:{SIZE}|(?:is|are)(?! (?:not|no|never)))",
        # "no effusion , small pneumothorax , or mass" goes on with its list.
        rf", (?:an? |the |some )?(?:{SIZE}|is|are)(?![^|:()]* n?or )",
        r"(?:, )?(?:and )?(?:the )?(?:lungs?|heart|mediastinum) (?:is|are)"
        r"(?! (?:possible|suspected|questioned|not (?:\w+ )?(?:excluded|ruled out)))",
    ),
    # A run-on sentence: "no effusion identified blunting of the recesses ...".
    "run_on": (
        r"(?<!previously )(?<!earlier )(?<!formerly )(?<!initially )(?<!not )(?:seen|identified|noted|"
        r"visuali[sz]ed|"
        r"demonstrated|appreciated|detected)(?= \w)(?! (?:in|on|at|to|with\w*|within|from|by|over|near|"
        r"along|above|"
        r"below|behind|through\w*|for|as|and|or|nor|no|not|is|are|was|were|today|currently|here|now|"
        r"elsewhere|that|"
        r"which|\w+ly|this|bilaterally|adjacent|overlying|projecting|around|since|after)\b)",
    ),
    # Right behind a mention: "no nodule mild atelectasis", "no infiltrate and patchy atelectasis".
    "described": (
        rf"{SIZE}(?![^|:()]* n?or )",
        r"(?:and|with) (?:multiple|several|some|scattered|numerous|patchy|streaky|hazy|linear|left|right|"
        r"bi ?bas\w+|bilateral|bi ?apical|dense|diffuse|compressive|subsegmental|discoid|plate ?like|"
        r"retrocardiac)(?![^|:()]* n?or )",
        r"(?:just|only|merely|(?:most )?likely)(?= \w)",  # cleaning takes the comma away
    ),
    "bar": (r"[|:]",),
    "open": (r"\(",),
    "close": (r"\)",),
}
"""Kind -> cues, as regular expressions on normalised text; kinds are tried in this order."""

CUE = re.compile(
    "".join(
        (r"(?<!\w)(?:", "|".join(f"(?P<{kind}>{'|'.join(cues)})" for kind, cues in CUES.items()), r")(?!\w)")
    )
)
"""One pattern with a named group per kind; a match consumes its text for all other kinds."""
