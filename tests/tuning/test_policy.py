"""What trains under every policy of Tables 5 and 6: names, counts, gradients, and nothing else."""

from dataclasses import replace

import pytest
import torch

from emrrg_lib.files import InputError
from emrrg_lib.language.prompt import text_batch
from emrrg_lib.presets import preset
from emrrg_lib.tuning.policy import POLICIES, apply_policy, learning_rate_groups

D, N, R, HIDDEN, RANK = 16, 16, 1, 32, 2  # of the small model: two blocks, two LLM layers
DEPTH, DIRECTIONS = 2, 4
ENCODER = {  # trained encoder parameters by what the policy chooses
    "X": DEPTH * RANK * (D + D),
    "Z": DEPTH * RANK * (D + D),
    "in_proj": DEPTH * RANK * (D + 2 * D),
    "out_proj": DEPTH * RANK * (D + D),
    "x_proj": DEPTH * DIRECTIONS * RANK * (D + R + 2 * N),
    "dt_proj": DEPTH * DIRECTIONS * RANK * (R + D),
    "dt": DEPTH * DIRECTIONS * RANK * (D + R),
    "B": DEPTH * DIRECTIONS * RANK * (D + N),
    "C": DEPTH * DIRECTIONS * RANK * (D + N),
    "embedding": RANK * (3 * 4 * 4 + D),
}
PROJECTOR = D * HIDDEN + HIDDEN + 2 * HIDDEN + 2 * HIDDEN  # Linear, LayerNorm, two view embeddings
KV_WIDTH = 4 * 8  # four key heads of width 8
LLM = {
    "frozen": 0,
    "lora": 2 * 3 * (HIDDEN + HIDDEN + HIDDEN + KV_WIDTH),
    "hybrid": 2 * (2 * (HIDDEN + 1) * KV_WIDTH + HIDDEN + 1 + 1),
}


@pytest.fixture
def build(make_model, small_config):
    def make(name, **kwargs):
        config = apply_policy(small_config, name)
        return make_model(replace(config, llm=replace(config.llm, lora_r=3)), **kwargs)

    return make


def names_of(policy):
    """Substrings one of which every trainable name must contain."""
    encoder = {
        "full": ["encoder."],
        "frozen": [],
        "lora": [f".lora_A.lora_{t}." if t != "B" else ".lora_A.lora_B_rows." for t in policy.targets]
        + [f".lora_B.lora_{t}." if t != "B" else ".lora_B.lora_B_rows." for t in policy.targets],
    }[policy.encoder]
    llm = {
        "frozen": [],
        "lora": [f"self_attn.{p}.lora_{m}.llm." for p in ("q_proj", "v_proj") for m in "AB"],
        "hybrid": [".cross_attention.k_proj", ".cross_attention.v_proj", ".gate_proj", ".warm_up"],
    }
    return encoder, llm[policy.llm]


def test_the_tables_have_all_their_rows():
    assert [f"table5-{i}" for i in range(1, 7)] == [p for p in POLICIES if p.startswith("table5")]
    assert {p.removeprefix("table6-") for p in POLICIES if p.startswith("table6")} == {"llm", *ENCODER}
    assert {"full", "frozen", "lora-x", "lora-x+in_proj"} <= POLICIES.keys()


@pytest.mark.parametrize("name", POLICIES)
def test_exactly_what_a_policy_names_trains(build, make_encoder, name):
    model, policy = build(name), POLICIES[name]
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    encoder, llm = names_of(policy)
    everywhere = ["projector.", "projector_norm.", "view_embedding."]
    for part, wanted in (("encoder.", encoder), ("llm.", llm)):
        names = [n for n in trained if n.startswith(part)]
        assert all(any(w in n for w in wanted) for n in names), names
        assert all(any(w in n for n in names) for w in wanted), wanted
    assert all(any(w in n for n in trained) for w in everywhere)
    assert not any(".cross_attention." in n and "lora_" in n for n in trained)
    whole = sum(p.numel() for p in make_encoder().parameters())
    counted = whole if policy.encoder == "full" else sum(ENCODER[t] for t in policy.targets)
    assert sum(p.numel() for p in trained.values()) == counted + PROJECTOR + LLM[policy.llm]


@pytest.mark.parametrize("name", POLICIES)
def test_what_trains_gets_a_gradient_and_a_learning_rate(build, images, tokenizer, name):
    model = build(name).train()
    text = text_batch(
        tokenizer,
        model.settings.data.prompt,
        ["the heart is enlarged .", "clear ."],
        12,
        model.settings.llm.image_in_prompt,
    )
    model(
        pixel_values=images(2),
        view_mask=torch.ones(2, 2, dtype=torch.bool),
        input_ids=text.input_ids,
        attention_mask=text.attention_mask,
        labels=text.labels,
    )["loss"].backward()
    for parameter_name, parameter in model.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.any())
        assert moved == parameter.requires_grad, parameter_name
    groups = learning_rate_groups(model, 1.0, 2.0)
    fast = {id(p) for p in groups[1]["params"]}
    trained = {n: id(p) for n, p in model.named_parameters() if p.requires_grad}
    assert fast == {i for n, i in trained.items() if "gate_proj" in n or "warm_up" in n}
    assert {id(p) for group in groups for p in group["params"]} == set(trained.values())


def test_without_hybrid_layers_the_visual_tokens_stand_in_the_prompt(small_config):
    config = apply_policy(small_config, "table5-4")
    assert config.llm.hybrid_layers == () and config.llm.visual_in_prompt == "all"
    pooled = replace(small_config, llm=replace(small_config.llm, visual_in_prompt="pooled"))
    assert apply_policy(pooled, "table5-4").llm.visual_in_prompt == "pooled"
    assert apply_policy(preset("iu-xray"), "table5-6").llm == preset("iu-xray").llm


def test_wrong_policies_are_refused(small_config):
    with pytest.raises(
        InputError, match="unknown policy 'table7'; did you mean 'table6-.*choose from full, frozen"
    ):
        apply_policy(small_config, "table7")
    with pytest.raises(InputError, match="policy 'table5-6' needs hybrid layers, but preset 'mambaxray"):
        apply_policy(preset("mambaxray-vl-base"), "table5-6")
