"""Stage 1's decoder: queries read the encoder by cross-attention only (ARM's; upstream_audit A7)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

HEAD_DIM = 64


class CrossAttention(nn.Module):
    """Multi-head attention of queries (B, Q, D) over keys and values from (B, S, D); heads of 64."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = max(1, dim // HEAD_DIM)
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, n, D / heads)
                   for x in (self.q(queries), *self.kv(memory).chunk(2, dim=-1)))
        mask = None if mask is None else mask.to(q.dtype)
        return self.proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """fc2(GELU(fc1 x)), four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DecoderBlock(nn.Module):
    """q ← q + CrossAttn(LN(q), LN(memory), mask); q ← q + MLP(LN(q)). Queries never see each other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn2, self.mlp = CrossAttention(dim), Mlp(dim)
        self.norm2_1, self.norm2_2, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        queries = queries + self.attn2(self.norm2_1(queries), self.norm2_2(memory), mask)
        return queries + self.mlp(self.norm2(queries))
