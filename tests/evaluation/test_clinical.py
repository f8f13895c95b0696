"""The averages of clinical efficacy."""

import numpy as np
import pytest

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation.clinical import clinical_row, clinical_scores, label_codes
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.files import InputError
from emrrg_lib.phantom.rehearse import HEADINGS, mesh_observations


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


def test_weighted_average_and_the_five_by_hand():
    reference = [labels_of("Edema", "Fracture"), labels_of("Edema"), labels_of("No Finding"), labels_of()]
    hypothesis = [labels_of("Edema"), labels_of("Pneumonia"), labels_of("Edema"), labels_of("Fracture")]
    # Edema: 1 of 2 found, 1 invented, F1 1/2, two cases; Fracture: F1 0, one case; Pneumonia has none
    assert clinical_scores(reference, hypothesis)["weighted"]["F1"] == pytest.approx((2 * 0.5 + 0) / 3)
    row = clinical_row(label_codes(reference), label_codes(hypothesis), np.ones((1, 4)))
    assert row["CE13_weighted_R"][0] == pytest.approx(1 / 3)
    assert row["CE5_micro_F1"][0] == pytest.approx(0.5) and row["CE5_macro_F1"][0] == pytest.approx(0.1)
    assert row["CE5_weighted_F1"][0] == pytest.approx(0.5) and row["CE5_example_F1"][0] == pytest.approx(0.25)


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
        for average in ("micro", "macro", "weighted", "example"):
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
