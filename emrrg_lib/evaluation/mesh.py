"""MeSH tags of the Indiana University reports as CheXpert observations.

People indexed every IU report with MeSH terms such as ``Opacity/lung/base/left``; mapped to the
observations they check the rule labeler. It is agreement, not accuracy: the indexers tagged what a
report mentions as present or likely, and have no tag for "negated".
"""

from __future__ import annotations

HEADINGS: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("Cardiomegaly",), "nodule": ("Lung Lesion",), "mass": ("Lung Lesion",),
    "opacity": ("Lung Opacity",), "infiltrate": ("Lung Opacity",), "airspace disease": ("Lung Opacity",),
    "pulmonary edema": ("Edema",), "pulmonary congestion": ("Edema",), "heart failure": ("Edema",),
    "consolidation": ("Consolidation",), "pneumonia": ("Pneumonia",),
    "pulmonary atelectasis": ("Atelectasis",), "pneumothorax": ("Pneumothorax",),
    "hydropneumothorax": ("Pneumothorax", "Pleural Effusion"),
    "hemopneumothorax": ("Pneumothorax", "Pleural Effusion"),
    "hemothorax": ("Pleural Effusion",), "pleural effusion": ("Pleural Effusion",),
    "fractures, bone": ("Fracture",), "catheters, indwelling": ("Support Devices",),
    "implanted medical device": ("Support Devices",), "medical device": ("Support Devices",),
    "stents": ("Support Devices",), "tube, inserted": ("Support Devices",),
}
"""Main heading -> observations."""

QUALIFIED: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (frozenset({"thickening"}), frozenset({"pleura"}), "Pleural Other"),
    (frozenset({"cardiac shadow", "heart"}), frozenset({"enlarged"}), "Cardiomegaly"),
    (frozenset({"mediastinum"}), frozenset({"enlarged", "prominent", "widened"}),
     "Enlarged Cardiomediastinum"),
)
"""Main headings that need one of these qualifiers, and the observation they then are."""


def mesh_observations(tags: str) -> set[str]:
    """Observations that a report's MeSH tags name.

    Args:
        tags: semicolon-separated terms, each a main heading and qualifiers joined by slashes, as in
            the ``MeSH`` column of the Kaggle CSV.

    Returns:
        Names of CheXpert observations without "No Finding" (its tag is ``normal``).
    """
    found: set[str] = set()
    for term in tags.lower().split(";"):
        heading, *qualifiers = (part.strip() for part in term.split("/"))
        found.update(HEADINGS.get(heading, ()))
        for headings, needed, observation in QUALIFIED:
            if heading in headings and needed.intersection(qualifiers):
                found.add(observation)
    return found
