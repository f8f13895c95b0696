"""Batches of pre-training: random crops of images alone (stage 1), image–report pairs (stage 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from ..data.cleaning import clean_report
from ..data.images import ImageBank, jitter, normalise
from ..data.loading import load_annotation, load_rgb
from ..data.study import Study
from ..errors import InputError
from .batches import random_streams
from .mining import mine_targets
from .recipes import Stage1Config, Stage2Config

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".jp2", ".webp"}
ASPECT = (3 / 4, 4 / 3)  # width over height of a crop before it is made square


def find_images(source: Path) -> list[Path]:
    """The training images of a data folder, or every image file below a folder without annotation.

    Raises:
        InputError: there is none.
    """
    if (source / "annotation.json").is_file():
        return [image for study in load_annotation(source, "train") for image in study.images]
    images = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        raise InputError(f"no image files below {source}: give a data folder or a folder of images")
    return images


def random_resized_crop(image: Image.Image, size: int, rng: np.random.Generator,
                        scale: tuple[float, float]) -> Image.Image:
    """A random part of the image, of `scale` of its area, resized (bicubic) to size × size.

    Ten tries to fit the drawn shape into the image, as in torchvision; then the whole image.
    """
    width, height = image.size
    for _ in range(10):
        area, aspect = width * height * rng.uniform(*scale), math.exp(rng.uniform(*np.log(ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height:
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            image = image.crop((x, y, x + w, y + h))
            break
    return image.resize((size, size), Image.Resampling.BICUBIC)


class CropCollator:
    """Image numbers → {"pixel_values": (B, 3, size, size)}, cropped and perhaps mirrored."""

    def __init__(self, images: Sequence[Path], size: int, recipe: Stage1Config, seed: int) -> None:
        self.images, self.size, self.recipe, self.seed = images, size, recipe, seed

    def __call__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        crops = []
        for index, rng in zip(indices, random_streams(self.seed, indices), strict=True):
            crop = random_resized_crop(load_rgb(self.images[index]), self.size, rng, self.recipe.crop_scale)
            mirrored = self.recipe.flip and rng.random() < 0.5
            crops.append(np.asarray(crop)[:, ::-1] if mirrored else np.asarray(crop))
        return {"pixel_values": normalise(crops)}


class PairCollator:
    """Study numbers → one contrastive batch: images, report tokens and, where wanted, mined targets.

    The first view of a study counts as its frontal one.
    """

    def __init__(self, studies: Sequence[Study], tokenizer: PreTrainedTokenizerBase, recipe: Stage2Config,
                 seed: int) -> None:
        self.bank = ImageBank(studies, recipe.image_size, None)
        self.reports = [clean_report(study.report, recipe.cleaning) for study in studies]
        self.tokenizer, self.recipe, self.seed = tokenizer, recipe, seed
        self.targets = torch.stack([mine_targets(study.report) for study in studies]
                                   ) if recipe.observation_weight else None

    def __call__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        images, study, frontal = [], [], []
        for row, (index, rng) in enumerate(zip(indices, random_streams(self.seed, indices), strict=True)):
            views = self.bank[index]
            keep = len(views) if rng.random() < self.recipe.lateral_share else 1
            images += jitter(views[:keep], rng) if self.recipe.jitter else views[:keep]
            study += [row] * keep
            frontal += [True] + [False] * (keep - 1)
        text = self.tokenizer([self.reports[i] for i in indices], padding=True, truncation=True,
                              max_length=self.recipe.max_text, return_tensors="pt", padding_side="right")
        batch = {"pixel_values": normalise(images),
                 "study": torch.tensor(study), "input_ids": text.input_ids,
                 "attention_mask": text.attention_mask}
        if self.targets is not None:
            batch |= {"frontal": torch.tensor(frontal), "targets": self.targets[indices]}
        return batch
