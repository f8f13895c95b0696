"""The Vision Mamba encoder: patches, the four-direction Mamba mixer, blocks (paper §3.2, Fig. 2; NOTES A).

An image is cut into patches. Each patch becomes a token, and the cls token is put in the middle. A block
mixes the tokens by a selective scan (MambaXray-VL's `v3`, NOTES A3) and then applies a SwiGLU. The mixer
scans the tokens in four orders: row-major, its reverse, column-major, its reverse. One stacked scan does all.

    B         batch, in every shape; the scan also has an input matrix B
    M, L      num_patches; L = M + 1 tokens with the cls token
    d, N, R   embed_dim, d_state, dt_rank = ⌈d / 16⌉: width of a token, of a channel's state, of dt
    G         len(suffixes), the scan directions
    X, Z      in_proj, (B, L, d) each: the tokens to be scanned, and their gate
    Δ         dt_proj(dt), (B, G·d, L): step sizes
    B, C      x_proj, (B, G, L, N) each: input and output matrix of the scan
    A, D      −exp(A_log), (G·d, N), and D, (G·d,): decay of the state, skip weight
    h, y      selective_scan: state (B, G·d, N), output (B, G·d, L)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emrrg_lib.config import EncoderConfig
from emrrg_lib.files import InputError
from emrrg_lib.vision import check_images
from emrrg_lib.vision.scan import causal_conv1d, selective_scan


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
            grid = f"a grid of {self.side}×{self.side} patches"
            raise InputError(f"{grid} has no middle for the cls token; choose image_size / patch_size even")
        self.image_size = image_size
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)
        nn.init.trunc_normal_(self.proj.weight, std=1.0 / math.sqrt(3 * patch_size**2))
        nn.init.zeros_(self.proj.get_parameter("bias"))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, M, d), row-major; InputError for images of another size or with NaN."""
        check_images(pixel_values, self.image_size)
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


DIRECTIONS = ("", "_b", "_c", "_c_b")  # suffixes of the parameters: rows, rows back, columns, columns back


def scan_orders(side: int) -> Tensor:
    """Token order of each direction, (4, L) with L = side² + 1; `x[order]` is the scanned sequence."""
    patches, middle = side * side, side * side // 2
    rows = torch.arange(patches + 1)
    without_cls = torch.cat([rows[:middle], rows[middle + 1 :]])
    columns = without_cls.view(side, side).t().flatten()
    columns = torch.cat([columns[:middle], rows[middle : middle + 1], columns[middle:]])
    return torch.stack([rows, rows.flip(0), columns, columns.flip(0)])


class _Spread(torch.autograd.Function):
    """(B, L, d) → (B, L, G, d): the tokens in the scan order of each direction. Backward is `_Collect`."""

    @staticmethod
    def forward(ctx, x, orders, inverse):
        ctx.save_for_backward(orders, inverse)
        return x.index_select(1, orders.t().flatten()).unflatten(1, (-1, len(orders)))

    @staticmethod
    def backward(ctx, grad):
        return _Collect.apply(grad, *ctx.saved_tensors), None, None


class _Collect(torch.autograd.Function):
    """(B, L, G, d) in scan orders → (B, L, d): summed over the directions. Backward is `_Spread`."""

    @staticmethod
    def forward(ctx, y, orders, inverse):
        ctx.save_for_backward(orders, inverse)
        G = len(inverse)
        where = inverse * G + torch.arange(G, device=inverse.device)[:, None]  # rows of (L·G, d)
        return y.flatten(1, 2).index_select(1, where.t().flatten()).unflatten(1, (-1, G)).sum(2)

    @staticmethod
    def backward(ctx, grad):
        return _Spread.apply(grad, *ctx.saved_tensors), None, None


class RowBlockLinear(nn.Linear):
    """A Linear whose output rows have names, such as X and Z: where Partial LoRA may act."""

    def __init__(self, in_features: int, **rows: int) -> None:
        super().__init__(in_features, sum(rows.values()), bias=False)
        stops = itertools.accumulate(rows.values())
        self.row_blocks = {name: (stop - rows[name], stop) for name, stop in zip(rows, stops, strict=True)}


