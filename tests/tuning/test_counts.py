"""The parameter ledger: exact counts by independent formulas, and how the published ones arise."""

from dataclasses import replace

import pytest
import torch

from emrrg_lib import cli
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import PRESETS, large_encoder, preset, released_code
from emrrg_lib.tuning.policy import apply_policy, ledger, published_counts


def counts(config):
    with torch.device("meta"):
        model = EMRRG.from_sizes(config)
    assert all(p.is_meta for p in model.parameters())
    return {e.part: (e.parameters, e.trained) for e in ledger(model) if e.parameters}


def encoder_size(d, depth, patches, N=16, K=4, R=None):
    R = R or -(-d // 16)
    hidden = d * 4 * 2 // 3
    direction = d * N + d + d * K + d + (R + 2 * N) * d + d * R + d
    block = 2 * d * d + d * d + 4 * direction + 3 * d * hidden + 2 * hidden + d + 4 * d
    return depth * block + d + (patches + 1) * d + d * 3 * 256 + d + 2 * d


@pytest.mark.parametrize("name", PRESETS)
def test_every_part_of_every_preset_is_counted_once(name):
    config = preset(name)
    with torch.device("meta"):
        model = EMRRG.from_sizes(config)
    entries = ledger(model)
    assert sum(e.parameters for e in entries) == sum(p.numel() for p in model.parameters())
    assert sum(e.trained for e in entries) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_iu_xray_is_counted_exactly():
    found = counts(preset("iu-xray"))
    frozen = {part: n for part, (n, trained) in found.items() if not trained}
    assert sum(n for part, n in frozen.items() if part != "LLM") == encoder_size(768, 12, 144) == 84_222_720
    assert frozen["LLM"] == 24 * 50_604_032 + 2 * 151_936 * 2048 + 2048
    trained = {part: n for part, (_, n) in found.items() if n}
    assert trained == {
        "Partial LoRA": 589_824 + 884_736,  # LoRA_p(X) and LoRA(in_proj), r = 32 (NOTES F)
        "projector, view embedding": 1_579_008,
        "cross-attention W_k, W_v": 4 * 8_392_704,
        "dynamic gate, warm-up α": 4 * 2050,
    }


def test_llama_presets_are_counted_exactly():
    found = counts(preset("mimic-cxr"))
    assert found["LLM"] == (32 * 202_383_360 + 2 * 32_000 * 4096 + 4096, 0)
    hybrid = found["cross-attention W_k, W_v"][1] + found["dynamic gate, warm-up α"][1]
    assert hybrid == 4 * 33_566_722
    whole = counts(large_encoder(preset("mambaxray-vl-base")))
    parts = ("patch embedding", "cls token, positions", "Mamba mixers", "SwiGLU and norms")
    assert sum(whole[p][1] for p in parts) == encoder_size(1024, 24, 196) == 296_010_720
    assert "dynamic gate, warm-up α" not in whole
    lora = counts(apply_policy(preset("mimic-cxr"), "table5-5"))
    assert lora["LoRA of the LLM"] == (8_388_608, 8_388_608)  # r = 16 on q and v (NOTES F)
    swin = counts(preset("r2gengpt"))["Hugging Face backbone"]
    assert swin == (86_743_224, 86_743_224)  # Swin-base without its classifier


@pytest.mark.parametrize(
    "target, r, parameters",
    [
        ("X", 16, 294_912),
        ("X", 64, 1_179_648),
        ("in_proj", 16, 442_368),
        ("out_proj", 32, 589_824),
        ("x_proj", 16, 651_264),
        ("x_proj", 32, 1_302_528),
        ("dt_proj", 32, 1_253_376),
        ("dt", 32, 1_253_376),
        ("B", 32, 1_204_224),
        ("C", 32, 1_204_224),
        ("embedding", 32, 49_152),
    ],
)
def test_every_partial_lora_target_has_the_count_of_the_notes(target, r, parameters):
    config = apply_policy(preset("mimic-cxr"), f"table6-{target}")
    config = replace(config, partial_lora=replace(config.partial_lora, r=r))
    assert counts(config)["Partial LoRA"] == (parameters, parameters)


def test_the_published_counts_arise_as_the_notes_say():
    base, adapters = published_counts(768, 12)
    assert (base.claim, base.total, base.parts["whole encoder"]) == ("57.31 M", 57_310_464, 84_262_656)
    assert (adapters.claim, adapters.total) == ("1.32 M", 1_327_104)
    assert list(adapters.parts.values()) == [442_368, 884_736]
    large, _ = published_counts(1024, 24)
    assert (large.claim, large.total, large.parts["whole encoder"]) == ("202.32 M", 202_320_864, 296_010_720)


def test_the_commands_print_what_was_chosen(capsys):
    assert cli.main(["ledger", "--preset", "iu-xray"]) == 0
    printed = capsys.readouterr().out
    for number in ("36,632,584", "84,262,656", "57,310,464", "1,327,104", "published: 57.31 M", "1.32 M"):
        assert number in printed
    assert cli.main(["info", "--preset", "mimic-cxr", "--encoder", "large", "--policy", "table5-1"]) == 0
    printed = capsys.readouterr().out
    assert "d = 1024; encoder full" in printed and "hybrid layers []" in printed
    assert cli.main(["ledger", "--preset", "iu-xray", "--released-code", "--llm", "smollm2-135m"]) == 0
    printed = capsys.readouterr().out
    assert "224 px" in printed and "encoder frozen" in printed and "D = 576" in printed
    assert cli.main(["ledger", "--preset", "tiny", "--encoder", "large"]) == 2
    assert "preset 'tiny' has another kind of encoder" in capsys.readouterr().err


def test_presets_are_the_papers():
    iu, mimic = preset("iu-xray"), preset("mimic-cxr")
    assert (iu.encoder.image_size, iu.encoder.embed_dim, iu.llm.name) == (192, 768, "qwen1.5-1.8b")
    assert (iu.train.epochs, iu.train.batch_size, iu.train.validations) == (30, 20, 30)
    assert (iu.partial_lora.r, iu.partial_lora.targets, iu.data.max_length) == (32, ("X", "in_proj"), 60)
    assert iu.train.joint_steps(2069) == 3104 and preset("tiny").train.joint_steps(2069) == 30
    assert (mimic.train.epochs, mimic.train.batch_size, mimic.data.max_length) == (6, 18, 100)
    assert mimic.train.validations == 2 * mimic.train.epochs
    assert mimic.llm.hybrid_layers == (0, 8, 16, 24) and iu.llm.visual_in_prompt == "all"
    released = released_code(iu)
    assert (released.encoder.image_size, released.partial_lora.r, released.data.views) == (224, 16, "mean")
    assert vars(released.generation) == {
        "num_beams": 5,
        "max_new_tokens": 100,
        "min_new_tokens": 40,
        "length_penalty": 2.0,
        "repetition_penalty": 2.0,
    }
    assert released_code(mimic).generation.num_beams == 3
