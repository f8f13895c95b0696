"""The parameter ledger: what every part of a model holds and what of it trains."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

from emrrg_lib.config import EncoderConfig
from emrrg_lib.vision.mamba import VisionMamba

OWN = r"^encoder\.(?!model\.).*"  # not inside an HFBackbone
# part → (paper section, regular expression over parameter names, what its output looks like)
MAP = {
    "Hugging Face backbone": ("§3.2", r"^encoder\.model\.", "(B, 3, H, W) → (B, T, d)"),
    "patch embedding": ("§3.2", OWN + r"patch_embed\.(?!.*lora_)", "(B, 3, H, W) → (B, M, d)"),
    "cls token, positions": ("§3.2", OWN + r"(cls_token|pos_embed)", "(B, M, d) → (B, M + 1, d)"),
    "Mamba mixers": ("§3.2", r"^encoder\..*\.mixer\.(?!.*lora_)", "(B, M + 1, d), 4 scan directions"),
    "SwiGLU and norms": ("§3.2", OWN + r"(\.mlp\.|norm)(?!.*lora_)", "(B, M + 1, d)"),
    "Partial LoRA": ("§3.3", r"^encoder\..*lora_[AB]", "row blocks of the mixer, rank r"),
    "projector, view embedding": ("§3.4", r"^(projector|view_embedding)", "(B, M + 1, d) → (B, V(M + 1), D)"),
    "LLM": ("§3.4", r"^llm\.(?!.*(cross_attention|lora_))", "(B, n) → (B, n, vocabulary)"),
    "LoRA of the LLM": ("Table 5, 6", r"^llm\..*lora_[AB]", "q_proj and v_proj, rank r"),
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


@dataclass(frozen=True)
class Published:
    """A published parameter count and the sum that gives it.

    Attributes:
        claim: as printed; empty where nothing was. parts: what is summed up → parameters.
    """

    claim: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(self.parts.values())


def published_counts(embed_dim: int, depth: int) -> list[Published]:
    """How the papers' encoder figures arise, at the release's 224 px (NOTES F).

    57.31 M and 202.32 M count only the modules whose forward is called: the release reads the mixers'
    weights directly, so no mixer is in them, nor the position table and the cls token. 1.32 M is the
    release's half-width X-adapter and LoRA on in_proj, both r = 32, of the base encoder.
    """
    with torch.device("meta"):
        encoder = VisionMamba(EncoderConfig(image_size=224, embed_dim=embed_dim, depth=depth))
    unseen = sum(
        p.numel()
        for name, p in encoder.named_parameters()
        if re.search(r"\.mixer\.|pos_embed|cls_token", name)
    )
    called = {
        "whole encoder": sum(p.numel() for p in encoder.parameters()),
        "mixers, positions, cls token (not seen by the counter)": -unseen,
    }
    r, d = 32, embed_dim
    adapters = {
        "X-adapter, d → r → d / 2": depth * r * (d + d // 2),
        "LoRA(in_proj), d → r → 2 d": depth * r * (d + 2 * d),
    }
    claims = ("57.31 M", "1.32 M") if depth == 12 else ("202.32 M", "")
    return [Published(claims[0], called), Published(claims[1], adapters)]
