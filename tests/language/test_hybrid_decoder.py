"""Hybrid layers on real architectures: α = 0 identity, ways of writing, masks, copies, bad input."""

import copy

import pytest
import torch
import transformers

from emrrg_lib.files import InputError
from emrrg_lib.language.hybrid_decoder import (
    decoder_layers,
    gates_scaled,
    hybrid_modules,
    install_hybrid_layers,
    recording,
)

# grouped keys and values first, then one key and value per head
FITTING = [(kind, {}) for kind in ("Llama", "Qwen2", "Mistral", "Phi3", "Granite")] + [
    (kind, {"num_key_value_heads": 4}) for kind in ("Llama", "Qwen2")
]
SIZES = dict(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
EXTRA = {"Mistral": {"sliding_window": 6}}  # shorter than the text, so that its mask matters
VISUAL = 5


def plain(kind="Qwen2", seed=0, **changes):
    """A random LM of an architecture; its weights are large enough for words to differ."""
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **EXTRA.get(kind, {}), **changes})
    torch.manual_seed(seed)
    llm = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return llm


def hybrid(kind="Qwen2", alpha=0.0, gate_input="S", layers=(0, 2), **changes):
    """Every parameter of the cross-attention random, α as given."""
    llm = install_hybrid_layers(plain(kind, **changes), layers, gate_input)
    torch.manual_seed(1)
    with torch.no_grad():
        for module in hybrid_modules(llm).values():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.6)
            module.warm_up.fill_(alpha)
    return llm.eval()


def prompt(batch=2, length=9):
    """Ids, their mask, and what the hybrid layers see; the last visual token of row 0 is padding."""
    torch.manual_seed(2)
    ids = torch.randint(3, 60, (batch, length))
    visual_mask = torch.ones(batch, VISUAL, dtype=torch.bool)
    visual_mask[0, -1] = False
    ones = torch.ones_like(ids)
    return {
        "input_ids": ids,
        "attention_mask": ones,
        "visual_states": torch.randn(batch, VISUAL, 32),
        "visual_mask": visual_mask,
        "text_mask": ones.bool(),
    }


def text_only(given):
    return {k: v for k, v in given.items() if k in ("input_ids", "inputs_embeds", "attention_mask")}


def write(llm, given, **settings):
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False} | settings
    with torch.no_grad():
        return llm.generate(**given, **settings)


def row(given, index, width=None):
    """One row of a batch, its last `width` text positions."""
    cut = {k: v[index : index + 1] for k, v in given.items()}
    return (
        cut
        if width is None
        else cut | {k: cut[k][:, -width:] for k in ("input_ids", "attention_mask", "text_mask")}
    )


class Architecture:
    """`plain` and `hybrid` of one architecture."""

    def __init__(self, kind, changes):
        self.kind, self.changes = kind, changes

    def plain(self, **more):
        return plain(self.kind, **self.changes, **more)

    def hybrid(self, **more):
        return hybrid(self.kind, **self.changes, **more)


@pytest.fixture(scope="module", params=FITTING, ids=lambda p: p[0] + ("-MHA" if p[1] else "-GQA"))
def kind(request):
    return Architecture(*request.param)


# -------------------------------------------------------------------------- every architecture


@torch.no_grad()
def test_at_alpha_zero_logits_and_reports_keep_every_bit(kind):
    base, llm, given = kind.plain(), kind.hybrid(alpha=0.0), prompt()
    assert base.config._attn_implementation == "sdpa"
    assert torch.equal(llm(**given).logits, base(**text_only(given)).logits)
    for settings in ({"num_beams": 1}, {"num_beams": 3}):
        assert torch.equal(write(llm, given, **settings), write(base, text_only(given), **settings))
    state, old = llm.state_dict(), base.state_dict()
    added = [k for k in state if k not in old]
    assert [k for k in state if k in old] == list(old) and all(torch.equal(state[k], old[k]) for k in old)
    parts = (
        "k_proj.weight",
        "k_proj.bias",
        "v_proj.weight",
        "v_proj.bias",
        "gate_proj.weight",
        "gate_proj.bias",
        "warm_up",
    )
    assert sorted(added) == sorted(
        f"model.layers.{i}.self_attn.cross_attention.{p}" for i in (0, 2) for p in parts
    )


