"""Stage 3 and the demo's parts on a model of a few thousand parameters."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import on_disk
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from emrrg_lib import cli
from emrrg_lib.config import TrainConfig, with_values
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study_set import StudySet
from emrrg_lib.files import InputError
from emrrg_lib.model import EMRRG
from emrrg_lib.run.demo import run_demo, score_run, split_shares
from emrrg_lib.run.inference import generate_for_files, generate_split
from emrrg_lib.training.checkpoints import WEIGHTS
from emrrg_lib.training.finetune import StudyCollator, TokenCollator, run_finetune
from emrrg_lib.vision.mamba import VisionMamba
from emrrg_lib.vision.weights import save_vision_encoder

TRAIN = TrainConfig(warm_steps=3, steps=2, batch_size=4, validations=1, warmup_steps=1, seed=0)


@pytest.fixture
def config(tmp_path, small_config, make_encoder, make_llm, tokenizer):
    """The small configuration with base weights on disk, as a user's own would be."""
    base = on_disk(tmp_path, small_config, make_encoder(), make_llm(), tokenizer)
    return dataclasses.replace(base, train=TRAIN)


def test_trains_only_what_the_paper_trains_and_repeats_exactly(tmp_path, config, phantom_dir):
    first = run_finetune(config, phantom_dir, tmp_path / "a")
    second = run_finetune(config, phantom_dir, tmp_path / "b")
    weights = load_file(first / "trained.safetensors")
    again = load_file(second / "trained.safetensors")
    assert all(torch.equal(weights[k], again[k]) for k in weights | again)
    fresh = EMRRG.from_preset(config).trained_state()
    assert weights.keys() == fresh.keys()
    moved = {k for k in fresh if not torch.equal(fresh[k], weights[k])}
    assert any("warm_up" in k for k in moved) and any("projector" in k for k in moved)
    record = json.loads((first / "run.json").read_text())
    assert record["seed"] == 0 and record["history"] and record["validation"]


def test_interrupted_run_resumes_to_the_same_weights(tmp_path, config, phantom_dir, monkeypatch):
    whole = run_finetune(config, phantom_dir, tmp_path / "whole")

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("emrrg_lib.training.finetune.StudyCollator.images", stopped)  # the joint part's
        with pytest.raises(KeyboardInterrupt):
            run_finetune(config, phantom_dir, tmp_path / "part")
    part = run_finetune(config, phantom_dir, tmp_path / "part", resume=True)
    for name in ("trained.safetensors", "last.safetensors"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()


def test_best_and_last_are_kept_and_patience_ends_a_part(tmp_path, config, phantom_dir):
    scores = iter([0.3, 0.5, 0.4, 0.2, 0.6, 0.1, 0.2])
    train = dataclasses.replace(TRAIN, warm_steps=6, steps=5, validations=6, patience=2)
    config = dataclasses.replace(config, train=train)
    run = run_finetune(config, phantom_dir, tmp_path / "run", score=lambda *_: next(scores))
    record = json.loads((run / "run.json").read_text())
    assert [(v["step"], v["score"]) for v in record["validation"]] == [
        (1, 0.3),
        (2, 0.5),
        (3, 0.4),
        (4, 0.2),
        (5, 0.6),
        (6, 0.1),
        (7, 0.2),
    ]
    assert [entry["step"] for entry in record["history"]] == list(range(1, 8))
    best, last = load_file(run / "trained.safetensors"), load_file(run / "last.safetensors")
    checkpoints = run / "checkpoints" / "joint"
    assert sorted(path.name for path in checkpoints.glob("checkpoint-*")) == ["checkpoint-3"]
    end = load_file(checkpoints / "checkpoint-3" / WEIGHTS)
    assert all(torch.equal(last[k], end[k]) for k in last)
    assert any(not torch.equal(best[k], last[k]) for k in best)
    before = (run / "trained.safetensors").read_bytes()
    run_finetune(config, phantom_dir, run, resume=True, score=lambda *_: next(scores))  # none is left
    assert (run / "trained.safetensors").read_bytes() == before


def test_a_better_warm_part_does_not_win_over_the_tuned_encoder(tmp_path, config, phantom_dir):
    """In the warm part LoRA's B stays zero: its checkpoint would be a model whose encoder was never tuned."""
    scores, seen = iter([0.9, 0.2, 0.4, 0.3]), []  # one validation of the warm part, three of the joint one

    def score(model, validation):
        seen.append({key: value.clone() for key, value in model.trained_state().items()})
        return next(scores)

    settings = ["train.warm_steps=1", "train.steps=3", "train.validations=3"]
    run = run_finetune(with_values(config, settings), phantom_dir, tmp_path / "run", score=score)
    kept = load_file(run / "trained.safetensors")
    assert len(seen) == 4 and all(torch.equal(kept[key], seen[2][key]) for key in kept)
    assert any(kept[key].any() for key in kept if "lora_B" in key)
    assert not any(seen[0][key].any() for key in kept if "lora_B" in key)


@pytest.mark.parametrize("views", ["mean", "concat"])
def test_studies_with_one_two_and_three_views_train_together(tmp_path, config, phantom_dir, views):
    """Such a batch's loss is the mean of its studies' losses, weighted by their tokens."""
    studies = read_dataset(phantom_dir).split("train")[:3]
    counts = (1, 2, 3)
    studies = [
        dataclasses.replace(s, images=tuple([*s.images, *s.images][:n]), views=())
        for s, n in zip(studies, counts, strict=True)
    ]
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, views=views))
    model = EMRRG.from_preset(config).eval()
    dataset = StudySet(studies, config)
    collator = TokenCollator(dataset, model, 0)
    with torch.no_grad():
        whole, single = collator([0, 1, 2]), [collator([i]) for i in range(3)]
        tokens = [int((batch["labels"] != -100).sum()) for batch in single]
        losses = [model(**batch)["loss"] for batch in single]
        wanted = sum(n * loss for n, loss in zip(tokens, losses, strict=True)) / sum(tokens)
        torch.testing.assert_close(model(**whole)["loss"], wanted, atol=1e-5, rtol=0)
    assert whole["view_mask"].sum(dim=1).tolist() == ([1, 2, 3] if views == "mean" else [1, 2, 2])
    live = StudyCollator(dataset, model, 0)([0, 1, 2])
    assert torch.equal(live["view_mask"], whole["view_mask"])
    pixels, mask = dataset.images([2])
    assert len(model.generate(pixels, mask, num_beams=1)) == 1


