"""The word of a report that names an observation, and the tokens that spell it.

A picture or the pointing game asks where the model looks while it writes this word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from emrrg_lib.files import InputError

NAMING: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": (
        r"widen\w*",
        r"mediastin\w*\b[^.]*?\b(enlarg\w*)",
        r"(enlarg\w*)[^.]*?\bmediastin",
        r"prominen\w*",
        r"mediastin\w*",
    ),
    "Cardiomegaly": (
        r"cardiomegal\w*",
        r"(?:heart|cardiac)\b[^.]*?\b(enlarg\w*)",
        r"(enlarg\w*)[^.]*?\b(?:heart|cardiac)",
        r"heart|cardiac|silhouette",
    ),
    "Lung Lesion": (r"\w*nodul\w*", r"mass(?:es)?\b", r"lesions?|tumou?rs?"),
    "Lung Opacity": (
        r"opaci\w*",
        r"infiltrat\w*",
        r"airspace",
        r"haz\w*",
        r"densit\w*|interstitial|markings",
    ),
    "Edema": (r"o?edema\w*", r"congesti\w*", r"overload|failure"),
    "Consolidation": (r"consolid\w*",),
    "Pneumonia": (r"\w*pneumonia\w*", r"infecti\w*"),
    "Atelectasis": (r"\w*atelect\w*", r"collaps\w*", r"volume loss"),
    "Pneumothorax": (r"\w*pneumothora\w*",),
    "Pleural Effusion": (r"effusions?", r"fluid", r"blunt\w*"),
    "Pleural Other": (r"thicken\w*", r"plaques?|scar\w*|fibro\w*", r"pleural"),
    "Fracture": (r"\w*fractur\w*",),
    "Support Devices": (
        *(r"pacemakers?", r"catheters?", r"tubes?", r"ports?\b", r"lines?\b", r"leads?\b"),
        r"picc|devices?|stents?|valves?|wires?|tip|drains?",
    ),
}
"""Observation -> patterns of the words that name it, the most specific first; a group marks the word."""

_NEGATION = re.compile(r"\b(?:no|not|without|negative for|free of)\b[^.]*$")


def naming_span(text: str, observation: str, affirmed: bool = True) -> tuple[int, int] | None:
    """The place of the most specific word that names an observation.

    Args:
        text: a report or sentence. observation: a key of :data:`NAMING`.
        affirmed: skip words inside a negation.

    Returns:
        Start and end of the first such word in `text`; None where there is no such word.

    Raises:
        InputError: an unknown observation.
    """
    if observation not in NAMING:
        raise InputError(f"No naming words for {observation!r}: choose one of {', '.join(NAMING)}.")
    text = text.lower()
    for pattern in NAMING[observation]:
        for match in re.finditer(rf"\b(?:{pattern})", text):
            if not (affirmed and _NEGATION.search(text[: match.start()])):
                return match.span(match.lastindex or 0)
    return None


def naming_tokens(tokens: Sequence[str], observation: str) -> list[int]:
    """Positions of the tokens that spell the affirmed word for an observation; [] where no word names it.

    Args:
        tokens: the report's tokens as text pieces, leading spaces kept.
        observation: a key of :data:`NAMING`; InputError for any other.
    """
    span = naming_span("".join(tokens), observation)
    if span is None:
        return []
    ends = np.cumsum([len(token) for token in tokens])
    first, last = np.searchsorted(ends, [span[0], span[1] - 1], side="right")
    return list(range(int(first), int(last) + 1))


def sentence_tokens(tokens: Sequence[str], named: Sequence[int]) -> list[int]:
    """Positions of all tokens of the sentence around `named`, the positions from :func:`naming_tokens`."""
    text, ends = "".join(tokens), np.cumsum([len(token) for token in tokens])
    before, full_stop, _ = text[: ends[named[0]] - len(tokens[named[0]]) + 1].rpartition(". ")
    stop = text.find(". ", ends[named[-1]] - 1)
    places = [len(before + full_stop), stop if stop >= 0 else len(text) - 1]
    first, last = np.searchsorted(ends, places, side="right")
    return list(range(int(first), int(last) + 1))
