"""Phrase tables of the report labeler: what names each of the 14 CheXpert observations.

Every entry is a regular expression on normalised text (lower case, single spaces, hyphens and
slashes between words written out, see :func:`emrrg_lib.evaluation.labeler.normalise`). The tables
are modelled on the documented lists of the CheXpert labeler (Irvin et al. 2019) and written anew;
where they differ on purpose, a comment says so.
"""

from __future__ import annotations

import re

PHRASES: dict[str, tuple[str, ...]] = {
    # Subjects such as "the heart" with "enlarged" or "normal" are in SUBJECTS below.
    "Enlarged Cardiomediastinum": (
        r"mediastinal (?:widening|enlargement|prominence)", r"widening of the (?:\w+ )?mediastinum",
    ),
    "Cardiomegaly": (
        r"cardiomegal\w*", r"(?:cardiac|heart|biventricular|ventricular) enlargement",
        r"enlargement of (?:the )?(?:heart|cardiac)\w*",
        r"increased? (?:in )?(?:the )?(?:heart|cardiac) size",
    ),
    "Lung Lesion": (
        r"(?:micro)?nodul(?:es?|arit(?:y|ies))",
        r"nodular (?:\w+ )?(?:densit(?:y|ies)|opacit(?:y|ies)|opacifications?|lesions?)",
        r"mass(?:es)?(?! effect)", r"masslike", r"(?:cavitary|pulmonary|lung|parenchymal) lesions?",
        r"lesions? (?:\w+ ){0,3}in (?:\w+ ){1,2}(?:lungs?|lobes?|apex|apices)",
        r"cavitary \w+ lesions?", r"carcinomas?", r"neoplasms?", r"tumou?rs?", r"malignan(?:cy|cies)",
    ),
    "Lung Opacity": (
        r"opaci\w+", r"infiltrat\w+", r"air ?space (?:\w+ )?(?:disease|process|densit(?:y|ies))",
        r"(?:alveolar|interstitial) (?:disease|process|infiltrates?|densit(?:y|ies))",
        r"(?:increased|patchy|hazy|streaky|linear|focal|basilar) (?:\w+ )?densit(?:y|ies)",
        r"densit(?:y|ies) (?:in|at|within|over) (?:the )?(?:\w+ ){0,2}(?:lungs?|lobe|bases?)",
        r"(?:increased|prominent|coarse|coarsened|accentuated) (?:\w+ ){0,2}interstitial \w+",
        r"interstitial (?:markings|pattern|prominence) (?:is|are) (?:\w+ )?"
        r"(?:increased|prominent|coarse|coarsened)", r"interstitial prominence",
        r"prominence of the (?:\w+ )?interstiti\w+", r"reticul(?:ar|ation|onodular)\w*", r"ground glass",
        r"(?:hazy|haziness)",
    ),
    "Edema": (
        r"(?:o)?edema\w*", r"heart failure", r"chf", r"(?:vascular|pulmonary|venous) congestion",
        r"congestive (?:changes|failure)", r"congestion of the pulmonary \w+", r"(?:fluid|volume) overload",
    ),
    "Consolidation": (r"consolid\w+", r"consolod\w+"),
    "Pneumonia": (
        r"(?:broncho)?pn(?:eu|ue|e|u)monias?", r"pneumonic", r"infecti(?:on|ons|ous)",
    ),
    "Atelectasis": (
        r"(?:sub)?ate?lect\w+",
        r"(?:lung|lobar|lobe|(?:sub)?segmental|basal|basilar|partial|complete) (?:\w+ )?collapse",
        r"collapse of the (?:\w+ ){0,3}(?:lung|lobe|segment)", r"collapsed (?:\w+ ){0,2}(?:lung|lobe)",
    ),
    "Pneumothorax": (r"(?:hydro|ha?emo|tension )?pn(?:eu|ue|e|u)mothor\w+", r"ptx"),
    "Pleural Effusion": (
        r"eff?uss?ions?", r"pleural (?:\w+ )?fluid", r"fluid in the (?:\w+ ){0,2}pleural space",
        r"(?:hydro|ha?emo)(?:pneumo)?thorax",
    ),
    "Pleural Other": (
        r"pleural (?:\w+ ){0,2}(?:thickening|scar\w*|plaques?|calcifications?|fibrosis)",
        r"thickening of the (?:\w+ )?pleura", r"thickened (?:\w+ )?pleura",
        r"pleura (?:is|appears|remains) (?:\w+ ){0,2}thickened",
        r"pleuro ?parenchymal (?:\w+ )?(?:scar\w*|thickening)", r"fibrothorax",
        r"apical (?:pleural )?(?:thickening|capping|caps?)",
    ),
    "Fracture": (r"(?:micro)?fractur\w+", r"fx"),
    "Support Devices": (
        r"catheters?", r"(?:(?:chest|infusion|venous|power|medi) ?)?ports?", r"port (?:a )?cath\w*",
        r"portacath\w*", r"(?:medi|power)port\w*", r"picc",
        r"(?:central|venous|subclavian|jugular|ij|arterial|picc|dialysis|iv) (?:\w+ )?lines?",
        r"lines and tubes", r"line (?:placement|insertion|tip)",
        r"tubes?", r"intubated", r"tracheostomy", r"pace ?makers?", r"pacers?", r"pacing \w+",
        r"a?icd", r"defibrillators?",
        r"(?:pacer|pacemaker|cardiac|ventricular|atrial|icd|ekg|ecg|dual|single) leads?", r"leads",
        r"shunt (?:tubing|catheter)", r"tubing",
        r"(?:prosthetic|mechanical|artificial|replacement|aortic|mitral) (?:\w+ )?valves?"
        r"(?= replacement| prosthes| is seen| in place| present| noted|$)",
        r"(?:prosthetic|mechanical|artificial) (?:\w+ ){0,2}valves?", r"valve (?:replacement|prosthesis)",
        r"hardware", r"(?:surgical |pedicle )?screws?", r"(?:chest|pleural|pigtail|surgical) drains?",
        r"devices?", r"generator", r"stimulators?", r"loop recorder", r"balloon pump", r"cannulas?",
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
        r"opacified (?:bowel|colon)", r"(?:bone|calcific|calcified) (?:\w+ )?densit(?:y|ies)",
    ),
    "Edema": (
        r"(?:soft tissue|bowel wall|subcutaneous) edema", r"(?:nasal|sinus|chest) congestion",
    ),
    "Atelectasis": (r"vertebral (?:body )?collapse", r"collapsed vertebra\w*"),
    "Pleural Effusion": (r"(?:pericardial|joint|knee) effusions?",),
    "Pneumonia": (
        r"(?:granulomatous|prior|previous|old|remote) (?:\w+ ){0,2}infections?", r"infection control",
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
NORMAL = (
    r"(?:normal\w*|unremarkable|wnl|(?:upper|top|high)(?: limits?)?(?: of)? normal|nonenlarged)"
)
BORDERLINE = (
    r"(?:borderline|(?:upper|top)(?: limits?)?(?: of)? normal (?:to|or) (?:\w+ ){0,2}enlarged)"
)

BLOCKERS: tuple[str, ...] = (
    r"(?:pulmonary |subcutaneous |bullous )?emphysem\w+", r"copd", r"obstructive (?:\w+ )?disease",
    r"hyper ?(?:inflat|expan|lucen|disten)\w+", r"(?:large|high|increased) lung volumes",
    r"lung volumes (?:are|is) (?:\w+ )?(?:large|high|increased)", r"bull(?:ae|ous|a)", r"blunt\w+",
    r"elevat\w+ (?:of )?(?:the )?(?:\w+ )?(?:hemi)?diaphragm",
    r"(?:hemi)?diaphragm (?:is |remains )?(?:\w+ )?elevat\w+", r"eventration",
    r"flatten\w+ (?:of )?(?:the )?(?:\w+ )?(?:hemi)?diaphragms?", r"scolio\w+", r"kypho\w+", r"degenera\w+",
    r"spondyl\w+", r"osteophyt\w+", r"arthr(?:itis|itic|opathy|osis)", r"osteopeni\w+", r"osteopor\w+",
    r"deformit(?:y|ies)", r"calcifi\w+", r"granulom\w+", r"atheroscl\w+", r"tortuo\w+", r"ectas\w+|ectatic",
    r"aneurysm\w*", r"(?:hiatal |diaphragmatic )?hernia\w*", r"pneumo(?:mediastinum|peritoneum|pericardium)",
    r"free (?:intraperitoneal )?air", r"bronchi(?:tis|ectasis|olitis)\w*", r"bronchiectatic",
    r"(?:peribronchial|bronchial wall) (?:cuffing|thickening)", r"cephalization", r"aspiration",
    r"thicken\w+", r"scar(?:s|ring)?", r"fibro(?:sis|tic)", r"volume loss", r"adenopathy|lymphadenopathy",
    r"metasta\w+", r"h(?:a)?ematoma", r"contusion", r"(?:pericardial) effusion", r"dislocat\w+",
    r"foreign body", r"pneumonectomy|lobectomy|mastectomy",
)
"""Not one of the 14 observations, but a report with one of them is not "No Finding"."""
