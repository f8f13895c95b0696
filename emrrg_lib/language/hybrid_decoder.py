"""Installs hybrid decoder layers in any Hugging Face causal LM that uses the attention interface.

One registered attention function runs the model's own self-attention. Then the layer's `cross_attention`, if
it has one, acts on the heads before o_proj. So no attention code is copied.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from emrrg_lib.config import Gate, GateInput, KVInit
from emrrg_lib.files import InputError
from emrrg_lib.language.cross_attention import GatedCrossAttention
from emrrg_lib.settings import read

NAME = "emrrg_hybrid"
LLAMA_KIND = "of the Llama kind (Llama, Qwen, Mistral, SmolLM, …)"
VISUAL_KEYWORDS = ("visual_states", "visual_mask", "text_mask")
CACHE_KEYWORDS = ("cache", "past_key_values")  # since transformers 5.24, and before


def hybrid_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    visual_states: Tensor | None = None,
    visual_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """The attention function: returns the heads before o_proj, (B, n, heads, head_dim)."""
    output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    hidden = module.__dict__.pop("_hybrid_hidden", None)  # a module that keeps a graph cannot be copied
    cross = getattr(module, "cross_attention", None)
    if cross is None or visual_states is None:
        return output, weights
    mixed = cross(output.flatten(2), query, visual_states, visual_mask, text_mask, hidden)
    return mixed.unflatten(2, output.shape[2:]), weights


def hybrid_mask(*args, attention_mask: Tensor | None = None, allow_is_causal_skip: bool = True, **kwargs):
    """sdpa's mask. On a GPU it is always made: to ask whether it pads makes the CPU wait for the answer."""
    skip = allow_is_causal_skip and not (attention_mask is not None and attention_mask.device.type == "cuda")
    own = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    return own(*args, attention_mask=attention_mask, allow_is_causal_skip=skip, **kwargs)


AttentionInterface.register(NAME, hybrid_attention)
AttentionMaskInterface.register(NAME, hybrid_mask)


def decoder_layers(llm: nn.Module) -> list[Any]:
    """The decoder layers of a causal LM, with or without PEFT. Raises InputError if they do not fit."""
    layers: Any = getattr(getattr(llm, "get_decoder", lambda: llm)(), "layers", None)
    fits = layers is not None and all(
        hasattr(layer, "input_layernorm") and hasattr(getattr(layer, "self_attn", None), "o_proj")
        for layer in layers
    )
    if not fits:
        raise InputError(
            f"{type(llm).__name__} has no decoder layers with input_layernorm and "
            f"self_attn.o_proj; hybrid layers need a causal LM {LLAMA_KIND}"
        )
    return list(layers)


