"""The decoders from scratch: against float64 references and PyTorch's layers, masks, generation, training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from emrrg_lib import cli
from emrrg_lib.choices import check_choices
from emrrg_lib.files import InputError
from emrrg_lib.language.classic import ClassicConfig, ClassicDecoder, RelationalMemory
from emrrg_lib.language.llm import build_llm
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset

SMALL = dict(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)


def decoder(slots, **more):
    torch.manual_seed(0)
    model = ClassicDecoder(ClassicConfig(**SMALL | {"memory_slots": slots, "dropout": 0.0} | more)).eval()
    with torch.no_grad():  # zeros would hide faults
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs(batch=3, n=7, m=5):
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(50, (batch, n), generator=draw)
    states = torch.randn(batch, m, 16, generator=draw)
    return {"input_ids": ids, "visual_states": states, "visual_mask": torch.ones(batch, m, dtype=torch.bool)}


def linear(module, x):
    return x @ module.weight.detach().double().numpy().T + module.bias.detach().double().numpy()


def test_the_memory_is_that_of_a_float64_loop():
    memory = decoder(3).classic["memory"]
    words = torch.randn(2, 6, 16)
    with torch.no_grad():
        ours = memory(words).double().numpy().reshape(2, 6, 3, 16)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for b, row in enumerate(words.double().numpy()):
        state = np.eye(3, 16)
        for t, word in enumerate(row):
            seen, heads = np.vstack([state, word]), []
            of = memory.attention
            q, k, v = linear(of.q, state), linear(of.k, seen), linear(of.v, seen)
            for head in (slice(0, 8), slice(8, 16)):
                scores = q[:, head] @ k[:, head].T / np.sqrt(8)
                weights = np.exp(scores - scores.max(1, keepdims=True))
                heads.append(weights / weights.sum(1, keepdims=True) @ v[:, head])
            new = state + linear(memory.attention.o, np.hstack(heads))
            new = new + np.maximum(linear(memory.mlp[2], np.maximum(linear(memory.mlp[0], new), 0)), 0)
            gates = linear(memory.of_word, word) + linear(memory.of_memory, np.tanh(state))
            state = sigmoid(gates[:, :16]) * np.tanh(new) + sigmoid(gates[:, 16:]) * state
            assert np.abs(ours[b, t] - state).max() < 1e-5


def torch_layer(layer, kind):
    """PyTorch's own pre-norm layer with the weights of ours."""
    made = kind(16, 2, 24, 0.0, batch_first=True, norm_first=True).eval()
    pairs = [(made.self_attn, layer.self_attention)]
    if layer.image_attention is not None:
        pairs.append((made.multihead_attn, layer.image_attention))
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
            theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
            theirs.out_proj.load_state_dict(ours.o.state_dict())
        made.linear1.load_state_dict(layer.feed_forward[0].state_dict())
        made.linear2.load_state_dict(layer.feed_forward[3].state_dict())
        for number, norm in enumerate(layer.norms, start=1):
            theirs = getattr(made, f"norm{number}")
            theirs.weight.copy_(norm.scale)
            theirs.bias.copy_(norm.offset)
    return made


@torch.no_grad()
def test_without_memory_it_is_pytorchs_transformer():
    parts, n = decoder(0).classic, 7
    x, image = torch.randn(2, n, 16), torch.randn(2, 5, 16)
    there = torch.tensor([[True] * 5, [True, True, False, True, False]])
    theirs = torch_layer(parts["encoder"][0], nn.TransformerEncoderLayer)(image, src_key_padding_mask=~there)
    ours = parts["encoder"][0](image, there[:, None, None])
    assert (ours - theirs)[there].abs().max() < 1e-5
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    theirs = torch_layer(parts["decoder"][0], nn.TransformerDecoderLayer)(
        x, image, tgt_mask=~causal, memory_key_padding_mask=~there
    )
    ours = parts["decoder"][0](x, causal, image, there[:, None, None])
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("slots", [0, 3])
@torch.no_grad()
def test_a_word_sees_the_words_before_it_and_the_whole_image(slots):
    model, given = decoder(slots), inputs()
    before = model(**given).logits
    later = given["input_ids"].clone()
    later[:, 4] = (later[:, 4] + 1) % 50
    after = model(**given | {"input_ids": later}).logits
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4:], after[:, 4:])
    states = given["visual_states"].clone()
    states[:, 2] = states[:, 2].flip(-1)
    assert (model(**given | {"visual_states": states}).logits - before).abs().amax(-1).min() > 1e-4
    masked = given["visual_mask"].clone()
    masked[:, 2] = False
    one, two = (
        model(**given | {"visual_states": s, "visual_mask": masked}).logits
        for s in (states, given["visual_states"])
    )
    assert (one - two).abs().max() < 1e-5