class MambaMixer(nn.Module):
    """X, Z → Δ, B, C → scan in four directions → mean → out_proj; (B, L, d) → (B, L, d).

    in_proj and out_proj are shared; conv1d, x_proj, dt_proj, A_log and D exist per direction. The Linears
    are always called as modules, because PEFT acts only there (upstream reads `.weight`, so its LoRA never
    acted, NOTES 0.3). `directions=1` is the mixer of stage 1: it scans any number of tokens once, in the
    order given and without a cls token (NOTES A7).
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        side: int,
        d_state: int = 16,
        d_conv: int = 4,
        scan_backend: str = "auto",
        directions: int = 4,
    ) -> None:
        super().__init__()
        self.dim, self.d_state, self.dt_rank = dim, d_state, math.ceil(dim / 16)
        self.scan_backend, self.suffixes = scan_backend, DIRECTIONS[:directions]
        orders = scan_orders(side)
        self.register_buffer("orders", orders, persistent=False)
        self.register_buffer("inverse", orders.argsort(dim=1), persistent=False)
        self.in_proj = RowBlockLinear(dim, X=dim, Z=dim)
        for s in self.suffixes:
            self.add_module(f"conv1d{s}", nn.Conv1d(dim, dim, d_conv, groups=dim))
            self.add_module(f"x_proj{s}", RowBlockLinear(dim, dt=self.dt_rank, B=d_state, C=d_state))
            self.add_module(f"dt_proj{s}", nn.Linear(self.dt_rank, dim))
            states = torch.arange(1, d_state + 1, dtype=torch.float32)
            self.register_parameter(f"A{s}_log", nn.Parameter(states.repeat(dim, 1).log()))
            self.register_parameter(f"D{s}", nn.Parameter(torch.ones(dim)))
            self._init_dt(getattr(self, f"dt_proj{s}"))
        self.out_proj = nn.Linear(dim, dim, bias=False)
        self.out_proj.weight.data /= math.sqrt(depth)

    def _init_dt(self, dt_proj: nn.Linear) -> None:
        """Step sizes start log-uniform in [1e-3, 1e-1] (NOTES A8)."""
        bound = self.dt_rank**-0.5
        nn.init.uniform_(dt_proj.weight, -bound, bound)
        dt = torch.exp(torch.empty(self.dim).uniform_(math.log(1e-3), math.log(1e-1)))
        with torch.no_grad():
            dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus⁻¹

    def _per_direction(self, name: str) -> list[Any]:
        return [getattr(self, f"{name}{s}") for s in self.suffixes]

    def _project(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [project(x) for project, x in zip(self._per_direction(name), inputs, strict=True)]

    def forward(self, u: Tensor, return_features: bool = False):
        """Mixes the tokens.

        Args:
            u: (B, L, d), cls token in the middle.
            return_features: also return the intermediate features of each direction.

        Returns:
            (B, L, d); with `return_features` a pair with the dict of X (B, 4, L, d), Z (B, 4, L, d),
            dt (B, 4, L, R), B (B, 4, L, N) and C (B, 4, L, N), each in its scan order.
        """
        dim, G = self.dim, len(self.suffixes)
        X, Z = self.in_proj(u).chunk(2, dim=-1)  # (B, L, d)
        X = self._spread(X)  # (B, L, G, d); the memory stays token-major from here to out_proj
        convs = self._per_direction("conv1d")
        weight, bias = torch.cat([c.weight[:, 0] for c in convs]), torch.cat([c.bias for c in convs])
        x = causal_conv1d(X.flatten(2).mT, weight, bias, self.scan_backend)  # (B, G·d, L)
        tokens = x.mT.unflatten(2, (G, dim)).unbind(2)  # of each direction (B, L, d)
        projected = torch.stack(self._project("x_proj", tokens), dim=1)
        dt, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)  # (B, G, L, …)
        delta = torch.stack(self._project("dt_proj", dt.unbind(1)), dim=2).flatten(2).mT  # (B, G·d, L)
        A = -torch.exp(torch.cat([getattr(self, f"A{s}_log") for s in self.suffixes]).float())
        D = torch.cat([getattr(self, f"D{s}") for s in self.suffixes]).float()
        y = selective_scan(x, delta, A, B.mT, C.mT, D, delta_softplus=True, backend=self.scan_backend)
        # A token has the same Z in every direction, so the mean may be taken before the gate.
        y = y.mT.unflatten(2, (G, dim))
        mean = (_Collect.apply(y, self.orders, self.inverse) if G > 1 else y[:, :, 0]) / G  # (B, L, d)
        out = self.out_proj(mean * F.silu(Z))
        if not return_features:
            return out
        X, Z = X.transpose(1, 2), self._spread(Z).transpose(1, 2)
        return out, {"X": X, "Z": Z, "dt": dt, "B": B, "C": C}

    def _spread(self, tokens: Tensor) -> Tensor:
        """(B, L, d) → (B, L, G, d) in scan order; one direction takes the tokens as they come."""
        if len(self.suffixes) == 1:
            return tokens[:, :, None]
        return _Spread.apply(tokens, self.orders, self.inverse)


class SwiGLU(nn.Module):
    """w3(SiLU(w1 x) ⊙ w2 x), hidden width 4·d·2 // 3, all with bias; (B, L, d) → (B, L, d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim * 4 * 2 // 3
        self.w1, self.w2, self.w3 = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for layer in (self.w1, self.w2, self.w3):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


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

    def __init__(
        self, config: EncoderConfig, drop_path: float, scan_backend: str, directions: int = 4
    ) -> None:
        super().__init__()
        d = config.embed_dim
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-5), nn.LayerNorm(d, eps=1e-5)
        self.mixer = MambaMixer(
            d, config.depth, config.side, config.d_state, config.d_conv, scan_backend, directions
        )
        self.mlp, self.drop_path = SwiGLU(d), DropPath(drop_path)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.drop_path(self.mixer(self.norm1(h)))
        return h + self.drop_path(self.mlp(self.norm2(h)))