def _check_layers(layers: Sequence[int], count: int) -> None:
    if wrong := [i for i in layers if not 0 <= i < count]:
        step = max(1, count // 4)
        raise InputError(
            f"hybrid layer index {wrong[0]} is out of range: the LLM has {count} layers; "
            f"spread evenly would be {list(range(0, count, step))}"
        )
    if len(set(layers)) < len(layers):
        raise InputError(f"hybrid layer indices repeat: {list(layers)}")


def install_hybrid_layers(
    llm: PreTrainedModel,
    layers: Sequence[int],
    gate_input: GateInput = "S",
    kv_init: KVInit = "new",
    gate: Gate = "dynamic+warm-up",
) -> PreTrainedModel:
    """Gives the chosen decoder layers a gated cross-attention; at α = 0 outputs are bit-identical.

    The LLM's forward and `generate` then take `visual_states` (B, M, D), `visual_mask` (B, M) bool and
    `text_mask` bool. A text_mask (B, n) is that of the n tokens of the call. A text_mask of another length
    is that of the whole sequence, with the tokens in the cache; later tokens are generated and count as
    text. The existing keys of the state dict do not change.

    Args:
        llm: a causal LM with the attention interface. layers: indices of its decoder layers.
        gate_input, gate: see `GatedCrossAttention`. Without α the layers act from the start.
        kv_init: W_k and W_v start random (new), or as copies of the layer's own k_proj and v_proj.

    Raises:
        InputError: an index out of range or repeated, an unknown choice, an unfit architecture.
    """
    for name, value, choices in (
        ("gate_input", gate_input, GateInput),
        ("kv_init", kv_init, KVInit),
        ("gate", gate, Gate),
    ):
        read(value, choices, name)
    blocks = decoder_layers(llm)
    _check_layers(layers, len(blocks))
    _use_hybrid_attention(llm)
    config = llm.config.get_text_config()
    for index in layers:
        attention = blocks[index].self_attn
        weight, heads = attention.o_proj.weight, config.num_attention_heads
        head_dim = getattr(attention, "head_dim", config.hidden_size // heads)
        sizes = (config.hidden_size, heads, config.num_key_value_heads, head_dim)
        cross = GatedCrossAttention(*sizes, blocks[index].input_layernorm, gate_input, gate)
        if kv_init == "copied":
            _copy_keys_values(attention, cross)
        attention.cross_attention = cross.to(weight.device, weight.dtype)
        if gate_input == "H":
            attention.register_forward_pre_hook(_keep_hidden, with_kwargs=True)
    _name_visual_keywords(llm)
    if llm.device.type != "meta":  # a model without weights cannot run
        _require_reach(llm)
    return llm


@torch.no_grad()
def _copy_keys_values(attention: Any, cross: GatedCrossAttention) -> None:
    """Both matrices hold their rows head by head: row i is the same feature (not so upstream, NOTES D)."""
    if not hasattr(attention, "k_proj"):
        raise InputError(f"{type(attention).__name__} has no k_proj and v_proj to copy; choose kv_init 'new'")
    for own, new in ((attention.k_proj, cross.k_proj), (attention.v_proj, cross.v_proj)):
        new.weight.copy_(own.weight)
        new.bias.zero_() if own.bias is None else new.bias.copy_(own.bias)


def _use_hybrid_attention(llm: PreTrainedModel) -> None:
    """Selects `hybrid_attention`; InputError where the model would ignore it or compute something else."""
    capped = getattr(llm.config, "attn_logit_softcapping", None)  # older releases of transformers ignore it
    if capped or not llm._supports_sdpa:  # sdpa has neither soft-capped scores nor attention sinks
        raise InputError(
            f"{type(llm).__name__} cannot run with PyTorch's sdpa attention, on which "
            f"hybrid layers build; choose a causal LM {LLAMA_KIND}"
        )
    llm.set_attn_implementation(NAME)  # only warns where it cannot
    if llm.config._attn_implementation != NAME:
        raise InputError(
            f"{type(llm).__name__} does not use the attention interface; choose a causal LM {LLAMA_KIND}"
        )


def _require_reach(llm: PreTrainedModel) -> None:
    """Sends one token through, because some architectures drop the keywords before their layers."""
    embeddings: Any = llm.get_input_embeddings()
    weight, was_training = embeddings.weight, llm.training
    token = torch.zeros(1, 1, dtype=torch.long, device=weight.device)
    llm.eval()
    try:
        with torch.no_grad(), recording(llm) as calls:
            llm(input_ids=token, visual_states=weight.new_zeros(1, 1, weight.shape[1]), use_cache=False)
        fits, reason = all(calls.values()), "its layers do not pass the keywords on"
    except (RuntimeError, TypeError, ValueError) as error:
        fits, reason = False, str(error)
    llm.train(was_training)
    if not fits:
        raise InputError(
            f"{type(llm).__name__} cannot carry hybrid layers ({reason}); choose a causal LM {LLAMA_KIND}"
        )


def _keep_hidden(module: nn.Module, args: tuple, kwargs: dict) -> None:
    module.__dict__["_hybrid_hidden"] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]


def _name_visual_keywords(llm: PreTrainedModel) -> None:
    """Puts the keywords into forward's signature: `generate` accepts only what it finds there.

    The model gets a subclass of its own class, so that a copy of it has them too.
    """
    kind = type(llm)
    signature = inspect.signature(kind.forward)
    if VISUAL_KEYWORDS[0] in signature.parameters:
        return

    @functools.wraps(kind.forward)
    def forward(self, *args, text_mask=None, **kwargs):
        if text_mask is not None:
            text_mask = _mask_of_call(text_mask, signature.bind_partial(self, *args).arguments | kwargs)
        return kind.forward(self, *args, text_mask=text_mask, **kwargs)

    named = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in VISUAL_KEYWORDS]
    parameters = list(signature.parameters.values())
    rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    named = [*(p for p in parameters if p not in rest), *named, *rest]
    vars(forward)["__signature__"] = signature.replace(parameters=named)
    llm.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _mask_of_call(text_mask: Tensor, given: dict) -> Tensor:
    """The columns of `text_mask` that belong to the tokens of this call, see `install_hybrid_layers`."""
    tokens = given["inputs_embeds"] if given.get("input_ids") is None else given["input_ids"]
    length, width = tokens.shape[1], text_mask.shape[1]
    if length == width:
        return text_mask
    past = next((given[name] for name in CACHE_KEYWORDS if given.get(name) is not None), None)
    columns = torch.arange(length, device=text_mask.device) + (0 if past is None else past.get_seq_length())
    return text_mask[:, columns.clamp(max=width - 1)] | (columns >= width)


def hybrid_modules(llm: nn.Module) -> dict[int, GatedCrossAttention]:
    """The installed cross-attentions by layer index; none in a model of any kind without hybrid layers."""
    try:
        layers = decoder_layers(llm)
    except InputError:
        return {}
    attentions = enumerate(layer.self_attn for layer in layers)
    return {i: a.cross_attention for i, a in attentions if hasattr(a, "cross_attention")}


@contextmanager
def _set_for_a_while(modules: Mapping[int, nn.Module], attribute: str, values: dict) -> Iterator[None]:
    before = {index: getattr(modules[index], attribute) for index in values}
    try:
        for index, value in values.items():
            setattr(modules[index], attribute, value)
        yield
    finally:
        for index, value in before.items():
            setattr(modules[index], attribute, value)


@contextmanager
def gates_scaled(llm: nn.Module, scales: dict[int, float]) -> Iterator[None]:
    """Multiplies the gates of the given layers by a number (0 closes a gate) within the block.

    Raises InputError for a layer that has no gate.
    """
    modules = hybrid_modules(llm)
    if wrong := sorted(set(scales) - set(modules)):
        raise InputError(f"layer {wrong[0]} has no gate; the hybrid layers are {list(modules)}")
    with _set_for_a_while(modules, "gate_scale", scales):
        yield


@contextmanager
def recording(llm: nn.Module) -> Iterator[dict[int, list]]:
    """Collects (gate (B, n), weights (B, heads, n, M)) of every call of every hybrid layer."""
    calls: dict[int, list] = {index: [] for index in hybrid_modules(llm)}
    with _set_for_a_while(hybrid_modules(llm), "recorder", calls):
        yield calls
