"""The parameter ledger: what every part of a model holds and what of it trains."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

# part → (paper section, regular expression over parameter names, what its output looks like)
MAP = {
    "patch embedding": ("§3.2", r"^encoder\..*patch_embed\.(?!.*lora_)", "(B, 3, H, W) → (B, M, d)"),
    "cls token, positions": ("§3.2", r"^encoder\..*(cls_token|pos_embed)", "(B, M, d) → (B, M + 1, d)"),
    "Mamba mixers": ("§3.2", r"^encoder\..*\.mixer\.(?!.*lora_)", "(B, M + 1, d), 4 scan directions"),
    "SwiGLU and norms": ("§3.2", r"^encoder\..*(\.mlp\.|norm)(?!.*lora_)", "(B, M + 1, d)"),
    "Partial LoRA": ("§3.3", r"^encoder\..*lora_[AB]", "row blocks of the mixer, rank r"),
    "projector, view embedding": ("§3.4", r"^(projector|view_embedding)", "(B, M + 1, d) → (B, V(M + 1), D)"),
    "LLM": ("§3.4", r"^llm\.(?!.*cross_attention)", "(B, n) → (B, n, vocabulary)"),
    "cross-attention W_k, W_v": ("§3.4, Eq. 1", r"cross_attention\.[kv]_proj", "(B, n, D), (B, V(M + 1), D)"),
    "dynamic gate, warm-up α": ("§3.4, Eq. 2", r"cross_attention\.(gate_proj|warm_up)", "(B, n, 1)"),
}


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: parameter counts of a part and how many of them train."""

    part: str
    section: str
    shape: str
    parameters: int
    trained: int


def ledger(model: nn.Module) -> list[Entry]:
    """One entry per part of `MAP`; every parameter is in exactly one (ValueError otherwise)."""
    counts = {part: [0, 0] for part in MAP}
    for name, parameter in model.named_parameters():
        parts = [part for part, (_, pattern, _) in MAP.items() if re.search(pattern, name)]
        if len(parts) != 1:
            raise ValueError(f"parameter '{name}' belongs to {parts or 'no part'} of the ledger")
        counts[parts[0]][0] += parameter.numel()
        counts[parts[0]][1] += parameter.numel() * parameter.requires_grad
    return [Entry(part, MAP[part][0], MAP[part][2], *counts[part]) for part in MAP]