@torch.no_grad()
def test_cached_and_uncached_generation_write_the_same(kind):
    llm, given = kind.hybrid(alpha=1.0), prompt()
    closed = write(kind.hybrid(alpha=0.0), given)
    for settings in ({"num_beams": 1}, {"num_beams": 3}):
        cached = write(llm, given, **settings)
        assert torch.equal(cached, write(llm, given, use_cache=False, **settings))
        assert not torch.equal(cached, closed)  # the image changed what was written


@torch.no_grad()
def test_every_cached_step_lets_the_image_in(kind):
    """The released layers add nothing after the prompt (NOTES 0.9)."""
    llm, given = kind.hybrid(alpha=1.0), prompt()
    with recording(llm) as calls:
        ids = write(llm, given)
    whole = given | {
        "input_ids": ids[:, :-1],
        "attention_mask": torch.ones_like(ids[:, :-1]),
        "text_mask": None,
    }
    with recording(llm) as once:
        llm(**whole, use_cache=False)
    for layer in calls:
        steps = torch.cat([gate for gate, _ in calls[layer]], dim=1)
        weights = torch.cat([weight for _, weight in calls[layer]], dim=2)
        assert steps[:, 9:].abs().min() > 0
        assert torch.allclose(steps, once[layer][0][0], atol=1e-5)
        assert torch.allclose(weights, once[layer][0][1], atol=1e-5)


@torch.no_grad()
def test_batch_equals_single_and_left_padding_changes_nothing(kind):
    llm, given = kind.hybrid(alpha=1.0), prompt(batch=3, length=9)
    pad = 4
    given["input_ids"][1, :pad] = 0
    given["attention_mask"][1, :pad] = 0
    given["text_mask"][1, :pad] = False
    # the query carries its position into the cross-attention, so positions are counted from the text's
    # start; `generate` does this by itself
    positions = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    logits = llm(**given, position_ids=positions).logits
    short = row(given, 1, 9 - pad)
    assert torch.allclose(logits[1:2, pad:], llm(**short).logits, atol=2e-4)
    for index in (0, 2):
        assert torch.allclose(logits[index : index + 1], llm(**row(given, index)).logits, atol=2e-4)
    for beams in (1, 3):
        together = write(llm, given, num_beams=beams)[:, 9:]
        assert torch.equal(together[1:2], write(llm, short, num_beams=beams)[:, 9 - pad :])
        assert torch.equal(together[:1], write(llm, row(given, 0), num_beams=beams)[:, 9:])


@torch.no_grad()
def test_padded_positions_get_nothing_from_the_image(kind):
    llm, given = kind.hybrid(alpha=1.0), prompt()
    given["text_mask"][1, 6:] = False
    with recording(llm) as calls:
        llm(**given)
    for records in calls.values():
        assert not records[0][0][1, 6:].any() and records[0][0][1, :6].all()
    other = given | {"visual_states": given["visual_states"].clone()}
    other["visual_states"][0, -1] = 99.0  # masked out by visual_mask
    assert torch.equal(llm(**other).logits, llm(**given).logits)


