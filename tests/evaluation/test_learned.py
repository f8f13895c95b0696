"""Learned metrics: adapters on recorded outputs in the tools' forms, BERTScore and SembScore by hand."""

import json
import sys
import types

import numpy as np
import pytest
import torch

from emrrg_lib.cli import main
from emrrg_lib.data.report_files import read_reports
from emrrg_lib.evaluation import bertscore as bertscore_module
from emrrg_lib.evaluation import learned
from emrrg_lib.evaluation.bertscore import bertscore
from emrrg_lib.evaluation.compare import compare_systems
from emrrg_lib.evaluation.learned import radcliq_v1, recorded, semb_score, source_named
from emrrg_lib.evaluation.score import CEILING, evaluate_run
from emrrg_lib.files import InputError

pytestmark = [pytest.mark.usefixtures("no_java"), pytest.mark.filterwarnings("ignore:METEOR is not computed")]

IDS = ["s1", "s2", "s3"]
REFERENCES = ["the heart is enlarged .", "no effusion .", "the lungs are clear ."]
REPORTS = ["the lungs are clear .", "no effusion", "no effusion the heart"]
# RadEval 2.2.1 with per_sample=True answers in this form, a value a study; the values are made up.
RECORDED = {
    "radgraph_simple": [0.5, 1.0, 0.0],
    "radgraph_partial": [0.4, 1.0, 0.0],
    "radgraph_complete": [0.25, 1.0, 0.0],
    "ratescore": [0.61, 0.99, 0.42],
    "ratescore_of_another_release": [0.1, 0.2, 0.3],  # a key that the kit does not know
    "bertscore": [0.7, 0.95, 0.66],
    "bleu": [2.4e-6, 1.0, 0.03],
    "rouge1": [0.6, 1.0, 0.2],
    "rouge2": [0.5, 1.0, 0.0],
    "rougeL": [0.6, 1.0, 0.2],
    "temporal_f1": [1.0, 1.0, 0.0],
    "f1chexbert_sample_acc_5": [1.0, 0.0, 1.0],
    "f1chexbert_sample_acc_all": [0.0, 0.0, 1.0],
    "srrbert_weighted_f1": [0.3, 1.0, 0.5],
    "crimson": [-0.25, 1.0, 0.5],
}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [
        {"id": i, "reference": r, "hypothesis": h, "systems": {"constant report": REFERENCES[1]}}
        for i, r, h in zip(IDS, REFERENCES, REPORTS, strict=True)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


@pytest.fixture
def radeval(monkeypatch):
    """A package with RadEval's interface that plays recorded outputs, of the metrics that are asked for."""
    asked = []

    class RadEval:
        def __init__(self, metrics, per_sample, show_progress):
            if metrics == ["f1chexbert"]:
                import RadEval.metrics  # noqa: F401
            if metrics == ["green"]:
                raise OSError("StanfordAIMI/GREEN-radllama2-7b is not a local folder\nand more")
            self.name = metrics[0]
            assert per_sample and not show_progress

        def __call__(self, refs, hyps):
            assert isinstance(refs, list) and isinstance(hyps, list)
            asked.append(hyps)
            return {key: values for key, values in RECORDED.items() if key.startswith(self.name)}

    package = types.ModuleType("radeval")
    package.RadEval = RadEval
    monkeypatch.setitem(sys.modules, "radeval", package)
    monkeypatch.delitem(sys.modules, "RadEval", raising=False)
    monkeypatch.setattr(learned.metadata, "version", lambda name: "2.2.1")
    return asked


def rows(run):
    content = json.loads((run / "metrics.json").read_text("utf-8"))
    return content, {row["system"]: row for row in content["rows"]}


def test_radeval_scores_every_system_with_intervals(run, radeval, capsys):
    evaluate_run(run, sources=source_named("radeval:radgraph,ratescore", IDS, None, None))
    content, systems = rows(run)
    model = systems["model (beam search)"]
    assert model["metrics"]["radgraph_partial"] == pytest.approx(np.mean(RECORDED["radgraph_partial"]))
    low, high = model["ci"]["ratescore"]
    assert 0.42 <= low < np.mean(RECORDED["ratescore"]) < high <= 0.99
    found = {"radgraph_simple", "ratescore", "ratescore_of_another_release"}
    assert found <= systems["constant report"]["metrics"].keys()
    assert len(radeval) == 2 * 4  # two metrics of the model, its control, the floor and the ceiling
    assert content["learned"]["ratescore"] == "RadEval 2.2.1, ratescore"
    evaluate_run(run)  # the values are kept
    assert rows(run)[1]["constant report"]["metrics"]["ratescore"] == pytest.approx(
        np.mean(RECORDED["ratescore"])
    )
    assert main(["evaluate", "table", "--run", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "RaTEScore" in printed and "RadGraph, partial: RadEval 2.2.1, radgraph." in printed
    compared = {row.metric for row in compare_systems([str(run), f"{run}:constant report"]).rows}
    assert {"radgraph_partial", "ratescore"} <= compared


def test_values_of_other_texts_are_not_used_again(run, radeval):
    evaluate_run(run, sources=source_named("radeval:ratescore", IDS, None, None))
    text = (run / "predictions.jsonl").read_text("utf-8")
    (run / "predictions.jsonl").write_text(text.replace("no effusion the heart", "the heart"), "utf-8")
    evaluate_run(run)
    assert "ratescore" not in rows(run)[1]["model (beam search)"]["metrics"]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("radeval:grean", "did you mean 'green'"),
        (
            "radeval:green",
            r"needs StanfordAIMI/GREEN-radllama2-7b and a GPU \(StanfordAIMI.*folder\): fetch it",
        ),
        ("radeval:f1chexbert", r"with all that it requires \(No module named 'RadEval.metrics'"),
        ("radeval:", "take radeval:NAME"),
        ("bleurt", "take radeval:NAME"),
        ("semb", "needs --weights chexbert.pth and --bert"),
        ("bertscore:nowhere", "no model for BERTScore in nowhere"),
        ("recorded:nowhere.json", "nowhere.json"),
    ],
)
def test_what_is_not_there_is_one_sentence(radeval, word, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        source_named(word, IDS, None, None)
    assert "\n" not in str(error.value)


def test_without_the_package_the_command_says_what_to_install(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "radeval", None)
    assert main(["evaluate", "--run", str(run), "--metrics", "radeval:radgraph"]) == 2
    assert "pip install radeval" in capsys.readouterr().err
    assert not (run / "metrics.json").exists() and not (run / "learned.json").exists()


def test_recorded_values_of_radeval_and_rexrank(run, tmp_path):
    file = tmp_path / "radeval.json"
    file.write_text(json.dumps(RECORDED | {"green_std": 0.1}), "utf-8")
    scores = tmp_path / "report_scores.csv"  # as CXR-Report-Metric writes it, in another order
    scores.write_text(
        ",study_id,report,bleu_score,bertscore,semb_score,radgraph_combined,RadCliQ-v0,RadCliQ-v1\n"
        "0,s3,x,0.1,0.2,0.3,0.4,1,0.9\n1,s1,y,0.2,0.3,0.4,0.5,1,0.8\n2,s2,z,0.3,0.4,0.5,0.6,1,0.7\n"
    )
    assert recorded(scores, IDS).score([], [])["radcliq_v1"] == [0.8, 0.7, 0.9]
    evaluate_run(run, sources=[recorded(file, IDS), recorded(scores, IDS)])
    content, systems = rows(run)
    model = systems["model (beam search)"]["metrics"]
    assert model["ratescore"] == pytest.approx(np.mean(RECORDED["ratescore"]))
    assert model["bertscore_distilroberta"] == pytest.approx(0.3) and model["1/radcliq_v1"] == pytest.approx(
        1 / 0.8
    )
    assert "ratescore" not in systems["constant report"]["metrics"]  # made elsewhere, for one system
    assert content["learned"]["radcliq_v1"] == "report_scores.csv, made elsewhere"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", '{"green": [1, 2]}', "one finite number for each of the 3 studies"),
        ("a.json", '{"green": [1, 2, NaN]}', "one finite number"),
        ("a.json", '{"green": ["a", "b", "c"]}', "one finite number"),
        ("a.json", '{"green": 0.4}', "per_sample=True"),
        ("a.json", "[1]", "must be dict"),
        ("a.csv", "study_id,bertscore\ns1,1\ns2,1\ns1,0\ns3,1\n", "study '1' twice"),
        ("a.csv", "study_id,bertscore\ns1,1\ns2,1\n", "lacks 1 of 3 studies, the first is 's3'"),
        ("a.csv", "study_id,bertscore\ns1,1\ns2,\ns3,1\n", "one finite number"),
        ("a.csv", "id,bertscore\ns1,1\n", "no column 'study_id'"),
    ],
)
def test_damaged_recorded_values_are_refused(run, tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(InputError, match=sentence):
        evaluate_run(run, sources=[recorded(tmp_path / name, IDS)])
    assert not (run / "learned.json").exists() and not (run / "metrics.json").exists()


# ------------------------------------------------------------------------------- local weights


@pytest.fixture
def model(bert):
    """The folder with random weights too."""
    from transformers import AutoConfig, BertModel

    torch.manual_seed(2)
    network = BertModel(AutoConfig.from_pretrained(bert)).eval()
    network.save_pretrained(bert)
    return bert, network


def by_hand(network, vocabulary, layer, report, reference, weight):
    """P, R and F1 of BERTScore with loops, in float64."""

    def vectors(text):
        ids = [vocabulary.index(word) for word in ["[CLS]", *text.split(), "[SEP]"]]
        with torch.no_grad():
            hidden = network(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        return ids, hidden.double().numpy()

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    def side(these, others):
        best = [max(cosine(vector, other) for other in others[1]) for vector in these[1]]
        weights = [weight(token) for token in these[0]]
        return np.dot(best, weights) / sum(weights)

    a, b = vectors(report), vectors(reference)
    p, r = side(a, b), side(b, a)
    return np.array([p, r, 2 * p * r / (p + r)])


@pytest.mark.parametrize("idf", [False, True])
def test_bertscore_equals_its_definition(model, idf):
    folder, network = model
    vocabulary = (folder / "vocab.txt").read_text().split()
    sets = [{vocabulary.index(w) for w in ["[CLS]", *text.split(), "[SEP]"]} for text in REFERENCES]

    def weight(token):
        if idf:
            return np.log(4 / (1 + sum(token in found for found in sets)))
        return float(vocabulary[token] not in ("[CLS]", "[SEP]"))

    by, score = bertscore(folder, idf)
    assert by == f"BERTScore, bert, layer 2{', idf' * idf}: not the published setting"
    found = score(REFERENCES, REPORTS)["bertscore_local"]
    expected = [
        by_hand(network, vocabulary, 2, h, r, weight)[2] for h, r in zip(REPORTS, REFERENCES, strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-5)
    assert score(REFERENCES, REFERENCES)["bertscore_local"] == pytest.approx([1, 1, 1], abs=1e-5)
    assert score(["the heart", "."], ["", "no"])["bertscore_local"][0] == 0


def test_the_published_setting_is_known_by_the_model(model, monkeypatch):
    folder, network = model
    monkeypatch.setattr(bertscore_module, "DISTILROBERTA", ("bert", 2, 16, 15))
    monkeypatch.setattr(bertscore_module, "LAYER", 1)
    by, score = bertscore(folder)
    assert by == "BERTScore, distilroberta-base, layer 5, rescaled"
    vocabulary = (folder / "vocab.txt").read_text().split()
    raw = by_hand(
        network, vocabulary, 1, REPORTS[2], REFERENCES[2], lambda token: float(token not in (2, 3))
    )[2]
    found = score(REFERENCES, REPORTS)["bertscore_distilroberta"][2]
    assert found == pytest.approx((raw - 0.8473319) / (1 - 0.8473319), abs=1e-5)


def test_bertscore_is_in_the_table_of_a_run(run, model, capsys):
    words = ["evaluate", "--run", str(run), "--metrics", f"bertscore:{model[0]}"]
    assert main(words) == 0
    content, systems = rows(run)
    assert systems[CEILING]["metrics"]["bertscore_local"] == pytest.approx(1, abs=1e-5)
    assert "not the published setting" in content["learned"]["bertscore_local"]
    page = (run / "report.html").read_text("utf-8")
    assert "not the published setting" in page and "By models" in page


def test_semb_score_is_the_cosine_of_cls_vectors(bert, checkpoint):
    from transformers import AutoConfig, AutoTokenizer, BertModel

    path, state = checkpoint
    network = BertModel(AutoConfig.from_pretrained(bert)).eval()
    network.load_state_dict(
        {
            k.removeprefix("module.bert."): v
            for k, v in state.items()
            if "embeddings.position_ids" not in k and "linear" not in k
        }
    )
    tokens = AutoTokenizer.from_pretrained(bert)(REFERENCES + REPORTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        vectors = network(**tokens).last_hidden_state[:, 0].double().numpy()
    expected = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(vectors[:3], vectors[3:], strict=True)
    ]
    found = semb_score(path, bert).score(REFERENCES, REPORTS)["semb_score"]
    assert found == pytest.approx(expected, abs=1e-5)


# Features (RadGraph, BERTScore, SembScore, BLEU-2) -> RadCliQ-v1, computed with the code of RadEval 2.2.1
RADCLIQ = [
    ([0.0, 0.0, 0.0, 0.0], 2.450143),
    ([1.0, 1.0, 1.0, 1.0], -1.440690),
    ([0.5, 0.3, 0.6, 0.1], 0.735418),
]


def test_radcliq_equals_radeval():
    columns = np.array([features for features, _ in RADCLIQ]).T
    parts = dict(zip(("radgraph_radcliq", "bertscore_distilroberta", "semb_score"), columns, strict=False))
    assert radcliq_v1(parts) == pytest.approx([value for _, value in RADCLIQ], abs=1e-5)


def test_radcliq_is_made_where_its_parts_are(run, tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text(
        "study_id,bertscore,semb_score,radgraph_combined\ns1,0.3,0.6,0.5\ns2,1,1,1\ns3,0,0,0\n", "utf-8"
    )
    evaluate_run(run, sources=[recorded(file, IDS)])
    content, systems = rows(run)
    mean = np.mean([value for _, value in RADCLIQ])
    metrics = systems["model (beam search)"]["metrics"]
    assert metrics["radcliq_v1"] == pytest.approx(mean, abs=1e-5)
    assert metrics["1/radcliq_v1"] == pytest.approx(1 / mean, abs=1e-5)  # as the leaderboard prints it
    assert content["learned"]["radcliq_v1"].startswith("from RadGraph")


def test_a_run_folder_can_be_read_as_a_file_of_reports(run):
    assert [entry.report for entry in read_reports(run / "predictions.jsonl")] == REPORTS
