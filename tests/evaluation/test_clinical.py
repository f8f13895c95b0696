"""The rule labeler against its table of sentences, and the averages of clinical efficacy."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from real_files import IU, real

from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.rehearse import HEADINGS, mesh_observations
from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation.clinical import clinical_row, clinical_scores, label_codes
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.files import InputError

FINDINGS = [name for name in OBSERVATIONS if name != "No Finding"]


def read_table():
    rows = []
    for line in Path(__file__).with_name("label_sentences.tsv").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            sentence, marks = line.split("\t")
            rows.append((sentence, {k: int(v) for k, v in re.findall(r"([A-Z][\w ]+?)=(-?\d)", marks)}))
    return rows


TABLE = read_table()


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


def labels_of(*names, uncertain=(), **_):
    row = dict.fromkeys(OBSERVATIONS)
    return row | dict.fromkeys(names, 1) | dict.fromkeys(uncertain, -1)


def test_averages_by_hand():
    reference = [labels_of("Edema", "Fracture"), labels_of("Edema"), labels_of("No Finding")]
    hypothesis = [labels_of("Edema"), labels_of("Pneumonia"), labels_of("No Finding")]
    scores = clinical_scores(reference, hypothesis)
    assert scores["micro"] == pytest.approx({"P": 1 / 2, "R": 1 / 3, "F1": 2 / 5})
    edema = 2 / 3
    assert scores["macro"]["F1"] == pytest.approx(edema / 13)
    assert scores["example"] == pytest.approx({"P": 1 / 3, "R": 1 / 6, "F1": edema / 3})
    assert scores["labels"]["Edema"]["reference"] == 2
    assert "No Finding" not in scores["labels"]
    with_no_finding = clinical_scores(reference, hypothesis, no_finding=True)
    assert with_no_finding["micro"]["F1"] == pytest.approx(4 / 7)
    assert with_no_finding["observations"] == 14


def test_uncertain_counts_by_the_chosen_policy():
    reference, hypothesis = [labels_of(uncertain=["Edema"])], [labels_of("Edema")]
    assert clinical_scores(reference, hypothesis)["micro"]["F1"] == 1
    assert clinical_scores(reference, hypothesis, uncertain="negative")["micro"]["F1"] == 0
    with pytest.raises(InputError, match="uncertain"):
        clinical_scores(reference, hypothesis, uncertain="maybe")


def test_constant_normal_report_scores_nothing_without_no_finding():
    reference = [labels_of("No Finding")] * 3 + [labels_of("Edema")]
    hypothesis = [label_report("The lungs are clear.")] * 4
    assert clinical_scores(reference, hypothesis)["micro"]["F1"] == 0
    assert clinical_scores(reference, hypothesis, no_finding=True)["micro"]["F1"] > 0.7


def test_row_names_and_values_agree_with_the_scores():
    reference = [labels_of("Edema", uncertain=["Fracture"]), labels_of("No Finding")]
    hypothesis = [labels_of("Fracture"), labels_of("No Finding")]
    row = clinical_row(label_codes(reference), label_codes(hypothesis), np.ones((1, 2)))
    for size, mark, policy in ((13, "", "positive"), (14, "neg", "negative")):
        scores = clinical_scores(reference, hypothesis, policy, no_finding=size == 14)
        for average in ("micro", "macro", "example"):
            for name, value in scores[average].items():
                assert row[f"CE{size}{mark}_{average}_{name}"][0] == pytest.approx(value)
    assert row["CE_F1 Fracture"][0] == 1


@pytest.mark.parametrize(
    ("reference", "hypothesis", "message"),
    [
        ([], [], "empty"),
        ([labels_of()], [], "every study"),
        ([{"Edema": 1}], [labels_of()], "lack"),
        ([labels_of() | {"Edema": 2}], [labels_of()], "1, 0, -1 or None"),
    ],
)
def test_bad_labels_are_refused(reference, hypothesis, message):
    with pytest.raises(InputError, match=message):
        clinical_scores(reference, hypothesis)


def test_mesh_tags():
    tags = "Opacity/lung/base/left;Thickening/pleura/apex;Cardiac Shadow/enlarged;Aorta/tortuous"
    assert mesh_observations(tags) == {"Lung Opacity", "Pleural Other", "Cardiomegaly"}
    assert mesh_observations("normal") == set()
    assert {name for names in HEADINGS.values() for name in names} <= set(OBSERVATIONS)


def test_agreement_with_the_labels_of_the_phantom():
    phantom = pytest.importorskip("emrrg_lib.phantom")
    studies = [phantom.draw_study(seed=11, index=index, size=32) for index in range(80)]
    given = label_codes([study.labels for study in studies])
    read = label_codes([label_report(study.report) for study in studies])
    assert (given == read).mean() >= 0.97
    for value in (1, 0, -1):  # each value is a class of its own
        both = ((given == value) & (read == value)).sum()
        assert 2 * both / ((given == value).sum() + (read == value).sum()) >= 0.97


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
    assert 2 * both / (said + true) >= 0.85
    assert f1["Atelectasis"] >= 0.9 and f1["Pleural Effusion"] >= 0.9, f1


@real
def test_every_iu_report_is_labelled_alike_cleaned_or_not():
    reports = [x["report"] for x in json.loads((IU / "annotation.json").read_text("utf-8"))["test"]]
    raw = label_codes([label_report(text) for text in reports])
    cleaned = label_codes([label_report(clean_report(text, "iu_xray")) for text in reports])
    assert (raw == cleaned).mean() > 0.995
