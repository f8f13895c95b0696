"""Encoders that an ablation's row pre-trains for itself by stage 1 or 2 (CXPMRG-Bench, Table 4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ViTConfig, ViTModel

from ..config import EMRRGConfig, EncoderConfig
from ..data.dataset import read_dataset
from ..distributed import processes
from ..errors import InputError
from ..files import atomic_path
from ..language.llm import NAMED, TINY_DIR, cache_folder
from ..vision.checkpoints import load_vision_encoder, save_vision_encoder
from ..vision.hf_backbone import HFBackbone
from .pretrain import run_stage1, run_stage2, stage2_encoder
from .recipes import STAGE1, STAGE2, recipe
from .text_encoder import load_text_encoder


def pretrained_encoder(config: EMRRGConfig, stage1: str, stage2: str, values1: Sequence[str],
                       values2: Sequence[str], data: Path, out: Path) -> str:
    """Pre-trains the encoder of `config` on the training split of `data`; returns its `encoder_weights`.

    The same encoder, stages and settings give the same folder in `out`, which is filled once for all rows
    and seeds (seed 0); a stopped stage goes on.

    Args:
        stage1, stage2: cells of the ablation's table; empty leaves the stage out.
        values1, values2: words KEY=VALUE for the recipes of every row.

    Raises:
        InputError: no such setting, a text encoder that is not here, or stage 1 of a Transformer.
    """
    size = "base" if config.encoder.patch_size == 16 else "tiny"
    first = recipe(STAGE1[size], stage1, values1) if stage1 else None
    second = recipe(replace(STAGE2[size], image_size=config.encoder.image_size), stage2,
                    values2) if stage2 else None
    if first and config.encoder.kind == "hf":
        raise InputError("stage 1 is made for Mamba encoders: a Transformer row has stage 2 only")
    studies, sizes, weights = read_dataset(data, 0).split("train"), config.encoder, None
    if first:
        folder = out / _name("stage1", sizes, first)
        images = [path for study in studies for path in study.images]
        weights = _once(folder, "stage1.pth",
                        lambda: run_stage1(images, sizes, first, folder, 0, resume=True))
    if second:
        folder = out / _name("stage2", sizes, first, second)
        encoder = small_vit(sizes) if sizes.kind == "hf" else stage2_encoder(sizes, second, weights, 0)
        weights = _once(folder, "stage2.pth", lambda: run_stage2(
            studies, encoder, *load_text_encoder(_text_source(second.text_encoder)), second, folder, 0,
            resume=True))
        if sizes.kind == "hf":
            return _save_vit(encoder, weights, folder / "encoder")
    file = folder / "encoder.safetensors"
    with processes().main_process_first():
        if not file.is_file():  # what stage 1 does not hold is drawn here, once
            torch.manual_seed(0)
            save_vision_encoder(load_vision_encoder(weights, sizes.image_size), file)
    return str(file)


def small_vit(sizes: EncoderConfig) -> HFBackbone:
    """A Vision Transformer of an encoder's sizes with random weights: heads 32 wide, MLP 4 times as wide."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=sizes.embed_dim, num_hidden_layers=sizes.depth, intermediate_size=4 * sizes.embed_dim,
        num_attention_heads=max(1, sizes.embed_dim // 32), image_size=sizes.image_size,
        patch_size=sizes.patch_size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return HFBackbone(ViTModel(config, add_pooling_layer=False), sizes.image_size)


def _save_vit(encoder: nn.Module, weights: Path, folder: Path) -> str:
    """Writes the trained ViT as a Hugging Face folder, which a configuration names."""
    with processes().main_process_first():
        if folder.is_dir():
            return str(folder.resolve())
        tensors = torch.load(weights, map_location="cpu", weights_only=True)["model"]
        prefix = "visual_encoder."
        encoder.load_state_dict({key.removeprefix(prefix): value for key, value in tensors.items()
                                 if key.startswith(prefix)})
        with atomic_path(folder) as temporary:
            encoder.model.save_pretrained(temporary)
    return str(folder.resolve())


def _text_source(name: str) -> str:
    """`report-lm`: the kit's own report language model; a named LLM: its folder."""
    if name == "report-lm":
        return str(TINY_DIR / "report_lm")
    return str(cache_folder(name)) if name in NAMED and name != "tiny" else name


def _once(folder: Path, name: str, run) -> Path:
    if not (folder / "run.json").is_file():  # written last
        run()
    processes().wait_for_everyone()
    return folder / name


def _name(stage: str, *settings: Any) -> str:
    text = json.dumps([asdict(s) if s else None for s in settings], sort_keys=True)
    return f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
