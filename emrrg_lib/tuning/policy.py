"""What trains: named policies, and the only place that sets `requires_grad`, after all wrapping."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.files import InputError

PARTS = {  # part → regular expression over the parameter names of EMRRG
    "partial_lora": r"^encoder\..*\.lora_[AB]\.",
    "encoder": r"^encoder\.",
    "projector": r"^(projector|projector_norm|view_embedding)\b",
    "cross_attention": r"\.cross_attention\.[kv]_proj\.",
    "gate": r"\.cross_attention\.(gate_proj\.|warm_up$)",
    "llm_lora": r"^llm\..*\.lora_[AB]\.",
}
LLM_LORA = r".*\.self_attn\.(q_proj|v_proj)"  # whole names: those of the cross-attention are left out


@dataclass(frozen=True)
class Policy:
    """One row of Table 5 or 6. encoder: full | frozen | lora; llm: frozen | lora | hybrid."""

    encoder: str
    targets: tuple[str, ...]
    llm: str


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

    Without hybrid layers the visual tokens have to stand in the prompt: `none` becomes `all`.
    Raises InputError for an unknown name.
    """
    if name not in POLICIES:
        raise InputError(f"unknown policy '{name}'; choose from {', '.join(POLICIES)}")
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


def trainable_part(name: str) -> str | None:
    """The first part of `PARTS` that a parameter belongs to; None for the LLM's own weights."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), None)


def set_trainable(model: nn.Module, config: EMRRGConfig) -> list[str]:
    """Freezes everything but what `config` trains, which becomes float32; returns the trainable names."""
    frozen = set() if config.encoder_tuning == "full" else {"encoder"}
    names = []
    for name, parameter in model.named_parameters():
        part = trainable_part(name)
        parameter.requires_grad_(part is not None and part not in frozen)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # small steps would be lost in bfloat16
            names.append(name)
    return names


def learning_rate_groups(model: nn.Module, learning_rate: float, gate_learning_rate: float) -> list[dict]:
    """Optimiser groups: the gate and α at their own rate, because they start at zero and lag."""
    groups = {"gate": [], "rest": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["gate" if trainable_part(name) == "gate" else "rest"].append(parameter)
    return [
        {"params": groups["rest"], "lr": learning_rate},
        {"params": groups["gate"], "lr": gate_learning_rate},
    ]