class VisionMamba(nn.Module):
    """The MambaXray-VL encoder: `(B, 3, H, W) → (B, M + 1, d)`, cls token at index M // 2.

    Args:
        config: sizes; `EncoderConfig()` is the base encoder.
        scan_backend: `auto`, `reference`, `cpu`, `triton` or `cuda`.

    Raises:
        InputError: a patch grid that is odd or does not divide the image; see also `check_images`.
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
        # Block 0 and block 1 both get 0; the last value of the ramp is never used (NOTES A1).
        ramp = [config.drop_path * i / max(1, config.depth - 1) for i in range(config.depth)]
        rates = [0.0, *ramp][: config.depth]
        self.layers = nn.ModuleList(Block(config, rate, scan_backend) for rate in rates)
        self.norm_f = nn.LayerNorm(d, eps=1e-5)
        for layer in self.layers if config.compile else ():
            layer.compile()  # at the first call; names of weights stay

    def embed(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, M + 1, d): patches, cls token at M // 2, position table added."""
        patches = self.patch_embed(pixel_values)
        middle = patches.shape[1] // 2
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        return torch.cat([patches[:, :middle], cls, patches[:, middle:]], dim=1) + self.pos_embed

    def forward(self, pixel_values: Tensor) -> Tensor:
        h = self.embed(pixel_values)
        for layer in self.layers:
            h = layer(h)
        return self.norm_f(h)


def drop_cls(tokens: Tensor, cls_index: int | None) -> Tensor:
    """(…, M + 1) → (…, M): the last dimension without the cls token, if the encoder has one."""
    if cls_index is None:
        return tokens
    return torch.cat([tokens[..., :cls_index], tokens[..., cls_index + 1 :]], dim=-1)
