"""The published tables, and a run's scores beside them."""

from __future__ import annotations

import csv
import io
import itertools
import json

import numpy as np
import pandas as pd
import pytest

from emrrg_lib.cli import main
from emrrg_lib.evaluation.metrics import COSTS, columns
from emrrg_lib.evaluation.published import FOLDER, published, score_table
from emrrg_lib.files import InputError

SCORES = [name for name, (_, metric) in columns().items() if metric.group != COSTS]
ROWS = {
    "emrrg_table1": 30,
    "emrrg_table2": 10,
    "emrrg_table3": 8,
    "emrrg_table4": 13,
    "emrrg_table5": 6,
    "emrrg_table6": 11,
    "cxpmrg_table1": 21,
    "cxpmrg_table2": 16,
    "cxpmrg_table3": 26,
    "cxpmrg_table4": 18,
    "cxpmrg_table5": 6,
}
HEADLINE = {  # the rows that the papers' abstracts and texts quote
    "IU X-Ray": (0.487, 0.325, 0.222, 0.167, 0.385, 0.226, 0.476),
    "MIMIC-CXR": (0.407, 0.256, 0.175, 0.125, 0.288, 0.164, 0.239),
    "CheXpert Plus": (0.375, 0.232, 0.153, 0.104, 0.273, 0.152, 0.167),
}
METRICS = {
    "dataset": "IU X-ray, R2Gen's split 2069/296/590",
    "split": "test",
    "references": "full",
    "studies": 590,
    "labeler": "rules-1",
    "uncertain": "counts as positive",
    "date": "2026-11-22",
    "rows": [
        {
            "system": "model",
            "metrics": {"Bleu_4": 0.15, "CIDEr": 1.25, "CE14_micro_F1": 0.5, "METEOR": None},
            "ci": {"Bleu_4": [0.125, 0.175], "CIDEr": [1.0, 1.5], "CE14_micro_F1": [0.4, 0.6]},
        },
        {"system": "constant report", "metrics": {"Bleu_4": 0.16}, "ci": {"Bleu_4": [0.14, 0.18]}},
    ],
}


def write_run(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(METRICS | changes), "utf-8")
    return folder


def test_every_table_is_there_and_whole():
    assert {path.stem for path in FOLDER.glob("*.csv")} == set(ROWS)
    for name, count in ROWS.items():
        frame = published(name)
        assert len(frame) == count and set(frame["table"]) == {name}
        assert (frame["source"].str.len() > 10).all() and not frame["source"].isna().any()
        assert set(frame["dataset"]) <= set(HEADLINE)
        scores = frame[frame.columns.intersection(SCORES)].to_numpy(float)
        assert (np.isnan(scores) | (scores > 0) & (scores < 1)).all()
        if {"Bleu_1", "Bleu_4"} <= set(frame):
            known = frame.dropna(subset=[f"Bleu_{n}" for n in range(1, 5)])
            for more, fewer in itertools.pairwise(f"Bleu_{n}" for n in range(1, 5)):
                assert (known[more] > known[fewer]).all()


def test_rows_that_two_tables_share_agree():
    """The papers repeat themselves; a slip in one of the two copies would show."""
    first = published("emrrg_table1").set_index(["dataset", "system"])
    for dataset, numbers in HEADLINE.items():
        assert tuple(first.loc[(dataset, "EMRRG"), SCORES[:7]]) == numbers
    third = published("cxpmrg_table3").set_index(["dataset", "system"])
    shared = first.index.intersection(third.index)
    assert len(shared) == 12
    metrics = SCORES[:7]
    pd.testing.assert_frame_equal(first.loc[shared, metrics], third.loc[shared, metrics])
    plus, one = first.loc["CheXpert Plus"], published("cxpmrg_table1").set_index("system")
    both = plus.index.intersection(one.index)
    short = ["Bleu_4", "ROUGE_L", "METEOR", "CIDEr"]
    differ = (plus.loc[both, short] - one.loc[both, short]).abs() > 1e-9
    assert len(both) == 9 and differ.to_numpy().sum() == 1  # ROUGE-L of Token-Mixer: .262 and .261
    assert differ.loc["Token-Mixer", "ROUGE_L"]


def test_the_oddities_of_the_tables_are_noted():
    headline = published("emrrg_table1").query("system == 'EMRRG' and dataset == 'IU X-Ray'").iloc[0]
    sixth = published("emrrg_table5").iloc[5]
    assert all(headline[name] == sixth[name] for name in SCORES[:7])
    assert "Table 5" in headline["note"] and "Table 1" in sixth["note"]
    assert published("emrrg_table6")["note"].str.contains("not stated").all()
    assert "1,327,104" in published("emrrg_table4").iloc[-1]["note"]


def test_our_rows_stand_beside_the_published_ones(tmp_path):
    text = score_table(write_run(tmp_path / "iu")).render()
    for told in (
        "IU X-ray",
        "2069/296/590",
        "split test",
        "references full",
        "labeler rules-1",
        "studies 590",
        "scored 2026-11-22",
        "uncertain counts as positive",
        "digit",
    ):
        assert told in text
    lines = text.splitlines()
    model = next(n for n, line in enumerate(lines) if line.startswith("model"))
    assert "0.150" in lines[model] and ".125–.175" in lines[model + 1] and "1.000–1.500" in lines[model + 1]
    assert any(line.startswith("EMRRG (EMRRG T1)") and "0.476" in line for line in lines)
    assert "MIMIC" not in text.replace("not stated", "") and "*" not in text


