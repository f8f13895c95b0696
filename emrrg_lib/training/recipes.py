"""Budgets and settings of pre-training; sizes `base` and `large` carry the released ones (NOTES B1, B2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from emrrg_lib.config import LARGE, TINY_ENCODER, Cleaning, EncoderConfig
from emrrg_lib.files import InputError
from emrrg_lib.settings import Count, NotNegative, Positive, Rate, Settings, Share, Whole, assign

ENCODERS = {"tiny": TINY_ENCODER, "base": EncoderConfig(), "large": EncoderConfig(**LARGE)}


@dataclass(frozen=True)
class Stage1Config(Settings):
    """Stage 1. Defaults: 101 epochs of 1.27 M images, 5 of them warm-up, at ARM's batch of 256.

    The learning rate is base_learning_rate · batch / 256; the schedule is half a cosine to 0.
    """

    objective: Literal["arg", "eq2", "mae"] = "arg"
    decoder_dim: Count = 512
    steps: Count = 501_000
    warmup_steps: Whole = 24_800
    batch_size: Count = 256  # over all processes; the released script: 12
    base_learning_rate: Positive = 1.5e-4
    weight_decay: NotNegative = 0.05
    betas: tuple[Rate, Rate] = (0.9, 0.95)
    clip: NotNegative = 3.0
    crop_scale: tuple[Share, Share] = (0.2, 1.0)  # share of the image's area that a crop keeps
    flip: bool = True  # as released; off where left and right mean something later


@dataclass(frozen=True)
class Stage2Config(Settings):
    """Stage 2. Defaults: 51 epochs of 480,000 pairs at batch 48.

    Upstream's cosine falls once an epoch to 1e-6, here every step to 0.
    """

    image_size: Count = 224
    text_encoder: str = "emilyalsentzer/Bio_ClinicalBERT"  # tiny | minilm | a hub id | a folder
    train_text: bool = True
    projection_dim: Count = 2048
    max_text: Count = 128  # tokens
    cleaning: Cleaning = "mimic_cxr"
    steps: Count = 510_000
    warmup_steps: Whole = 0
    batch_size: Count = 48  # over all processes
    learning_rate: Positive = 1e-4
    schedule: Literal["cosine", "hold"] = "cosine"
    weight_decay: NotNegative = 0.01
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    clip: NotNegative = 0.0  # none
    jitter: bool = False  # small shifts and changes of tone
    lateral_share: Share = 1.0  # share of studies whose other views join a step
    observation_weight: NotNegative = 0.0  # of the observations mined from the reports (mining.py)


# Phantoms fill the frame and stand straight: gentler crops are nearer to what the encoder will read.
STAGE1_TINY = Stage1Config(
    decoder_dim=64,
    steps=1000,
    warmup_steps=50,
    batch_size=32,
    base_learning_rate=2.4e-2,
    crop_scale=(0.6, 1.0),
    flip=False,
)
# Normal reports are near duplicates of each other, so CLIP's loss alone is too weak at this size; a
# schedule that decays from the start leaves the hard findings unlearnt.
STAGE2_TINY = Stage2Config(
    image_size=96,
    text_encoder="tiny",
    projection_dim=128,
    cleaning="iu_xray",
    steps=2400,
    warmup_steps=200,
    batch_size=32,
    learning_rate=1.5e-3,
    schedule="hold",
    weight_decay=0.05,
    betas=(0.9, 0.98),
    clip=3.0,
    jitter=True,
    lateral_share=0.2,
    observation_weight=10.0,
)
STAGE1 = {"tiny": STAGE1_TINY, "base": Stage1Config(), "large": Stage1Config()}
STAGE2 = {"tiny": STAGE2_TINY, "base": Stage2Config(), "large": Stage2Config()}


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """How the weights in `data/tiny/` are made: corpus → language model; stage 1 → stage 2."""

    seed: Annotated[int, 0, 2**32 - 1] = 20251019  # disjoint from every demo seed
    studies: Count = 12_000
    lm_steps: Count = 2000
    lm_batch: Count = 32
    lm_learning_rate: Positive = 2e-3
    stage1: Stage1Config = field(default_factory=lambda: STAGE1_TINY)
    stage2: Stage2Config = field(default_factory=lambda: STAGE2_TINY)


def chosen(recipe: Any, **options: Any) -> Any:
    """The recipe with those options that are not None."""
    return replace(recipe, **{name: value for name, value in options.items() if value is not None})


def recipe(base: Any, cell: str, values: Sequence[str]) -> Any:
    """The recipe with the words of a cell, then with `values`; the cell `default` changes nothing."""
    words = [] if cell == "default" else cell.split()
    return assign(base, [*words, *values], "the recipe")


def per_process(batch_size: int, parts: int) -> int:
    """What a process takes at once of a global batch; parts: processes · accumulation.

    Raises InputError if it cannot be split evenly.
    """
    if batch_size % parts:
        raise InputError(
            f"a batch of {batch_size} cannot be split into {parts} parts (processes times "
            "accumulation); choose a multiple"
        )
    return batch_size // parts