@pytest.mark.parametrize("slots", [0, 3])
@torch.no_grad()
def test_right_pads_change_nothing_and_a_batch_is_its_studies(slots):
    model, given = decoder(slots), inputs()
    alone = torch.cat(
        [model(**{name: value[i : i + 1] for name, value in given.items()}).logits for i in range(3)]
    )
    assert (model(**given).logits - alone).abs().max() < 1e-5
    padded = torch.cat([given["input_ids"], torch.zeros(3, 4, dtype=torch.long)], dim=1)
    mask = (torch.arange(11) < 7).long().expand(3, -1)
    assert (
        model(**given | {"input_ids": padded, "attention_mask": mask}).logits[:, :7] - alone
    ).abs().max() < 1e-5
    kept = model(**given, logits_to_keep=torch.tensor([2, 5])).logits
    assert (kept - alone[:, [2, 5]]).abs().max() < 1e-5


def test_the_sizes_are_r2gens():
    """Counted from the description: R2Gen §2, and its settings for both data sets (3 slots, width 512)."""
    d, layers, vocabulary = 512, 3, 1024
    square = d * d + d
    attention, feed_forward, norm = 4 * square, 2 * square, 2 * d
    encoder = layers * (attention + feed_forward + 2 * norm) + norm
    base = encoder + layers * (2 * attention + feed_forward + 3 * norm) + norm
    words = vocabulary * d + vocabulary * d + vocabulary
    memory = attention + 2 * square + 2 * (2 * d * d + 2 * d)
    shift = 2 * (3 * d * d + d + square)  # of a normalisation, for scale and offset
    found = {
        name: sum(p.numel() for p in build_llm(name, device="meta").parameters())
        for name in ("transformer", "r2gen")
    }
    assert found["transformer"] == base + words
    assert found["r2gen"] == base + words + memory + 3 * layers * shift
    assert isinstance(build_llm("r2gen", device="meta").classic["memory"], RelationalMemory)


@pytest.mark.parametrize("slots", [0, 3])
@torch.no_grad()
def test_generation_is_a_hand_written_loop(slots):
    model, given = decoder(slots), inputs(batch=2)
    embeds = model.get_input_embeddings()(given["input_ids"][:, :3])
    image = {name: given[name] for name in ("visual_states", "visual_mask")}
    options = dict(max_new_tokens=6, do_sample=False, pad_token_id=0)
    written = model.generate(inputs_embeds=embeds, attention_mask=torch.ones(2, 3), **image, **options)
    rows = given["input_ids"][:, :3]
    for _ in range(6):
        rows = torch.cat([rows, model(input_ids=rows, **image).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(written, rows[:, 3:])
    beams = model.generate(
        inputs_embeds=embeds, attention_mask=torch.ones(2, 3), num_beams=3, **image, **options
    )
    assert beams.shape == (2, 6)
    other = {**image, "visual_states": image["visual_states"] + 2}  # nothing of the image before is kept
    again = model.generate(inputs_embeds=embeds, **other, **options)
    assert torch.equal(again[:, 0], model(input_ids=rows[:, :3], **other).logits[:, -1].argmax(-1))


@pytest.mark.parametrize("name", ["transformer", "r2gen"])
def test_it_trains_is_scored_and_comes_back(name, phantom_dir, tmp_path, capsys):
    run, few = (
        tmp_path / "run",
        ["train.warm_steps=2", "train.steps=1", "train.batch_size=2", "train.validations=1"],
    )
    few += ["generation.num_beams=1", "generation.max_new_tokens=6", "data.max_length=20"]
    words = ["train", "--decoder", name, "--data", str(phantom_dir), "--out", str(run), "--set", *few]
    assert cli.main(words) == 0
    names = load_file(run / "trained.safetensors").keys()
    assert sum(key.startswith("llm.classic.") for key in names) > 40 and any("lora_" in key for key in names)
    assert (any("memory" in key for key in names)) == (name == "r2gen")
    assert cli.main(["evaluate", "--run", str(run)]) == 0
    rows = json.loads((run / "metrics.json").read_text())["rows"]
    assert {"constant report", "shuffled images", "nearest neighbour"} <= {row["system"] for row in rows}
    first, second = EMRRG.from_run(run), EMRRG.from_run(run)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert cli.main(["info", "--decoder", name]) == 0
    assert "decoder from scratch" in capsys.readouterr().out


def test_what_does_not_go_together_is_one_sentence(capsys):
    with pytest.raises(SystemExit):
        cli.main(["info", "--decoder", "r2gen", "--llm", "tiny"])
    assert "not allowed with" in capsys.readouterr().err
    tiny = preset("tiny")
    with pytest.raises(InputError, match="'r2gen-tiny' trains whole"):
        check_choices(replace(tiny, llm=replace(tiny.llm, name="r2gen-tiny")))
