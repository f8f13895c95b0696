"""A Hugging Face vision model as the encoder: any that returns tokens (R2GenGPT's Swin, CXPMRG's ViT).

Every encoder has `embed_dim`, `grid` (rows, columns), `cls_index` (place of the cls token or None),
`image_size` (pixels), and `forward (B, 3, H, W) → (B, T, d)`. The kit normalises images with ImageNet's mean
and deviation. Swin, DeiT and DINOv2 were trained so; ViT was trained with 0.5 and 0.5.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from emrrg_lib.files import InputError, cache_folder, first_line
from emrrg_lib.vision import check_images

NAMED = {  # name → hub id, architecture, sizes (those of the hub's file; ViTConfig's defaults are base)
    "vit-base": ("google/vit-base-patch16-224", "vit", {}),
    "swin-base": (
        "microsoft/swin-base-patch4-window7-224",
        "swin",
        dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=7),
    ),
}


class HFBackbone(nn.Module):
    """Wraps a vision model; register and distillation tokens are dropped, the cls token is kept.

    Args:
        model: returns `last_hidden_state` (B, T, d): extra tokens, then the patches of a square grid.
        image_size: pixels of the square images.

    Raises:
        InputError: the model returns no tokens, or its tokens do not lie on a square grid.
    """

    def __init__(self, model: PreTrainedModel, image_size: int) -> None:
        super().__init__()
        self.model, self.image_size = model.eval(), image_size
        resize = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if resize else {}
        name = type(model).__name__
        try:
            with torch.no_grad():
                probe = torch.zeros(1, 3, image_size, image_size, device=model.device, dtype=model.dtype)
                tokens = model(pixel_values=probe, **self.options).last_hidden_state
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"{name} cannot read {image_size} px images ({error}); choose another "
                "vision model or image size"
            ) from error
        side = math.isqrt(tokens.shape[1])
        self.extra = tokens.shape[1] - side**2
        if tokens.dim() != 3 or self.extra > 8:  # a map of features, or a grid that is not square
            raise InputError(
                f"{name} returns {tuple(tokens.shape)}, not tokens (B, T, d) of a square grid; "
                "choose a ViT, DeiT, DINOv2 or Swin"
            )
        self.embed_dim, self.grid = tokens.shape[-1], (side, side)
        self.cls_index = 0 if self.extra else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, M + 1, d), or (B, M, d) for a model without cls token."""
        check_images(pixel_values, self.image_size)
        tokens = self.model(pixel_values=pixel_values, **self.options).last_hidden_state
        return torch.cat([tokens[:, :1], tokens[:, self.extra :]], dim=1) if self.extra > 1 else tokens


def build_hf_backbone(source: str, image_size: int) -> HFBackbone:
    """The architecture of an entry of `NAMED`, a folder or a hub id, with random weights."""
    _, kind, sizes = NAMED.get(source, (source, None, {}))
    config = AutoConfig.for_model(kind, **sizes) if kind else _read(AutoConfig.from_pretrained, source)
    config.image_size = image_size
    return HFBackbone(_without_pooling(AutoModel.from_config, config), image_size)


def load_hf_backbone(source: str, image_size: int) -> HFBackbone:
    """Loads pre-trained weights: an entry of `NAMED`, a folder in the Hugging Face layout, or a hub id.

    Raises InputError where the model is missing or cannot be reached: what to download and where to put it.
    """
    return HFBackbone(_read(partial(_without_pooling, AutoModel.from_pretrained), source), image_size)


def require_hf_backbone(source: str) -> None:
    """Raises InputError unless the model is on this machine; reads its configuration only."""
    _read(AutoConfig.from_pretrained, source)


def _without_pooling(make: Callable[..., PreTrainedModel], source) -> PreTrainedModel:
    """Without the pooling layer, whose parameters act on no token; not every model has this option."""
    try:
        return make(source, add_pooling_layer=False)
    except TypeError:
        return make(source)


def _read(read: Callable, source: str):
    hub = NAMED[source][0] if source in NAMED else source
    folder = cache_folder(source) if source in NAMED else Path("models") / Path(source).name
    try:
        return read(str(folder) if (folder / "config.json").is_file() else hub)
    except (OSError, ValueError) as error:
        advice = (
            "the folder has to hold config.json and the weights"
            if Path(source).is_absolute()
            else f"download it with `hf download {hub} --local-dir {folder}`"
        )
        raise InputError(
            f"cannot load the vision model '{source}' ({first_line(error)}); {advice}"
        ) from error
