"""Reports of another system, from a file to scores, controls and page; controls of a data set."""

import json
import logging
import re
import shlex

import pytest

from emrrg_lib.cli import main
from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation.compare import compare_systems
from emrrg_lib.evaluation.score import CEILING, FLOOR
from emrrg_lib.files import KIT
from emrrg_lib.run_folder import read_predictions

pytestmark = [pytest.mark.usefixtures("no_java"), pytest.mark.filterwarnings("ignore:METEOR is not computed")]

REPORTS = (
    "The heart is enlarged.",
    "Small left effusion. 1. Lungs are clear.",
    "No acute disease.",
    "Possible edema.",
)
WRITTEN = [text.lower().replace(".", " .") for text in REPORTS]


@pytest.fixture
def data(tmp_path):
    """An R2Gen annotation with 8, 4 and 4 studies and no image."""
    splits, number = {}, 0
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        splits[split] = []
        for _ in range(count):
            name = f"CXR{number}_IM-{number:04}"
            report = REPORTS[number % 4]
            splits[split].append(
                {"id": name, "report": report, "image_path": [f"{name}/0.png"], "split": split}
            )
            number += 1
    path = tmp_path / "iu" / "annotation.json"
    path.parent.mkdir()
    path.write_text(json.dumps(splits), "utf-8")
    return path


def ids(data, split="test"):
    return [entry["id"] for entry in json.loads(data.read_text("utf-8"))[split]]


def reports_of(folder, rows, name="test_result.json"):
    path = folder / name
    path.write_text(json.dumps(rows), "utf-8")
    return path


def scores(run):
    content = json.loads((run / "metrics.json").read_text("utf-8"))
    return content, {row["system"]: row["metrics"] for row in content["rows"]}


def evaluate(*words):
    return main(["evaluate", *map(str, words)])


def test_a_file_becomes_scores_controls_and_page(tmp_path, data, capsys):
    file = reports_of(tmp_path, {key: [text] for key, text in zip(ids(data), WRITTEN, strict=True)})
    out = tmp_path / "runs" / "r2"
    assert evaluate("--predictions", file, "--data", data, "--name", "R2Gen <x>", "--out", out) == 0
    rows = read_predictions(out)
    assert rows[1]["reference"] == "small left effusion . lungs are clear ."  # cleaned: no "1."
    content, systems = scores(out)
    assert list(systems) == [
        *(
            "R2Gen <x>",
            "shuffled images",
            "constant report",
            "most frequent report",
            "random training report",
        ),
        *(FLOOR, CEILING),
    ]
    assert (
        content["split"] == "test" and content["cleaning"] == "iu_xray" and "IU X-ray" in content["dataset"]
    )
    assert {d["minus"] for d in content["differences"]} == set(systems) - {"R2Gen <x>"}
    assert systems[CEILING]["Bleu_4"] == pytest.approx(1) and systems[FLOOR]["CE13_micro_F1"] == 0
    assert systems["R2Gen <x>"]["CE5_micro_F1"] == 1
    page = (out / "report.html").read_text("utf-8")
    assert "R2Gen &lt;x&gt;" in page and "small left effusion" in page and "training minutes" not in page
    assert evaluate("--run", out) == 0  # scores again what is there
    assert evaluate("table", "--run", out, "--format", "json") == 0
    printed = capsys.readouterr().out
    table = json.loads(printed[printed.index("{") :])
    assert table["rows"][0]["system"] == "R2Gen <x>" and any(
        r["source"].startswith("EMRRG") for r in table["rows"]
    )
    assert file.is_file()


def test_controls_can_be_compared(tmp_path, data):
    file = reports_of(tmp_path, WRITTEN)
    assert evaluate("--predictions", file, "--data", data, "--out", tmp_path / "mine") == 0
    assert evaluate("controls", "--data", data, "--out", tmp_path / "controls") == 0
    content, systems = scores(tmp_path / "controls")
    assert next(iter(systems)) == "constant report"
    words = [str(tmp_path / "mine"), str(tmp_path / "controls"), f"{tmp_path / 'mine'}:{CEILING}"]
    table = compare_systems(words)
    assert len(table.systems) == 3 and table.studies == 4
    same = compare_systems([f"{words[0]}:constant report", words[1]])
    assert {row.verdict for row in same.rows} == {"identical"}


