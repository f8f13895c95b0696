"""Gated cross-attention of a hybrid decoder layer, Eq. (1) and (2) of the paper (NOTES D2).

Trainable: `k_proj`, `v_proj` (W_k, W_v), `gate_proj` (w_g, b_g), `warm_up` (α).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emrrg_lib.config import Gate, GateInput
from emrrg_lib.files import InputError


class GatedCrossAttention(nn.Module):
    """S ← S + X′ · tanh(w_g·S + b_g) · tanh(α) with X′ = MHCA(q, W_k V, W_v V).

    Args:
        hidden: D, width of the LLM. heads, kv_heads, head_dim: those of the layer's self-attention.
        norm: the layer's own input norm, applied to the visual states. It is not registered as a
            submodule here, so that no key of the LLM appears twice.
        gate_input: S (self-attention output, as released) or H (normalised hidden state, Fig. 2).
        gate: dynamic+warm-up (Eq. 2), dynamic (without α), static (α alone) or none (S + X′).
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        norm: nn.Module,
        gate_input: GateInput = "S",
        gate: Gate = "dynamic+warm-up",
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.gate_input = gate_input
        self.k_proj = nn.Linear(hidden, kv_heads * head_dim)
        self.v_proj = nn.Linear(hidden, kv_heads * head_dim)
        width = heads * head_dim if gate_input == "S" else hidden
        self.gate_proj = nn.Linear(width, 1) if gate.startswith("dynamic") else None
        if gate in ("dynamic+warm-up", "static"):
            self.warm_up = nn.Parameter(torch.zeros(1))  # α: at 0 the layer is the untouched layer
        else:
            self.register_buffer("warm_up", torch.tensor([float("inf")]), persistent=False)  # tanh(α) = 1
        self.gate_scale = 1.0  # explorers scale or close the gate; 0 closes it
        self.recorder: list[tuple[Tensor, Tensor]] | None = None  # while tracing: gate, weights of each call
        self._norm = (norm,)  # a module inside a tuple is not registered
        self._memory: tuple | None = None  # see `keys_values`

    @property
    def opening(self) -> Tensor:
        """tanh(α), (1,): how far the layer is open; 1 for the gates without α."""
        return torch.tanh(self.warm_up)

    def gate(self, S: Tensor, hidden: Tensor | None) -> Tensor:
        """The factor of X′ in Eq. (2), (B, n, 1), for the input that `gate_input` names."""
        source: Any = S if self.gate_input == "S" else hidden
        if self.gate_proj is None:
            dynamic = S.new_ones(*S.shape[:2], 1, dtype=self.k_proj.weight.dtype)
        else:
            dynamic = torch.tanh(self.gate_proj(source.to(self.gate_proj.weight.dtype)))
        return dynamic * self.opening * self.gate_scale

    def keys_values(self, visual_states: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, D) → K and V, each (B, heads, M, head_dim); the pair is kept for the next cached step.

        `generate` passes the same tensor at every step. So the kept pair is still right if the states and
        the weights are the same objects in the same version. Raises InputError for another width.
        """
        if visual_states.shape[-1] != self.k_proj.in_features:
            raise InputError(
                f"visual tokens must be {self.k_proj.in_features} wide for this LLM, got "
                f"{tuple(visual_states.shape)}; project them first"
            )
        parts = (self._norm[0], self.k_proj, self.v_proj)
        used = (visual_states, *(p for part in parts for p in part.parameters()))
        # tensors made in inference mode have no version: nothing is kept for them
        keep = not torch.is_grad_enabled() and not any(t.is_inference() for t in used)
        stamp = [(id(t), t._version) for t in used] if keep else None
        if keep and self._memory and self._memory[0] == stamp:
            return self._memory[2]
        V = self._norm[0](visual_states.to(self.k_proj.weight.dtype))
        repeat = self.heads // self.kv_heads
        pair = tuple(
            p(V)
            .unflatten(-1, (self.kv_heads, self.head_dim))
            .transpose(1, 2)
            .repeat_interleave(repeat, dim=1)
            for p in (self.k_proj, self.v_proj)
        )
        # the tensors of the stamp are kept alive with it, so that an id cannot be reused
        self._memory = (stamp, used, pair) if keep else None
        return pair

    def forward(
        self,
        S: Tensor,
        query: Tensor,
        visual_states: Tensor,
        visual_mask: Tensor | None,
        text_mask: Tensor | None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Adds the gated visual context to the heads before o_proj.

        Args:
            S: self-attention output, (B, n, heads · head_dim). query: post-RoPE, (B, heads, n, head_dim).
            visual_states: projected visual tokens, (B, M, D). visual_mask: (B, M) bool, True = valid.
            text_mask: (B, n) bool, True = attends; None: all attend. hidden: (B, n, D), for gate_input H.

        Returns:
            (B, n, heads · head_dim); rows with a False text_mask are returned unchanged.
        """
        K, V = self.keys_values(visual_states)
        query = query.to(K.dtype)
        mask = None if visual_mask is None else visual_mask[:, None, None, :]
        if self.recorder is None:
            X = F.scaled_dot_product_attention(query, K, V, attn_mask=mask)  # (B, heads, n, head_dim)
        else:
            scores = query @ K.transpose(-1, -2) / self.head_dim**0.5
            scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
            weights = scores.softmax(dim=-1)
            X = weights @ V
        gate = self.gate(S, hidden)
        if text_mask is not None:
            gate = gate * text_mask[..., None]
        if self.recorder is not None:
            self.recorder.append((gate[..., 0].detach(), weights.detach()))
        return S + (X.transpose(1, 2).flatten(2) * gate).to(S.dtype)