def test_gradient_checkpointing_changes_no_gradient(config, phantom_dir):
    found = []
    for on in (False, True):
        model = EMRRG.from_preset(config).train()
        if on:
            model.gradient_checkpointing_enable()
        studies = StudySet(read_dataset(phantom_dir).split("train"), config)
        torch.manual_seed(0)
        model(**StudyCollator(studies, model, 0)([0, 1]))["loss"].backward()
        found.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and found[0]
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key])


def test_settings_are_changed_by_key(config):
    changed = with_values(config, ["train.steps=8", "llm.dtype=bfloat16", 'partial_lora.targets=["X"]'])
    assert (changed.train.steps, changed.llm.dtype, changed.partial_lora.targets) == (8, "bfloat16", ("X",))
    for wrong, message in (
        ("train.batch=8", "no setting 'batch'"),
        ("train.steps=many", "must be int"),
        ("trian.steps=1", "no setting 'trian'"),
        ("preset.steps=1", "preset is one value"),
    ):
        with pytest.raises(InputError, match=message):
            with_values(config, [wrong])


def test_a_batch_that_cannot_be_split_is_refused(tmp_path, config, phantom_dir):
    train = dataclasses.replace(TRAIN, accumulation=3)
    with pytest.raises(InputError, match="batch of 4 cannot be split into 3 parts"):
        run_finetune(dataclasses.replace(config, train=train), phantom_dir, tmp_path / "run")


def test_tokens_computed_once_give_the_loss_of_the_live_encoder(config, phantom_dir):
    model = EMRRG.from_preset(config).eval()
    studies = StudySet(read_dataset(phantom_dir).split("train"), config)
    with torch.no_grad():
        kept = model(**TokenCollator(studies, model, 0)([0, 3]))["loss"]
        pixels, mask = studies.images([0, 3])
        batch = StudyCollator(studies, model, 0)([0, 3]) | {"pixel_values": pixels, "view_mask": mask}
        live = model(**batch)["loss"]
    torch.testing.assert_close(kept, live, atol=2e-3, rtol=0)  # half precision


def test_scored_run_has_every_row_and_a_page(tmp_path, config, phantom_dir):
    run = run_finetune(config, phantom_dir, tmp_path / "run")
    page = score_run(run)
    metrics = json.loads((run / "metrics.json").read_text())
    systems = {row["system"] for row in metrics["rows"]}
    assert {
        "model (beam search)",
        "greedy",
        "constant report",
        "shuffled images",
        "gates closed",
        "oracle re-wording",
        "linear head",
    } <= systems
    oracle = next(row for row in metrics["rows"] if row["system"] == "oracle re-wording")
    assert oracle["metrics"]["CE13_micro_F1"] == 1.0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [s.id for s in read_dataset(phantom_dir).split("test")]
    html = page.read_text()
    assert "http://" not in html and "https://" not in html and rows[0]["id"] in html
    before = (run / "metrics.json").read_text()
    score_run(run)
    assert (run / "metrics.json").read_text() == before


