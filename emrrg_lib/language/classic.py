"""The decoders before LLMs, as a yardstick: an encoder–decoder Transformer, and R2Gen (arXiv 2010.16056).

Both train from scratch and read the same visual states as the LLM with hybrid layers. `memory_slots` = 0 is
the Transformer, R2Gen's baseline. With slots there is a relational memory beside the words: at each word
its slots attend to themselves and to the word, and gates decide what is kept (R2Gen §2.2). The memory then
shifts scale and offset of every normalisation of the decoder (memory-driven conditional layer normalisation,
R2Gen §2.3). Layers are normalised before they act; positions are sines and cosines, as there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class ClassicConfig(PreTrainedConfig):
    """Sizes; the defaults are R2Gen's: 3 + 3 layers of width 512, 8 heads, 3 memory slots."""

    model_type = "emrrg-classic"

    def __init__(
        self,
        vocab_size: int = 1024,
        hidden_size: int = 512,
        intermediate_size: int = 512,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 8,
        memory_slots: int = 3,
        dropout: float = 0.1,
        max_position_embeddings: int = 1024,
        **more: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.memory_slots, self.dropout = memory_slots, dropout
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**more)


class Attention(nn.Module):
    """Multi-head attention with four maps of width d: queries (B, n, d) over keys and values (B, m, d)."""

    def __init__(self, config: ClassicConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.dropout
        self.q, self.k, self.v, self.o = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4))

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` (B, 1, n or 1, m) is True where a query may look."""
        q, k, v = (
            linear(t).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, t in ((self.q, x), (self.k, other), (self.v, other))
        )
        dropped = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, mask, dropped)
        return self.o(out.transpose(1, 2).flatten(2))


class RelationalMemory(nn.Module):
    """The memory after each word: (B, n, d) → (B, n, S·d); slot s begins as the unit vector e_s."""

    def __init__(self, config: ClassicConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.slots, self.attention = config.memory_slots, Attention(config)
        self.mlp = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU())
        self.of_word, self.of_memory = nn.Linear(d, 2 * d), nn.Linear(d, 2 * d)

    def forward(self, words: Tensor) -> Tensor:
        memory = torch.eye(self.slots, words.shape[-1], device=words.device, dtype=words.dtype)
        memory = memory.expand(len(words), -1, -1)
        steps = []
        for word in words.split(1, dim=1):  # (B, 1, d)
            new = memory + self.attention(memory, torch.cat([memory, word], dim=1))
            new = new + self.mlp(new)
            enter, stay = (self.of_word(word) + self.of_memory(memory.tanh())).sigmoid().chunk(2, dim=-1)
            memory = enter * new.tanh() + stay * memory
            steps.append(memory.flatten(1))
        return torch.stack(steps, dim=1)


class Norm(nn.Module):
    """Layer normalisation; with memory slots the memory (B, n, S·d) adds to its scale and offset."""

    def __init__(self, config: ClassicConfig, slots: int = 0) -> None:
        super().__init__()
        d = config.hidden_size
        self.scale, self.offset = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))
        self.shifts = nn.ModuleList(
            nn.Sequential(nn.Linear(slots * d, d), nn.ReLU(), nn.Linear(d, d)) for _ in range(2 * bool(slots))
        )

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        scale, offset = self.scale, self.offset
        if memory is not None:
            scale, offset = scale + self.shifts[0](memory), offset + self.shifts[1](memory)
        return scale * F.layer_norm(x, x.shape[-1:]) + offset


class Layer(nn.Module):
    """Self-attention, attention over the image (decoder only), feed-forward; each is added to its input."""

    def __init__(self, config: ClassicConfig, decoder: bool) -> None:
        super().__init__()
        d, wide, slots = config.hidden_size, config.intermediate_size, config.memory_slots * decoder
        self.self_attention, self.image_attention = Attention(config), Attention(config) if decoder else None
        dropout = nn.Dropout(config.dropout)
        self.feed_forward = nn.Sequential(nn.Linear(d, wide), nn.ReLU(), dropout, nn.Linear(wide, d))
        self.norms = nn.ModuleList(Norm(config, slots) for _ in range(2 + decoder))
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        image: Tensor | None = None,
        image_mask: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        h = self.norms[0](x, memory)
        x = x + self.dropout(self.self_attention(h, h, mask))
        if self.image_attention is not None:
            x = x + self.dropout(self.image_attention(self.norms[1](x, memory), image, image_mask))
        return x + self.dropout(self.feed_forward(self.norms[-1](x, memory)))


class ClassicDecoder(PreTrainedModel, GenerationMixin):
    """The whole decoder as a causal LM that takes `visual_states` (B, M, d) and `visual_mask` (B, M)."""

    config_class = ClassicConfig
    base_model_prefix = "classic"
    _supports_sdpa = True

    def __init__(self, config: ClassicConfig) -> None:
        super().__init__(config)
        layers, d = config.num_hidden_layers, config.hidden_size
        self.classic = nn.ModuleDict(
            {
                "embedding": nn.Embedding(config.vocab_size, d),
                "encoder": nn.ModuleList(Layer(config, decoder=False) for _ in range(layers)),
                "encoder_norm": Norm(config),
                "decoder": nn.ModuleList(Layer(config, decoder=True) for _ in range(layers)),
                "decoder_norm": Norm(config),
                "head": nn.Linear(d, config.vocab_size),
            }
        )
        if config.memory_slots:
            self.classic["memory"] = RelationalMemory(config)
        self._seen: tuple[Tensor, ...] = ()  # visual states, their mask and encoding, while generating
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        for shift in module.shifts if isinstance(module, Norm) else ():
            nn.init.zeros_(shift[-1].weight)  # the memory begins without a say
            nn.init.zeros_(shift[-1].bias)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the words."""
        return self.classic["embedding"]

    def gradient_checkpointing_enable(self, *_: Any) -> None:
        """Does nothing: six small layers need little memory."""

    def forward(
        self,
        visual_states: Tensor,
        visual_mask: Tensor,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits of the next words, (B, kept, vocabulary); masks as in the LLMs, nothing is cached."""
        parts = self.classic
        words = parts["embedding"](input_ids) if inputs_embeds is None else inputs_embeds
        batch, n, d = words.shape
        there = (
            words.new_ones(batch, n, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        )
        places = (there.cumsum(1) - 1).clamp(min=0) if position_ids is None else position_ids
        x = F.dropout(words * math.sqrt(d) + positions(places, d), self.config.dropout, self.training)
        image_mask = visual_mask[:, None, None]
        image = self._encoded(visual_states, visual_mask)
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).tril() & there[:, None, None]
        mask = mask | torch.eye(n, dtype=torch.bool, device=x.device)  # a pad sees itself, and nobody sees it
        memory = parts["memory"](x) if self.config.memory_slots else None
        for layer in parts["decoder"]:
            x = layer(x, mask, image, image_mask, memory)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutput(logits=parts["head"](parts["decoder_norm"](x[:, keep])))

    def _encoded(self, states: Tensor, mask: Tensor) -> Tensor:
        """The encoder's output; it is kept for the next step of generation, which has the same tensor."""
        if self._seen and self._seen[0] is states and self._seen[1] is mask and not torch.is_grad_enabled():
            return self._seen[2]
        x = states
        for layer in self.classic["encoder"]:
            x = layer(x, mask[:, None, None])
        x = self.classic["encoder_norm"](x)
        self._seen = () if torch.is_grad_enabled() else (states, mask, x)
        return x

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        visual_states: Tensor,
        visual_mask: Tensor,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """The prompt's embeddings, then those of the words written so far; there is no cache."""
        words = self.get_input_embeddings()(input_ids)
        words = words if inputs_embeds is None else torch.cat([inputs_embeds, words], dim=1)
        image = {"visual_states": visual_states, "visual_mask": visual_mask}
        return {"inputs_embeds": words, "attention_mask": attention_mask, "logits_to_keep": 1, **image}


def positions(places: Tensor, d: int) -> Tensor:
    """Sines and cosines of places (B, n) → (B, n, d), as in the first Transformer."""
    rates = torch.exp(torch.arange(0, d, 2, device=places.device) * (-math.log(10_000.0) / d))
    angles = places[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


AutoConfig.register(ClassicConfig.model_type, ClassicConfig)
AutoModelForCausalLM.register(ClassicConfig, ClassicDecoder)
