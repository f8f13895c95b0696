"""Report cleaning, exactly as the published code does it.

Published scores are computed on *cleaned* reports, and the cleaning moves them more than most
models do (.47 against .23 BLEU-1 for the same constant report), so every artefact of the published
rules is kept here on purpose:

* ``"1. "`` is deleted anywhere: "at L1. There" becomes "at lthere";
* full stops inside numbers vanish: "1.2 cm" becomes "12 cm";
* removed characters leave double spaces behind, and an empty report becomes " .";
* the IU rule's character class holds the ASCII range ``:`` to ``[``, so it also deletes
  ``< = > @`` (the report is lower case by then); the MIMIC rule has no such range and writes
  " :" for ":".

Sources: R2Gen's tokenizer (IU X-ray) and R2GenGPT's data helper (MIMIC-CXR, also used for
CheXpert Plus); NOTES G.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from emrrg_lib.files import InputError

_QUOTES = str.maketrans("", "", "\"/\\'")
_IU_CHARACTERS = re.compile(r"[.,?;*!%^&_+():-\[\]{}]")
_MIMIC_CHARACTERS = re.compile(r"[.,?;*!%^&_+()\[\]{}]")


def clean_report(text: str, rule: str) -> str:
    """Cleans one report by a published rule.

    Args:
        text: The report in natural case and punctuation.
        rule: One of `RULES`: "iu_xray" (R2Gen), "mimic_cxr" (R2GenGPT; CheXpert Plus too) or "none".

    Returns:
        For the two published rules: lower case, sentences joined and closed by " . ". For "none": the
        text itself.

    Raises:
        InputError: The rule is unknown or the report is not a string.
    """
    if not isinstance(text, str):
        raise InputError(f"A report must be text, not {type(text).__name__}: {text!r:.60}.")
    if rule not in RULES:
        raise InputError(f"Unknown cleaning rule {rule!r}: choose one of {', '.join(RULES)}.")
    return RULES[rule](text)


def _clean_iu_xray(text: str) -> str:
    return _join(_without_numbering(_squeeze(text, "..", ".", 3)), _IU_CHARACTERS)


def _clean_mimic_cxr(text: str) -> str:
    text = _squeeze(text.replace("\n", " "), "__", "_", 7)
    text = _squeeze(_squeeze(text, "  ", " ", 6), "..", ".", 8)
    return _join(_without_numbering(text).replace(":", " :"), _MIMIC_CHARACTERS)


RULES: dict[str, Callable[[str], str]] = {
    "iu_xray": _clean_iu_xray,
    "mimic_cxr": _clean_mimic_cxr,
    "none": lambda text: text,
}
"""Every cleaning rule; `config.Cleaning` names the same ones."""


def _squeeze(text: str, old: str, new: str, times: int) -> str:
    """Replaces a fixed number of times: a longer run than 2**times survives, as upstream."""
    for _ in range(times):
        text = text.replace(old, new)
    return text


def _without_numbering(text: str) -> str:
    """Drops the numbers of enumerated sentences ("1. ... 2. ...")."""
    text = text.replace("1. ", "")
    for before in (". ", " "):
        for number in "2345":
            text = text.replace(f"{before}{number}. ", ". ")
    return text


def _join(text: str, characters: re.Pattern[str]) -> str:
    """Splits at ". ", deletes the characters in every sentence, joins with " . ".

    Sentences that end up empty stay (upstream's filter for them never fires).
    """
    sentences = (
        characters.sub("", sentence.translate(_QUOTES).strip().lower())
        for sentence in text.strip().lower().split(". ")
    )
    return " . ".join(sentences) + " ."
