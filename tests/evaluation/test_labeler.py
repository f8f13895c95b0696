"""The rule labeler against its table of sentences, the phantom's labels and the tags of real reports."""

import csv
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from real_files import IU, real

from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation.clinical import label_codes
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.files import InputError
from emrrg_lib.phantom.catalogue import draw_findings
from emrrg_lib.phantom.dataset import stream
from emrrg_lib.phantom.rehearse import mesh_observations
from emrrg_lib.phantom.wording import compose

FINDINGS = [name for name in OBSERVATIONS if name != "No Finding"]


def read_marks(marks):
    return {name: int(value) for name, value in re.findall(r"([A-Z][\w ]+?)=(-?\d)", marks)}


def read_table():
    """The rows of each kind; the rows before the first kind belong to "first"."""
    kinds, kind = defaultdict(list), "first"
    for line in Path(__file__).with_name("label_sentences.tsv").read_text("utf-8").splitlines():
        if line.startswith("# kind: "):
            kind = line.removeprefix("# kind: ")
        elif not line.startswith("#"):
            sentence, marks = line.split("\t")
            kinds[kind].append((sentence.replace("\\t", "\t"), read_marks(marks)))
    return dict(kinds)


KINDS = read_table()
TABLE, SAMPLES = KINDS.pop("first"), KINDS.pop("samples")  # every row of these two must be right


def mentioned(text):
    labels = label_report(text)
    return {name: labels[name] for name in FINDINGS if labels[name] is not None}


def test_the_table_covers_every_observation_and_value():
    assert len(TABLE) >= 150
    single = [marks for _, marks in TABLE if len(marks) == 1]
    for name in FINDINGS:
        for value in (1, 0, -1):
            assert sum(marks == {name: value} for marks in single) >= 2, (name, value)


@pytest.mark.parametrize(("sentence", "marks"), TABLE)
def test_sentence(sentence, marks):
    assert mentioned(sentence) == marks


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_wording(kind):
    wrong = [sentence for sentence, marks in KINDS[kind] if mentioned(sentence) != marks]
    assert len(wrong) <= 0.05 * len(KINDS[kind]), wrong


@pytest.mark.parametrize("value", [1, 0, -1])
def test_a_value_over_all_kinds(value):
    rows = [row for rows in KINDS.values() for row in rows]
    given = [(s, name) for s, marks in rows for name, mark in marks.items() if mark == value]
    wrong = [(s, name) for s, name in given if label_report(s)[name] != value]
    assert len(wrong) <= 0.02 * len(given), wrong


def test_whole_sentences_over_all_kinds():
    rows = [row for rows in KINDS.values() for row in rows]
    assert len(rows) >= 400
    assert sum(mentioned(sentence) == marks for sentence, marks in rows) >= 0.97 * len(rows)


@pytest.mark.parametrize(("sentence", "marks"), SAMPLES)
def test_sample(sentence, marks):
    labels = label_report(sentence)
    assert mentioned(sentence) == marks
    findings = [name for name in FINDINGS if name != "Support Devices" and labels[name] in (1, -1)]
    assert labels["No Finding"] == (None if findings else 1)


@pytest.mark.parametrize(
    ("sentence", "marks"),
    [
        ("Left base opacity, atelectasis vs. pneumonia.", "Lung Opacity=1 Atelectasis=-1 Pneumonia=-1"),
        ("No nodule larger than approx. 4 mm and no effusion.", "Lung Lesion=0 Pleural Effusion=0"),
        ("No acute process, e.g. pneumonia or edema.", "Pneumonia=0 Edema=0"),
        ("Per Dr. Jones there is no effusion.", "Pleural Effusion=0"),
    ],
)
def test_an_abbreviation_that_the_cleaning_sets_apart_ends_no_sentence(sentence, marks):
    cleaned = clean_report(sentence, "mimic_cxr")
    assert " . " in cleaned and mentioned(cleaned) == read_marks(marks)


