"""Report cleaning against the published rules, artefacts included."""

from random import Random

import pytest

from emrrg_lib.data.cleaning import RULES, clean_report
from emrrg_lib.files import InputError


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (
            "The heart is normal in size. No effusion.",
            "the heart is normal in size . no effusion .",
        ),
        ("", " ."),
        ("1. Clear lungs. 2. No effusion.", "clear lungs . no effusion ."),
        ("Old fracture at L1. There is no effusion.", "old fracture at lthere is no effusion ."),
        ("A 1.2 cm nodule.", "a 12 cm nodule ."),
        ('Effusion / atelectasis; "stable" (chronic).', "effusion  atelectasis stable chronic ."),
        ("No acute findings..", "no acute findings ."),
        ("Heart: normal < 50% [ok] {a}", "heart normal  50 ok a ."),
        ("Follow-up ~ #3 | `x` $", "follow-up ~ #3 | `x` $ ."),
        ("Lungs\nare clear.", "lungs\nare clear ."),
        ("Clear. . Normal.", "clear .  . normal ."),
        ("Findings 2. Clear", "findings . clear ."),
        ("Patient's lungs", "patients lungs ."),
    ],
)
def test_iu_xray(text, cleaned):
    assert clean_report(text, "iu_xray") == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Lungs\nare clear.", "lungs are clear ."),
        ("FINDINGS:  The   heart is ___ normal.", "findings : the heart is  normal ."),
        ("Sizes: a < b = c @ d", "sizes : a < b = c @ d ."),
        ("1. Clear. 2. Normal....", "clear . normal ."),
        ("", " ."),
        ("A 1.2 cm [nodule]; right/left", "a 12 cm nodule rightleft ."),
    ],
)
def test_mimic_cxr(text, cleaned):
    assert clean_report(text, "mimic_cxr") == cleaned


def test_none_changes_nothing():
    assert clean_report(" Heart:\n normal.", "none") == " Heart:\n normal."


@pytest.mark.parametrize("rule", RULES)
def test_ten_thousand_words(rule):
    assert len(clean_report("The lungs are clear. " * 2500, rule).split()) >= 10_000


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="iu_xray, mimic_cxr, none"):
        clean_report("Clear.", "iu")
    with pytest.raises(InputError, match="NoneType"):
        clean_report(None, "iu_xray")


# ------------------------------------- the rules once more, from the words of NOTES G


def restated(text, rule):
    steps = [("..", ".")] * 3
    if rule == "mimic_cxr":
        steps = [("\n", " ")] + [("__", "_")] * 7 + [("  ", " ")] * 6 + [("..", ".")] * 8
    steps += [("1. ", "")] + [(f"{before}{k}. ", ". ") for before in (". ", " ") for k in (2, 3, 4, 5)]
    steps += [(":", " :")] if rule == "mimic_cxr" else []
    for old, new in steps:
        text = text.replace(old, new)
    deleted = set(".,?;*!%^&_+()[]{}")
    if rule == "iu_xray":
        deleted |= {chr(code) for code in range(ord(":"), ord("[") + 1)}
    sentences = []
    for sentence in text.strip().lower().split(". "):
        plain = "".join(c for c in sentence if c not in "\"/\\'").strip().lower()
        sentences.append("".join(c for c in plain if c not in deleted))
    return " . ".join(sentences) + " ."


PIECES = [
    *"_.:[]<>=@AZ`#~$|-'/^(){}%éİß?*+&;,! ",
    '"',
    "\\",
    "\n",
    "\t",
    "1. ",
    "2. ",
    ". 3. ",
    " 4. ",
    "5.",
    "..",
    ". ",
    "__",
    "  ",
    "L1. ",
    "Heart",
    "no Effusion",
    "1.2 cm",
    "XXXX",
]


@pytest.mark.parametrize("rule", ["iu_xray", "mimic_cxr"])
def test_random_texts_are_cleaned_as_the_notes_state(rule):
    random = Random(0)
    for _ in range(4000):
        text = "".join(random.choices(PIECES, k=random.randrange(1, 40)))
        assert clean_report(text, rule) == restated(text, rule), repr(text)


def test_iu_cleaning_leaves_no_character_of_its_class():
    text = "".join(map(chr, range(32, 127))) + " end"
    kept = set(clean_report(text, "iu_xray"))
    assert kept == set("abcdefghijklmnopqrstuvwxyz0123456789 -~#$|`.")
    assert kept | set("<=>@:") == set(clean_report(text, "mimic_cxr"))