def test_the_split_is_what_it_is(tmp_path, data, caplog):
    file = reports_of(tmp_path, dict(zip(ids(data, "val"), WRITTEN, strict=True)))
    out = tmp_path / "val"
    assert evaluate("--predictions", file, "--data", data, "--split", "val", "--out", out) == 0
    assert scores(out)[0]["split"] == "val" and [row["id"] for row in read_predictions(out)] == ids(
        data, "val"
    )
    assert " · val" in (out / "report.html").read_text("utf-8")


def test_own_references(tmp_path, data, caplog):
    rows = {key: {"model_prediction": "x y", "report": "The X. 1. Y."} for key in ids(data)}
    file = reports_of(tmp_path, rows)
    assert evaluate("--predictions", file, "--own-references", "--out", tmp_path / "a") == 0
    assert "the references are not cleaned" in caplog.text
    assert read_predictions(tmp_path / "a")[0]["reference"] == "The X. 1. Y."
    assert list(scores(tmp_path / "a")[1]) == ["test_result", "shuffled images", FLOOR, CEILING]
    own = ("--own-references", "--data", data)
    assert evaluate("--predictions", file, *own, "--out", tmp_path / "b") == 0
    content, systems = scores(tmp_path / "b")
    assert read_predictions(tmp_path / "b")[0]["reference"] == "the x . y ."
    assert "own references" in content["dataset"] and "constant report" in systems
    refs = reports_of(tmp_path, {key: ["the z ."] for key in ids(data)}, "test_refs.json")
    assert evaluate("--predictions", file, "--own-references", refs, "--out", tmp_path / "c") == 0
    assert read_predictions(tmp_path / "c")[0]["reference"] == "the z ."


def test_capitals_and_empty_reports_are_remarked(tmp_path, data, caplog):
    file = reports_of(tmp_path, dict(zip(ids(data), ["", *REPORTS[1:]], strict=True)))
    assert evaluate("--predictions", file, "--data", data, "--out", tmp_path / "a") == 0
    assert "1 of 4 reports are empty" in caplog.text and "--clean-reports" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        words = ("--predictions", file, "--data", data, "--clean-reports", "--out", tmp_path / "b")
        assert evaluate(*words) == 0
    assert "--clean-reports" not in caplog.text
    assert read_predictions(tmp_path / "b")[2]["hypothesis"] == "no acute disease ."
    assert (
        scores(tmp_path / "b")[1]["test_result"]["Bleu_1"]
        > scores(tmp_path / "a")[1]["test_result"]["Bleu_1"]
    )


def test_a_join_that_may_be_wrong_is_remarked(tmp_path, data, caplog):
    def remarks(content):
        caplog.clear()
        file = reports_of(tmp_path, content)
        assert evaluate("--predictions", file, "--data", data, "--out", tmp_path / "a") == 0
        return caplog.text

    assert "taken in the order of the 4 studies" in remarks(["a b"] * 4)
    rows = [{"id": key, "pred": "a b", "ref": text} for key, text in zip(ids(data), REPORTS, strict=True)]
    assert not remarks(rows)
    rows[1]["ref"] = "Another patient."
    assert "1 of 4 references in the file are not those of the data" in remarks(rows)
    for mine in (REPORTS, ("the heart is enlarged .", *REPORTS[1:])):
        assert "is this the file of the references" in remarks(dict(zip(ids(data), mine, strict=True)))


def test_labels_of_the_data_count_for_its_own_references_only(tmp_path, phantom_dir):
    studies = json.loads((phantom_dir / "annotation.json").read_text("utf-8"))["test"]
    rows = {s["id"]: {"hypothesis": "clear lungs .", "reference": "no finding ."} for s in studies}
    file = reports_of(tmp_path, rows)
    assert evaluate("--predictions", file, "--data", phantom_dir, "--out", tmp_path / "a") == 0
    content, systems = scores(tmp_path / "a")
    assert "oracle re-wording" in systems and "SYNTHETIC" in content["dataset"]
    named = sum(s["labels"][name] in (1, -1) for s in studies for name in OBSERVATIONS)
    assert sum(content["support"].values()) == named
    words = ("--predictions", file, "--data", phantom_dir, "--own-references", "--out", tmp_path / "b")
    assert evaluate(*words) == 0
    assert scores(tmp_path / "b")[0]["support"]["No Finding"] == len(studies)
    assert "data:image" in (tmp_path / "a" / "report.html").read_text("utf-8")  # the data's images


