"""Partial LoRA: low-rank updates of row blocks of the mixer's matrices (paper §3.3; NOTES C).

The rows of in_proj make X, then Z; the rows of x_proj make dt, B, then C. `LoRA_p(X)` updates the X rows
alone, `LoRA(in_proj)` updates all rows; both together are the paper's default. A new target is one row of
TARGETS; a new row block is one more name in the mixer's RowBlockLinear.

PEFT does the rest: one adapter per target, named `lora_<target>`. The adapter of target B is named
`lora_B_rows`, because PEFT keeps every B matrix in a module named `lora_B`, and an adapter with the name of a
module loses its weights when it is saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from emrrg_lib.config import PartialLoRAConfig
from emrrg_lib.files import InputError, close_name
from emrrg_lib.vision.mamba import DIRECTIONS, RowBlockLinear, VisionMamba

EVERY = "(" + "|".join(DIRECTIONS) + ")"  # direction
# target → the modules on which it acts, a regular expression over the names inside the encoder
TARGETS = {
    "X": r"layers\.\d+\.mixer\.in_proj",
    "Z": r"layers\.\d+\.mixer\.in_proj",
    "dt": rf"layers\.\d+\.mixer\.x_proj{EVERY}",
    "B": rf"layers\.\d+\.mixer\.x_proj{EVERY}",
    "C": rf"layers\.\d+\.mixer\.x_proj{EVERY}",
    "in_proj": r"layers\.\d+\.mixer\.in_proj",
    "x_proj": rf"layers\.\d+\.mixer\.x_proj{EVERY}",
    "dt_proj": rf"layers\.\d+\.mixer\.dt_proj{EVERY}",
    "out_proj": r"layers\.\d+\.mixer\.out_proj",
    "embedding": r"patch_embed\.proj",
}


def adapter_name(target: str) -> str:
    """PEFT's name of a target's adapter."""
    return "lora_B_rows" if target == "B" else f"lora_{target}"


TARGET_OF = {adapter_name(target): target for target in TARGETS}


class _BlockUp(nn.Linear):
    """LoRA's B for a row block: (…, r) → (…, out) with zeros outside rows [start, stop)."""

    def __init__(self, r: int, start: int, stop: int, out_features: int) -> None:
        super().__init__(r, stop - start, bias=False)
        self.pad = (start, out_features - stop)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(super().forward(x), self.pad)


class RowBlockLoraLinear(LoraLinear):
    """PEFT's LoRA layer, with adapters that may act on one named row block of the matrix."""

    def update_layer(self, adapter_name: str, r: int, *args, **kwargs) -> None:
        super().update_layer(adapter_name, r, *args, **kwargs)
        base: Any = self.get_base_layer()
        block = base.row_blocks.get(TARGET_OF[adapter_name])
        if block is not None:
            old: Any = self.lora_B[adapter_name].weight
            start, stop = block
            up = _BlockUp(r, start, stop, base.out_features).to(old.device, old.dtype)
            nn.init.zeros_(up.weight)
            self.lora_B[adapter_name] = up.requires_grad_(old.requires_grad)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW = scale · B · A, (out, in), zero outside the adapter's rows."""
        up: Any = self.lora_B[adapter]
        down: Any = self.lora_A[adapter]
        delta = up.weight @ down.weight * self.scaling[adapter]
        return F.pad(delta, (0, 0, *up.pad)) if isinstance(up, _BlockUp) else delta


def _lora_config(target: str, config: PartialLoRAConfig) -> LoraConfig:
    """The adapter of one target; PEFT scales B · A by lora_alpha / r."""
    alpha: Any = config.scale * config.r  # PEFT takes any number, its annotation says int
    lora = LoraConfig(
        r=config.r,
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        target_modules=TARGETS[target],
    )
    lora._register_custom_module({RowBlockLinear: RowBlockLoraLinear})
    return lora


def apply_partial_lora(encoder: VisionMamba, config: PartialLoRAConfig) -> PeftModel:
    """Wraps the encoder with one adapter per target, all active together; B starts at zero.

    Returns:
        A PeftModel with the encoder's forward; `disable_adapter()`, `merge_adapter()`,
        `merge_and_unload()` and `save_pretrained()` are PEFT's.

    Raises:
        InputError: an unknown or repeated target, or no target.
    """
    if unknown := [t for t in config.targets if t not in TARGETS]:
        hint = close_name(unknown[0], TARGETS)
        raise InputError(
            f"unknown Partial LoRA target '{unknown[0]}'; {hint}choose from {', '.join(TARGETS)}"
        )
    if not config.targets or len(set(config.targets)) < len(config.targets):
        raise InputError(f"Partial LoRA needs distinct targets, got {list(config.targets)}")
    first, *others = config.targets
    model = PeftModel(encoder, _lora_config(first, config), adapter_name=adapter_name(first))
    for target in others:
        model.add_adapter(adapter_name(target), _lora_config(target, config))
    activate(model, config.targets)
    return model


def activate(model: PeftModel, targets: Iterable[str]) -> None:
    """Makes the adapters of `targets` active together (PeftModel.set_adapter takes one name only)."""
    tuner: Any = model.base_model
    tuner.set_adapter([adapter_name(t) for t in targets])


def load_partial_lora(encoder: VisionMamba, folder: str | Path) -> PeftModel:
    """Reads adapters that `save_pretrained` wrote to `folder`; targets, rank and scale are in its files.

    Raises InputError where there is no adapter, or where one lacks matrices.
    """
    folders = {
        t: Path(folder) / adapter_name(t) for t in TARGETS if (Path(folder) / adapter_name(t)).is_dir()
    }
    if not folders:
        raise InputError(f"{folder} holds no Partial LoRA adapter; give the folder of save_pretrained")
    lora = LoraConfig.from_pretrained(str(next(iter(folders.values()))))
    config = PartialLoRAConfig(tuple(folders), lora.r, lora.lora_alpha / lora.r, lora.lora_dropout)
    model = apply_partial_lora(encoder, config)  # PEFT's files do not say which rows an adapter has
    for target, path in folders.items():
        found = model.load_adapter(str(path), adapter_name(target), is_trainable=True)
        if missing := [key for key in found.missing_keys if f".{adapter_name(target)}." in key]:
            raise InputError(f"{path} lacks {len(missing)} matrices, first '{missing[0]}'; save it again")
    activate(model, config.targets)
    return model
