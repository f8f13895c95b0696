"""Nothing is lost: a run that is killed anywhere and resumed is the undisturbed run."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_runs import command, config_file, exit_code, start
from torch import nn
from transformers import TrainerCallback

from emrrg_lib import cli
from emrrg_lib.bench.parts import busy_processes
from emrrg_lib.config import TrainConfig
from emrrg_lib.data.study_set import Indices
from emrrg_lib.files import InputError, Terminated
from emrrg_lib.phantom import write_phantom
from emrrg_lib.presets import PRESETS
from emrrg_lib.training import checkpoints, engine
from emrrg_lib.training.engine import fit
from emrrg_lib.training.watch import memory_explained

TRAIN = TrainConfig(
    warm_steps=5,
    steps=6,
    batch_size=4,
    validations=2,
    validation_studies=2,
    warmup_steps=1,
    save_steps=2,
    accumulation=2,
)
# place and how many times it is passed in a process before the kill
KILLS = [("batch", 5), ("save: optimiser", 4), ("save: rename", 5), ("best weights", 1), ("batch", 7)]
MORE_KILLS = [
    ("save: weights", 1),
    ("batch", 6),
    ("validation", 1),
    ("save: manifest", 3),
    ("save: old ones", 2),
    ("save: optimiser", 5),
    ("batch", 3),
    ("save: rename", 7),
    ("save: weights", 2),
    ("validation", 2),
    ("save: manifest", 8),
    ("batch", 9),
    ("best weights", 1),
    ("save: old ones", 1),
    ("save: optimiser", 3),
]


@pytest.fixture
def base(tmp_path, small_config, make_encoder, make_llm, tokenizer):
    """A configuration file whose base weights are on disk."""
    return config_file(tmp_path, small_config, TRAIN, make_encoder(), make_llm(), tokenizer)


def words(data, out, *more):
    return ["train", "--preset", "small", "--data", data, "--out", out, *more]


def outcome(run):
    """What a run must have in common with an undisturbed one, to the bit."""
    record = json.loads((run / "run.json").read_text())
    return (
        record["history"],
        record["validation"],
        (run / "trained.safetensors").read_bytes(),
        (run / "last.safetensors").read_bytes(),
    )


def test_five_kills_two_of_them_inside_a_save_change_nothing(tmp_path, base, phantom_dir):
    killed_and_resumed(tmp_path, base, phantom_dir, KILLS)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path, base, phantom_dir):
    killed_and_resumed(tmp_path, base, phantom_dir, KILLS + MORE_KILLS)


def killed_and_resumed(tmp_path, base, data, kills):
    assert exit_code(start(command, base, words(data, tmp_path / "whole"))) == 0
    for kill in kills:
        codes = [exit_code(start(command, base, words(data, tmp_path / "part", "--resume"), kill))]
        if codes == [0]:  # the run was over before the place came; begin another
            shutil.rmtree(tmp_path / "part")
            codes.append(exit_code(start(command, base, words(data, tmp_path / "part", "--resume"), kill)))
        assert codes[-1] == -signal.SIGKILL, kill
    assert exit_code(start(command, base, words(data, tmp_path / "part", "--resume"))) == 0
    assert outcome(tmp_path / "part") == outcome(tmp_path / "whole")


class Line(nn.Module):
    """One weight matrix; `fail` says how it fails on study 5."""

    def __init__(self, fail=None):
        super().__init__()
        torch.manual_seed(0)
        self.line, self.fail = nn.Linear(3, 1), fail

    def forward(self, x):
        if self.fail and (x[:, 0] == 5).any():
            if self.fail == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            x = x * float(self.fail)
        return {"loss": self.line(torch.randn(x.shape) + x).square().mean()}


def collate(numbers):
    return {"x": torch.tensor(numbers, dtype=torch.float32)[:, None].repeat(1, 3) + torch.zeros(3)}


def toy(out, fail=None, **more):
    settings = {
        "steps": 12,
        "batch_size": 2,
        "learning_rate": 0.01,
        "warmup_steps": 1,
        "save_steps": 3,
        "names": [f"CXR{n}" for n in range(9)],
        **more,
    }
    model = Line(fail)
    return model, fit(model, Indices(9), collate, out, **settings)


def at_step(number, action):
    class Do(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == number:
                action()

    return Do()


@pytest.mark.parametrize("fail", ["nan", "inf"])
def test_a_loss_that_is_no_number_stops_with_step_and_studies(tmp_path, fail):
    with pytest.raises(InputError, match=r"stopped at step \d+.*NaN.*studies CXR\d?.*learning rate") as error:
        toy(tmp_path, fail)
    assert "CXR5" in str(error.value)
    for checkpoint in tmp_path.glob("checkpoint-*"):
        assert checkpoints.flaw(checkpoint) is None


def test_a_gradient_that_is_no_number_never_reaches_the_weights(tmp_path):
    model = Line()
    model.line.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = model.line.weight.detach().clone()
    with pytest.raises(InputError, match="step 1: loss or gradient is not finite"):
        fit(model, Indices(9), collate, tmp_path, steps=2, batch_size=3, learning_rate=0.1, clip=0.0)
    assert torch.equal(model.line.weight, before)


def test_out_of_memory_says_what_to_lower(tmp_path):
    with pytest.raises(InputError, match="2 studies at once: raise accumulation.*gradient_checkpointing"):
        toy(tmp_path, "memory")
    with pytest.raises(RuntimeError, match="shapes"), memory_explained(2, 1):
        torch.zeros(2, 3) @ torch.zeros(2, 3)  # any other error stays what it is


@pytest.mark.parametrize("number, kind", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_saves_the_step_and_the_run_goes_on(tmp_path, number, kind):
    whole, trainer = toy(tmp_path / "whole")
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="step 5 is saved in") as stop:
        toy(tmp_path / "part", callbacks=[at_step(5, lambda: os.kill(os.getpid(), number))])
    assert stop.type is kind and signal.getsignal(number) is before
    assert (tmp_path / "part" / "checkpoint-5").is_dir()
    resumed, again = toy(tmp_path / "part", resume=True)
    assert torch.equal(whole.line.weight, resumed.line.weight)
    assert engine.loss_history(trainer) == engine.loss_history(again)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(tmp_path, monkeypatch, number):
    monkeypatch.setattr("emrrg_lib.training.watch.TWICE", 0.0)

    def twice():
        for _ in range(2):
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt) as stop:
        toy(tmp_path, callbacks=[at_step(5, twice)])
    assert not str(stop.value) and not (tmp_path / "checkpoint-5").exists()


@pytest.mark.parametrize(
    "kind, code, name", [(KeyboardInterrupt, 130, "Ctrl-C"), (Terminated, 143, "SIGTERM")]
)
def test_the_command_line_says_how_to_go_on(capsys, monkeypatch, tmp_path, kind, code, name):
    def stopped(*arguments, **named):
        raise kind("step 7 is saved in here")

    monkeypatch.setattr("emrrg_lib.training.finetune.run_finetune", stopped)
    assert cli.main(["train", "--data", "x", "--out", str(tmp_path / "run")]) == code
    said = capsys.readouterr().err
    assert f"stopped by {name}" in said and "step 7 is saved in here" in said and "--resume" in said


def test_resume_takes_the_newest_whole_checkpoint_and_names_the_others(tmp_path, caplog):
    whole, _ = toy(tmp_path / "whole")
    toy(tmp_path / "part")
    part = tmp_path / "part"
    (part / ".checkpoint-15.partial" / "checkpoint-15").mkdir(parents=True)
    file = part / "checkpoint-12" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-1])
    resumed, _ = toy(part, resume=True)
    assert "skipped" in caplog.text and ".checkpoint-15.partial: the run was stopped while" in caplog.text
    assert "checkpoint-12: optimizer.pt is missing or damaged" in caplog.text
    assert not list(part.glob(".checkpoint*")) and checkpoints.flaw(part / "checkpoint-12") is None
    assert torch.equal(whole.line.weight, resumed.line.weight)


@pytest.mark.parametrize("shape", ["os", "safetensors", "torch"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, shape):
    error = {
        "os": OSError(errno.ENOSPC, "No space left on device"),
        "safetensors": ValueError("I/O error: No space left on device (os error 28)"),
        "torch": RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64"),
    }[shape]
    original, calls = checkpoints.save_file, iter(range(9))

    def full(*arguments):
        if next(calls) == 1:
            if shape == "torch":  # which does not say why; the space that is left does
                monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
            raise error
        return original(*arguments)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(InputError, match="disk is full.*checkpoint-6.*checkpoint-3 is intact.*--resume"):
        toy(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-3"]


def test_other_errors_of_a_save_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "save_file", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        toy(tmp_path)


def test_changed_settings_are_refused_key_by_key(tmp_path, base, phantom_dir, capsys, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", None)  # `command` sets it; taken back after the test
    toy(tmp_path / "toy")
    with pytest.raises(InputError, match=r"other settings \(batch_size: 2 -> 3; clip: 1.0 -> 0.5\)"):
        toy(tmp_path / "toy", resume=True, batch_size=3, clip=0.5)
    assert command(base, words(phantom_dir, tmp_path / "run")) == 0
    before = outcome(tmp_path / "run")
    assert (
        command(
            base,
            words(phantom_dir, tmp_path / "run", "--resume", "--set", "train.seed=4", "data.max_length=9"),
        )
        == 2
    )
    said = capsys.readouterr().err
    assert "data.max_length: 12 -> 9" in said and "train.seed: 0 -> 4" in said
    assert outcome(tmp_path / "run") == before


@pytest.mark.parametrize(
    "held, said",
    [
        (
            "checkpoints/checkpoint-3/trainer_state.json",
            "holds a training that was stopped: go on with --resume",
        ),
        ("run.json", "holds a finished training: choose another folder"),
        ("annotation.json", "holds other files than those of a training; name a new folder"),
    ],
)
@pytest.mark.parametrize("words", [("train",), ("pretrain", "stage1"), ("pretrain", "stage2")])
def test_nothing_that_is_there_is_overwritten_by_mistake(tmp_path, phantom_dir, capsys, words, held, said):
    file = tmp_path / "run" / held
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert cli.main([*words, "--data", str(phantom_dir), "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [file]


def test_the_tiny_weights_are_not_made_over_finished_ones(tmp_path, capsys):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "run.json").write_text("{}")
    assert cli.main(["pretrain", "tiny", "--out", str(tmp_path)]) == 2
    assert "encoder holds a finished training" in capsys.readouterr().err


def stopped_run(base, data, out):
    """A run that was killed in its joint part."""
    assert exit_code(start(command, base, words(data, out), ("batch", 7))) == -signal.SIGKILL


def _another_image(data, entries):
    file = data / "images" / entries[0]["image_path"][0]
    moved = np.asarray(Image.open(file)).copy()
    moved[5, 5] ^= 1
    before = file.stat()
    Image.fromarray(moved).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _swapped_images(data, entries):
    entries[0]["image_path"], entries[1]["image_path"] = entries[1]["image_path"], entries[0]["image_path"]


CHANGES = {
    "an image": _another_image,
    "images of two studies": _swapped_images,
    "views of a study": lambda data, entries: entries[0]["image_path"].reverse(),
    "order": lambda data, entries: entries.reverse(),
    "a report": lambda data, entries: entries[0].update(report="No effusion."),
    "an id": lambda data, entries: entries[0].update(id="another"),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", CHANGES)
def test_other_data_are_not_resumed(tmp_path, base, phantom_dir, capsys, monkeypatch, change, split):
    monkeypatch.setitem(PRESETS, "small", None)
    if not (kept := phantom_dir.parent / "stopped").is_dir():
        stopped_run(base, phantom_dir, kept)
    data, out = shutil.copytree(phantom_dir, tmp_path / "moved"), shutil.copytree(kept, tmp_path / "run")
    content = json.loads((data / "annotation.json").read_text())
    CHANGES[change](data, content[split])
    (data / "annotation.json").write_text(json.dumps(content))
    before = json.loads((out / "config.json").read_text())
    base.write_text(json.dumps(before))
    assert command(base, words(data, out, "--resume")) == 2
    assert "digest of ids, reports and images: " in capsys.readouterr().err


def test_a_data_folder_may_be_moved(tmp_path, base, phantom_dir, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", None)
    stopped_run(base, phantom_dir, tmp_path / "run")
    moved = shutil.copytree(phantom_dir, tmp_path / "moved", copy_function=shutil.copyfile)  # other times
    assert command(base, words(moved, tmp_path / "run", "--resume")) == 0


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_pre_training_is_not_resumed_on_other_data(tmp_path, phantom_dir, capsys, stage):
    data = shutil.copytree(phantom_dir, tmp_path / "data")
    options = ["--steps", "1", "--batch-size", "2", "--out", str(tmp_path / "out")]
    train = ["pretrain", stage, "--data", str(data), *options]
    assert cli.main(train) == 0
    assert cli.main([*train, "--resume"]) == 0
    content = json.loads((data / "annotation.json").read_text())
    _another_image(data, content["train"])
    assert cli.main([*train, "--resume"]) == 2
    assert "digest of ids, reports and images: " in capsys.readouterr().err


def test_the_identity_of_a_large_file_sees_its_length_and_its_ends(tmp_path):
    file, seen = tmp_path / "image", set()
    content = bytes(1_000_003)
    for place in (None, 0, 4095, 62_500, 500_000, len(content) - 1):
        changed = bytearray(content)
        if place is not None:
            changed[place] = 1
        file.write_bytes(changed)
        seen.add(checkpoints.image_identity(file))
    file.write_bytes(content + b"\0")
    seen.add(checkpoints.image_identity(file))
    assert len(seen) == 7


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    toy(tmp_path)
    model = Line()
    model.other = nn.Linear(1, 1)
    with pytest.raises(InputError, match="does not fit this model: 2 tensors differ, first 'other.bias'"):
        fit(
            model,
            Indices(9),
            collate,
            tmp_path,
            steps=12,
            batch_size=2,
            learning_rate=0.01,
            warmup_steps=1,
            save_steps=3,
            resume=True,
        )


@pytest.mark.slow
def test_a_training_beside_busy_programs_gives_the_same_weights(tmp_path):
    """The validation between the parts writes reports with fewer threads; the joint part keeps its bits."""
    data = write_phantom(tmp_path / "data", 60, 0)
    few = ["train.warm_steps=20", "train.steps=3", "train.validations=1", "train.validation_studies=4"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    weights = []
    for others in (0, os.cpu_count()):
        run = tmp_path / str(others)
        words = ["train", "--data", str(data), "--out", str(run), "--set", *few]
        with busy_processes(others):
            subprocess.run([sys.executable, "-m", "emrrg_lib", *words], env=environment, check=True)
        weights.append(load_file(run / "trained.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