def test_a_bare_predictions_file_is_scored(tmp_path):
    """Faults 3 of the first edition: a folder with nothing but predictions.jsonl."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = [{"id": f"s{i}", "reference": text, "hypothesis": text} for i, text in enumerate(WRITTEN)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "predictions.jsonl").write_text(text, "utf-8")
    assert evaluate("--run", folder) == 0
    assert (folder / "report.html").is_file()
    assert evaluate("--run", folder, "--references", "emrrg") == 2
    assert (folder / "predictions.jsonl").read_text("utf-8") == text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "say what to score"),
        (["--run", "{tmp}", "--predictions", "{file}"], "say what to score"),
        (["--predictions", "{file}"], "say which data"),
        (["--predictions", "{file}", "--data", "{tmp}/none"], "no data at"),
        (["--predictions", "{tmp}/none.csv", "--data", "{data}"], "no file of reports"),
        (["--predictions", "{file}", "--own-references"], "has no reference of its own"),
        (
            ["--predictions", "{file}", "--data", "{data}", "--split", "val"],
            "lacks 4 of the 4 studies of split 'val'",
        ),
        (["--predictions", "{file}", "--data", "{data}", "--out", "{tmp}"], "is kept: name another folder"),
        (
            ["--predictions", "{file}", "--data", "{data}", "--out", "{tmp}/run"],
            "holds config.json, which is kept",
        ),
        (["--predictions", "{file}", "--data", "{data}", "--out", "{file}"], "is a file"),
        (["--predictions", "{file}", "--data", "{data}", "--out", "{tmp}/own"], "holds metrics.json, which"),
        (["--predictions", "{file}", "--data", "{data}", "--out", "{tmp}/o", "--metrics", "x"], "no metrics"),
        (["--predictions", "{file}", "--data", "{data}", "--out", "{tmp}/o", "--labeler", "csv"], "--labels"),
        (
            ["--predictions", "{file}", "--data", "{data}", "--out", "{tmp}/o", "--references", "emrrg"],
            "hold no cut references",
        ),
        (["controls", "--data", "{tmp}/few.json", "--out", "{tmp}/o"], "has no split 'train'"),
        (["compare", "{tmp}"], "name two or more systems"),
        (["compare", "{tmp}", "{tmp}", "{tmp}"], "each once"),
        (["compare", "{tmp}/run", "{tmp}/run:nobody"], "no reports of 'nobody', only of"),
        (["table", "--run", "{tmp}/run", "--seeds"], "two or more runs"),
    ],
)
def test_bad_words_are_one_sentence_and_write_nothing(tmp_path, data, capsys, words, sentence):
    file = reports_of(tmp_path, dict(zip(ids(data), WRITTEN, strict=True)))
    few = {"test": json.loads(data.read_text("utf-8"))["test"]}
    reports_of(tmp_path, few, "few.json")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}", "utf-8")
    row = {"id": "a", "reference": "b", "hypothesis": "c"}
    (run / "predictions.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    metrics = {"dataset": "d", "split": "test", "labeler": "l", "rows": [{"system": "s", "metrics": {}}]}
    reports_of(run, metrics, "metrics.json")
    (tmp_path / "own").mkdir()
    reports_of(tmp_path / "own", metrics, "metrics.json")
    before = sorted(map(str, tmp_path.rglob("*")))
    assert evaluate(*(word.format(tmp=tmp_path, file=file, data=data) for word in words)) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and len(error.splitlines()) == 1
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_the_readmes_block_runs_in_order_from_an_empty_folder(tmp_path, monkeypatch, capsys):
    readme = (KIT / "emrrg_lib" / "README.md").read_text("utf-8")
    block = re.search(r"^## Scores\n[\s\S]*?```sh\n([\s\S]*?)```", readme, re.M)[1]
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(commands) >= 7
    for program, *words in commands:
        assert program == ".venv/bin/emrrg"
        assert main(words) == 0, words
    assert {path.name for path in tmp_path.iterdir()} == {"phantom", "runs"}
    assert (tmp_path / "runs" / "mine" / "figures" / "study01.svg").is_file()
    assert "identical" in capsys.readouterr().out  # the system of the block is the constant report
