"""Images of many studies as bytes, and the tensors the encoder takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emrrg_lib.data.annotation import IMAGENET_MEAN, IMAGENET_STD
from emrrg_lib.data.cache import SHARD, colour, open_views, read_planes
from emrrg_lib.data.study import VIEWS, Study


def read_view(path: str | Path, size: int) -> np.ndarray:
    """One image file as uint8 (size, size, 3): straight bicubic resize, no crop (NOTES G)."""
    return colour(read_planes(path, size))


def chosen_views(study: Study, max_views: int | None) -> list[Path]:
    """The images of a study that are used: frontal first, then lateral; at most `max_views`.

    Where the source does not say what a view is, the file's order stands.
    """
    views = study.views or [VIEWS[0]] * len(study.images)
    order = sorted(range(len(study.images)), key=lambda i: VIEWS.index(views[i]))
    return [study.images[i] for i in order[:max_views]]


class ImageBank:
    """Every view of every study as uint8 (H, W, 3), decoded once and kept on disk (`cache`).

    Args:
        studies: the studies, in order.
        size: pixels; images are resized to (size, size) as in `load_image`.
        max_views: at most this many views of a study are kept (`chosen_views`); None keeps all.
    """

    def __init__(self, studies: Sequence[Study], size: int, max_views: int | None = 2) -> None:
        chosen = [chosen_views(study, max_views) for study in studies]
        self.starts = np.cumsum([0] + [len(paths) for paths in chosen])
        self.shards = open_views([path for paths in chosen for path in paths], size)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> list[np.ndarray]:
        return [
            colour(self.shards[i // SHARD][i % SHARD])
            for i in range(self.starts[index], self.starts[index + 1])
        ]


def normalise(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 images (H, W, 3) → (I, 3, H, W) float32 with ImageNet mean and deviation (as load_image)."""
    stacked = np.stack(images).astype(np.float32) / 255.0
    return torch.from_numpy((stacked - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2).contiguous()


def jitter(
    images: Sequence[np.ndarray], rng: np.random.Generator, shift: int = 4, tone: float = 0.1
) -> list[np.ndarray]:
    """Shifts each image by up to `shift` pixels (edges repeated) and changes its contrast a little.

    Never mirrored: left and right are words of the report.
    """
    out = []
    for image in images:
        dy, dx = rng.integers(0, 2 * shift + 1, size=2)
        height, width = image.shape[:2]
        padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
        gain, offset = 1 + rng.uniform(-tone, tone), 255 * rng.uniform(-tone, tone) / 2
        moved = padded[dy : dy + height, dx : dx + width].astype(np.float32)
        out.append(np.clip(moved * gain + offset, 0, 255).astype(np.uint8))
    return out
