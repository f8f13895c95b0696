"""Stage 3 and the demo's parts on a model of a few thousand parameters."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emrrg_lib.config import TrainConfig
from emrrg_lib.data.loading import load_annotation
from emrrg_lib.data.study_set import StudySet
from emrrg_lib.demo import run_demo, score_run, split_shares
from emrrg_lib.errors import InputError
from emrrg_lib.inference import generate_reports
from emrrg_lib.model import EMRRG
from emrrg_lib.training.finetune import StudyCollator, TokenCollator, run_finetune
from emrrg_lib.vision.checkpoints import save_vision_encoder
from emrrg_lib.vision.encoder import VisionMamba

TRAIN = TrainConfig(warm_steps=3, steps=2, batch_size=4, validations=1, warmup_steps=1, seed=0)


@pytest.fixture
def config(tmp_path, small_config, make_encoder, make_llm, tokenizer):
    """The small configuration with base weights on disk, as a user's own would be."""
    save_vision_encoder(make_encoder(), tmp_path / "encoder.safetensors")
    make_llm().save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    return dataclasses.replace(
        small_config, encoder_weights=str(tmp_path / "encoder.safetensors"), train=TRAIN,
        llm=dataclasses.replace(small_config.llm, name=str(tmp_path / "llm")))


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


def test_interrupted_run_resumes_to_the_same_weights(tmp_path, config, phantom_dir):
    whole = run_finetune(config, phantom_dir, tmp_path / "whole")
    part = run_finetune(dataclasses.replace(config, train=dataclasses.replace(TRAIN, steps=0)),
                        phantom_dir, tmp_path / "part")
    assert not (part / "checkpoints" / "joint").exists()
    run_finetune(config, phantom_dir, part, resume=True)
    a, b = (load_file(run / "trained.safetensors") for run in (whole, part))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_tokens_computed_once_give_the_loss_of_the_live_encoder(config, phantom_dir):
    model = EMRRG.from_preset(config).eval()
    studies = StudySet(load_annotation(phantom_dir, "train"), config)
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
    assert {"model (beam search)", "greedy", "constant report", "shuffled images", "gates closed",
            "oracle re-wording", "linear head"} <= systems
    oracle = next(row for row in metrics["rows"] if row["system"] == "oracle re-wording")
    assert oracle["metrics"]["CE13_micro_F1"] == 1.0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [s.id for s in load_annotation(phantom_dir, "test")]
    html = page.read_text()
    assert "http://" not in html and "https://" not in html and rows[0]["id"] in html
    before = (run / "metrics.json").read_text()
    score_run(run)
    assert (run / "metrics.json").read_text() == before


def test_run_writes_a_report_for_image_files_and_refuses_others(tmp_path, config, phantom_dir):
    run = run_finetune(config, phantom_dir, tmp_path / "run")
    study = load_annotation(phantom_dir, "test")[0]
    both = generate_reports(run, study.images)
    assert len(both) == 1 and isinstance(both[0], str)
    assert generate_reports(run, study.images[:1], greedy=True) == generate_reports(
        run, study.images[:1], greedy=True)
    with pytest.raises(InputError, match="3 images given"):
        generate_reports(run, [study.images[0]] * 3)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match="text.png"):
        generate_reports(run, [tmp_path / "text.png"])
    with pytest.raises(InputError, match="config.json"):
        generate_reports(tmp_path / "nowhere", study.images)


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


def test_demo_writes_its_page_and_goes_on_after_a_stop(tmp_path, config, monkeypatch):
    sizes = dataclasses.replace(config.encoder, image_size=32, patch_size=8)
    small = dataclasses.replace(config, encoder=sizes, encoder_weights=str(tmp_path / "larger.safetensors"))
    save_vision_encoder(VisionMamba(sizes), tmp_path / "larger.safetensors")
    monkeypatch.setattr("emrrg_lib.demo.preset", lambda name: small)
    out = tmp_path / "demo"
    page = run_demo(out, studies=20, seed=3)
    metrics, drawn = (out / "metrics.json").read_text(), (out / "data" / "annotation.json").stat().st_mtime_ns
    assert page == out / "report.html" and page.stat().st_size > 10_000
    (out / "run.json").unlink()  # as if stopped before the end of the training
    run_demo(out, studies=20, seed=3)
    assert (out / "metrics.json").read_text() == metrics
    assert (out / "data" / "annotation.json").stat().st_mtime_ns == drawn  # the studies were kept
