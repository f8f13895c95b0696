"""The encoder that a configuration names: a VisionMamba file, or a Hugging Face vision model."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..config import EMRRGConfig
from ..errors import InputError
from ..language.llm import TINY_DIR
from .checkpoints import load_vision_encoder
from .encoder import VisionMamba
from .hf_backbone import build_hf_backbone, load_hf_backbone

ENCODER_FILES = {  # entries of `encoder_weights`; MambaXray-VL's are downloaded by the user
    "tiny": TINY_DIR / "encoder" / "encoder.safetensors",
    "mambaxray-vl-base": Path("models/MambaXrayCLIP-B.pth"),
    "mambaxray-vl-large": Path("models/MambaXrayCLIP-L.pth"),
}


def build_encoder(config: EMRRGConfig) -> nn.Module:
    """The encoder of a configuration with random weights."""
    if config.encoder.kind == "hf":
        return build_hf_backbone(config.encoder_weights, config.encoder.image_size)
    return VisionMamba(config.encoder)


def load_encoder(config: EMRRGConfig) -> nn.Module:
    """The encoder of a configuration with its pre-trained weights.

    Raises:
        InputError: weights that are missing (where they come from), damaged or of another size.
    """
    if config.encoder.kind == "hf":
        return load_hf_backbone(config.encoder_weights, config.encoder.image_size)
    source = Path(ENCODER_FILES.get(config.encoder_weights, config.encoder_weights))
    if config.encoder_weights.startswith("mambaxray") and not source.is_file():
        raise InputError(f"the encoder weights '{config.encoder_weights}' are not here: download "
                         f"{source.name} from the link in the README of Event-AHU/Medical_Image_Analysis "
                         f"(CXPMRG_Bench_MambaXray_VL) to {source}, or name a file by --encoder-weights")
    encoder = load_vision_encoder(source, config.encoder.image_size, config.encoder.drop_path)
    if encoder.config != config.encoder:
        raise InputError(f"the encoder in {source} is {encoder.config}, but the preset asks for "
                         f"{config.encoder}; choose weights of that size")
    return encoder
