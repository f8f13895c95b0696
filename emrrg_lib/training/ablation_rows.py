"""A row of an ablation table: its configuration, the encoder it pre-trains, the paper's values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import AutoConfig, ViTConfig, ViTModel

from emrrg_lib.config import EMRRGConfig, EncoderConfig, with_values
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import read_table
from emrrg_lib.evaluation.metrics import columns
from emrrg_lib.evaluation.published import published
from emrrg_lib.files import ABLATIONS, TINY_DIR, InputError, atomic_path, cache_folder, close_name, processes
from emrrg_lib.language.llm import require_llm
from emrrg_lib.language.named import NAMED
from emrrg_lib.presets import classic_decoder
from emrrg_lib.settings import assign
from emrrg_lib.training.pretrain import (
    STAGE1,
    STAGE1_TINY,
    STAGE2,
    STAGE2_TINY,
    run_stage1,
    run_stage2,
    stage2_encoder,
)
from emrrg_lib.training.stage2 import load_text_encoder
from emrrg_lib.tuning.policy import apply_policy
from emrrg_lib.vision.hf_backbone import HFBackbone
from emrrg_lib.vision.weights import load_vision_encoder, require_encoder, save_vision_encoder

FIELDS = ("row", "settings", "stage1", "stage2", "paper_table", "paper_row", "note")
STAGES = {"stage1.": STAGE1_TINY, "stage2.": STAGE2_TINY}  # prefix of such a setting, any recipe


@dataclass(frozen=True)
class Row:
    """One line of an ablation's CSV.

    Attributes:
        row: its name.
        settings: words KEY=VALUE: of config.py, `policy=NAME`, `decoder=NAME`, `size=large`, `vit=true`;
            `llm.hybrid_layers` takes none, first, all, every:K or spread:K.
        stage1, stage2: `default`, or words KEY=VALUE for the recipe: this stage pre-trains the row's encoder.
            Empty: it does not. If both are empty, the encoder is the preset's.
        paper_table, paper_row: where the paper has the row, see `paper_values`.
    """

    row: str
    settings: str
    stage1: str
    stage2: str
    paper_table: str
    paper_row: str
    note: str


def names() -> list[str]:
    """The names of all ablations."""
    return sorted(path.stem for path in ABLATIONS.glob("*.csv"))


def read_rows(name: str, only: Sequence[str] = ()) -> list[Row]:
    """The rows of an ablation, all or those in `only`. Raises InputError for an unknown name."""
    if name not in names():
        hint = close_name(name, names())
        raise InputError(f"there is no ablation '{name}'; {hint}there are {', '.join(names())}")
    rows = [Row(**values) for values in read_table(ABLATIONS / f"{name}.csv", FIELDS).to_dict("records")]
    known = [row.row for row in rows]
    if unknown := set(only) - set(known):
        hint = close_name(min(unknown), known)
        raise InputError(f"{name} has no row '{min(unknown)}'; {hint}it has {', '.join(known)}")
    return [row for row in rows if not only or row.row in only]


def row_config(config: EMRRGConfig, row: Row, values: Sequence[str] = ()) -> EMRRGConfig:
    """The preset with the row's settings, then with `values`; InputError for one that does not exist."""
    for word in row.settings.split():
        key, _, value = word.partition("=")
        if key == "policy":
            config = apply_policy(config, value)
        elif word == "size=large":  # as base to large in the paper: 768 x 12 to 1024 x 24
            sizes = config.encoder
            width = round(sizes.embed_dim * 4 / 3 / 32) * 32
            config = replace(config, encoder=replace(sizes, embed_dim=width, depth=2 * sizes.depth))
        elif key == "decoder":
            config = classic_decoder(config, value)
        elif word == "vit=true":
            config = replace(config, encoder=replace(config.encoder, kind="hf"))
        elif key == "llm.hybrid_layers":
            layers = hybrid_layers(value, layer_count(config.llm.name))
            config = replace(config, llm=replace(config.llm, hybrid_layers=layers))
        else:
            config = with_values(config, [word])
    return with_values(config, _own(values))


def _own(values: Sequence[str]) -> list[str]:
    """The settings of config.py."""
    return [word for word in values if not word.startswith(tuple(STAGES))]


def stage_values(values: Sequence[str], stage: str) -> list[str]:
    """The settings that begin with `stage`, a key of STAGES; without it."""
    return [word.removeprefix(stage) for word in values if word.startswith(stage)]


def recipe(base: Any, cell: str, values: Sequence[str]) -> Any:
    """The recipe with the words KEY=VALUE of a cell, then with `values`; `default` changes nothing."""
    words = [] if cell == "default" else cell.split()
    return assign(base, [*words, *values], "the recipe")


def check_values(config: EMRRGConfig, rows: Sequence[Row], values: Sequence[str]) -> None:
    """Raises InputError for a setting that does not exist, or that none of the rows uses."""
    with_values(config, _own(values))
    for prefix, base in STAGES.items():
        stage = prefix.rstrip(".")
        if words := stage_values(values, prefix):
            recipe(base, "default", words)
            if not any(getattr(row, stage) for row in rows):
                raise InputError(
                    f"{prefix}{words[0]}: no row here is pre-trained by {stage}; leave it out, "
                    "or choose a table such as cxpmrg-table4"
                )


def require_some_weights(config: EMRRGConfig, rows: Sequence[Row], values: Sequence[str]) -> None:
    """Raises InputError where no row has its weights on this machine; one row that has them is enough."""
    reasons = []
    for row in rows:
        try:
            chosen = row_config(config, row, values)
            require_llm(chosen.llm.name)
            if not (row.stage1 or row.stage2):
                require_encoder(chosen)
            return
        except InputError as reason:
            reasons.append(reason)
    raise reasons[0]


