"""Scores of whole runs: references, labelers, controls, comparisons, and data without labels or masks."""

import dataclasses
import json
import re
import time

import numpy as np
import pytest
from PIL import Image
from real_files import IU, real

from emrrg_lib.cli import main
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation import predict
from emrrg_lib.evaluation.compare import compare_systems
from emrrg_lib.evaluation.foreign import write_controls
from emrrg_lib.evaluation.other_labelers import MODEL, RULES, Labeler, from_csv
from emrrg_lib.evaluation.pointing import MAPS
from emrrg_lib.evaluation.predict import predict_run
from emrrg_lib.evaluation.score import CEILING, FLOOR, evaluate_run
from emrrg_lib.files import InputError, write_json
from emrrg_lib.interpret import page
from emrrg_lib.run import explore
from emrrg_lib.run_folder import read_predictions, write_config
from emrrg_lib.run_record import run_record

REPORTS = (
    "the heart is enlarged . no pleural effusion .",
    "small left effusion . the lungs are clear .",
    "the lungs are clear . no acute disease .",
    "possible right basilar atelectasis .",
)


# METEOR is tested elsewhere, and its Java takes seconds to start.
pytestmark = [pytest.mark.usefixtures("no_java"), pytest.mark.filterwarnings("ignore:METEOR is not computed")]


def write_run(folder, hypotheses, **more):
    folder.mkdir(parents=True)
    rows = [
        {
            "id": f"s{i}",
            "reference": REPORTS[i % 4],
            "hypothesis": text,
            **{key: values[i] for key, values in more.items()},
        }
        for i, text in enumerate(hypotheses)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "predictions.jsonl").write_text(lines, encoding="utf-8")
    return folder


def metrics(run, system=MODEL):
    content = json.loads((run / "metrics.json").read_text("utf-8"))
    return content, next(row for row in content["rows"] if row["system"] == system)["metrics"]


def test_references_as_released_and_whole(tmp_path):
    cut = ["the heart is", "small left effusion", "the lungs", "possible right"] * 3
    run = write_run(tmp_path / "run", cut, reference_emrrg=cut)
    evaluate_run(run)
    whole, whole_scores = metrics(run)
    evaluate_run(run, references="emrrg")
    released, released_scores = metrics(run)
    assert (whole["references"], released["references"]) == ("full", "emrrg")
    assert whole_scores["Bleu_1"] < 0.6 and released_scores["Bleu_1"] == pytest.approx(1)
    # labels are read from the cut text: the heart's enlargement is not in it
    assert whole["support"]["Cardiomegaly"] == 3 and released["support"]["Cardiomegaly"] == 0
    assert whole["labeler"] == RULES.name and whole["studies"] == 12 and whole["date"]
    with pytest.raises(InputError, match="no cut references"):
        evaluate_run(write_run(tmp_path / "old", REPORTS), references="emrrg")


def test_damaged_predictions_are_refused(tmp_path):
    run = write_run(tmp_path / "run", REPORTS, systems=[{"greedy": "a"}] * 3 + [{}])
    with pytest.raises(InputError, match="same systems"):
        evaluate_run(run)
    assert not (run / "metrics.json").exists()


def test_labels_of_the_data_set_stand_for_the_reference(tmp_path):
    given = dict.fromkeys(OBSERVATIONS) | {"Fracture": 1}
    run = write_run(tmp_path / "run", REPORTS, labels=[given] * 4)
    evaluate_run(run)
    assert metrics(run)[0]["support"]["Fracture"] == 4
    evaluate_run(run, labeler=Labeler("another", RULES.label))  # reads both sides itself
    content, scores = metrics(run)
    assert content["labeler"] == "another" and content["support"]["Fracture"] == 0
    assert scores["CE13_micro_F1"] == 1


def test_a_control_without_labels_keeps_its_other_scores(tmp_path):
    run = write_run(tmp_path / "run", REPORTS, systems=[{"greedy": "never labelled"}] * 4)
    file = tmp_path / "labels.csv"
    lines = [f"{text},{',' * 13}" for text in REPORTS]
    file.write_text("\n".join([",".join(("report", *OBSERVATIONS)), *lines]), encoding="utf-8")
    evaluate_run(run, labeler=from_csv([file], [f"s{i}" for i in range(4)]))
    content, greedy = metrics(run, "greedy")
    assert content["labeler"] == "CSV: labels.csv"
    assert "Bleu_1" in greedy and "CE13_micro_F1" not in greedy
    file.write_text("\n".join([",".join(("report", *OBSERVATIONS)), *lines[1:]]), encoding="utf-8")
    with pytest.raises(InputError, match="no labels for 1 of 4 references"):
        evaluate_run(run, labeler=from_csv([file], [f"s{i}" for i in range(4)]))