@torch.no_grad()
def test_keys_and_values_may_start_as_copies_of_the_layers_own(kind):
    """Row layout: the copied layer maps a text's hidden states to the keys and values of its own cache."""
    llm = kind.plain()
    if kind.kind == "Phi3":  # one matrix for query, key and value
        with pytest.raises(InputError, match="Phi3Attention has no k_proj and v_proj to copy.*kv_init 'new'"):
            install_hybrid_layers(llm, (0,), kv_init="copied")
        return
    for parameter in (p for n, p in llm.named_parameters() if n.endswith("bias")):
        torch.nn.init.normal_(parameter)  # Qwen's k_proj and v_proj have one
    install_hybrid_layers(llm, (1,), kv_init="copied")
    cache, seen = transformers.DynamicCache(config=llm.config), {}
    layer, cross = llm.model.layers[1], hybrid_modules(llm)[1]
    layer.register_forward_pre_hook(
        lambda m, args, kwargs: seen.update(args=(*args, *kwargs.values())), with_kwargs=True
    )
    zeros = torch.zeros(1, 5, dtype=torch.long)  # every position 0: RoPE turns nothing
    llm(input_ids=torch.arange(3, 8)[None], position_ids=zeros, past_key_values=cache)
    keys, values = cross.keys_values(seen["args"][0])
    repeat = keys.shape[1] // cross.kv_heads
    assert torch.allclose(keys[:, ::repeat], cache.layers[1].keys, atol=1e-5)
    assert torch.allclose(values[:, ::repeat], cache.layers[1].values, atol=1e-5)
    for head in range(keys.shape[1]):  # consecutive heads share a key/value head
        assert torch.equal(keys[:, head], keys[:, head - head % repeat])


@torch.no_grad()
def test_a_prompt_read_in_chunks_is_masked_like_one_read_whole(kind):
    """The mask is longer than a chunk, and shorter than the sequence once words are written."""
    llm, given = kind.hybrid(alpha=1.0), prompt()
    given["input_ids"][1, :5] = 0
    given["attention_mask"][1, :5] = 0
    given["text_mask"][1, :5] = False  # ends within the second chunk
    given["text_mask"][0, 4] = False  # as a visual token of the prompt
    gates = {}
    for name, settings in {
        "whole": {},
        "chunks": {"prefill_chunk_size": 4},
        "uncached": {"use_cache": False},
        "static": {"cache_implementation": "static", "disable_compile": True},
    }.items():
        with recording(llm) as calls:
            ids = write(llm, given, **settings)
        records = [gate for gate, _ in calls[0]]
        gates[name] = ids, records[-1] if name == "uncached" else torch.cat(records, dim=1)
    for ids, gate in gates.values():
        assert torch.equal(ids, gates["whole"][0]) and torch.allclose(gate, gates["whole"][1], atol=1e-5)
        assert torch.equal(gate[:, :9] != 0, given["text_mask"]) and gate[:, 9:].all()


@torch.no_grad()
def test_a_mask_of_the_step_and_one_of_the_sequence_say_the_same(kind):
    llm, given = kind.hybrid(alpha=1.0), prompt()
    given["text_mask"] = torch.rand(2, 9) < 0.5
    wanted = llm(**given).logits[:, 6:]
    for width in (9, 3):  # of the whole sequence; of the last three tokens
        cache = transformers.DynamicCache(config=llm.config)
        llm(
            **given | {k: given[k][:, :6] for k in ("input_ids", "attention_mask", "text_mask")},
            past_key_values=cache,
        )
        step = {"input_ids": given["input_ids"][:, 6:], "text_mask": given["text_mask"][:, -width:]}
        assert torch.allclose(llm(**given | step, past_key_values=cache).logits, wanted, atol=2e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_frozen_model_passes_gradients_to_the_image_through_checkpoints(kind):
    """What stage 3 does: only the cross-attention and what makes the visual states train."""
    llm, given = kind.hybrid(alpha=1.0).requires_grad_(False).train(), prompt()
    for module in hybrid_modules(llm).values():
        module.requires_grad_(True)
    given["visual_states"].requires_grad_(True)
    wanted = [given["visual_states"], *(p for p in llm.parameters() if p.requires_grad)]

    def gradients():
        logits = llm(**given, use_cache=False).logits.float().log_softmax(-1)
        return torch.autograd.grad(logits[:, :, 7].sum(), wanted)

    without = gradients()
    llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for one, other in zip(gradients(), without, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6 + 1e-5 * other.abs().max())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(kind):
    llm, given = kind.hybrid(alpha=1.0, gate_input="H").train(), prompt()
    labels = given["input_ids"].clone()

    def gradients():
        llm.zero_grad()
        loss = llm(**given, labels=labels, use_cache=False).loss
        loss.backward()
        return {k: p.grad.clone() for k, p in llm.named_parameters()}

    without = gradients()
    llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = []
    hybrid_modules(llm)[0].register_forward_hook(lambda *_: calls.append(1))
    checkpointed = gradients()
    assert len(calls) == 2  # once forward, once again in the backward
    for name, grad in without.items():
        assert torch.allclose(checkpointed[name], grad, rtol=1e-4, atol=1e-6 + 1e-5 * grad.abs().max()), name
        if ".cross_attention." in name:
            assert grad.abs().max() > 0, name


@torch.no_grad()
def test_generation_equals_a_hand_written_loop():
    llm, given = hybrid(alpha=1.0), row(prompt(), 0)
    ids = given["input_ids"]
    for _ in range(8):
        ones = torch.ones_like(ids)
        logits = llm(
            **given | {"input_ids": ids, "attention_mask": ones, "text_mask": ones.bool()}, use_cache=False
        ).logits[0, -1]
        logits[2] = float("-inf")  # min_new_tokens forbids the end symbol
        ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
    assert torch.equal(write(llm, given), ids)


def test_sampling_is_repeatable_by_its_seed(kind):
    llm, given, texts = kind.hybrid(alpha=1.0), prompt(), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        texts.append(write(llm, given, do_sample=True, temperature=1.5, top_k=0, num_return_sequences=2))
    assert texts[0].shape == (4, 17)
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])