def hybrid_layers(choice: str, count: int) -> tuple[int, ...]:
    """Layer indices of a word: none, first, all, every:K (every K-th), spread:K (K layers, evenly)."""
    word, _, number = choice.partition(":")
    steps = {
        "none": count,
        "first": count,
        "all": 1,
        "every": int(number or 1),
        "spread": max(1, count // int(number or 1)),
    }
    if word not in steps:
        raise InputError(f"hybrid layers '{choice}': say {', '.join(steps)}, with :K after the last two")
    chosen = range(0, 0 if word == "none" else count, steps[word])
    return tuple(chosen[: int(number)] if word == "spread" else chosen)


def layer_count(llm: str) -> int:
    """Decoder layers of a language model; InputError if it is not on this machine."""
    if llm in NAMED:
        return NAMED[llm].config().num_hidden_layers
    try:
        return AutoConfig.from_pretrained(llm, trust_remote_code=False).get_text_config().num_hidden_layers
    except (OSError, ValueError) as error:
        raise InputError(
            f"the language model '{llm}' is not here: download it with `hf download {llm}`"
        ) from error


def paper_values(row: Row) -> dict[str, dict[str, float]]:
    """Data set → metric → value of the published row; `paper_row` is its system, its setting or both."""
    if not row.paper_table:
        return {}
    found = [
        line
        for line in published(row.paper_table).to_dict("records")
        if row.paper_row in (line["system"], line["setting"], f"{line['system']} {line['setting']}")
    ]
    if not found:
        raise InputError(f"{row.paper_table} has no row '{row.paper_row}'")
    return {
        line["dataset"]: {name: line[name] for name in columns() if pd.notna(line.get(name))}
        for line in found
    }


def pretrained_encoder(config: EMRRGConfig, row: Row, values: Sequence[str], data: Path, out: Path) -> str:
    """Pre-trains the encoder of `config` on the training split of `data`; returns its `encoder_weights`.

    The same encoder, stages and settings give the same folder in `out`, which is filled once for all rows
    and seeds (seed 0). A stage that was stopped goes on.

    Args:
        row: says which stages. values: settings of every row.

    Raises:
        InputError: no such setting, a text encoder that is missing, or stage 1 of a Transformer.
    """
    studies, sizes, weights = read_dataset(data, 0).split("train"), config.encoder, None
    size = "base" if sizes.patch_size == 16 else "tiny"
    first = second = None
    if row.stage1:
        first = recipe(STAGE1[size], row.stage1, stage_values(values, "stage1."))
    if row.stage2:
        base = replace(STAGE2[size], image_size=sizes.image_size)
        second = recipe(base, row.stage2, stage_values(values, "stage2."))
    if first and sizes.kind == "hf":
        raise InputError("stage 1 is made for Mamba encoders: a Transformer row has stage 2 only")
    if first:
        folder = out / _name("stage1", sizes, first)
        weights = folder / "stage1.pth"
        if not _finished(folder):
            images = [path for study in studies for path in study.images]
            run_stage1(images, sizes, first, folder, 0, resume=True)
    if second:
        folder = out / _name("stage2", sizes, first, second)
        encoder = small_vit(sizes) if sizes.kind == "hf" else stage2_encoder(sizes, second, weights, 0)
        weights = folder / "stage2.pth"
        if not _finished(folder):
            text = load_text_encoder(_text_source(second.text_encoder))
            run_stage2(studies, encoder, *text, second, folder, 0, resume=True)
        if sizes.kind == "hf":
            return _save_vit(encoder, weights, folder / "encoder")
    file = folder / "encoder.safetensors"
    with processes().main_process_first():
        if not file.is_file():  # a stage-1 file lacks some weights: they are drawn here, once
            torch.manual_seed(0)
            save_vision_encoder(load_vision_encoder(weights, sizes.image_size), file)
    return str(file)


def small_vit(sizes: EncoderConfig) -> HFBackbone:
    """A Vision Transformer of an encoder's sizes with random weights: heads 32 wide, MLP 4 times as wide."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=sizes.embed_dim,
        num_hidden_layers=sizes.depth,
        intermediate_size=4 * sizes.embed_dim,
        num_attention_heads=max(1, sizes.embed_dim // 32),
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return HFBackbone(ViTModel(config, add_pooling_layer=False), sizes.image_size)


def _save_vit(encoder: nn.Module, weights: Path, folder: Path) -> str:
    """Writes the trained ViT as a Hugging Face folder; a configuration names this folder."""
    with processes().main_process_first():
        if folder.is_dir():
            return str(folder.resolve())
        tensors, prefix = (
            torch.load(weights, map_location="cpu", weights_only=True)["model"],
            "visual_encoder.",
        )
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        encoder.load_state_dict(own)
        with atomic_path(folder) as temporary:
            encoder.model.save_pretrained(temporary)
    return str(folder.resolve())


def _text_source(name: str) -> str:
    """The folder of `report-lm`, the kit's report language model, or of a named LLM; else the name."""
    if name == "report-lm":
        return str(TINY_DIR / "report_lm")
    return str(cache_folder(name)) if name in NAMED and name != "tiny" else name


def _finished(folder: Path) -> bool:
    """Whether a stage is finished in `folder`; all processes look before one of them writes."""
    finished = (folder / "run.json").is_file()  # written last
    processes().wait_for_everyone()
    return finished


def _name(stage: str, *settings: Any) -> str:
    text = json.dumps([asdict(s) if s else None for s in settings], sort_keys=True)
    return f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
