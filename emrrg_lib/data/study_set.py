"""A split made ready for the model: cleaned reports, images in memory, batches with absent views masked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import EMRRGConfig
from ..errors import InputError
from .cleaning import clean_report
from .images import ImageBank, jitter, normalise
from .study import Study


class Indices(Dataset):
    """Study numbers, by default 0 … n-1: a collator looks everything else up.

    Args:
        repeats: how often each of the n studies stands in an epoch.
    """

    def __init__(self, length: int, repeats: Sequence[int] | None = None) -> None:
        self.numbers = [i for i in range(length) for _ in range(repeats[i] if repeats else 1)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> int:
        return self.numbers[index]


class StudySet:
    """Studies with their cleaned reports and images.

    Attributes:
        studies: as read. reports: cleaned text, one a study. bank: uint8 images.
    """

    def __init__(self, studies: Sequence[Study], config: EMRRGConfig) -> None:
        if not studies:
            raise InputError("there is no study in this split; check annotation.json")
        self.studies = list(studies)
        self.reports = [clean_report(study.report, config.data.cleaning) for study in studies]
        self.bank = ImageBank(studies, config.encoder.image_size, config.data.max_views)
        self.max_views = config.data.max_views

    def __len__(self) -> int:
        return len(self.studies)

    def images(self, indices: Sequence[int], rng: np.random.Generator | None = None
               ) -> tuple[Tensor, Tensor]:
        """pixel_values (B, V, 3, H, W) and view_mask (B, V) bool; jittered if `rng` is given."""
        return stack_views([self.bank[i] if rng is None else jitter(self.bank[i], rng)
                            for i in indices], self.max_views)


def stack_views(studies: Sequence[Sequence[np.ndarray]], max_views: int) -> tuple[Tensor, Tensor]:
    """uint8 views of B studies → pixel_values (B, V, 3, H, W), absent views zero, and their mask."""
    first = normalise([view for views in studies for view in views])
    mask = torch.tensor([[v < len(views) for v in range(max_views)] for views in studies])
    pixels = first.new_zeros(*mask.shape, *first.shape[1:])
    pixels[mask] = first
    return pixels, mask
