"""A run's encoder as one plain file: LoRA merged in, under upstream's key names."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from .errors import InputError
from .files import atomic_path
from .runs import read_config
from .tuning.partial_lora import apply_partial_lora
from .vision.checkpoints import save_vision_encoder
from .vision.encoder import VisionMamba
from .vision.named import load_encoder

PREFIX = "encoder."  # of the encoder's tensors in trained.safetensors


def tuned_encoder(run: Path) -> VisionMamba:
    """The encoder of a finished run without adapters: W + ΔW. The LLM is not needed.

    Raises:
        InputError: no finished run, missing base weights, or an encoder that is no VisionMamba.
    """
    config, file = read_config(run), run / "trained.safetensors"
    if config.encoder.kind != "mamba":
        raise InputError(f"{run} has a Hugging Face encoder: only a VisionMamba can be exported")
    if not file.is_file():
        raise InputError(f"no trained weights at {file}; finish the run with `emrrg train`")
    encoder: nn.Module = load_encoder(config)
    if config.encoder_tuning == "lora":
        encoder = apply_partial_lora(encoder, config.partial_lora)
    tensors = {k.removeprefix(PREFIX): v for k, v in load_file(file).items() if k.startswith(PREFIX)}
    if unknown := sorted(tensors.keys() - encoder.state_dict().keys()):
        raise InputError(f"{file} does not fit its config.json: the encoder has no '{unknown[0]}'")
    encoder.load_state_dict(tensors, strict=False)
    return encoder.merge_and_unload() if isinstance(encoder, PeftModel) else encoder


def export_encoder(run: Path, out: Path) -> Path:
    """Writes `tuned_encoder(run)`: `.safetensors`, or `.pth` in upstream's `model` container.

    Raises:
        InputError: see `tuned_encoder`; or another suffix.
    """
    if out.suffix not in (".safetensors", ".pth"):
        raise InputError(f"cannot write {out}: name a .safetensors or a .pth file")
    encoder = tuned_encoder(run)
    if out.suffix == ".safetensors":
        return save_vision_encoder(encoder, out)
    with atomic_path(out) as temporary:
        torch.save({"model": encoder.state_dict()}, temporary)
    return out
