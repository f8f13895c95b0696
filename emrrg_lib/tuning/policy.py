"""What trains: the only place that sets `requires_grad`, called after all wrapping.

Stage 3 of the paper keeps encoder and LLM frozen but for Partial LoRA, the hybrid layers, the
projector and the view embedding.
"""

from __future__ import annotations

import re

from torch import nn

PARTS = {  # part → regular expression over the parameter names of EMRRG
    "partial_lora": r"^encoder\..*\.lora_[AB]\.",
    "projector": r"^(projector|projector_norm|view_embedding)\b",
    "cross_attention": r"\.cross_attention\.[kv]_proj\.",
    "gate": r"\.cross_attention\.(gate_proj\.|warm_up$)",
}


def trainable_part(name: str) -> str | None:
    """The part of `PARTS` that a parameter belongs to, or None for what stays frozen."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), None)


def set_trainable(model: nn.Module) -> list[str]:
    """Freezes everything but the parts of `PARTS`; returns the trainable names."""
    names = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable_part(name) is not None)
        if parameter.requires_grad:
            names.append(name)
    return names


def learning_rate_groups(model: nn.Module, learning_rate: float, gate_learning_rate: float) -> list[dict]:
    """Optimiser groups: the gate and α at their own rate, because they start at zero and lag."""
    groups = {"gate": [], "rest": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["gate" if trainable_part(name) == "gate" else "rest"].append(parameter)
    return [{"params": groups["rest"], "lr": learning_rate},
            {"params": groups["gate"], "lr": gate_learning_rate}]
