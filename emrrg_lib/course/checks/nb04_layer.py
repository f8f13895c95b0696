"""Checks of notebook 04 on modules: the gated layer, its installation, a cached step that sees the image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from emrrg_lib.course.checks import Mistake, array, call, exercise, expect, expect_value, pair, stage
from emrrg_lib.course.checks.parts_by_hand import flows
from emrrg_lib.language.hybrid_decoder import hybrid_modules, install_hybrid_layers

Weights = dict[str, Tensor]
NAMES = ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")
GATE = ("gate_proj.weight", "gate_proj.bias", "warm_up")


def _hybrid(
    S: Tensor, q: Tensor, image: Tensor, w: Weights, valid: Tensor | None = None, **slip: Any
) -> Tensor:
    """Eq. 1 and 2 by PyTorch's own attention; `slip` holds what a mistake does otherwise."""
    heads, h = q.shape[1], q.shape[3]
    K, V = (F.linear(image, w[f"{n}.weight"], w[f"{n}.bias"]) for n in ("k_proj", "v_proj"))
    K, V = slip.get("order", lambda K, V: (K, V))(K, V)
    K, V = (t.unflatten(-1, (-1, h)).transpose(1, 2) for t in (K, V))
    times = heads // K.shape[1]
    share = slip.get("share", lambda t: t.repeat_interleave(times, dim=1))
    mask = None if valid is None else valid[:, None, None, :]
    X = F.scaled_dot_product_attention(
        q, share(K), share(V), attn_mask=mask, scale=slip.get("scale", h**-0.5)
    )
    score = F.linear(S, w["gate_proj.weight"], w["gate_proj.bias"])
    gate = slip.get("gate", torch.tanh)(score) * slip.get("warm_up", torch.tanh)(w["warm_up"])
    return S + X.transpose(1, 2).flatten(2) * gate


def _sizes(hidden: int, heads: int, kv_heads: int, head_dim: int) -> dict[str, tuple[int, ...]]:
    narrow, wide = kv_heads * head_dim, heads * head_dim
    shapes = ((narrow, hidden), (narrow,), (narrow, hidden), (narrow,), (1, wide), (1,), (1,))
    return dict(zip(NAMES + GATE, shapes, strict=True))


def _expect_parts(layer: object, shapes: dict[str, tuple[int, ...]]) -> None:
    """The learner's layer has these parameters and no others."""
    if not isinstance(layer, nn.Module):
        raise Mistake(f"A layer is an nn.Module, yours makes {type(layer).__name__}.")
    found = dict(layer.named_parameters())
    if missing := [name for name in shapes if name not in found]:
        raise Mistake(f"{missing} is missing: k_proj, v_proj, gate_proj are nn.Linear, warm_up a Parameter.")
    if extra := [name for name in found if name not in shapes]:
        raise Mistake(f"{extra} is one too many: the query is that of self-attention, nothing else is new.")
    for name, shape in shapes.items():
        yours = tuple(found[name].shape)
        good = yours == shape or (name == "warm_up" and found[name].numel() == 1)
        expect(good, f"{name} has the shape {yours}, expected {shape}.")
    alpha = float(found["warm_up"].detach())
    expect(alpha == 0, f"warm_up, α, starts at 0, yours at {alpha:.3g}: the model must stay untouched.")


@exercise(5)
def check_5(layer_class: Callable) -> str:
    """`GatedLayer(hidden, heads, kv_heads, head_dim)`, called with S, query, image, valid."""
    for seed, sizes in enumerate(((12, 3, 3, 4), (10, 6, 2, 3), (7, 2, 1, 5))):
        torch.manual_seed(seed)
        hidden, heads, _, h = sizes
        layer = call(layer_class, *sizes)
        with stage("parts"):
            _expect_parts(layer, _sizes(*sizes))
        S, q = torch.randn(2, 4, heads * h), torch.randn(2, heads, 4, h)
        image = torch.randn(2, 6, hidden)
        with torch.no_grad(), stage("closed"):
            yours = call(layer, S, q, image)
            array(yours, tuple(S.shape), "one row a word, as S.")
            expect_value(yours, S, "with α = 0 the layer returns S.", tolerance=0)
        weights = {n: torch.randn_like(p) for n, p in layer.named_parameters()}
        layer.load_state_dict(weights, strict=False)
        _check_layer(layer, S, q, image, weights)
    return "The numbers of the kit's GatedCrossAttention."