@torch.no_grad()
def test_embeddings_serve_as_prompt(kind):
    llm, given = kind.hybrid(alpha=1.0), prompt()
    embedded = {k: v for k, v in given.items() if k != "input_ids"}
    embedded["inputs_embeds"] = llm.get_input_embeddings()(given["input_ids"])
    assert torch.equal(llm(**embedded).logits, llm(**given).logits)
    assert torch.equal(write(llm, embedded, num_beams=3), write(llm, given, num_beams=3)[:, 9:])


@torch.no_grad()
def test_a_static_cache_writes_the_same(kind):
    llm, given = kind.hybrid(alpha=1.0), prompt()
    static = write(llm, given, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, write(llm, given))


@torch.no_grad()
def test_another_image_is_not_answered_from_memory():
    llm, given = hybrid(alpha=1.0), prompt()
    one = write(llm, given)
    other = given | {"visual_states": -given["visual_states"]}
    two = write(llm, other)
    assert not torch.equal(one, two)
    assert torch.equal(write(llm, given), one)
    fresh = hybrid(alpha=1.0)
    assert torch.equal(write(fresh, other), two)


@torch.no_grad()
@pytest.mark.parametrize("gate_input", ["S", "H"])
def test_the_gate_reads_what_was_chosen(gate_input):
    """Recomputed from the layer's own inputs, caught by hooks."""
    llm, given, seen = hybrid(alpha=0.7, gate_input=gate_input, layers=(1,)), prompt(), {}
    attention = llm.model.layers[1].self_attn
    attention.o_proj.register_forward_pre_hook(lambda m, args: seen.update(after=args[0]))
    attention.register_forward_pre_hook(
        lambda m, args, kwargs: seen.update(H=kwargs["hidden_states"]), with_kwargs=True
    )
    with recording(llm) as calls:
        llm(**given)
    ((gate, _),) = calls[1]
    with gates_scaled(llm, {1: 0.0}):
        llm(**given)
        S = seen["after"]
    cross = hybrid_modules(llm)[1]
    source = S if gate_input == "S" else seen["H"]
    wanted = torch.tanh(source @ cross.gate_proj.weight[0] + cross.gate_proj.bias) * torch.tanh(cross.warm_up)
    assert torch.allclose(gate, wanted, atol=1e-6)


@torch.no_grad()
def test_bfloat16(kind):
    llm, given = kind.hybrid(alpha=1.0).bfloat16(), prompt()
    exact = kind.hybrid(alpha=1.0)(**given).logits
    logits = llm(**given).logits  # the visual states may stay in float32
    assert logits.dtype == torch.bfloat16
    assert (logits - exact).abs().mean() < 0.1 * exact.abs().mean()
    base = kind.plain().bfloat16()
    assert torch.equal(kind.hybrid().bfloat16()(**given).logits, base(**text_only(given)).logits)
    assert write(llm, given).shape == (2, 17)


