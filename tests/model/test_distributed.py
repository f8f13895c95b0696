"""Two processes learn and write what one does (gloo on the CPU)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config import load_config_from_file
from safetensors.torch import load_file
from small_runs import command, config_file, exit_code, start, together
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import emrrg_lib.training
from emrrg_lib.config import EMRRGConfig, TrainConfig
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.files import KIT
from emrrg_lib.language.prompt import IGNORE
from emrrg_lib.model import EMRRG
from emrrg_lib.run_folder import write_trained
from emrrg_lib.settings import from_dict
from emrrg_lib.training.finetune import is_abnormal
from emrrg_lib.training.shares import DRAWN, Batches, ShareCollator, random_streams

TRAIN = TrainConfig(warm_steps=4, steps=4, batch_size=4, validations=2, warmup_steps=1, save_steps=3)


@pytest.fixture
def base(tmp_path, small_config, make_encoder, make_llm, tokenizer):
    """A configuration file whose base weights are on disk."""
    return config_file(tmp_path, small_config, TRAIN, make_encoder(), make_llm(), tokenizer)


def same_run(a, b, tolerance=1e-4):
    first, second = (json.loads((run / "run.json").read_text()) for run in (a, b))
    assert [e["step"] for e in first["history"]] == [e["step"] for e in second["history"]]
    for key, value in (("history", "loss"), ("validation", "score")):
        assert [e[value] for e in first[key]] == pytest.approx([e[value] for e in second[key]], abs=tolerance)
    for name in ("trained.safetensors", "last.safetensors"):
        x, y = load_file(a / name), load_file(b / name)
        assert x.keys() == y.keys()
        for key in x:
            torch.testing.assert_close(x[key], y[key], atol=tolerance, rtol=0)


@pytest.fixture
def odd_data(tmp_path, phantom_dir):
    """Seven training studies, six abnormal ones drawn twice: the last batch of an epoch holds one."""
    data = shutil.copytree(phantom_dir, tmp_path / "data")
    studies = json.loads((data / "annotation.json").read_text())
    normal = next(study for study in studies["train"] if not is_abnormal(study["report"]))
    studies["train"].remove(normal)
    (data / "annotation.json").write_text(json.dumps(studies))
    return data


def test_two_processes_train_generate_and_score_like_one(tmp_path, base, odd_data):
    for run, launch in (("one", lambda *a: [exit_code(start(*a))]), ("two", together)):
        out = tmp_path / run
        words = ["train", "--preset", "small", "--data", odd_data, "--out", out]
        assert set(launch(command, base, words)) == {0}
        words = [
            "generate",
            "--run",
            tmp_path / "one",
            "--data",
            odd_data,
            "--split",
            "train",
            "--out",
            tmp_path / f"{run}_written",
        ]
        assert set(launch(command, base, words)) == {0}
    same_run(tmp_path / "one", tmp_path / "two")
    one, two = (tmp_path / f"{run}_written" / "predictions.jsonl" for run in ("one", "two"))
    assert one.read_text() == two.read_text() and len(one.read_text().splitlines()) == 7
    assert set(together(command, base, ["evaluate", "--run", tmp_path / "two"])) == {0}
    rows = [json.loads(line) for line in (tmp_path / "two" / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [study.id for study in read_dataset(odd_data).split("test")]
    assert {"greedy", "gates closed"} <= rows[0]["systems"].keys()
    assert (tmp_path / "two" / "metrics.json").is_file() and (tmp_path / "two" / "report.html").is_file()


def test_two_processes_pretrain_like_one(tmp_path, base):
    """Corpus, tokenizer, language model, stages 1 and 2: one process makes each file, all wait for it."""
    words = ["pretrain", "tiny", "--studies", 40, "--lm-steps", 2, "--stage1-steps", 2, "--stage2-steps", 2]
    for out, launch in (("one", lambda *a: [exit_code(start(*a))]), ("two", together)):
        assert set(launch(command, base, [*words, "--out", tmp_path / out])) == {0}
    for file in ("encoder/encoder.safetensors", "report_lm/model.safetensors"):
        one, two = (load_file(tmp_path / out / file) for out in ("one", "two"))
        for key in one:
            torch.testing.assert_close(one[key], two[key], atol=1e-4, rtol=0, msg=key)
    one, two = (json.loads((tmp_path / out / "encoder" / "run.json").read_text()) for out in ("one", "two"))
    for first, second in ((one, two), (one["stage1"], two["stage1"])):
        assert [e["loss"] for e in first["history"]] == pytest.approx(
            [e["loss"] for e in second["history"]], abs=1e-4
        )


@pytest.mark.slow
def test_torchrun_is_one_process_with_twice_the_hands(tmp_path, phantom_dir):
    """The tiny preset itself, started as a user would."""
    words = [
        "-m",
        "emrrg_lib",
        "train",
        "--data",
        str(phantom_dir),
        "--set",
        "train.warm_steps=2",
        "train.steps=2",
        "train.batch_size=4",
        "train.validations=1",
    ]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for out, launcher in (("one", []), ("two", torchrun)):
        subprocess.run([sys.executable, *launcher, *words, "--out", str(tmp_path / out)], check=True, cwd=KIT)
    same_run(tmp_path / "one", tmp_path / "two")


def test_every_number_is_drawn_once_an_epoch_in_another_order():
    batches = Batches(10, 4, seed=3)
    epochs = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        epochs.append([n for batch in batches for n in batch])
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and epochs[0] != epochs[1]
    assert [len(batch) for batch in batches] == [4, 4, 2] and len(batches) == 3
    batches.set_epoch(0)
    assert [n for batch in batches for n in batch] == epochs[0]


def test_a_last_batch_may_be_cut_to_what_divides():
    assert [len(batch) for batch in Batches(11, 4, 0, divisor=2)] == [4, 4, 2]
    assert [len(batch) for batch in Batches(9, 4, 0, divisor=2)] == [4, 4]
    assert len(Batches(9, 4, 0, divisor=2)) == 2


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_shares_cover_a_batch_once(count, size):
    numbers = list(range(10, 10 + size))
    made = []

    def collate(share):
        made.append((list(share), share.first, [rng.random() for rng in random_streams(7, share)]))
        return {"labels": torch.ones(len(share), 2)}

    batches = []
    for rank in range(count):
        torch.manual_seed(5)  # all processes are at the same place of torch's stream
        batches.append(ShareCollator(collate, rank, count)(numbers))
    torch.manual_seed(5)
    drawn = [rng.random() for rng in random_streams(7, numbers)]
    assert [n for batch in batches for n in batch[DRAWN]] == numbers
    learnt = [int((batch["labels"] != IGNORE).all(dim=1).sum()) for batch in batches]
    assert learnt == [len(batch[DRAWN]) for batch in batches]
    for (share, first, random), n in zip(made, learnt, strict=True):
        if n:
            assert numbers[first : first + n] == share and drawn[first : first + n] == random
    assert len(set(drawn)) == size


FSDP2 = Path(emrrg_lib.training.__file__).parent / "fsdp2.yaml"


def test_fsdp2_config_is_one_that_accelerate_reads():
    """Training under FSDP2 has not been run: accelerate refuses it on a CPU. See the next test."""
    settings = load_config_from_file(str(FSDP2))
    assert settings.fsdp_config["fsdp_version"] == 2 and settings.mixed_precision == "no"
    assert "This was not run" in FSDP2.read_text()


def sharded_step(rank, folder):
    """Wraps a small model as the config does, with PyTorch's own function, and takes one step."""
    config, batch = torch.load(folder / "batch.pt")
    model = EMRRG.from_preset(from_dict(config, EMRRGConfig, "config"))
    model.load_trained(folder / "trained.safetensors")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    names = load_config_from_file(str(FSDP2)).fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    names = [name.replace("Llama", "Qwen2") for name in names]
    mesh, wrapped = init_device_mesh("cpu", (2,)), []
    for module in reversed(list(model.modules())[1:]):  # children first
        if type(module).__name__ in names:
            wrapped.append(type(module).__name__)
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    loss = model(**batch)["loss"]
    loss.backward()
    whole = {k: p.grad.full_tensor() for k, p in model.named_parameters() if p.grad is not None}
    if rank == 0:
        torch.save((sorted(wrapped), loss.detach(), whole), folder / "sharded.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_fsdp2_units_hold_frozen_and_trained_weights_apart(tmp_path, base):
    config = json.loads(base.read_text())
    config["llm"]["dtype"] = "bfloat16"
    model = EMRRG.from_preset(from_dict(config, EMRRGConfig, "config"))
    for parameter in model.parameters():
        if parameter.requires_grad:  # no part stays at zero
            parameter.data += 0.3 * torch.randn(parameter.shape)
    write_trained(tmp_path, model)
    batch = {
        "view_mask": torch.tensor([[True, False]] * 2),
        "tokens": torch.randn(2, 17, 16),
        "input_ids": torch.randint(3, 300, (2, 9)),
        "attention_mask": torch.ones(2, 9, dtype=torch.long),
        "labels": torch.randint(3, 300, (2, 9)),
    }
    torch.save((config, batch), tmp_path / "batch.pt")
    loss = model(**batch)["loss"]
    loss.backward()
    group = [start(sharded_step, rank, tmp_path) for rank in range(2)]
    assert [exit_code(process) for process in group] == [0, 0]
    wrapped, found, gradients = torch.load(tmp_path / "sharded.pt")
    assert wrapped == ["GatedCrossAttention"] * 2 + ["Qwen2DecoderLayer"] * 2
    torch.testing.assert_close(found, loss.detach())
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-2, rtol=1e-2, msg=name)
