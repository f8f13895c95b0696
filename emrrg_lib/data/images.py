"""Images of many studies held as bytes, and the tensors the encoder takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .loading import IMAGENET_MEAN, IMAGENET_STD, load_rgb
from .study import Study


def read_view(path: str | Path, size: int) -> np.ndarray:
    """One image file as uint8 (size, size, 3): straight bicubic resize, no crop (upstream_audit G)."""
    return np.asarray(load_rgb(path).resize((size, size), Image.Resampling.BICUBIC))


class ImageBank:
    """Every view of every study as uint8 (H, W, 3), read once; 100 kB a view at 192 px.

    Args:
        studies: the studies, in order.
        size: pixels; images are resized to (size, size) as in `load_image`.
        max_views: at most this many views of a study are kept.
    """

    def __init__(self, studies: Sequence[Study], size: int, max_views: int = 2) -> None:
        self.views = [[read_view(path, size) for path in study.images[:max_views]]
                      for study in tqdm(studies, desc="reading images", unit="study")]

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> list[np.ndarray]:
        return self.views[index]


def normalise(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 images (H, W, 3) → (I, 3, H, W) float32 with ImageNet mean and deviation (as load_image)."""
    stacked = np.stack(images).astype(np.float32) / 255.0
    return torch.from_numpy((stacked - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2).contiguous()


def jitter(images: Sequence[np.ndarray], rng: np.random.Generator, shift: int = 4,
           tone: float = 0.1) -> list[np.ndarray]:
    """Shifts each image by up to `shift` pixels (edges repeated) and changes its contrast a little.

    Never mirrored: left and right are words of the report.
    """
    out = []
    for image in images:
        dy, dx = rng.integers(0, 2 * shift + 1, size=2)
        height, width = image.shape[:2]
        padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
        gain, offset = 1 + rng.uniform(-tone, tone), 255 * rng.uniform(-tone, tone) / 2
        moved = padded[dy:dy + height, dx:dx + width].astype(np.float32)
        out.append(np.clip(moved * gain + offset, 0, 255).astype(np.uint8))
    return out
