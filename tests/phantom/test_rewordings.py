"""The labeler on PhantomCXR's findings in 98 wordings that neither phantom nor rules were written with."""

from dataclasses import replace

import numpy as np

from emrrg_lib.evaluation.clinical import label_codes
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.phantom.catalogue import draw_findings
from emrrg_lib.phantom.wording import WORDS, compose

POSITIVE = {
    "cardiomegaly": (
        "Cardiac size is {grade}ly above normal.",
        "The transverse diameter of the heart is increased.",
        "Again seen is an enlarged heart.",
        "{Grade} cardiac enlargement, unchanged.",
        "The cardiothoracic ratio is abnormally large with {grade} cardiomegaly.",
    ),
    "mediastinum": (
        "The superior mediastinum looks broad and widened.",
        "Mediastinal widening is evident.",
        "The upper mediastinal shadow is abnormally wide.",
        "There is a widened mediastinal silhouette.",
    ),
    "nodule": (
        "A discrete {what} lies within the {lobe}.",
        "The {lobe} contains a solitary {what}.",
        "Round {lobar} {what}, new since the prior study.",
        "Incidental {what} of the {lobe}.",
    ),
    "opacity": (
        "Ill defined density compatible with infiltrate in the {zone}.",
        "Airspace opacification of the {zone}.",
        "New hazy opacification is evident at the {zone}.",
        "Infiltrate at the {zone}.",
        "Ground glass opacity has developed in the {zone}.",
    ),
    "edema": (
        "Bilateral perihilar haze compatible with pulmonary edema.",
        "{Grade} fluid overload with pulmonary edema.",
        "Interstitial edema has developed.",
        "Cephalization and {grade} edema are noted.",
    ),
    "consolidation": (
        "The {lobe} is consolidated.",
        "Airspace consolidation fills the {lobe}.",
        "Dense {lobar} consolidation persists.",
        "Consolidated lung is seen in the {lobe}.",
    ),
    "atelectasis": (
        "Plate like atelectasis on the {side} at the base.",
        "{Side} basal subsegmental collapse.",
        "Linear atelectatic change at the {side} base.",
        "There is some {side} basilar volume loss and atelectasis.",
    ),
    "pneumothorax": (
        "Visceral pleural line on the {side} indicating a {size} pneumothorax.",
        "{Size} {side}-sided pneumothorax persists.",
        "Pneumothorax of {size} size on the {side}.",
        "The {side} lung is partly collapsed by a {size} pneumothorax.",
    ),
    "effusion": (
        "{Size} pleural {effusion} along the costophrenic sulcus on {the_side}.",
        "Pleural fluid of {size} amount on {the_side}.",
        "{Size} {side} {effusion}, stable.",
        "Persistent {side} {effusion}.",
    ),
    "pleural thickening": (
        "Thickened pleura at the {side} {where} margin.",
        "The {side} pleura is thickened.",
        "Chronic {side} pleural scarring with thickening.",
    ),
    "fracture": (
        "Fractured {side} {part} rib.",
        "The {side} {part} rib is fractured.",
        "Rib fracture on the {side}, displaced.",
        "Fracture deformity of a {side} {part} rib.",
    ),
    "hyperinflation": (
        "Lung volumes are large.",
        "Flattened diaphragms suggest hyperinflation.",
        "Emphysema.",
    ),
    "pacemaker": (
        "Pacing leads and generator on the {side}.",
        "{Side} subclavian pacer with intact leads.",
        "Implanted cardiac device, {side} chest.",
        "{Side} ICD is seen.",
    ),
    "catheter": (
        "{Side} IJ line ends in the SVC.",
        "Tip of the {side} central catheter overlies the SVC.",
        "{Side} PICC line in standard position.",
    ),
    "port catheter": (
        "Implanted port on the {side} with its tip at the cavoatrial junction.",
        "Port-a-cath on the {side}.",
        "{Side} infusion port, unchanged.",
    ),
    "tube": (
        "ET tube is 4 cm above the carina.",
        "The patient remains intubated, with the endotracheal tube unchanged.",
        "Endotracheal tube in satisfactory position.",
    ),
}
UNCERTAIN = (
    "{Phrase} is suspected.",
    "Questionable {phrase}.",
    "This could reflect {phrase}.",
    "Equivocal {phrase}.",
    "{Phrase} is possible.",
    "It is difficult to exclude {phrase}.",
    "Findings raise the possibility of {phrase}.",
    "{Phrase} is not excluded.",
    "{Phrase} may be present.",
    "Suspected {phrase}.",
)
NORMAL = {
    "heart": (
        "The heart is not enlarged.",
        "Cardiac size is unremarkable.",
        "Heart is of normal caliber and size.",
        "There is no enlargement of the heart.",
        "Normal cardiac silhouette.",
    ),
    "mediastinum": (
        "No widening of the mediastinum.",
        "Mediastinal contour is normal.",
        "The mediastinum is within normal limits.",
        "The mediastinum is not enlarged.",
    ),
    "both": (
        "The cardiac and mediastinal contours are normal.",
        "Heart size and mediastinal contour within normal limits.",
        "Cardiac and mediastinal silhouettes are unremarkable.",
    ),
    "lungs": (
        "Both lungs are well aerated.",
        "The lungs are free of disease.",
        "Lung fields are clear.",
    ),
    "bones": (
        "The ribs are intact.",
        "Bony thorax is unremarkable.",
        "No bony abnormality.",
        "Osseous structures show nothing acute.",
    ),
}
DENIAL = (
    "Free of {what}.",
    "No {what} can be detected.",
    "There are no signs of {what}.",
    "No convincing {what}.",
    "The study shows no {what}.",
    "Without {what}.",
    "No radiographic evidence of {what}.",
    "Absence of {what}.",
)


def test_other_wordings_are_labelled_as_meant():
    words = replace(
        WORDS, positive=POSITIVE, uncertain=UNCERTAIN, denial=DENIAL, normal=WORDS.normal | NORMAL, skew=0.3
    )
    rng = np.random.default_rng(5)
    reports, meant = zip(*(compose(draw_findings(rng), rng, words) for _ in range(600)), strict=True)
    meant, read = label_codes(meant), label_codes([label_report(report) for report in reports])
    named = (meant != -2) | (read != -2)
    assert (meant == read)[named].mean() >= 0.97
    for value in (1, 0, -1):  # each value is a class of its own
        both = ((meant == value) & (read == value)).sum()
        assert 2 * both / ((meant == value).sum() + (read == value).sum()) >= 0.97, value