@pytest.mark.parametrize("blank", ["", " ", ".", " . \n"])
def test_an_empty_reference_is_named(tmp_path, caplog, blank):
    run = write_run(tmp_path / "run", REPORTS * 2)
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()]
    lines[5]["reference"] = blank
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    evaluate_run(run)
    assert "1 of 8 references have no word, first that of study 's5'" in caplog.text
    caplog.clear()
    compare_systems([str(run), str(run)])
    assert "study 's5'" in caplog.text


HOSTILE = (
    "../../x",
    "/tmp/x",
    "a/b",
    "x" * 300,
    "nul\0",
    "\ud800",
    "C:\\x",
    "<script>x</script>",
    "=1+1",
    "α ",
    ".",
)


def test_no_id_is_a_path(tmp_path, make_model, phantom_dir, monkeypatch):
    data = read_dataset(phantom_dir)
    studies = [s for s in data.studies if s.split != "test"]
    first = next(s for s in data.studies if s.split == "test")
    studies += [dataclasses.replace(first, id=name) for name in HOSTILE]
    data = dataclasses.replace(data, studies=tuple(studies))
    monkeypatch.setattr(predict, "read_dataset", lambda *arguments: data)
    monkeypatch.setattr(page, "read_dataset", lambda *arguments: data)
    run = tmp_path / "a" / "run"
    model = make_model()
    write_config(run, model.settings)
    write_json(run / "run.json", run_record("stage 3", time.time(), data=str(phantom_dir), seed=0))
    predict_run(model, run, phantom_dir)
    assert [row["id"] for row in read_predictions(run)] == list(HOSTILE)
    evaluate_run(run)
    monkeypatch.setattr(explore, "read_dataset", lambda *arguments: data)
    explore.write_example_pages(run)
    html = page.write_run_page(run).read_text("utf-8")
    assert "<script>x" not in html and "Study &lt;script&gt;x" in html
    assert html.count("Inside the model") == len(HOSTILE)  # the traces are found again
    traces = sorted(path.name for path in (run / "traces").iterdir())
    assert len(traces) == len(HOSTILE) and all(re.fullmatch(r"[0-9a-f]{16}\.npz", name) for name in traces)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and [p.name for p in run.parent.iterdir()] == [
        "run"
    ]


def test_compare_says_what_is_real(tmp_path, capsys):
    good = write_run(tmp_path / "good", REPORTS * 10)
    bad = write_run(tmp_path / "bad", (*REPORTS[1:], REPORTS[0]) * 10)
    lines = (bad / "predictions.jsonl").read_text("utf-8").splitlines(keepends=True)
    (bad / "predictions.jsonl").write_text("".join(lines[::-1]), encoding="utf-8")  # order does not matter
    table = compare_systems([str(good), str(bad / "predictions.jsonl")])
    found = {row.metric: row for row in table.rows}
    assert table.studies == 40 and found["Bleu_4"].verdict == "real" and found["Bleu_4"].low > 0
    assert found["CE13_micro_F1"].difference == pytest.approx(1.0)
    assert {row.verdict for row in compare_systems([str(good), str(good)]).rows} == {"identical"}
    assert main(["evaluate", "compare", str(good), str(bad)]) == 0
    printed = capsys.readouterr().out
    assert "40 studies" in printed and RULES.name in printed and "real" in printed


def test_compare_needs_the_same_studies(tmp_path, capsys):
    (tmp_path / "else.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="predictions.jsonl"):
        compare_systems([str(tmp_path / "else.jsonl"), str(tmp_path)])
    full, short = write_run(tmp_path / "full", REPORTS), write_run(tmp_path / "short", REPORTS[:3])
    assert main(["evaluate", "compare", str(full), str(short)]) == 2
    assert "s3" in capsys.readouterr().err
    changed = (full / "predictions.jsonl").read_text("utf-8").replace("heart", "lung")
    other = write_run(tmp_path / "other", REPORTS)
    (other / "predictions.jsonl").write_text(changed, encoding="utf-8")
    with pytest.raises(InputError, match="another reference"):
        compare_systems([str(full), str(other)])
    (other / "predictions.jsonl").write_text(changed * 2, encoding="utf-8")
    with pytest.raises(InputError, match="occurs a second time"):
        compare_systems([str(other), str(full)])


def r2gen(folder, count=12):
    """A set in the R2Gen layout with one or two views and nothing but reports, as real data are."""
    splits = {"train": [], "val": [], "test": []}
    rng = np.random.default_rng(0)
    for i in range(count):
        split = "train" if i < count - 4 else "val" if i < count - 2 else "test"
        names = [f"CXR{i}_IM-{i:04}/{view}.png" for view in range(1 + i % 2)]
        for name in names:
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (24, 20), dtype=np.uint8)).save(path)
        splits[split].append({"id": f"CXR{i}_IM-{i:04}", "report": REPORTS[i % 4], "image_path": names})
    (folder / "annotation.json").write_text(json.dumps(splits), encoding="utf-8")
    return folder