def test_new_layers_may_train_in_float32_in_a_bfloat16_model(kind):
    llm, given = kind.hybrid(alpha=1.0, gate_input="H").bfloat16().requires_grad_(False), prompt()
    half = llm(**given).logits.detach()
    for module in hybrid_modules(llm).values():
        module.float().requires_grad_(True)
    logits = llm(**given).logits
    assert logits.dtype == torch.bfloat16
    assert (logits - half).abs().mean() < 0.1 * half.abs().mean()
    logits.float().square().mean().backward()
    for module in hybrid_modules(llm).values():
        assert all(p.grad.dtype == torch.float32 and p.grad.abs().max() > 0 for p in module.parameters())
    assert write(llm, given).shape == (2, 17)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lora_of_the_llm_goes_on_top(kind):
    from peft import LoraConfig, get_peft_model

    llm, given = kind.hybrid(alpha=1.0), prompt()
    before = llm(**given).logits
    lora = LoraConfig(r=2, target_modules=r".*self_attn\.(q|v|qkv)_proj", init_lora_weights=True)
    wrapped = get_peft_model(llm, lora).eval()
    assert not any("cross_attention" in n and "lora_" in n for n, _ in wrapped.named_parameters())
    assert list(hybrid_modules(wrapped)) == [0, 2]
    assert torch.equal(wrapped(**given).logits, before)
    with gates_scaled(wrapped, {0: 0.0, 2: 0.0}), recording(wrapped) as calls:
        assert not torch.equal(wrapped(**given).logits, before)
    assert all(len(c) == 1 for c in calls.values())
    assert torch.equal(write(wrapped, given), write(wrapped, given, use_cache=False))


# ------------------------------------------------------------------ copies, files, context managers


def test_copies_are_whole_and_independent(tmp_path):
    llm, given = hybrid(alpha=1.0, gate_input="H"), prompt()
    llm(**given).logits.sum().backward()  # a graph and gradients do not stand in the way
    twin = copy.deepcopy(llm)
    with torch.no_grad():
        wanted = llm(**given).logits
        assert torch.equal(twin(**given).logits, wanted)
        assert torch.equal(write(twin, given), write(llm, given))
        for module in hybrid_modules(twin).values():
            module.warm_up.fill_(0.0)
        assert torch.equal(llm(**given).logits, wanted) and not torch.equal(twin(**given).logits, wanted)


@torch.no_grad()
def test_a_saved_model_is_the_base_model_plus_the_layers(tmp_path):
    llm, given = hybrid(alpha=1.0), prompt()
    llm.save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).architectures == ["Qwen2ForCausalLM"]
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**text_only(given)).logits, plain()(**text_only(given)).logits)
    install_hybrid_layers(again, (0, 2))
    again.load_state_dict(llm.state_dict())
    assert torch.equal(again(**given).logits, llm(**given).logits)


@torch.no_grad()
def test_gates_are_restored_also_after_an_error_and_when_nested():
    llm, given = hybrid(alpha=1.0), prompt()
    open_gates, closed = llm(**given).logits, hybrid(alpha=0.0)(**given).logits
    with gates_scaled(llm, {0: 0.0, 2: 0.0}):
        assert torch.equal(llm(**given).logits, closed)
        with gates_scaled(llm, {0: 1.0}):
            assert not torch.equal(llm(**given).logits, closed)
        assert torch.equal(llm(**given).logits, closed)
    assert torch.equal(llm(**given).logits, open_gates)
    with pytest.raises(KeyError), gates_scaled(llm, {0: 0.0}):
        raise KeyError
    assert torch.equal(llm(**given).logits, open_gates)
    with pytest.raises(InputError, match=r"layer 1 has no gate; the hybrid layers are \[0, 2\]"):
        with gates_scaled(llm, {1: 0.0}):
            pass


