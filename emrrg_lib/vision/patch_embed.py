"""Patch embedding: the image is cut into P × P patches, each projected to d channels (paper §3.2)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ..errors import InputError


class PatchEmbed(nn.Module):
    """A convolution whose kernel and stride are the patch: a linear map of each patch's pixels.

    Upstream keys: `patch_embed.proj.weight` (d, 3, P, P) and `.bias` (d).
    """

    def __init__(self, image_size: int, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        if image_size % patch_size:
            raise InputError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
        self.side = image_size // patch_size  # patches along one edge
        if self.side % 2:
            raise InputError(f"a grid of {self.side}×{self.side} patches has no middle for the cls "
                             "token; choose image_size / patch_size even")
        self.image_size = image_size
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)
        nn.init.trunc_normal_(self.proj.weight, std=1.0 / math.sqrt(3 * patch_size**2))
        nn.init.zeros_(self.proj.bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, M, d), row-major. Raises InputError for another size or for NaN."""
        if pixel_values.dim() != 4 or pixel_values.shape[1:] != (3, self.image_size, self.image_size):
            raise InputError(f"images must be (B, 3, {self.image_size}, {self.image_size}), "
                             f"got {tuple(pixel_values.shape)}; load_image resizes them")
        if not pixel_values.isfinite().all():
            raise InputError("an image holds NaN or infinite pixels; check the file it came from")
        return self.proj(pixel_values).flatten(2).transpose(1, 2)
