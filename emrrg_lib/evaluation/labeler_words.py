"""Phrases of the report labeler: what names each of the 14 CheXpert observations.

`labeler_words.txt` has the plain ones, a phrase a line. Every entry is a regular expression on text that
:func:`emrrg_lib.evaluation.labeler_clauses.normalise` has made: lower case, single spaces, hyphens and
slashes between words written out.
"""

from __future__ import annotations

import re
from pathlib import Path

from emrrg_lib.data.study import OBSERVATIONS


def _read() -> dict[str, list[str]]:
    """Heading -> the phrases below it; a heading ends with a colon, # begins a remark."""
    found: dict[str, list[str]] = {}
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        if line.endswith(":"):
            heading = line.removesuffix(":")
        elif line and not line.startswith("#"):
            found.setdefault(heading, []).append(line)
    return found


_FOUND = _read()
PHRASES = {name: _FOUND[name] for name in OBSERVATIONS[1:]}
"""Observation -> what mentions it; the value comes from the cues around the mention."""

NOT_MENTIONED = {name: _FOUND[f"not {name}"] for name in PHRASES if f"not {name}" in _FOUND}
"""Observation -> a match that overlaps one of these is no mention."""

# a broken wire or clip breaks no bone, also where its word is masked ("sternotomy XXXX")
_PART = r"(?:wires?|clips?|leads?|screws?|catheters?|hardware|rods?|plates?|sternotomy|cerclage|stents?)"
_WITHIN = r"(?!(?:and|with|no|ribs?|over\w*|near|adjacent|clavic\w+|but|which|there)\b)\w+"
NOT_MENTIONED["Fracture"] = [
    rf"{_PART}(?: {_WITHIN}){{0,5}} fractur\w+",
    rf"fractur\w+(?: {_WITHIN}){{0,5}} {_PART}",
]
BLOCKERS = _FOUND["other disease"]
"""Not one of the 14 observations, but a report with one of them is not "No Finding"."""

MIMICS = _FOUND["mimic"]
"""What an opacity may be instead: "nodule or nipple shadow" leaves the nodule open."""

SUBJECTS: dict[str, str] = {
    "Cardiomegaly": (
        r"(?:heart|cardiac (?:silhouettes?|shadow|contours?|size|outline|borders|diameter)|"
        r"cardiac(?= and mediastinal| , mediastinal|(?: and)? hilar)|"
        r"cardiothoracic ratio)"
        r"(?! (?:failure|borders? (?:is|are)|valves?|surgery|disease|transplant\w*|rate|attack))"
    ),
    "Enlarged Cardiomediastinum": (
        r"(?:cardio ?mediastin\w+|mediastinum|mediastinal)"
        r"(?! (?:mass|calcif\w+|lymph|shift|drain|clips?|adenopathy|air|hematoma|fat|fluid|lipomatosis))"
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
    r"(?= (?:in|and|with|but|for|than|,|no|compared|heart|cardiac|mediast\w+)|$))"
)
# "normal lungs , heart and mediastinum": one attribute for all
ORGANS = frozenset(
    ", and or the heart cardiac mediastinum mediastinal lungs lung hila hilar pleura vessels vascularity "
    "vasculature bones bony thorax contours contour silhouette size aorta trachea diaphragm "
    "appearance of configuration".split()
)
NORMAL = (
    r"(?:normal\w*|unremarkable|wnl|(?:upper|top|high)(?: limits?)?(?: of)? normal|nonenlarged|"
    r"(?:shows?|demonstrates?|has|have) no (?:\w+ )?abnormalit(?:y|ies))"
)
BORDERLINE = r"(?:borderline|(?:upper|top)(?: limits?)?(?: of)? normal (?:to|or) (?:\w+ ){0,2}enlarged)"

_PARTS = (
    r"(?:tips?|ends?|course|position\w*|side ?port|terminus|termination|distal \w+|portion|kink\w*|fracture|"
    r"break|mal ?position\w*|migration|discontinuit\w+|complications?)"
)
PART_BEFORE = re.compile(rf"(?<!\w){_PARTS} (?:of|in|from|with) (?:the |this |a )?(?:\w+ ){{0,3}}$")
PART_AFTER = re.compile(rf" (?:\w+ )?{_PARTS}(?!\w)| fractur\w+")
# "no pneumothorax related to the line": the preposition says that the line is there
ABOUT_DEVICE = re.compile(
    r"(?<!evidence )(?<!signs )(?<!sign )(?<!presence )(?<!type )(?<!kind )(?<!indication )"
    r"(?<!\w)(?:of|from|with|to|in|related|near|around|by|for|along|at|since)(?!\w)"
)
IN_PLACE = re.compile(
    r" (?:\w+ ){0,5}?(?:in (?:\w+ ){0,2}(?:place|position|location)|terminat\w+|ends?|unchanged|remains?|tip|"
    r"projects?|overl\w+|courses?|extends?|stable|again)(?!\w)"
)
"""What is said of a device that is there."""