def _check_layer(layer: nn.Module, S: Tensor, q: Tensor, image: Tensor, w: Weights) -> None:
    heads, h, slips = q.shape[1], q.shape[3], []
    times = heads * h // w["k_proj.bias"].numel()
    if times > 1 and times < heads:
        turns = "heads that share a pair lie side by side: `repeat_interleave`, not `repeat`."
        slips.append((_hybrid(S, q, image, w, share=lambda t: t.repeat(1, times, 1, 1)), turns))
    slips += [
        (_hybrid(S, q, image, w, scale=1.0), f"the scores are not divided by √h, h = {h}."),
        (_hybrid(S, q, image, w, gate=torch.sigmoid), "the dynamic gate is a tanh, not a sigmoid."),
        (_hybrid(S, q, image, w, gate=torch.ones_like), "gate_proj does not act."),
        (_hybrid(S, q, image, w, warm_up=lambda a: a), "g_s is tanh(α), not α."),
        (_hybrid(S, q, image, w, warm_up=torch.ones_like), "α does not act any more."),
        (_hybrid(S, q, image, w, order=lambda K, V: (V, K)), "K and V are exchanged."),
        (_hybrid(S, q, image, w) - S, "S is missing: the update is added to it."),
    ]
    with torch.no_grad(), stage("Eq. 1 and 2"):
        cause = "go through Eq. 1 and 2 once more: K, V, weights, X′, heads side by side, gate."
        expect_value(call(layer, S, q, image), _hybrid(S, q, image, w), cause, slips)
    with torch.no_grad(), stage("one word"):
        yours, truth = call(layer, S[:, -1:], q[:, :, -1:], image), _hybrid(S, q, image, w)[:, -1:]
        expect_value(yours, truth, "a call with one word, a cached step, has to give that word's row.")
    with torch.no_grad(), stage("valid"):
        valid = torch.tensor([[True] * 3 + [False] * 3, [False] + [True] * 5])
        dirty = image.masked_fill(~valid[..., None], 1e3)
        yours = call(layer, S, q, dirty, valid)
        cause = "a token that is not valid gets the weight 0, whatever its numbers are."
        other = "the mask is turned round: True means valid."
        slips = [(_hybrid(S, q, dirty, w, ~valid), other)]
        expect_value(yours, _hybrid(S, q, image, w, valid), cause, slips)
    with stage("gradient"):
        out = call(layer, S, q, image)
        expect(isinstance(out, Tensor), "A tensor is expected.")
        flows(out, **dict(layer.named_parameters()))


def _small_llm(seed: int = 0) -> LlamaForCausalLM:
    """A Llama with random weights: three layers, four heads, two pairs of keys and values."""
    torch.manual_seed(seed)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, vocab_size=60)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    config = LlamaConfig(**sizes, **heads, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    llm = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)  # random words of a wide range, not a flat choice
    return llm


class _Cross(nn.Module):
    """What exercise 6 is given: a layer of the form of exercise 5."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, S: Tensor, query: Tensor, image: Tensor, valid: Tensor | None = None) -> Tensor:
        return _hybrid(S, query, image, self.weights, valid)


def _kit(llm: LlamaForCausalLM, layer: int, seed: int) -> tuple[LlamaForCausalLM, Weights]:
    """The LLM with the kit's own hybrid layer, its weights random."""
    install_hybrid_layers(llm, [layer])
    torch.manual_seed(seed)
    module = hybrid_modules(llm)[layer]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape))
        module.warm_up.fill_(1.5)
    return llm, {name: value.detach() for name, value in module.named_parameters()}