@pytest.mark.parametrize("rule", ["iu_xray", "mimic_cxr"])
def test_cleaned_sentences_keep_their_labels(rule):
    # Cleaning deletes slashes, semicolons and question marks, and with them what they said.
    kept = [(s, m) for s, m in TABLE if not set(s) & set("/;?")]
    wrong = [s for s, m in kept if mentioned(clean_report(s, rule)) != m]
    assert wrong == []


def test_labels_of_a_report():
    text = "The heart is enlarged. Small left effusion. No pneumothorax. Possible pneumonia."
    labels = label_report(text)
    assert list(labels) == list(OBSERVATIONS)
    assert {k: v for k, v in labels.items() if v is not None} == {
        "Cardiomegaly": 1,
        "Pleural Effusion": 1,
        "Pneumothorax": 0,
        "Pneumonia": -1,
    }
    assert label_report(text.upper()) == labels


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The lungs are clear. No effusion.", 1),
        ("Lungs are clear. A left pacemaker is in place.", 1),
        ("No acute disease.", 1),
        ("Small effusion.", None),
        ("Possible pneumonia.", None),
        ("The lungs are clear. Emphysema.", None),
        ("Mild scoliosis. The lungs are clear.", None),
        ("Large hiatal hernia.", None),
        ("No emphysema. No hernia.", 1),
        ("", None),
        (" . ", None),
    ],
)
def test_no_finding_is_one_or_none(text, value):
    assert label_report(text)["No Finding"] == value


def test_over_mentions_positive_beats_uncertain_beats_negated():
    assert label_report("No nodule. Possible nodule.")["Lung Lesion"] == -1
    assert label_report("Possible nodule. There is a nodule. No nodule.")["Lung Lesion"] == 1


def test_sections_without_findings_are_left_out():
    text = (
        "INDICATION: Cough. Pneumonia?\nCOMPARISON: Film with effusion.\n\n"
        "FINDINGS: The lungs are\nclear. No pneumothorax.\n\nIMPRESSION: Cardiomegaly."
    )
    assert mentioned(text) == {"Pneumothorax": 0, "Cardiomegaly": 1}


def test_a_runaway_text_is_read_in_pieces():
    assert mentioned("small effusion or no edema " * 2000)["Pleural Effusion"] == 1


def test_text_that_is_no_text_is_refused():
    with pytest.raises(InputError, match="text"):
        label_report(None)


def test_agreement_with_the_labels_of_12000_phantoms():
    for index in range(12_000):
        report, labels = compose(draw_findings(stream(11, index, 0)), stream(11, index, 1))
        assert label_report(report) == labels, report


@real
def test_agreement_with_the_mesh_tags_of_iu_xray():
    counts = {name: np.zeros(3) for name in FINDINGS}
    with (IU / "indiana_reports.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            text = f"{row['findings']}\n\n{row['impression']}".strip()
            if not text or "no indexing" in row["MeSH"].lower():
                continue
            labels, tags = label_report(text), mesh_observations(row["MeSH"])
            for name in FINDINGS:
                said, true = labels[name] in (1, -1), name in tags
                counts[name] += (said and true, said, true)
    f1 = {name: 2 * both / (said + true) for name, (both, said, true) in counts.items()}
    both, said, true = sum(counts.values())
    assert 2 * both / (said + true) >= 0.872
    assert f1["Atelectasis"] >= 0.9 and f1["Pleural Effusion"] >= 0.9, f1


@real
def test_every_iu_report_is_labelled_alike_cleaned_or_not():
    reports = [x["report"] for x in json.loads((IU / "annotation.json").read_text("utf-8"))["test"]]
    raw = label_codes([label_report(text) for text in reports])
    cleaned = label_codes([label_report(clean_report(text, "iu_xray")) for text in reports])
    assert (raw == cleaned).mean() > 0.995