def test_costs_stand_beside_published_ones_only(tmp_path):
    costs = {"minutes": 3.5, "seconds": 0.36, "training_minutes": 61.2, "parameters_millions": 1.327}
    rows = [METRICS["rows"][0] | {"metrics": METRICS["rows"][0]["metrics"] | costs}, METRICS["rows"][1]]
    run = write_run(tmp_path / "run", rows=rows, dataset="CheXpert Plus, R2GenCSR's split")
    assert "minutes" not in score_table(run, ["emrrg_table1"]).render()
    lines = score_table(run, ["emrrg_table4"]).render("markdown").splitlines()
    heads = [cell.strip() for cell in next(line for line in lines if "s a report" in line).split("|")]
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")] for line in lines if "|" in line
    }
    assert cells["model"][heads.index("training, min")] == "61.20"
    assert cells["model"][heads.index("tuned, M")] == "1.33"
    ours = next(row for name, row in cells.items() if name.startswith("EMRRG ("))
    assert ours[heads.index("minutes")] == "26.84" and ours[heads.index("s a report")] == "-"
    assert any("A800" in line for line in lines)
    assert "training_minutes" in score_table(run, ["emrrg_table1"]).render("csv")


def test_another_labelers_numbers_are_marked(tmp_path):
    run = write_run(tmp_path / "plus", dataset="CheXpert Plus, R2GenCSR's split")
    text = score_table(run, ["cxpmrg_table1"]).render()
    assert "0.335*" in text and "read by another labeler (CheXpert labeler) than this run's (rules-1)" in text
    same = write_run(tmp_path / "same", dataset="CheXpert Plus", labeler="CheXpert labeler")
    text = score_table(same, ["cxpmrg_table1"]).render()
    assert "0.335" in text and "*" not in text
    assert "not stated" in score_table(same).render()


def test_synthetic_data_is_never_compared_in_silence(tmp_path):
    run = write_run(tmp_path / "drawn", dataset="SYNTHETIC images: IU X-ray, R2Gen's split")
    alone = score_table(run)
    assert len(alone.rows) == 2 and "No published rows: this run's data set is synthetic" in alone.render()
    beside = score_table(run, ["emrrg_table1"])
    assert len(beside.rows) == 12 and "This run's data set is synthetic" in beside.render("markdown")
    assert "This run's data set is synthetic" in beside.render("csv")
    own = write_run(tmp_path / "own", dataset="hospital")
    assert "not one of the papers'" in score_table(own).render()
    beside = score_table(own, ["emrrg_table1"])
    assert len(beside.rows) == 32 and "say nothing about the published" in beside.render()


def test_csv_and_markdown_hold_the_same_numbers(tmp_path):
    table = score_table(write_run(tmp_path / "iu"), ["cxpmrg_table3"])
    rows = list(csv.DictReader(io.StringIO(table.render("csv"))))
    assert len(rows) == 2 + 13 and float(rows[0]["Bleu_4_low"]) == 0.125 and rows[0]["METEOR"] == ""
    assert all(row["run"] == table.caption and "95 %" in row["remarks"] for row in rows)
    lines = [line for line in table.render("markdown").splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 15 and len({line.count("|") for line in lines}) == 1
    assert "0.150 (.125–.175)" in lines[2]


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    run = write_run(tmp_path / "iu")
    with pytest.raises(InputError, match="no published table 'table1'"):
        published("table1")
    with pytest.raises(InputError, match="no row of IU X-Ray"):
        score_table(run, ["emrrg_table2"])
    assert main(["evaluate", "table", "--run", str(tmp_path)]) == 2
    assert "metrics.json" in capsys.readouterr().err
    assert main(["evaluate", "table", "--run", str(run), "--format", "markdown"]) == 0
    assert "| EMRRG (EMRRG T1) |" in capsys.readouterr().out


def test_several_runs_and_their_mean(tmp_path, capsys):
    one = write_run(tmp_path / "one")
    content = json.loads((one / "metrics.json").read_text("utf-8"))
    for row in content["rows"]:
        row["metrics"] = {key: value and value + 0.02 for key, value in row["metrics"].items()}
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "metrics.json").write_text(json.dumps(content), "utf-8")
    first, second = (score_table(tmp_path / name).rows[0] for name in ("one", "two"))
    beside = score_table(one, [], [tmp_path / "two"]).rows
    assert beside[0] == first and beside[1]["system"].startswith("two: ")
    assert beside[1]["Bleu_4"] == second["Bleu_4"]
    mean = score_table(one, [], [tmp_path / "two"], seeds=True)
    assert mean.rows[0]["Bleu_4"] == pytest.approx(first["Bleu_4"] + 0.01)
    assert mean.rows[0]["Bleu_4_sd"] == pytest.approx(0.02 / 2**0.5) and "Bleu_4_low" not in mean.rows[0]
    assert "mean ± sd of 2 runs" in mean.caption and "±.014" in mean.render()
    assert "$\\pm$.014" in mean.render("latex")
    content["rows"][0]["system"] = "two"  # the name of its file, where no --name was given
    (tmp_path / "two" / "metrics.json").write_text(json.dumps(content), "utf-8")
    named = score_table(one, [], [tmp_path / "two"], seeds=True)
    assert [row["system"] for row in named.rows] == [row["system"] for row in mean.rows]
    assert score_table(one, [], [tmp_path / "two"]).rows[1]["system"] == "two"
    content["split"] = "val"
    (tmp_path / "two" / "metrics.json").write_text(json.dumps(content), "utf-8")
    for seeds in (False, True):
        with pytest.raises(InputError, match=r"differ in 'split' \(test; val\)"):
            score_table(one, [], [tmp_path / "two"], seeds)