@torch.no_grad()
def test_recording_collects_every_call_and_stops():
    llm, given = hybrid(alpha=1.0), prompt()
    plain_logits = llm(**given).logits
    with recording(llm) as calls:
        assert torch.allclose(llm(**given).logits, plain_logits, atol=1e-4)
        with recording(llm) as inner:
            llm(**given)
        llm(**given)
    assert [len(c) for c in (*calls.values(), *inner.values())] == [2, 2, 1, 1]
    gate, weights = calls[2][0]
    assert gate.shape == (2, 9) and weights.shape == (2, 4, 9, VISUAL)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 9))
    assert not weights[0, ..., -1].any()
    assert torch.equal(llm(**given).logits, plain_logits)
    assert [len(c) for c in calls.values()] == [2, 2]


@torch.no_grad()
def test_without_visual_states_it_is_the_plain_model():
    given = prompt()
    base, llm = plain(), hybrid(alpha=1.0, gate_input="H")
    assert torch.equal(llm(**text_only(given)).logits, base(**text_only(given)).logits)


# ---------------------------------------------------------------------------------------- bad input


def test_an_unknown_start_of_keys_and_values_is_refused():
    with pytest.raises(InputError, match="kv_init must be new or copied, not 'old'"):
        install_hybrid_layers(plain(), (0,), kv_init="old")


@pytest.mark.parametrize(
    "layers, said",
    [
        ((0, 3), r"index 3 is out of range: the LLM has 3 layers; spread evenly would be \[0, 1, 2\]"),
        ((-1,), "index -1 is out of range"),
        ((1, 1), r"indices repeat: \[1, 1\]"),
    ],
)
def test_indices_that_do_not_exist_name_valid_ones(layers, said):
    with pytest.raises(InputError, match=said):
        install_hybrid_layers(plain(), layers)


def test_the_papers_indices_on_qwen_are_answered_with_possible_ones():
    """[0, 8, 16, 24] cannot be on the 24 layers of Qwen1.5-1.8B (NOTES 0.10)."""
    with pytest.raises(InputError, match=r"index 24 is out of range.*\[0, 6, 12, 18\]"):
        install_hybrid_layers(plain(num_hidden_layers=24), (0, 8, 16, 24))


def test_an_unknown_gate_input_is_refused():
    with pytest.raises(InputError, match="gate_input must be S or H, not 'X'"):
        install_hybrid_layers(plain(), (0,), "X")


@pytest.mark.parametrize(
    "kind, changes, said",
    [
        ("GPTNeoX", {}, "no decoder layers with input_layernorm and self_attn.o_proj"),
        ("OPT", dict(word_embed_proj_dim=32, ffn_dim=48), "no decoder layers with input_layernorm"),
        ("Olmo2", {}, "no decoder layers with input_layernorm"),  # normalises after, not before
        ("Gemma2", dict(head_dim=8), "cannot run with PyTorch's sdpa attention"),  # soft-capped scores
        ("GptOss", dict(num_local_experts=2, num_experts_per_tok=1, head_dim=8), "sdpa attention"),  # sinks
        ("StableLm", {}, "its layers do not pass the keywords on"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(kind, changes, said):
    with pytest.raises(InputError, match=f"{kind}ForCausalLM .*{said}.*Llama"):
        install_hybrid_layers(plain(kind, **changes), (0,))


def test_a_model_without_the_attention_interface_is_refused(monkeypatch):
    llm = plain()
    monkeypatch.setattr(type(llm), "_can_set_attn_implementation", lambda *_: False)
    with pytest.raises(InputError, match="does not use the attention interface"):
        install_hybrid_layers(llm, (0,))


def test_decoder_layers_of_something_else():
    with pytest.raises(InputError, match="Linear has no decoder layers"):
        decoder_layers(torch.nn.Linear(2, 2))


def test_the_installation_leaves_the_mode_and_the_random_numbers_alone():
    llm = plain(attention_dropout=0.5).train()
    torch.manual_seed(0)
    install_hybrid_layers(llm, ())
    assert llm.training and torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0))
