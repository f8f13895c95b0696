"""The table of metrics: one more row appears wherever metrics are computed, printed or drawn."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from emrrg_lib.cli import main
from emrrg_lib.evaluation.intervals import point_scores, system_statistics
from emrrg_lib.evaluation.metrics import COSTS, LEARNED, METRICS, Metric, columns, mean
from emrrg_lib.evaluation.nlg import score_each, score_reports
from emrrg_lib.evaluation.published import score_table
from emrrg_lib.evaluation.score import CEILING, FLOOR, evaluate_run
from emrrg_lib.interpret.figures_scores import ablation_figure
from emrrg_lib.interpret.page import write_report_page
from emrrg_lib.interpret.page_example import Example, SystemReport

pytestmark = [pytest.mark.usefixtures("no_java"), pytest.mark.filterwarnings("ignore:METEOR is not computed")]

REFERENCES = ["the heart is enlarged .", "the lungs are clear .", "no effusion .", "no edema ."]
HALF_RIGHT = [*REFERENCES[:2], "a nodule .", "a mass ."]


def exact(statistics, weights):
    """Share of reports that equal their reference."""
    pairs = zip(statistics.references, statistics.hypotheses, strict=True)
    return mean(np.array([float(r == h) for r, h in pairs]), weights)


@pytest.fixture
def toy(monkeypatch):
    """A metric added by its row alone."""
    row = Metric(
        "exact match",
        "Toys",
        exact,
        judged=True,
        column="exact",
        heading="exact, %",
        decimals=1,
        panel=True,
        sorts=True,
    )
    monkeypatch.setitem(METRICS, "exact", row)


@pytest.fixture
def run(tmp_path, toy):
    """A scored run of eight studies with one control that is always right."""
    return scored(tmp_path / "run", HALF_RIGHT * 2)


def scored(folder, hypotheses):
    folder.mkdir()
    rows = [
        {
            "id": f"s{i}",
            "reference": REFERENCES[i % 4],
            "hypothesis": text,
            "systems": {"copy": REFERENCES[i % 4]},
        }
        for i, text in enumerate(hypotheses)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    evaluate_run(folder)
    return folder


def metrics(run):
    return json.loads((run / "metrics.json").read_text("utf-8"))


def test_a_new_metric_is_scored(toy):
    assert score_reports(REFERENCES, HALF_RIGHT)["exact"] == 0.5
    assert [scores["exact"] for scores in score_each(REFERENCES, HALF_RIGHT)] == [1, 1, 0, 0]


def test_a_new_metric_is_in_metrics_json_with_its_interval(run):
    model, copy, *bounds = metrics(run)["rows"]
    assert [row["system"] for row in bounds] == [FLOOR, CEILING]
    assert (model["metrics"]["exact"], copy["metrics"]["exact"]) == (0.5, 1)
    low, high = model["ci"]["exact"]
    assert 0 <= low < 0.5 < high <= 1


def test_a_new_metric_is_judged_against_the_controls(run):
    found = next(d for d in metrics(run)["differences"] if d["metric"] == "exact")
    assert (found["minus"], found["value"]) == ("copy", -0.5)


def test_a_new_metric_is_compared(run, tmp_path, capsys):
    other = scored(tmp_path / "other", REFERENCES * 2)
    words = ["evaluate", "compare", str(run), str(other), "--all", "--format", "csv"]
    assert main(words) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out)).set_index("metric")
    assert table.loc["exact", "difference"] == -0.5


def test_a_new_metric_is_a_column_of_the_table(run):
    lines = score_table(run).render().splitlines()
    assert "exact, %" in lines[2] and "0.5" in lines[4].split()
    assert ",exact," in score_table(run).render("csv").splitlines()[0]


def test_a_new_metric_is_on_the_page(run, tmp_path):
    systems = [SystemReport("model", HALF_RIGHT[0], None, {"exact": 1.0})]
    example = Example("s0", [np.zeros((8, 8))], REFERENCES[0], systems)
    page = write_report_page(
        tmp_path / "page.html", title="toy", metrics=metrics(run), examples=[example], facts={}
    )
    text = page.read_text("utf-8")
    assert "Toys" in text and "exact match" in text and 'value="score-0-exact"' in text


def test_a_new_metric_is_a_panel_of_an_ablation(toy):
    figure = ablation_figure("toy", {"a": [{"exact": 0.25}]}, {}, {})
    assert "exact, % 0.250" in figure.alt


def test_every_computed_metric_is_in_the_table():
    scores = point_scores(system_statistics(REFERENCES, HALF_RIGHT))
    other = {"CE_F1"}  # of a page's study
    other |= {key for key, metric in METRICS.items() if metric.group in (LEARNED, COSTS)}
    assert set(scores) == set(METRICS) - other


def test_tables_have_their_columns_in_the_papers_order():
    assert [
        metric.heading or metric.label for _, metric in columns().values() if metric.group != LEARNED
    ] == [
        *("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "METEOR", "CIDEr"),
        *("CE P", "CE R", "CE F1", "CE F1, 13", "minutes", "s a report", "training, min", "tuned, M"),
    ]
