"""The parts of EMRRG: which of them train under a policy, at which rate, and how many parameters they hold.

PARTS is the one table of parts. `set_trainable` is the only place that sets `requires_grad`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel

from emrrg_lib.config import EMRRGConfig, EncoderConfig, EncoderTuning
from emrrg_lib.files import InputError, close_name
from emrrg_lib.vision.mamba import VisionMamba


@dataclass(frozen=True)
class Part:
    """One row of PARTS.

    Attributes:
        section: of the paper. pattern: regular expression over the parameter names of EMRRG.
        shape: input and output. trains: always, never, or where the encoder is tuned in full.
    """

    section: str
    pattern: str
    shape: str
    trains: Literal["always", "full", "never"] = "always"


OWN = r"^encoder\.(?!model\.).*"  # a VisionMamba's, not an HFBackbone's
GATE = "dynamic gate, warm-up α"
PARTS = {
    "Hugging Face backbone": Part("§3.2", r"^encoder\.model\.", "(B, 3, H, W) → (B, T, d)", "full"),
    "patch embedding": Part("§3.2", OWN + r"patch_embed\.(?!.*lora_)", "(B, 3, H, W) → (B, M, d)", "full"),
    "cls token, positions": Part("§3.2", OWN + r"(cls_token|pos_embed)", "(B, M, d) → (B, M + 1, d)", "full"),
    "Mamba mixers": Part(
        "§3.2", r"^encoder\..*\.mixer\.(?!.*lora_)", "(B, M + 1, d), 4 scan directions", "full"
    ),
    "SwiGLU and norms": Part("§3.2", OWN + r"(\.mlp\.|norm)(?!.*lora_)", "(B, M + 1, d)", "full"),
    "Partial LoRA": Part("§3.3", r"^encoder\..*lora_[AB]", "row blocks of the mixer, rank r"),
    "projector, view embedding": Part(
        "§3.4", r"^(projector|view_embedding)", "(B, M + 1, d) → (B, views(M + 1), D)"
    ),
    "LLM": Part(
        "§3.4", r"^llm\.(?!.*(cross_attention|lora_)|classic\.)", "(B, n) → (B, n, vocabulary)", "never"
    ),
    "decoder from scratch": Part("Table 1, R2Gen", r"^llm\.classic\.", "(B, n) → (B, n, vocabulary)"),
    "LoRA of the LLM": Part("Table 5, 6", r"^llm\..*lora_[AB]", "q_proj and v_proj, rank r"),
    "cross-attention W_k, W_v": Part(
        "§3.4, Eq. 1", r"cross_attention\.[kv]_proj", "(B, n, D), (B, views(M + 1), D)"
    ),
    GATE: Part("§3.4, Eq. 2", r"cross_attention\.(gate_proj|warm_up)", "(B, n, 1)"),
}
LLM_LORA = r".*\.self_attn\.(q_proj|v_proj)"  # whole names: those of the cross-attention are left out


@dataclass(frozen=True)
class Policy:
    """One row of Table 5 or 6."""

    encoder: EncoderTuning
    targets: tuple[str, ...]
    llm: Literal["frozen", "lora", "hybrid"]


X, X_IN_PROJ = ("X",), ("X", "in_proj")
POLICIES = {  # the encoder of §3.3, the six rows of Table 5
    "full": Policy("full", (), "hybrid"),
    "frozen": Policy("frozen", (), "hybrid"),
    "lora-x": Policy("lora", X, "hybrid"),
    "lora-x+in_proj": Policy("lora", X_IN_PROJ, "hybrid"),
    "table5-1": Policy("full", (), "frozen"),
    "table5-2": Policy("full", (), "lora"),
    "table5-3": Policy("full", (), "hybrid"),
    "table5-4": Policy("lora", X, "frozen"),
    "table5-5": Policy("lora", X, "lora"),
    "table5-6": Policy("lora", X, "hybrid"),
    # Table 6 does not say how its LLM is run. §4.4 draws the hybrid layers as its consequence, so: plain.
    "table6-llm": Policy("frozen", (), "lora"),
} | {
    f"table6-{target}": Policy("lora", (target,), "frozen")
    for target in ("embedding", "x_proj", "dt_proj", "in_proj", "out_proj", "Z", "dt", "B", "C", "X")
}


def apply_policy(config: EMRRGConfig, name: str) -> EMRRGConfig:
    """The config with the policy's choices.

    Without hybrid layers the prompt must hold the visual tokens: `none` becomes `all`.
    Raises InputError for an unknown name.
    """
    if name not in POLICIES:
        raise InputError(
            f"unknown policy '{name}'; {close_name(name, POLICIES)}choose from {', '.join(POLICIES)}"
        )
    policy, llm = POLICIES[name], config.llm
    if policy.llm != "hybrid":
        shown = "all" if llm.visual_in_prompt == "none" else llm.visual_in_prompt
        llm = replace(llm, hybrid_layers=(), visual_in_prompt=shown)
    elif not llm.hybrid_layers:
        raise InputError(f"policy '{name}' needs hybrid layers, but preset '{config.preset}' has none")
    lora = replace(config.partial_lora, targets=policy.targets) if policy.targets else config.partial_lora
    return replace(
        config,
        encoder_tuning=policy.encoder,
        partial_lora=lora,
        llm=replace(llm, tuning="lora" if policy.llm == "lora" else "frozen"),
    )


def add_llm_lora(llm: PreTrainedModel, r: int) -> None:
    """Adds PEFT's LoRA to q_proj and v_proj of the LLM's own self-attention, in place; B starts at 0."""
    # PEFT itself: the method of transformers asks for the PEFT release of the day
    inject_adapter_in_model(LoraConfig(r=r, lora_alpha=r, target_modules=LLM_LORA), llm, adapter_name="llm")


def part_of(name: str) -> str:
    """The part of PARTS that a parameter of EMRRG belongs to; ValueError if there is not exactly one."""
    parts = [part for part, row in PARTS.items() if re.search(row.pattern, name)]
    if len(parts) != 1:
        raise ValueError(f"parameter '{name}' belongs to {parts or 'no part'} of PARTS; mend that table")
    return parts[0]


def set_trainable(model: nn.Module, config: EMRRGConfig) -> list[str]:
    """Freezes everything but what `config` trains, which becomes float32; returns the trainable names."""
    chosen = ("always", "full") if config.encoder_tuning == "full" else ("always",)
    names = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(PARTS[part_of(name)].trains in chosen)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # small steps would be lost in bfloat16
            names.append(name)
    return names


def learning_rate_groups(
    model: nn.Module, learning_rate: float, gate_learning_rate: float
) -> list[dict[str, Any]]:
    """Optimiser groups: gate and α have their own rate, because they start at zero and move slowly."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for name, p in trained if part_of(name) != GATE], "lr": learning_rate},
        {"params": [p for name, p in trained if part_of(name) == GATE], "lr": gate_learning_rate},
    ]


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: parameter counts of a part and how many of them train."""

    part: str
    section: str
    shape: str
    parameters: int
    trained: int


def ledger(model: nn.Module) -> list[Entry]:
    """One entry per part of PARTS, also for parts that this model lacks; every parameter is counted once."""
    counts = {part: [0, 0] for part in PARTS}
    for name, parameter in model.named_parameters():
        count = counts[part_of(name)]
        count[0] += parameter.numel()
        count[1] += parameter.numel() * parameter.requires_grad
    return [Entry(part, row.section, row.shape, *counts[part]) for part, row in PARTS.items()]


@dataclass(frozen=True)
class Published:
    """A published parameter count and the sum that gives it.

    Attributes:
        claim: as printed; empty where the papers give none. parts: name of a summand → parameters.
    """

    claim: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(self.parts.values())


def published_counts(embed_dim: int, depth: int) -> list[Published]:
    """How the papers' parameter counts of the encoder arise, at the release's 224 px (NOTES F).

    57.31 M and 202.32 M count only the modules whose forward is called. The release reads the weights of the
    mixers directly, so these counts lack the mixers, the position table and the cls token. 1.32 M is the
    release's half-width X-adapter and LoRA on in_proj of the base encoder, both with r = 32.
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
