"""Studies made ready for the model: cleaned reports, and the images of a batch packed with a view mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.images import ImageBank, chosen_views, colour, jitter, load_mask, normalise, read_view
from emrrg_lib.data.study import Study
from emrrg_lib.files import InputError

_log = logging.getLogger(__name__)


class Indices(Dataset):
    """Study numbers; a collator looks up everything else.

    Args:
        length: n, for the numbers 0 … n - 1. repeats: how often an epoch holds each study; None: once.
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
        max_views: the most views of a study that the model takes; None: any number.
    """

    def __init__(self, studies: Sequence[Study], config: EMRRGConfig) -> None:
        if not studies:
            raise InputError("there is no study in this split; check annotation.json")
        self.studies = list(studies)
        self.reports = [clean_report(study.report, config.data.cleaning) for study in studies]
        self.max_views = config.data.view_limit
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
        """Packed images of a batch, see `pack_views`; they are jittered if each study has a random stream."""
        studies = [self.bank[i] for i in indices]
        if streams:
            studies = [jitter(views, rng) for views, rng in zip(studies, streams, strict=True)]
        return pack_views(studies, self.max_views)


def pack_views(studies: Sequence[Sequence[np.ndarray]], max_views: int | None) -> tuple[Tensor, Tensor]:
    """uint8 views (H, W, 3) of B studies → the form in which the model takes them.

    Args:
        studies: the views of each study. max_views: V; None: the largest number of views in the batch.

    Returns:
        pixel_values (I, 3, H, W), the I views that exist, study by study, normalised; view_mask (B, V)
        bool with I True entries.
    """
    width = max_views or max(len(views) for views in studies)
    mask = torch.tensor([[v < len(views) for v in range(width)] for views in studies])
    return normalise([view for views in studies for view in views]), mask


def pixels(studies: Sequence[Any], config: EMRRGConfig) -> tuple[Tensor, Tensor]:
    """Images of studies as the model of `config` takes them.

    Args:
        studies: one item a study. An item is a `Study` (of its images those that the model uses are read),
            an object whose `images` are arrays, such as a `PhantomStudy`, or a list of images. An image is
            a file, or an array (H, W), (H, W, 1) or (H, W, 3), uint8 or float between 0 and 1.
        config: gives the image size and the number of views. Other sizes are resized (bicubic).

    Returns:
        pixel_values (I, 3, H, W) and view_mask (B, V) bool, see `pack_views`.

    Raises:
        InputError: an image that cannot be read or has another shape or range, or too many views.
    """
    limit, views = config.data.view_limit, []
    for study in studies:
        images = chosen_views(study, limit) if isinstance(study, Study) else getattr(study, "images", study)
        if not len(images) or (limit and len(images) > limit):
            most = f"1 to {limit}" if limit else "one or more"
            raise InputError(f"{len(images)} images given: this model takes {most} views of one study")
        views.append([_as_view(image, config.encoder.image_size) for image in images])
    return pack_views(views, limit)


def _as_view(image: str | Path | np.ndarray, size: int) -> np.ndarray:
    """An image file or an array of `pixels` as uint8 (size, size, 3)."""
    if isinstance(image, str | Path):
        return read_view(image, size)
    values = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[-1] not in (1, 3):
        raise InputError(f"an image must be (H, W), (H, W, 1) or (H, W, 3), but has the shape {values.shape}")
    if np.issubdtype(values.dtype, np.floating) and 0 <= values.min() and values.max() <= 1:
        values = np.round(255 * values).astype(np.uint8)
    if values.dtype != np.uint8:
        raise InputError("an image must hold bytes (uint8) or floats between 0 and 1; scale its values first")
    values = colour(values)
    if values.shape[:2] == (size, size):
        return values
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC))


def finding_mask(finding: dict, size: int) -> np.ndarray:
    """(view, H, W) bool: the mask of a finding; of files at size × size, empty where a view has none."""
    given = finding["masks"]
    if isinstance(given, np.ndarray):
        return given
    empty = np.zeros((size, size), bool)
    return np.stack([empty if path is None else load_mask(path, size) for path in given])


def finding_masks(study: Any, size: int) -> dict[str, np.ndarray]:
    """Observation → (view, H, W) bool, the union of its findings' masks, see `finding_mask`."""
    masks: dict[str, np.ndarray] = {}
    for finding in getattr(study, "findings", None) or ():
        drawn = finding_mask(finding, size)
        if finding.get("label") and drawn.any():
            masks[finding["label"]] = masks.get(finding["label"], False) | drawn
    return masks