@pytest.mark.parametrize("views", ["concat", "mean"])
def test_a_run_on_data_without_labels_findings_or_masks(tmp_path, make_model, small_config, views):
    data = dataclasses.replace(small_config.data, views=views, max_length=3)
    model = make_model(dataclasses.replace(small_config, data=data), awake=False)
    run = tmp_path / "run"
    predict_run(model, run, r2gen(tmp_path / "data"))
    rows = read_predictions(run)
    assert rows[0]["labels"] is None and len(rows) == 2
    assert set(rows[0]["systems"]) == {
        "greedy",
        "gates closed",
        "shuffled images",
        "constant report",
        "most frequent report",
        "random training report",
        "nearest neighbour",
    }
    assert rows[0]["systems"]["nearest neighbour"] in [clean_report(text, "iu_xray") for text in REPORTS]
    assert rows[0]["reference"].startswith(rows[0]["reference_emrrg"])
    assert len(rows[0]["reference_emrrg"]) < len(rows[0]["reference"])
    evaluate_run(run)
    content, _ = metrics(run)
    assert content["pointing"] is None and "IU X-ray" in content["dataset"]
    assert "not the published split" in content["dataset"]


def test_a_run_on_phantoms_points_with_every_map(tmp_path, make_model, phantom_dir):
    run = tmp_path / "run"
    predict_run(make_model(), run, phantom_dir)
    rows = read_predictions(run)
    assert rows[0]["labels"] and "oracle re-wording" in rows[0]["systems"]
    evaluate_run(run)
    content, _ = metrics(run)
    assert "SYNTHETIC" in content["dataset"]
    model, control = (row["metrics"] for row in content["rows"][:2])
    assert model["seconds"] * content["studies"] == pytest.approx(60 * model["minutes"])
    assert model["parameters_millions"] > 0 and "minutes" not in control
    if content["pointing"] is not None:  # the test studies may name nothing that has a mask
        assert len(content["pointing"]["variants"]) == len(MAPS)


def test_controls_of_any_data_set(tmp_path, capsys):
    data, out = r2gen(tmp_path / "data"), tmp_path / "out"
    write_controls(data, out)
    evaluate_run(out)
    content, constant = metrics(out, "constant report")
    assert content["split"] == "test" and content["cleaning"] == "iu_xray"
    assert [row["system"] for row in content["rows"]] == [
        "constant report",
        "most frequent report",
        "random training report",
        FLOOR,
        CEILING,
    ]
    assert constant["Bleu_1"] > 0 and content["rows"][0]["ci"]["Bleu_1"]
    assert main(["evaluate", "controls", "--data", str(data), "--out", str(out)]) == 0
    assert "constant report" in capsys.readouterr().out
    assert main(["evaluate", "controls", "--data", str(tmp_path / "none"), "--out", str(out)]) == 2


@pytest.mark.parametrize("options", [["chexbert"], ["chexbert", "--weights", "none.pth"], ["csv"]])
def test_a_labeler_without_its_files_is_refused(tmp_path, capsys, options):
    run = write_run(tmp_path / "run", REPORTS)
    assert main(["evaluate", "compare", str(run), str(run), "--labeler", *options]) == 2
    assert "needs --" in capsys.readouterr().err


@pytest.mark.slow
@real
def test_controls_of_the_real_iu_split(tmp_path):
    write_controls(IU / "annotation.json", tmp_path)
    evaluate_run(tmp_path)
    content, constant = metrics(tmp_path, "constant report")
    assert "R2Gen split 2069/296/590" in content["dataset"] and content["studies"] == 590
    assert constant["Bleu_1"] == pytest.approx(0.503, abs=1e-3)
    assert constant["Bleu_4"] == pytest.approx(0.174, abs=1e-3)
    assert constant["CE13_micro_F1"] == 0  # one report for everybody finds nothing
    # what the researcher's review measured: a text that names nothing, and the references themselves
    assert metrics(tmp_path, FLOOR)[1]["CE14_micro_F1"] == pytest.approx(0.615, abs=2e-3)
    ceiling = metrics(tmp_path, CEILING)[1]
    assert ceiling["CE13_example_F1"] == pytest.approx(0.229, abs=2e-3)
    assert ceiling["CE14_example_F1"] == pytest.approx(0.822, abs=2e-3)
    assert ceiling["CE13_micro_F1"] == ceiling["CE13_weighted_F1"] == 1
