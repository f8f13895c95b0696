"""VisionMamba: patch embedding, cls token in the middle, Mamba blocks (paper §3.2; upstream_audit A)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import EncoderConfig
from .mixer import MambaMixer, SwiGLU
from .patch_embed import PatchEmbed


class DropPath(nn.Module):
    """Drops the whole residual branch of a sample with probability p while training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.p
        return x * keep.to(x.dtype) / (1 - self.p)


class Block(nn.Module):
    """h ← h + mixer(LN(h)); h ← h + SwiGLU(LN(h)); LayerNorm (the figure's RMSNorm is not used)."""

    def __init__(self, config: EncoderConfig, drop_path: float, scan_backend: str,
                 directions: int = 4) -> None:
        super().__init__()
        d = config.embed_dim
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-5), nn.LayerNorm(d, eps=1e-5)
        self.mixer = MambaMixer(d, config.depth, config.side, config.d_state, config.d_conv,
                                scan_backend, directions)
        self.mlp, self.drop_path = SwiGLU(d), DropPath(drop_path)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.drop_path(self.mixer(self.norm1(h)))
        return h + self.drop_path(self.mlp(self.norm2(h)))


class VisionMamba(nn.Module):
    """The MambaXray-VL encoder: `(B, 3, H, W) → (B, M + 1, d)`, cls token at index M // 2.

    Args:
        config: sizes; `EncoderConfig()` is the base encoder.
        scan_backend: `auto`, `reference`, `cpu` or `cuda`.

    Raises:
        InputError: a patch grid that is odd or does not divide the image; images of another size.
    """

    def __init__(self, config: EncoderConfig, scan_backend: str = "auto") -> None:
        super().__init__()
        self.config, d = config, config.embed_dim
        self.embed_dim, self.image_size = d, config.image_size
        self.grid, self.cls_index = (config.side, config.side), config.num_patches // 2
        self.patch_embed = PatchEmbed(config.image_size, config.patch_size, d)
        self.cls_token = nn.Parameter(torch.empty(1, 1, d))
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_patches + 1, d))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        # Block 0 and block 1 both get 0, the last value of the ramp is never used (upstream_audit A1).
        ramp = [config.drop_path * i / max(1, config.depth - 1) for i in range(config.depth)]
        rates = [0.0, *ramp][:config.depth]
        self.layers = nn.ModuleList(Block(config, rate, scan_backend) for rate in rates)
        self.norm_f = nn.LayerNorm(d, eps=1e-5)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, M + 1, d): patches, cls token at M // 2, position table added."""
        patches = self.patch_embed(pixel_values)
        middle = patches.shape[1] // 2
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat([patches[:, :middle], cls, patches[:, middle:]], dim=1)
        return tokens + self.pos_embed

    def forward(self, pixel_values: Tensor) -> Tensor:
        h = self.embed(pixel_values)
        for layer in self.layers:
            h = layer(h)
        return self.norm_f(h)


def drop_cls(tokens: Tensor, cls_index: int | None) -> Tensor:
    """(…, M + 1) → (…, M): the last dimension without the cls token, if the encoder has one."""
    if cls_index is None:
        return tokens
    return torch.cat([tokens[..., :cls_index], tokens[..., cls_index + 1:]], dim=-1)
