"""A split made ready for the model: cleaned reports, images in memory, batches with absent views masked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.images import ImageBank, jitter, normalise
from emrrg_lib.data.study import Study
from emrrg_lib.files import InputError

_log = logging.getLogger(__name__)


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
        max_views: views of a study that the model takes; None (views "mean"): any number.
    """

    def __init__(self, studies: Sequence[Study], config: EMRRGConfig) -> None:
        if not studies:
            raise InputError("there is no study in this split; check annotation.json")
        self.studies = list(studies)
        self.reports = [clean_report(study.report, config.data.cleaning) for study in studies]
        self.max_views = None if config.data.views == "mean" else config.data.max_views
        self.bank = ImageBank(studies, config.encoder.image_size, self.max_views)
        lost = [
            len(study.images) - self.max_views
            for study in studies
            if self.max_views is not None and len(study.images) > self.max_views
        ]
        if lost:
            _log.warning(
                "%d of %d studies have more than %d views: %d views are not used (frontal, then "
                "lateral ones are kept)",
                len(lost),
                len(studies),
                self.max_views,
                sum(lost),
            )

    def __len__(self) -> int:
        return len(self.studies)

    def images(
        self, indices: Sequence[int], streams: Sequence[np.random.Generator] | None = None
    ) -> tuple[Tensor, Tensor]:
        """pixel_values (B, V, 3, H, W) and view_mask (B, V) bool; jittered if each has a random stream."""
        studies = [self.bank[i] for i in indices]
        if streams:
            studies = [jitter(views, rng) for views, rng in zip(studies, streams, strict=True)]
        return stack_views(studies, self.max_views)


def stack_views(studies: Sequence[Sequence[np.ndarray]], max_views: int | None) -> tuple[Tensor, Tensor]:
    """uint8 views of B studies → pixel_values (B, V, 3, H, W), absent views zero, and their mask.

    V is `max_views`, or the largest number of views where that is None.
    """
    first = normalise([view for views in studies for view in views])
    width = max_views or max(len(views) for views in studies)
    mask = torch.tensor([[v < len(views) for v in range(width)] for views in studies])
    pixels = first.new_zeros(*mask.shape, *first.shape[1:])
    pixels[mask] = first
    return pixels, mask