def test_run_writes_a_report_for_image_files_and_refuses_others(tmp_path, config, phantom_dir):
    run = run_finetune(config, phantom_dir, tmp_path / "run")
    study = read_dataset(phantom_dir).split("test")[0]
    both = generate_for_files(run, study.images)
    assert len(both) == 2 and isinstance(both[0], str)
    assert both[1].startswith(
        "(note: the model was trained on SYNTHETIC images: PhantomCXR, the annotation's"
    )
    assert "means nothing" in both[1] and "Not for clinical use" in both[1]
    assert generate_for_files(run, study.images[:1], greedy=True) == generate_for_files(
        run, study.images[:1], greedy=True
    )
    with pytest.raises(InputError, match="3 images given"):
        generate_for_files(run, [study.images[0]] * 3)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match="text.png"):
        generate_for_files(run, [tmp_path / "text.png"])
    with pytest.raises(InputError, match="config.json"):
        generate_for_files(tmp_path / "nowhere", study.images)


def test_the_trainers_loggers_are_asked_and_an_unknown_one_is_refused(
    tmp_path, config, phantom_dir, monkeypatch
):
    with pytest.raises(InputError, match="cannot report to 'nosuch'"):
        run_finetune(config, phantom_dir, tmp_path / "none", report_to=["nosuch"])
    assert not (tmp_path / "none").exists()
    logged = []

    class Logger(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logged.append(logs)

    name = "emrrg_lib.training.engine.get_available_reporting_integrations"
    monkeypatch.setattr(name, lambda: ["tensorboard"])
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Logger)
    run_finetune(config, phantom_dir, tmp_path / "run", report_to=["tensorboard"])
    assert any("loss" in entry for entry in logged)


def test_every_image_of_a_folder_gets_a_report(tmp_path, config, phantom_dir, capsys):
    run = run_finetune(config, phantom_dir, tmp_path / "run")
    pictures = tmp_path / "pictures"
    for number, study in enumerate(read_dataset(phantom_dir).split("test")):
        (pictures / "ward").mkdir(parents=True, exist_ok=True)
        shutil.copy(study.images[0], pictures / "ward" / f"{number}.png")
    words = ["generate", "--run", str(run), "--greedy", "--images", str(pictures)]
    assert cli.main(words) == 2 and "--out DIR" in capsys.readouterr().err
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["ward/0.png", "ward/1.png"]
    assert all(set(row) == {"id", "hypothesis"} for row in rows)
    alone = generate_for_files(run, [pictures / "ward" / "1.png"], greedy=True)
    assert rows[1]["hypothesis"] == alone[0]
    assert cli.main([*words, str(pictures / "ward" / "1.png"), "--out", str(tmp_path / "x")]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert cli.main([*words[:-1], str(phantom_dir), "--out", str(tmp_path / "x")]) == 2
    assert "name it with --data" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_run_and_its_base_weights_are_all_that_generating_needs(tmp_path, config, phantom_dir):
    data = shutil.copytree(phantom_dir, tmp_path / "data")
    run = run_finetune(config, data, tmp_path / "run")
    written = generate_split(run, data, "test", tmp_path / "split", greedy=True)
    study = read_dataset(data).split("test")[0]
    images = [shutil.copy(path, tmp_path / path.name) for path in study.images]
    shutil.rmtree(data)
    shutil.rmtree(run / "checkpoints")
    report = generate_for_files(run, images, greedy=True)
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(rows) == 2 and rows[0]["id"] == study.id and rows[0]["hypothesis"] == report[0]


def test_foreign_weights_are_refused(tmp_path, config, phantom_dir):
    run = run_finetune(config, phantom_dir, tmp_path / "run")
    weights = load_file(run / "trained.safetensors")
    weights["another"] = torch.zeros(1)
    save_file(weights, run / "trained.safetensors")
    with pytest.raises(InputError, match="another"):
        EMRRG.from_run(run)


def test_split_shares_of_the_demo():
    assert np.allclose(np.array(split_shares(2000)) * 2000, (1640, 120, 240))
    assert np.allclose(np.array(split_shares(40)) * 40, (25, 5, 10))


def scores(run):
    """`metrics.json` without what the clock says."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for key in ("minutes", "seconds", "training_minutes"):
        metrics["rows"][0]["metrics"].pop(key)
    return metrics


def test_demo_writes_its_page_and_goes_on_after_a_stop(tmp_path, config, capsys):
    sizes = dataclasses.replace(config.encoder, image_size=32, patch_size=8)
    small = dataclasses.replace(config, encoder=sizes, encoder_weights=str(tmp_path / "larger.safetensors"))
    save_vision_encoder(VisionMamba(sizes), tmp_path / "larger.safetensors")
    out = tmp_path / "demo"
    page = run_demo(out, studies=20, seed=3, config=small)
    metrics, drawn = scores(out), (out / "data" / "annotation.json").stat().st_mtime_ns
    assert page == out / "report.html" and page.stat().st_size > 10_000
    (out / "run.json").unlink()  # as if stopped before the end of the training
    run_demo(out, studies=20, seed=3, config=small)
    assert scores(out) == metrics
    assert (out / "data" / "annotation.json").stat().st_mtime_ns == drawn  # the studies were kept
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Seconds: "))
    parts = ("training", "writing reports", "scoring", "drawing pages")
    assert all(part in first and part in second for part in parts)
    assert first.startswith("Seconds: drawing ") and second.startswith("Seconds: training ")
