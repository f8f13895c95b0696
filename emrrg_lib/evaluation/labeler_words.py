"""Phrase tables of the report labeler: what names each of the 14 CheXpert observations.

Every entry is a regular expression on normalised text (lower case, single spaces, hyphens and
slashes between words written out, see :func:`emrrg_lib.evaluation.labeler_clauses.normalise`). The tables
are modelled on the documented lists of the CheXpert labeler (Irvin et al. 2019) and written anew;
where they differ on purpose, a comment says so.
"""

from __future__ import annotations

import re

PHRASES: dict[str, tuple[str, ...]] = {
    # Subjects such as "the heart" with "enlarged" or "normal" are in SUBJECTS below.
    "Enlarged Cardiomediastinum": (
        r"mediastinal (?:widening|enlargement|prominence|fullness)",
        r"(?:widening|fullness) of the (?:\w+ )?mediastinum",
    ),
    "Cardiomegaly": (
        r"cardiomegal\w*",
        r"(?:cardiac|heart|biventricular|ventricular) (?:enlargement|prominence|dilat(?:at)?ion)",
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
        r"\w*carcinomas?|neoplasms?|tumou?rs?|malignan(?:cy|cies)|cancers?",
        r"cavit(?:y|ies|ations?)|cavitat(?:ing|ed)",
        r"(?:pulmonary|lung|parenchymal) metasta\w+",
        r"metasta\w+ (?:\w+ ){0,3}(?:lungs?|pulmonary)",
        r"coin lesions?",
    ),
    "Lung Opacity": (
        r"opaci\w+",
        r"infiltrat\w+",
        r"air ?space (?:\w+ )?(?:disease|process(?:es)?|densit(?:y|ies))",
        r"(?:alveolar|interstitial) (?:lung )?(?:disease|process|infiltrates?|densit(?:y|ies)|thickening)",
        r"white ?out",
        r"(?:increased|patchy|hazy|streaky|linear|focal|basilar|vague|faint|retrocardiac) (?:\w+ "
        r")?densit(?:y|ies)",
        r"densit(?:y|ies) (?:in|at|within|over) (?:the )?(?:\w+ ){0,2}(?:lungs?|lobe|bases?|apex|apices|"
        r"lingula)",
        r"(?:increased|prominent|coarse|coarsened|accentuated) (?:\w+ ){0,2}interstitial \w+|"
        r"chronic interstitial \w+",
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
        r"congestion|(?:vascular|pulmonary|venous) engorgement",
        r"(?:vessels|vascul\w+) (?:is|are|appears?|remains?) (?:\w+ )?(?:engorged|congested)",
        r"(?:engorged|congested) (?:\w+ )?(?:vessels|vascul\w+)",
        r"congestive (?:changes|failure)",
        r"congestion of the pulmonary \w+",
        r"(?:fluid|volume) overload",
    ),
    "Consolidation": (r"consolid\w+", r"consolod\w+"),
    "Pneumonia": (
        r"(?:broncho)?pn(?:eu|ue|e|u)monias?",
        r"pneumonic|pna",
        r"infect(?:ions?|ious|ed)",
    ),
    "Atelectasis": (
        r"(?:sub)?ate?lect\w+",
        r"(?:lung|lobar|lobe|(?:sub)?segmental|basal|basilar|partial|complete) collapse",
        r"collapse",
        r"collapsed (?:\w+ ){0,2}(?:lung|lobe)",
        r"(?:lungs?|lobes?|lingula) (?:is|are|has|have|remains?|appears?) (?:\w+ )?collapsed",
    ),
    "Pneumothorax": (r"(?:hydro|ha?emo|tension )?pn(?:eu|ue|e|u)mothor\w+", r"ptx"),
    "Pleural Effusion": (
        r"eff?uss?ions?",
        r"pleural (?:\w+ )?fluid|(?:loculated|layering) (?:\w+ )?fluid",
        r"fluid (?:\w+ ){0,2}in the (?:\w+ ){0,2}pleural space",
        r"(?:hydro|ha?emo)(?:pneumo)?thora(?:x|ces)",
    ),
    "Pleural Other": (
        r"pleural (?:\w+ ){0,2}(?:thickening|scar\w*|plaques?|calcifications?|fibrosis)",
        r"thickening of the (?:\w+ )?pleura",
        r"thickened (?:\w+ )?pleura",
        r"pleura (?:\w+ ){0,3}thicken(?:ed|ing)",
        r"pleuro ?parenchymal (?:\w+ )?(?:scar\w*|thickening)",
        r"fibrothorax",
        r"(?:fissural|fissure) thickening",
        r"(?:bi)?apical (?:pleural )?(?:thickening|capping|caps?)",
    ),
    "Fracture": (r"(?:micro)?fractur\w+", r"fx", r"broken (?:\w+ ){0,3}(?:ribs?|clavicles?|bones?|humerus)"),
    "Support Devices": (
        r"catheters?|cannulas?|(?:vas|perm|perma)cath\w*|hickman|broviac|quinton|cordis|introducers?",
        r"(?:(?:chest|infus\w+|venous|power|medi) ?)?ports?|port (?:a )?cath\w*|portacath\w*|(?:medi|"
        r"power)port\w*",
        r"piccs?|cvcs?|cvl|ett|ngt|ogt",
        r"(?:central|venous|subclavian|jugular|ij|arterial|picc|dialysis|iv|swan) (?:\w+ )?lines?",
        r"(?:right|left) (?:ij|internal jugular|subclavian)(?= (?:in place|terminat\w+|ends|tip|is|"
        r"remains|with)(?!\w))",
        r"(?<!b )(?<!lung )(?<!suture )lines",
        r"line(?= (?:is|has|was|tip|remains|ends|terminates|in place|removal|placement|insertion)(?!\w))",
        r"(?:the|this|possible|new) line(?! (?:of|between))",
        r"tubes?|tubing|intubated|dobb?hoff\w*|tracheostomy|trach",
        r"swan(?: ganz)?|swanganz|iabp|impella|ecmo|[lr]?vad|balloon pump",
        r"pace ?makers?|pacers?|pacing \w+|a?icds?|defibrillators?|loop recorder",
        r"(?:pacer|pacemaker|cardiac|ventricular|atrial|icd|ekg|ecg|dual|single) leads?|leads?(?= "
        r"fractur)|leads",
        r"shunt (?:tubing|catheter)|(?:vp|ventriculoperitoneal) shunt",
        r"(?:prosthetic|mechanical|artificial|replacement|aortic|mitral) (?:\w+ )?valves?"
        r"(?= replacement| prosthes| is seen| in place| present| noted|$)",
        r"(?:prosthetic|mechanical|artificial) (?:\w+ ){0,2}valves?",
        r"valve (?:replacement|prosthesis)|tavr|tavi|annuloplasty",
        r"hardware|(?:surgical |pedicle )?screws?|(?:fusion|fixation) (?:plates?|rods?)",
        r"(?:chest|pleural|pigtail|surgical|mediastinal) drains?|drain|drains(?! (?:the|into|from))|pigtail",
        # a masked word with a tip is a line or a port
        r"xxxx a xxxx(?= (?:xxxx )?(?:tip|in|is|has|remains?|with|terminat\w+|projects|ends)(?!\w))|"
        r"(?:chest|sided) xxxx(?= (?:\w+ ){0,6}(?:tip|svc)(?!\w))|(?:humer\w+|shoulder) (?:\w+ )?"
        r"prosthes[ie]s|(?:hemi)?arthroplast(?:y|ies)",
        r"devices?|generator|(?:neuro)?stimulators?|stents?|occluders?|tips shunt|bone anchors?|(?:lap|"
        r"gastric) bands?|(?:ivc|cava\w*) filters?",
    ),
}
"""Observation -> what mentions it; the value comes from the cues around the mention."""