@exercise(6)
def check_6(attention_with_image: Callable) -> str:
    """`attention_with_image(module, query, key, value, mask, **rest)`, tried in a Llama."""
    if not callable(attention_with_image):
        raise Mistake("A function is expected.")
    AttentionInterface.register("exercise_6", attention_with_image)
    AttentionMaskInterface.register("exercise_6", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    ids = torch.tensor([[5, 17, 3, 42, 8, 1]])
    llm = _small_llm()
    attention = llm.model.layers[1].self_attn
    with torch.no_grad(), stage("without an image"):
        before = llm(ids).logits
        query, key, value = torch.randn(3, 1, 4, 6, 8)
        call(attention_with_image, attention, query, key[:, :2], value[:, :2], None, scaling=8**-0.5)
        llm.set_attn_implementation("exercise_6")
        yours = call(lambda: llm(ids).logits)
        expect_value(yours, before, "where no layer has a `cross`, the model is as it was.", tolerance=1e-6)
    kit, weights = _kit(_small_llm(), 1, 3)
    image = torch.randn(1, 7, 32)
    seen = llm.model.layers[1].input_layernorm(image).detach()
    attention.image = seen
    with torch.no_grad(), stage("closed"):
        attention.cross = _Cross(weights | {"warm_up": torch.zeros(1)})
        cause = "with α = 0 the model is as it was."
        expect_value(call(lambda: llm(ids).logits), before, cause, tolerance=1e-6)
    attention.cross = _Cross(weights)
    with torch.no_grad(), stage("with an image"):
        out = call(attention_with_image, attention, query, key[:, :2], value[:, :2], None, scaling=8**-0.5)
        array(
            pair(out, "Return the pair (output, weights).")[0], (1, 6, 4, 8), "(B, n, heads, h), as it came."
        )
        truth = kit(input_ids=ids, visual_states=image).logits
        slips = [(before, "the image changes nothing: is `module.cross` called, and its result returned?")]
        cause = "S is the heads side by side, (B, n, heads · h); what `cross` returns takes their place."
        expect_value(call(lambda: llm(ids).logits), truth, cause, slips, tolerance=1e-3)
    with torch.no_grad(), stage("batch"):
        both = torch.cat([ids, ids.flip(1)])
        images = torch.cat([image, 2 * image.roll(1, 1) - 1])
        attention.image = llm.model.layers[1].input_layernorm(images)
        truth = kit(input_ids=both, visual_states=images).logits
        cause = "two texts with two images: keep the axis of the batch."
        expect_value(call(lambda: llm(both).logits), truth, cause, tolerance=1e-3)
    return "Layer 1 of a Llama sees the image, and no attention code was copied."


@contextlib.contextmanager
def _listening(llm: nn.Module) -> Iterator[list[tuple[int, bool]]]:
    """(length of the text, whether an image was given) of each call of the LLM."""
    calls: list[tuple[int, bool]] = []

    def note(module: nn.Module, args: tuple, given: dict) -> None:
        ids = given.get("input_ids") if given.get("input_ids") is not None else args[0]
        calls.append((ids.shape[1], given.get("visual_states") is not None))

    hook = llm.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


@torch.no_grad()
def _greedy(llm: nn.Module, ids: Tensor, image: Tensor | None, steps: int, first_only: bool = False) -> list:
    """Without a cache: the whole text again for each word; the rows of the prompt alone may see the image."""
    text, length = ids, ids.shape[1]
    for _ in range(steps):
        mask = torch.ones_like(text, dtype=torch.bool)
        if first_only:
            mask[:, length:] = False
        logits = llm(input_ids=text, visual_states=image, text_mask=mask, use_cache=False).logits
        text = torch.cat([text, logits[:, -1:].argmax(-1)], dim=1)
    return text[0, length:].tolist()


@exercise(7)
def check_7(write: Callable) -> str:
    """`write(llm, ids, image, steps)`: greedy words with a cache; the image at every step."""
    for seed, (words, steps) in enumerate((([5, 17, 3, 42], 12), ([9, 9, 30, 2, 51, 7], 10))):
        llm, _ = _kit(_small_llm(seed + 1), 1, seed)
        ids, image = torch.tensor([words]), torch.randn(1, 7, 32)
        truth = _greedy(llm, ids, image, steps)
        half, blind = (
            _greedy(llm, ids, image, steps, first_only=True),
            _greedy(llm, ids, None, steps),
        )
        with _listening(llm) as calls:
            yours = call(write, llm, ids.clone(), image.clone(), steps)
        found = array(yours, cause="the ids of the new words").reshape(-1)
        with stage("words"):
            prompt = "the prompt is in it too: return the new words alone."
            expect(len(found) != len(words) + steps, prompt)
            expect(len(found) == steps, f"Yours has {len(found)} words, expected {steps}.")
        with stage("first word"):
            cause = "the first word is the likeliest one after the prompt: the last position's argmax."
            expect_value(found[:1], truth[:1], cause, [(blind[:1], "the prefill does not see the image.")])
        with stage("cached steps"):
            seen = [image_given for _, image_given in calls]
            slips = [
                (
                    half,
                    "after the first word it writes blind: give the image at every step, not only at the "
                    "prefill. That is the defect of this section.",
                ),
                (blind, "it writes blind: hand `visual_states=image` to the model."),
            ]
            cause = "each step gets the last word, the cache of the step before and the image."
            expect_value(found, truth, cause, slips)
            expect(all(seen), "Some call of the model is without an image: give it at every step.")
        with stage("cache"):
            lengths = [length for length, _ in calls]
            read = f"The calls of the model read {lengths} words, expected {[len(words)] + [1] * (steps - 1)}"
            again = "without the cache each step reads the whole text again."
            expect(all(length == 1 for length in lengths[1:]), f"{read}: {again}")
            expect(lengths[0] == len(words), f"{read}: the prefill reads the prompt at once.")
            expect(len(lengths) <= steps, f"{read}: one call for each new word, and none after the last.")
    return "One prefill, then one word a call, and each of them sees the image."
