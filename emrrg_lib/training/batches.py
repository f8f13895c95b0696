"""Batches: cropped images (stage 1), image–report pairs with mined targets (stage 2), studies as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.images import ImageBank, jitter, load_picture, normalise
from emrrg_lib.data.nih_cxr14 import TABLE
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import OBSERVATIONS, Study
from emrrg_lib.data.study_set import pixels
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.files import InputError
from emrrg_lib.generation import free_cores
from emrrg_lib.language.prompt import text_batch
from emrrg_lib.model import EMRRG
from emrrg_lib.training.shares import OwnTokenizer, random_streams
from emrrg_lib.training.stage1 import Stage1Config
from emrrg_lib.training.stage2 import REGIONS, UNKNOWN, Stage2Config

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".jp2", ".webp", ".dcm"}
ASPECT = (3 / 4, 4 / 3)  # width over height of a crop before it is made square


def find_images(source: Path) -> list[Path]:
    """The training images of a data folder, or every image file below a folder of images alone.

    Raises InputError where there is none.
    """
    if (source / "annotation.json").is_file():
        return [image for study in load_annotation(source, "train") for image in study.images]
    if any(source.glob(TABLE)):
        return [image for study in read_dataset(source).split("train") for image in study.images]
    images = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        raise InputError(f"no image files below {source}: give a data folder or a folder of images")
    return images


def random_resized_crop(
    image: Image.Image, size: int, rng: np.random.Generator, scale: tuple[float, float]
) -> Image.Image:
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

    ahead = True

    def __init__(self, images: Sequence[Path], size: int, recipe: Stage1Config, seed: int) -> None:
        self.images, self.size, self.recipe, self.seed = images, size, recipe, seed

    def __call__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        crops = []
        for index, rng in zip(indices, random_streams(self.seed, indices), strict=True):
            picture = load_picture(self.images[index]).convert("RGB")
            crop = random_resized_crop(picture, self.size, rng, self.recipe.crop_scale)
            mirrored = self.recipe.flip and rng.random() < 0.5
            crops.append(np.asarray(crop)[:, ::-1] if mirrored else np.asarray(crop))
        return {"pixel_values": normalise(crops)}


SIDE_WORDS = {
    "right": re.compile(r"\b(right|bilateral\w*|both|biapical|bibasilar)\b"),
    "left": re.compile(r"\b(left|bilateral\w*|both|biapical|bibasilar)\b"),
}


def mine_targets(report: str) -> torch.Tensor:
    """Report text → (3, 14) targets over REGIONS × OBSERVATIONS: 1 present, 0 absent, -1 unknown.

    Present means worded as positive or uncertain. Everything else counts as absent, because these
    reports leave no finding out. No mask and no true label is read: each sentence is labelled by
    `label_report`, and the side words of the same sentence say in which half the observation is.
    """
    targets = torch.zeros(len(REGIONS), len(OBSERVATIONS))
    whole = label_report(report)
    for column, name in enumerate(OBSERVATIONS):
        if whole[name] in (1, -1):
            targets[0, column] = 1.0
            targets[1:, column] = UNKNOWN
    for sentence in re.split(r"\.\s+", report.lower()):
        sides = [bool(pattern.search(sentence)) for pattern in SIDE_WORDS.values()]
        if not any(sides):
            continue
        labels = label_report(sentence)
        for column, name in enumerate(OBSERVATIONS[1:], start=1):
            if labels[name] in (1, -1) and targets[0, column] == 1:
                found = torch.tensor(sides, dtype=torch.float32)
                targets[1:, column] = torch.maximum(targets[1:, column], found)
    return targets


class PairCollator:
    """Study numbers → one contrastive batch: images, report tokens and, if the recipe asks, mined targets.

    The first view of a study counts as its frontal one.
    """

    ahead = True

    def __init__(
        self, studies: Sequence[Study], tokenizer: PreTrainedTokenizerBase, recipe: Stage2Config, seed: int
    ) -> None:
        self.bank = ImageBank(studies, recipe.image_size, None)
        self.reports = [clean_report(study.report, recipe.cleaning) for study in studies]
        self.recipe, self.seed, self.targets = recipe, seed, None
        self.tokenizer = OwnTokenizer(tokenizer)
        if recipe.observation_weight:
            self.targets = torch.stack([mine_targets(study.report) for study in studies])

    def __call__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        images, study, frontal = [], [], []
        for row, (index, rng) in enumerate(zip(indices, random_streams(self.seed, indices), strict=True)):
            views = self.bank[index]
            keep = len(views) if rng.random() < self.recipe.lateral_share else 1
            images += jitter(views[:keep], rng) if self.recipe.jitter else views[:keep]
            study += [row] * keep
            frontal += [True] + [False] * (keep - 1)
        with self.tokenizer as tokenize:
            text = tokenize(
                [self.reports[i] for i in indices],
                padding=True,
                truncation=True,
                max_length=self.recipe.max_text,
                return_tensors="pt",
                padding_side="right",
            )
        batch = {"pixel_values": normalise(images), "study": torch.tensor(study)}
        batch |= {name: text[name] for name in ("input_ids", "attention_mask")}
        if self.targets is not None:
            batch |= {"frontal": torch.tensor(frontal), "targets": self.targets[indices]}
        return batch


def batch_of(model: EMRRG, studies: Sequence[Any]) -> dict[str, torch.Tensor]:
    """What the model's forward takes of these studies, see `pixels`, with their reports as labels."""
    config = model.settings
    images, view_mask = pixels(studies, config)
    reports = [clean_report(study.report, config.data.cleaning) for study in studies]
    prompt, most, image = config.data.prompt, config.data.max_length, config.llm.image_in_prompt
    text = text_batch(model.tokenizer, prompt, reports, most, image).to(model.device)
    return {"pixel_values": images, "view_mask": view_mask, **text}


@torch.no_grad()
def study_losses(model: EMRRG, studies: Sequence[Any]) -> np.ndarray:
    """The loss of each study, (studies,) in nats per token; its last bits may differ beside busy programs."""
    with free_cores(model.device):
        return np.array([float(model(**batch_of(model, [study]))["loss"]) for study in studies])
