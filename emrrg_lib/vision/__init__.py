"""The vision encoder: patches, selective scan, four-direction Mamba mixer, checkpoints.

The checks below are those of every encoder: VisionMamba and the vision models of Hugging Face.
"""

from __future__ import annotations

from torch import Tensor

from emrrg_lib.files import InputError


def check_images(pixel_values: Tensor, size: int) -> None:
    """Raises InputError unless the images are (B, 3, size, size) and finite."""
    if pixel_values.dim() != 4 or pixel_values.shape[1:] != (3, size, size):
        shape = tuple(pixel_values.shape)
        raise InputError(f"images must be (B, 3, {size}, {size}), got {shape}; resize them first")
    check_finite(pixel_values)


def check_finite(pixel_values: Tensor) -> None:
    """Raises InputError for NaN in images on the CPU; to ask a GPU would make the CPU wait for it."""
    if pixel_values.device.type != "cuda" and not pixel_values.isfinite().all():
        raise InputError("an image holds NaN or infinite values; check its file and how it was normalised")
