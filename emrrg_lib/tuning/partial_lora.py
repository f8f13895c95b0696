"""Partial LoRA: low-rank updates of row blocks of the mixer's matrices (paper §3.3; NOTES C).

in_proj's rows make X then Z, x_proj's rows make dt, B, then C. `LoRA_p(X)` updates the X rows alone,
`LoRA(in_proj)` all rows; both together are the paper's default. PEFT does the rest: one adapter per
target, named `lora_<target>` (an adapter named like a module loses its weights on save; target B is
`lora_B_rows`, because PEFT keeps every B matrix in a module named `lora_B`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from emrrg_lib.config import PartialLoRAConfig
from emrrg_lib.files import InputError
from emrrg_lib.vision.mamba import DIRECTIONS, RowBlockLinear, VisionMamba

ALL_DIRECTIONS = "(" + "|".join(DIRECTIONS) + ")"
# target → the modules it acts on (a regular expression over names inside the encoder)
TARGETS = {
    "X": r"layers\.\d+\.mixer\.in_proj",
    "Z": r"layers\.\d+\.mixer\.in_proj",
    "dt": rf"layers\.\d+\.mixer\.x_proj{ALL_DIRECTIONS}",
    "B": rf"layers\.\d+\.mixer\.x_proj{ALL_DIRECTIONS}",
    "C": rf"layers\.\d+\.mixer\.x_proj{ALL_DIRECTIONS}",
    "in_proj": r"layers\.\d+\.mixer\.in_proj",
    "x_proj": rf"layers\.\d+\.mixer\.x_proj{ALL_DIRECTIONS}",
    "dt_proj": rf"layers\.\d+\.mixer\.dt_proj{ALL_DIRECTIONS}",
    "out_proj": r"layers\.\d+\.mixer\.out_proj",
    "embedding": r"patch_embed\.proj",
}

PEFT_MODULES = ("lora_A", "lora_B")


def adapter_name(target: str) -> str:
    """PEFT's name of a target's adapter."""
    name = f"lora_{target}"
    return f"{name}_rows" if name in PEFT_MODULES else name


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
        block = self.get_base_layer().row_blocks.get(TARGET_OF[adapter_name])
        if block is not None:
            old = self.lora_B[adapter_name].weight
            up = _BlockUp(r, *block, self.out_features).to(old.device, old.dtype)
            nn.init.zeros_(up.weight)
            self.lora_B[adapter_name] = up.requires_grad_(old.requires_grad)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW = scale · B · A, (out, in), zero outside the adapter's rows."""
        up = self.lora_B[adapter]
        delta = up.weight @ self.lora_A[adapter].weight * self.scaling[adapter]
        return F.pad(delta, (0, 0, *up.pad)) if isinstance(up, _BlockUp) else delta


def _lora_config(target: str, config: PartialLoRAConfig) -> LoraConfig:
    """ΔW = scale · B · A: PEFT scales by lora_alpha / r."""
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.scale * config.r,
        lora_dropout=config.dropout,
        target_modules=TARGETS[target],
    )
    lora._register_custom_module({RowBlockLinear: RowBlockLoraLinear})
    return lora


def check(config: PartialLoRAConfig) -> None:
    """Raises InputError for an unknown or repeated target, or none."""
    if unknown := [t for t in config.targets if t not in TARGETS]:
        raise InputError(f"unknown Partial LoRA target '{unknown[0]}'; choose from {', '.join(TARGETS)}")
    if not config.targets or len(set(config.targets)) < len(config.targets):
        raise InputError(f"Partial LoRA needs distinct targets, got {list(config.targets)}")


def apply_partial_lora(encoder: VisionMamba, config: PartialLoRAConfig) -> PeftModel:
    """Wraps the encoder with one adapter per target, all active together; B starts at zero.

    Returns:
        A PeftModel with the encoder's forward; `disable_adapter()`, `merge_adapter()`,
        `merge_and_unload()` and `save_pretrained()` are PEFT's.

    Raises:
        InputError: see `check`.
    """
    check(config)
    first, *others = config.targets
    model = PeftModel(encoder, _lora_config(first, config), adapter_name=adapter_name(first))
    for target in others:
        model.add_adapter(adapter_name(target), _lora_config(target, config))
    activate(model, config.targets)
    return model


def activate(model: PeftModel, targets: Iterable[str]) -> None:
    """Makes the adapters of `targets` active together (PeftModel.set_adapter takes one name only)."""
    model.base_model.set_adapter([adapter_name(t) for t in targets])


def load_partial_lora(encoder: VisionMamba, folder: str | Path, config: PartialLoRAConfig) -> PeftModel:
    """Reads adapters written by `save_pretrained` back onto `encoder`.

    The row-block mapping is not in PEFT's file, so the adapters are built from `config` first.
    Raises InputError if an adapter of `config` is not in `folder` or has another rank or scale.
    """
    check(config)
    model = apply_partial_lora(encoder, config)
    for target in config.targets:
        name = adapter_name(target)
        file = Path(folder) / name / "adapter_config.json"
        if not file.is_file():
            raise InputError(f"{folder} holds no adapter '{name}'; it was saved for other targets")
        _check_saved(file, config)
        result = model.load_adapter(Path(folder) / name, name, is_trainable=True)
        if missing := [key for key in result.missing_keys if f".{name}." in key]:
            raise InputError(
                f"{file.parent} lacks {len(missing)} matrices, first '{missing[0]}'; save it again"
            )
    activate(model, config.targets)
    return model


def _check_saved(file: Path, config: PartialLoRAConfig) -> None:
    saved = json.loads(file.read_text(encoding="utf-8"))
    rank, scale = saved["r"], saved["lora_alpha"] / saved["r"]
    if rank != config.r or abs(scale - config.scale) > 1e-6:
        raise InputError(
            f"{file.parent} was saved with r={rank}, scale={scale:g}, but the config says "
            f"r={config.r}, scale={config.scale:g}; use the saved values"
        )