_PART = r"(?:wires?|clips?|leads?|screws?|catheters?|hardware|rods?|plates?|sternotomy|cerclage|stents?)"
_WITHIN = r"(?!(?:and|with|no|ribs?|over\w*|near|adjacent|clavic\w+|but|which|there)\b)\w+"
# A match that overlaps one of these is no mention.
NOT_MENTIONED: dict[str, tuple[str, ...]] = {
    "Lung Lesion": (
        r"(?:calcified|granulomatous) (?:\w+ ){0,3}(?:nodul\w+|mass(?:es)?)",
        r"nodul\w+ (?:\w+ ){0,2}calcifi\w+",
        r"(?:breast|mediastinal|body|muscle|soft tissue) (?:mass(?:es)?|cancers?|carcinomas?)",
        r"(?:cardiac|abdominal|thoracic|pleural|chest|oral|peritoneal) cavit\w+|cancer (?:screening|staging)",
        r"(?:bone|bony|osseous|lytic|blastic|sclerotic) (?:\w+ )?lesions?",
    ),
    "Lung Opacity": (
        r"opacified (?:bowel|colon)",
        r"(?:bone|calcific|calcified) (?:\w+ )?densit(?:y|ies)",
    ),
    "Edema": (
        r"(?:soft tissue|bowel wall|subcutaneous) edema",
        r"(?:nasal|sinus|chest|hepatic|passive) congestion",
    ),
    "Atelectasis": (
        r"(?:vertebra\w*|tracheal|body) collapse|collapse of (?:the |a )?(?:\w+ ){0,2}(?:vertebra\w*|"
        r"trachea)",
        r"collapsed vertebra\w*",
    ),
    "Pleural Effusion": (r"(?:pericardial|joint|knee) effusions?",),
    "Pneumonia": (
        r"(?:granulomatous|prior|previous|old|remote) (?:\w+ ){0,2}infections?",
        r"infection control",
    ),
    "Fracture": (
        # a broken wire or clip, also where the word is masked ("sternotomy XXXX")
        rf"{_PART}(?: {_WITHIN}){{0,5}} fractur\w+",
        rf"fractur\w+(?: {_WITHIN}){{0,5}} {_PART}",
    ),
    "Support Devices": (
        r"(?:eustachian|fallopian) tubes?|(?:fracture|pleural|fissure|skin) lines?|(?:kerley|septal) "
        r"(?:[ab] )?lines",
    ),
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
    r"aspiration|pneumonitis",
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
    r"hil(?:ar|um) (?:prominence|fullness|enlargement)|(?:enlarged|prominent|full) (?:\w+ )?hil(?:a|ar|um)",
    r"hil(?:a|um) (?:is|are|appears?) (?:\w+ )?(?:enlarged|prominent|full)",
    r"cysts?|cystic|blebs?|pneumatoceles?|abscess(?:es)?|empyema|tubercul\w+|sarcoid\w*|lymphoma|"
    r"mesothelioma",
    r"mediastinal shift|shift of the mediastinum|deviat\w+|pectus|goit(?:er|re)|dextrocardia",
    r"pulmonary (?:arterial )?hypertension|(?:enlarged|dilated) (?:\w+ )?pulmonary arter(?:y|ies)",
    r"air trapping|subcutaneous (?:air|gas)|kerley|loss of (?:\w+ )?height|wedg(?:ed|ing)",
    r"(?:lytic|blastic|sclerotic|bony|osseous|bone) (?:\w+ )?lesions?|(?:mediastinal|breast|soft tissue) "
    r"mass(?:es)?",
)
"""Not one of the 14 observations, but a report with one of them is not "No Finding"."""

MIMICS: tuple[str, ...] = (
    r"skin ?folds?|(?:nipple |summation |overlapping )?shadows?|(?:overlapping )?vessels?|(?:motion "
    r")?artifacts?|"
    r"(?:vascular )?grooves?|bowel|infarct\w*|ha?emorrhage|summation|technique",
)
"""What an opacity may be instead: "nodule or nipple shadow" leaves the nodule open."""

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
