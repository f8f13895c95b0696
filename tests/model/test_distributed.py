"""Two processes learn and write what one does (gloo on the CPU)."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from small_runs import command, config_file, exit_code, sharded_command, start, together
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from emrrg_lib.bench.runs import use_fsdp2
from emrrg_lib.config import EMRRGConfig, TrainConfig
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.files import KIT, InputError, processes
from emrrg_lib.language.prompt import IGNORE
from emrrg_lib.model import EMRRG
from emrrg_lib.settings import from_dict
from emrrg_lib.training.finetune import is_abnormal, run_finetune
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


FSDP = pytest.mark.skipif(
    "fsdp_version" not in FullyShardedDataParallelPlugin.__dataclass_fields__, reason="needs accelerate 1.6"
)


@pytest.fixture
def half_base(tmp_path, small_config, make_encoder, make_llm, tokenizer):
    """A configuration with a bfloat16 LLM and no warm part, as the paper presets have."""
    llm = dataclasses.replace(small_config.llm, dtype="bfloat16")
    data = dataclasses.replace(small_config.data, augment=False)
    train = dataclasses.replace(TRAIN, warm_steps=0, save_steps=2, gate_learning_rate=0.1)
    config = dataclasses.replace(small_config, llm=llm, data=data)
    return config_file(tmp_path, config, train, make_encoder(), make_llm(), tokenizer)


@FSDP
def test_fsdp2_trains_checkpoints_and_resumes_like_one_process(tmp_path, half_base, phantom_dir):
    """Two processes that share every weight; a resume with one and with two; frozen layers computed again."""
    words = ["train", "--preset", "small", "--data", phantom_dir, "--out"]
    assert exit_code(start(command, half_base, [*words, tmp_path / "one"])) == 0
    config = json.loads(half_base.read_text())
    assert not config["train"]["gradient_checkpointing"]
    config["train"]["gradient_checkpointing"] = True
    half_base.write_text(json.dumps(config))
    killed = together(sharded_command, half_base, [*words, tmp_path / "two"], ("batch", 4))
    assert killed == [-signal.SIGKILL] * 2
    shutil.copytree(tmp_path / "two", tmp_path / "alone")
    (checkpoint,) = (tmp_path / "two" / "checkpoints" / "joint").glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-2"
    moments = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    assert all(type(t) is torch.Tensor for state in moments.values() for t in state.values())
    for run, launch in (("two", together), ("alone", lambda f, *a: [exit_code(start(f, *a))])):
        function = sharded_command if run == "two" else command
        assert set(launch(function, half_base, [*words, tmp_path / run, "--resume"])) == {0}
        same_run(tmp_path / "one", tmp_path / run)
    models = [EMRRG.from_run(tmp_path / run) for run in ("one", "two")]
    study = torch.randn(2, 3, 16, 16)
    one, two = (model.generate(study, torch.ones(1, 2, dtype=torch.bool), num_beams=2) for model in models)
    assert one == two


@FSDP
def test_fsdp2_has_no_warm_part(tmp_path, base, phantom_dir, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    config = from_dict(json.loads(base.read_text()), EMRRGConfig, "config")
    with pytest.raises(InputError, match="train.warm_steps=0"):
        run_finetune(config, phantom_dir, tmp_path / "run")


def sharded_model(config_file):
    """The model of a configuration, as accelerate prepares it under FSDP2."""
    use_fsdp2()
    model = EMRRG.from_preset(from_dict(json.loads(config_file.read_text()), EMRRGConfig, "config"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    return Accelerator(cpu=True).prepare(model, optimizer)[0]


def groups_of(config_file, out):
    """The FSDP2 groups of a model; the first process writes them down."""
    model = sharded_model(config_file)
    units = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    groups = {}
    for name, p in model.named_parameters():
        unit = max((u for u in units if name.startswith(f"{u}." if u else "")), key=len)
        groups.setdefault(unit, []).append((name, str(p.dtype), p.requires_grad, tuple(p.to_local().shape)))
    if processes().is_main_process:
        out.write_text(json.dumps(groups))


def report_of(model, rank):
    """A report whose length depends on the process."""
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(rank))
    return model.generate(
        images, torch.ones(1, 2, dtype=torch.bool), num_beams=2, max_new_tokens=3 + 4 * rank
    )


def write_report(config_file, folder):
    model = sharded_model(config_file)
    register_fsdp_forward_method(model, "generate")  # as the Trainer does
    assert model.sharded
    rank = processes().process_index
    (folder / f"{rank}.json").write_text(json.dumps(report_of(model, rank)))


@FSDP
def test_under_fsdp2_a_process_may_write_longer_reports_than_the_other(tmp_path, half_base):
    assert together(write_report, half_base, tmp_path) == [0, 0]
    model = EMRRG.from_preset(from_dict(json.loads(half_base.read_text()), EMRRGConfig, "config"))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == report_of(model, rank)


@FSDP
def test_frozen_and_trained_weights_are_in_fsdp2_groups_of_their_own(tmp_path, half_base):
    assert together(groups_of, half_base, tmp_path / "groups.json") == [0, 0]
    groups = json.loads((tmp_path / "groups.json").read_text())
    layers = {f"llm.model.layers.{i}" for i in range(2)}
    cross = {f"{layer}.self_attn.cross_attention" for layer in layers}
    kinds = {unit: {(dtype, trains) for _, dtype, trains, _ in group} for unit, group in groups.items()}
    assert layers | cross <= kinds.keys()
    assert all(kinds[unit] == {("torch.bfloat16", False)} for unit in kinds.keys() - cross - {""})
    assert all(kinds[unit] == {("torch.float32", True)} for unit in cross)
    if "llm.lm_head" in kinds:  # older releases of accelerate leave embeddings and lm_head in the root
        assert {dtype for dtype, _ in kinds[""]} == {"torch.float32"}
        assert {"llm.model.embed_tokens", "llm.model.norm"} <= kinds.keys()
    shapes = {name: shape for group in groups.values() for name, _, _, shape in group}
    assert shapes["llm.model.layers.0.self_attn.q_proj.weight"] == [16, 32]  # half of 32 x 32
