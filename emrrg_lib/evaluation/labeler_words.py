"""Cue tables of the report labeler: the words that negate, doubt, or end the reach of another cue.

The idea is NegEx/ConText (Chapman et al. 2001; Harkema et al. 2009): a cue acts on the mentions
after it (or before it) in the same sentence until a stop. Within one place the first kind in
:data:`CUES` wins, so "no change in" is read before "no".


Phrase tables of the report labeler: what names each of the 14 CheXpert observations.

Every entry is a regular expression on normalised text (lower case, single spaces, hyphens and
slashes between words written out, see :func:`emrrg_lib.evaluation.labeler.normalise`). The tables
are modelled on the documented lists of the CheXpert labeler (Irvin et al. 2019) and written anew;
where they differ on purpose, a comment says so.
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
        r"different)\b",
        r"(?:has|have|had) not (?:\w+ )?(?:resolved|cleared|changed|improved|progressed)",
        rf"(?:(?:{_BE}|has|have) )?(?:incompletely|partially|partly|nearly|almost|not) (?:\w+ )?"
        r"(?:resolved|cleared)",
        r"(?:partial|incomplete|near|slight|some) (?:\w+ )?(?:clearing|resolution)",
        r"not only",
        r"not without",
        # A new finding: "a nodule not seen on the prior".
        r"not (?:\w+ ){0,2}(?:seen|present|identified|noted|visuali[sz]ed) (?:on|in) (?:the )?"
        r"(?:prior|previous|earlier|comparison|most recent)",
        r"no longer (?:as|quite)",
    ),
    "doubt_before": (
        r"(?:can ?not|can t|could not|unable to|difficult to|hard to|not possible to|"
        r"impossible to) (?:\w+ )?(?:exclude|rule out)",
        r"(?:does|do|did) not (?:\w+ )?(?:exclude|rule out)",
        r"not (?:\w+ )?excluding",
        r"less likely",
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
        r"suspected$",
        r"possible$",
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
        r"(?:unlikely|negative)(?! (?:for|to))",
        r"removal(?! of)",
        r"none",
        r"no$",
        r"negative$",
        r"unlikely$",
    ),
    "negated_before": (
        r"no",
        r"nothing",
        r"against",
        r"doubt",
        r"without",
        r"w o",
        r"not",
        r"nor",
        r"neither",
        r"never",
        r"(?:free|clear|devoid|absence|resolution|clearing|removal|disappearance) of",
        r"negative for",
        r"(?:resolved|absent|removed)",
        r"(?:rather than|instead of|as opposed to)",
        r"unlikely(?: to (?:be|represent))?",
        r"den(?:y|ies|ied)",
        r"lack of|lacks|lacking",
        r"excludes?",
    ),
    # Why the picture was taken is no finding.
    "ignored": (
        r"(?:rule out|r o|ruling out)",
        r"(?:evaluat\w+|assess\w*|exam|looking|look|screen\w*|query|check) (?:\w+ )?for",
        r"evaluation of",
        r"(?:history|hx) of",
        r"(?:indication|reason for exam)",
        r"(?:treated|treatment) for",
        r"(?:to|please) exclude",
    ),
    "doubt": (
        r"possib\w+",
        r"probabl\w+",
        r"potential(?:ly)?",
        r"question(?:able|ably)?(?: of)?",
        r"presum(?:ed|ably|ptive)",
        r"perhaps",
        r"maybe",
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
    "stop": (
        r"but",
        r"however",
        r"although",
        r"though",
        r"despite",
        r"except(?: for)?",
        r"(?:aside|apart) from",
        r"other than",
        r"otherwise",
        r"yet",
        r"while",
        r"whereas",
        r"there (?:is|are|was|were|has|have)",
        r"(?:secondary|due|owing) to",
        r"(?:seen|identified|noted|present|visuali[sz]ed) ,(?! (?:or|and|no|nor)\b)",
        r"because of",
        r"status post|after|following",
        r"(?:,|and|with) (?:an? |the |some )?(?:stable|unchanged|persistent|residual|mild\w*|"
        r"moderate\w*|minimal\w*|small|tiny|trace|chronic|old|healed|again|is|are|improv\w+|"
        r"worsen\w+|increas\w+)",
        r"(?:, )?(?:and )?(?:the )?(?:lungs?|heart|mediastinum) (?:is|are)"
        r"(?! (?:possible|suspected|questioned|not (?:\w+ )?(?:excluded|ruled out)))",
    ),
}
"""Kind -> cues, as regular expressions on normalised text; kinds are tried in this order."""


def compile_cues() -> re.Pattern[str]:
    """One pattern with a named group per kind; a match consumes its text for all other kinds."""
    groups = (f"(?P<{kind}>{'|'.join(cues)})" for kind, cues in CUES.items())
    return re.compile(rf"(?<![\w])(?:{'|'.join(groups)})(?![\w])")


PHRASES: dict[str, tuple[str, ...]] = {
    # Subjects such as "the heart" with "enlarged" or "normal" are in SUBJECTS below.
    "Enlarged Cardiomediastinum": (
        r"mediastinal (?:widening|enlargement|prominence)",
        r"widening of the (?:\w+ )?mediastinum",
    ),
    "Cardiomegaly": (
        r"cardiomegal\w*",
        r"(?:cardiac|heart|biventricular|ventricular) enlargement",
        r"enlargement of (?:the )?(?:heart|cardiac)\w*",
        r"increased? (?:in )?(?:the )?(?:heart|cardiac) size",
    ),
    "Lung Lesion": (
        r"(?:micro)?nodul(?:es?|arit(?:y|ies))",
        r"nodular (?:\w+ )?(?:densit(?:y|ies)|opacit(?:y|ies)|opacifications?|lesions?)",
        r"mass(?:es)?(?! effect)",
        r"masslike",
        r"(?:cavitary|pulmonary|lung|parenchymal) lesions?",
        r"lesions? (?:\w+ ){0,3}in (?:\w+ ){1,2}(?:lungs?|lobes?|apex|apices)",
        r"cavitary \w+ lesions?",
        r"carcinomas?",
        r"neoplasms?",
        r"tumou?rs?",
        r"malignan(?:cy|cies)",
    ),
    "Lung Opacity": (
        r"opaci\w+",
        r"infiltrat\w+",
        r"air ?space (?:\w+ )?(?:disease|process|densit(?:y|ies))",
        r"(?:alveolar|interstitial) (?:disease|process|infiltrates?|densit(?:y|ies))",
        r"(?:increased|patchy|hazy|streaky|linear|focal|basilar) (?:\w+ )?densit(?:y|ies)",
        r"densit(?:y|ies) (?:in|at|within|over) (?:the )?(?:\w+ ){0,2}(?:lungs?|lobe|bases?)",
        r"(?:increased|prominent|coarse|coarsened|accentuated) (?:\w+ ){0,2}interstitial \w+",
        r"interstitial (?:markings|pattern|prominence) (?:is|are) (?:\w+ )?"
        r"(?:increased|prominent|coarse|coarsened)",
        r"interstitial prominence",
        r"prominence of the (?:\w+ )?interstiti\w+",
        r"reticul(?:ar|ation|onodular)\w*",
        r"ground glass",
        r"(?:hazy|haziness)",
    ),
    "Edema": (
        r"(?:o)?edema\w*",
        r"heart failure",
        r"chf",
        r"(?:vascular|pulmonary|venous) congestion",
        r"congestive (?:changes|failure)",
        r"congestion of the pulmonary \w+",
        r"(?:fluid|volume) overload",
    ),
    "Consolidation": (r"consolid\w+", r"consolod\w+"),
    "Pneumonia": (
        r"(?:broncho)?pn(?:eu|ue|e|u)monias?",
        r"pneumonic",
        r"infecti(?:on|ons|ous)",
    ),
    "Atelectasis": (
        r"(?:sub)?ate?lect\w+",
        r"(?:lung|lobar|lobe|(?:sub)?segmental|basal|basilar|partial|complete) (?:\w+ )?collapse",
        r"collapse of the (?:\w+ ){0,3}(?:lung|lobe|segment)",
        r"collapsed (?:\w+ ){0,2}(?:lung|lobe)",
    ),
    "Pneumothorax": (r"(?:hydro|ha?emo|tension )?pn(?:eu|ue|e|u)mothor\w+", r"ptx"),
    "Pleural Effusion": (
        r"eff?uss?ions?",
        r"pleural (?:\w+ )?fluid",
        r"fluid in the (?:\w+ ){0,2}pleural space",
        r"(?:hydro|ha?emo)(?:pneumo)?thorax",
    ),
    "Pleural Other": (
        r"pleural (?:\w+ ){0,2}(?:thickening|scar\w*|plaques?|calcifications?|fibrosis)",
        r"thickening of the (?:\w+ )?pleura",
        r"thickened (?:\w+ )?pleura",
        r"pleura (?:is|appears|remains) (?:\w+ ){0,2}thickened",
        r"pleuro ?parenchymal (?:\w+ )?(?:scar\w*|thickening)",
        r"fibrothorax",
        r"apical (?:pleural )?(?:thickening|capping|caps?)",
    ),
    "Fracture": (r"(?:micro)?fractur\w+", r"fx"),
    "Support Devices": (
        r"catheters?",
        r"(?:(?:chest|infusion|venous|power|medi) ?)?ports?",
        r"port (?:a )?cath\w*",
        r"portacath\w*",
        r"(?:medi|power)port\w*",
        r"picc",
        r"(?:central|venous|subclavian|jugular|ij|arterial|picc|dialysis|iv) (?:\w+ )?lines?",
        r"lines and tubes",
        r"line (?:placement|insertion|tip)",
        r"tubes?",
        r"intubated",
        r"tracheostomy",
        r"pace ?makers?",
        r"pacers?",
        r"pacing \w+",
        r"a?icd",
        r"defibrillators?",
        r"(?:pacer|pacemaker|cardiac|ventricular|atrial|icd|ekg|ecg|dual|single) leads?",
        r"leads",
        r"shunt (?:tubing|catheter)",
        r"tubing",
        r"(?:prosthetic|mechanical|artificial|replacement|aortic|mitral) (?:\w+ )?valves?"
        r"(?= replacement| prosthes| is seen| in place| present| noted|$)",
        r"(?:prosthetic|mechanical|artificial) (?:\w+ ){0,2}valves?",
        r"valve (?:replacement|prosthesis)",
        r"hardware",
        r"(?:surgical |pedicle )?screws?",
        r"(?:chest|pleural|pigtail|surgical) drains?",
        r"devices?",
        r"generator",
        r"stimulators?",
        r"loop recorder",
        r"balloon pump",
        r"cannulas?",
        r"stents?",
    ),
}
"""Observation -> what mentions it; the value comes from the cues around the mention."""

# A match that overlaps one of these is no mention.
NOT_MENTIONED: dict[str, tuple[str, ...]] = {
    "Lung Lesion": (
        r"(?:calcified|granulomatous) (?:\w+ ){0,3}(?:nodul\w+|mass(?:es)?)",
        r"nodul\w+ (?:\w+ ){0,2}calcifi\w+",
        r"(?:breast|mediastinal|body|muscle|soft tissue) mass(?:es)?",
        r"(?:bone|bony|osseous|lytic|blastic|sclerotic) (?:\w+ )?lesions?",
    ),
    "Lung Opacity": (
        r"opacified (?:bowel|colon)",
        r"(?:bone|calcific|calcified) (?:\w+ )?densit(?:y|ies)",
    ),
    "Edema": (
        r"(?:soft tissue|bowel wall|subcutaneous) edema",
        r"(?:nasal|sinus|chest) congestion",
    ),
    "Atelectasis": (r"vertebral (?:body )?collapse", r"collapsed vertebra\w*"),
    "Pleural Effusion": (r"(?:pericardial|joint|knee) effusions?",),
    "Pneumonia": (
        r"(?:granulomatous|prior|previous|old|remote) (?:\w+ ){0,2}infections?",
        r"infection control",
    ),
    "Fracture": (
        r"(?:wires?|leads?|screws?|catheters?|hardware|rods?) (?:\w+ ){0,3}fractur\w+",
        r"fractur\w+ (?:\w+ ){0,5}(?:wires?|leads?|screws?|catheters?|hardware|rods?)",
    ),
    "Support Devices": (r"(?:eustachian|fallopian) tubes?",),
}

SUBJECTS: dict[str, str] = {
    "Cardiomegaly": (
        r"(?:heart|cardiac (?:silhouettes?|shadow|contours?|size|outline|borders|diameter)|"
        r"cardiac(?= and mediastinal| , mediastinal|(?: and)? hilar)|"
        r"cardiothoracic ratio)"
        r"(?! (?:failure|borders? (?:is|are)|valves?|surgery|disease|transplant\w*|rate|attack))"
    ),
    "Enlarged Cardiomediastinum": (
        r"(?:cardio ?mediastin\w+|mediastinum|mediastinal)"
        r"(?! (?:mass|lymph|shift|drain|clips?|adenopathy|air|hematoma|fat|fluid|lipomatosis))"
    ),
}
"""Anatomy whose size is the observation: the attribute beside it decides."""

# "behind the heart" says where something else is.
SUBJECT_AS_PLACE = re.compile(
    r"(?:behind|over|overlying|overlies|obscur\w+|posterior to|anterior to|adjacent to|along|near|"
    r"in|within|into|through|beneath|superimposed on|projecting over|left|right) (?:the |of the )?$"
)

ENLARGED = (
    r"(?:(?:is|are|has|have|appears?) (?:\w+ )?increased|enlarged|enlargement|widened|widening|"
    r"increased in size|dilated|prominence|globular|broad\w*|abnormally \w+|"
    r"(?:above|beyond|exceeds?|(?:greater|larger|more) than) (?:the )?normal|"
    r"(?:large|larger|prominent|big|generous|wide)"
    r"(?= (?:in|and|with|but|for|than|,|compared|heart|cardiac|mediast\w+)|$))"
)
NORMAL = r"(?:normal\w*|unremarkable|wnl|(?:upper|top|high)(?: limits?)?(?: of)? normal|nonenlarged)"
BORDERLINE = r"(?:borderline|(?:upper|top)(?: limits?)?(?: of)? normal (?:to|or) (?:\w+ ){0,2}enlarged)"

BLOCKERS: tuple[str, ...] = (
    r"(?:pulmonary |subcutaneous |bullous )?emphysem\w+",
    r"copd",
    r"obstructive (?:\w+ )?disease",
    r"hyper ?(?:inflat|expan|lucen|disten)\w+",
    r"(?:large|high|increased) lung volumes",
    r"lung volumes (?:are|is) (?:\w+ )?(?:large|high|increased)",
    r"bull(?:ae|ous|a)",
    r"blunt\w+",
    r"elevat\w+ (?:of )?(?:the )?(?:\w+ )?(?:hemi)?diaphragm",
    r"(?:hemi)?diaphragm (?:is |remains )?(?:\w+ )?elevat\w+",
    r"eventration",
    r"flatten\w+ (?:of )?(?:the )?(?:\w+ )?(?:hemi)?diaphragms?",
    r"scolio\w+",
    r"kypho\w+",
    r"degenera\w+",
    r"spondyl\w+",
    r"osteophyt\w+",
    r"arthr(?:itis|itic|opathy|osis)",
    r"osteopeni\w+",
    r"osteopor\w+",
    r"deformit(?:y|ies)",
    r"calcifi\w+",
    r"granulom\w+",
    r"atheroscl\w+",
    r"tortuo\w+",
    r"ectas\w+|ectatic",
    r"aneurysm\w*",
    r"(?:hiatal |diaphragmatic )?hernia\w*",
    r"pneumo(?:mediastinum|peritoneum|pericardium)",
    r"free (?:intraperitoneal )?air",
    r"bronchi(?:tis|ectasis|olitis)\w*",
    r"bronchiectatic",
    r"(?:peribronchial|bronchial wall) (?:cuffing|thickening)",
    r"cephalization",
    r"aspiration",
    r"thicken\w+",
    r"scar(?:s|ring)?",
    r"fibro(?:sis|tic)",
    r"volume loss",
    r"adenopathy|lymphadenopathy",
    r"metasta\w+",
    r"h(?:a)?ematoma",
    r"contusion",
    r"(?:pericardial) effusion",
    r"dislocat\w+",
    r"foreign body",
    r"pneumonectomy|lobectomy|mastectomy",
)
"""Not one of the 14 observations, but a report with one of them is not "No Finding"."""
