"""Stage 1: self-supervised pre-training of the encoder on images alone (CXPMRG-Bench §2).

Three objectives share one causal encoder: one scan direction, no cls token (NOTES A7).

- `arg`, as released: the patches of cluster k + 1 (4 × 4 patches each, raster order) are predicted from
  clusters 1 … k. The target is each patch's pixels, normalised by the patch's own mean and deviation.
- `eq2`, the paper's Eq. 2: Σ |MLP(Vim([T₁ … Tᵢ])) − Tᵢ₊₁|² over the patch tokens in raster order. T is
  the patch embedding before the position is added. The paper does not say what keeps T from shrinking to
  a constant; here the target has no gradient and passes a LayerNorm without weights.
- `mae` (CXPMRG-Bench Table 4, which gives no details): the encoder reads a random quarter of the patches
  in raster order, the decoder predicts the other three quarters, and only those count in the loss. In He
  et al.'s decoder the masked patches attend to each other; in this one they do not.

The decoder's queries read the encoder by cross-attention only, as in ARM.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emrrg_lib.config import EncoderConfig, Objective
from emrrg_lib.files import InputError, atomic_path
from emrrg_lib.settings import Count, NotNegative, Positive, Rate, Settings, Share, Whole
from emrrg_lib.vision.mamba import Block, PatchEmbed
from emrrg_lib.vision.weights import infer_config, read_tensors

HEAD_DIM = 64
OBJECTIVES: tuple[str, ...] = get_args(Objective)
CLUSTER = 4  # patches along one edge of a cluster
TAPS = 4  # encoder layers that the decoder reads
VISIBLE = 0.25  # share of the patches that the encoder reads, mae


@dataclass(frozen=True)
class Stage1Config(Settings):
    """A recipe. Defaults: 101 epochs of 1.27 M images (5 are warm-up) at ARM's batch of 256 (NOTES B1)."""

    schedule = "cosine"  # not a setting
    objective: Objective = "arg"
    decoder_dim: Count = 512
    steps: Count = 501_000
    warmup_steps: Whole = 24_800
    batch_size: Count = 256  # over all processes; the released script: 12
    base_learning_rate: Positive = 1.5e-4
    weight_decay: NotNegative = 0.05
    betas: tuple[Rate, Rate] = (0.9, 0.95)
    clip: NotNegative = 3.0
    crop_scale: tuple[Share, Share] = (0.2, 1.0)  # share of the image's area that a crop keeps
    flip: bool = True  # as released; off where a later stage needs left and right

    @property
    def learning_rate(self) -> float:
        """ARM's rule: in proportion to the batch."""
        return self.base_learning_rate * self.batch_size / 256


class CrossAttention(nn.Module):
    """Multi-head attention of queries (B, Q, D) over keys and values from (B, S, D); heads of 64."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = max(1, dim // HEAD_DIM)
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, n, D / heads)
            for x in (self.q(queries), *self.kv(memory).chunk(2, dim=-1))
        )
        mask = None if mask is None else mask.to(q.dtype)
        return self.proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """q ← q + CrossAttn(LN(q), LN(memory), mask); q ← q + MLP(LN(q)). Queries do not see each other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn2 = CrossAttention(dim)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(dim, 4 * dim), gelu=nn.GELU(), fc2=nn.Linear(4 * dim, dim))
        )
        self.norm2_1, self.norm2_2, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        queries = queries + self.attn2(self.norm2_1(queries), self.norm2_2(memory), mask)
        return queries + self.mlp(self.norm2(queries))


def sincos_table(side: int, dim: int) -> Tensor:
    """The fixed 2-D position table (side², dim): first half the column, second half the row (NOTES A6).

    Each half is [sin | cos] of index · 10000^(−k / (dim / 4)), k < dim / 4. Raises InputError unless 4 | dim.
    """
    if dim % 4:
        raise InputError(f"a sin-cos position table needs a width divisible by 4, not {dim}")
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * omega
    row = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, dim / 2)
    table = torch.cat([row.expand(side, side, -1), row[:, None].expand(side, side, -1)], dim=-1)
    return table.flatten(0, 1).float()


def cluster_order(side: int) -> Tensor:
    """Row-major patch numbers (side²,) in cluster order: clusters in raster order, raster inside each."""
    if side % CLUSTER:
        raise InputError(
            f"a grid of {side}×{side} patches cannot be cut into {CLUSTER}×{CLUSTER} clusters; "
            f"choose image_size / patch_size divisible by {CLUSTER}"
        )
    grid = torch.arange(side * side).view(side // CLUSTER, CLUSTER, side // CLUSTER, CLUSTER)
    return grid.transpose(1, 2).flatten()


def cluster_mask(clusters: int) -> Tensor:
    """Additive attention mask, block lower-triangular: the query for cluster k + 1 sees clusters ≤ k."""
    size = CLUSTER**2
    seen = torch.ones(clusters, clusters).tril().repeat_interleave(size, 0).repeat_interleave(size, 1)
    return torch.zeros_like(seen).masked_fill(seen == 0, float("-inf"))


def normalised_pixels(pixel_values: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) → (B, M, 3 · patch²), pixel order (row, column, channel), mean 0 and deviation 1 a patch.

    The variance is the unbiased one, plus 1e-6 (NOTES A7).
    """
    patches = pixel_values.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, 3, h, w, P, P)
    pixels = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2).float()
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
    return (pixels - mean) / (variance + 1e-6).sqrt()


def tapped_layers(depth: int) -> list[int]:
    """The layers whose output the decoder reads: 6, 8, 10, 12 of 12 and 12, 16, 20, 24 of 24 (NOTES A7)."""
    return [max(1, depth * (3 + k) // 6) for k in range(TAPS)]


def pick(x: Tensor, index: Tensor) -> Tensor:
    """(B or 1, M, C) and (B or 1, n) → the n tokens named by `index`, (B or 1, n, C)."""
    return torch.take_along_dim(x, index[:, :, None], dim=1)


class Stage1Model(nn.Module):
    """The causal encoder and its decoder, under upstream's key names.

    At base size and 192 px it has 99,427,328 parameters, of which 99,243,008 train; large 303,942,880
    and 303,721,696 (objective `arg`).

    Args:
        config: sizes of the encoder; its grid must divide into 4 × 4 clusters for `arg`.
        objective: `arg`, `eq2` or `mae`.
        decoder_dim: width of the decoder (512 upstream).
        scan_backend: as in `VisionMamba`.

    Raises:
        InputError: an unknown objective, or a grid that has no clusters.
    """

    def __init__(
        self,
        config: EncoderConfig,
        objective: str = "arg",
        decoder_dim: int = 512,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise InputError(f"unknown stage-1 objective '{objective}': choose {', '.join(OBJECTIVES)}")
        self.sizes, self.objective = config, objective  # the Trainer writes to a model's `config`
        d, side = config.embed_dim, config.side
        self.patch_embed = PatchEmbed(config.image_size, config.patch_size, d)
        self.pos_embed = nn.Parameter(sincos_table(side, d)[None], requires_grad=False)
        self.layers = nn.ModuleList(
            Block(config, 0.0, scan_backend, directions=1) for _ in range(config.depth)
        )
        if objective == "eq2":
            self.norm_4 = nn.LayerNorm(d)
            self.dec_mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
            return
        if objective == "arg":
            self.register_buffer("order", cluster_order(side)[None], persistent=False)
            self.register_buffer("mask", cluster_mask((side // CLUSTER) ** 2 - 1))
        for k in range(1, TAPS + 1):
            self.add_module(f"norm_{k}", nn.LayerNorm(d))
        self.enc2dec = nn.Linear(TAPS * d, TAPS * decoder_dim)
        self.ar_token = nn.Parameter(torch.empty(1, 1, decoder_dim))
        self.dec_pos_embed = nn.Parameter(sincos_table(side, decoder_dim)[None], requires_grad=False)
        self.dec_block = nn.ModuleList(DecoderBlock(decoder_dim) for _ in range(TAPS))
        self.ar_norm = nn.LayerNorm(decoder_dim)
        self.ar_pred = nn.Linear(decoder_dim, 3 * config.patch_size**2)
        nn.init.trunc_normal_(self.ar_token, std=0.02)
        for layer in (self.enc2dec, self.ar_pred):
            nn.init.zeros_(layer.bias)

    def plan(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row-major numbers of the patches the encoder reads and of the wanted ones, each (B or 1, n)."""
        if self.objective == "arg":
            return self.order[:, : -(CLUSTER**2)], self.order[:, CLUSTER**2 :]
        patches = self.sizes.num_patches
        if self.objective == "eq2":
            rows = torch.arange(patches, device=device)[None]
            return rows[:, :-1], rows[:, 1:]
        shuffled = torch.rand(batch, patches, device=device).argsort(dim=1)
        visible = round(VISIBLE * patches)
        return shuffled[:, :visible].sort(dim=1).values, shuffled[:, visible:].sort(dim=1).values

    def encode(self, h: Tensor) -> list[Tensor]:
        """(B, n, d) → the four tapped states, each (B, n, d), without a final norm."""
        states = []
        for layer in self.layers:
            h = layer(h)
            states.append(h)
        return [states[k - 1] for k in tapped_layers(len(states))]

    def decode(self, taps: list[Tensor], wanted: Tensor) -> Tensor:
        """Four states (B, S, d) and the wanted patches (B or 1, Q) → their pixels (B, Q, 3 · P²)."""
        normed = [getattr(self, f"norm_{k}")(tap) for k, tap in enumerate(taps, start=1)]
        memory = self.enc2dec(torch.cat(normed, dim=-1)).unflatten(-1, (-1, TAPS))  # the tap comes last
        queries = (self.ar_token + pick(self.dec_pos_embed, wanted)).expand(len(memory), -1, -1)
        mask = self.mask if self.objective == "arg" else None
        for j, block in enumerate(self.dec_block):
            queries = block(queries, memory[..., j], mask)
        return self.ar_pred(self.ar_norm(queries))

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) → {"loss": mean squared error over the wanted patches}."""
        seen, wanted = self.plan(len(pixel_values), pixel_values.device)
        tokens = self.patch_embed(pixel_values)
        taps = self.encode(pick(tokens + self.pos_embed, seen))
        if self.objective == "eq2":
            predicted = self.dec_mlp(self.norm_4(taps[-1]))
            target = F.layer_norm(tokens.detach(), tokens.shape[-1:])
        else:
            predicted = self.decode(taps, wanted)
            target = normalised_pixels(pixel_values, self.sizes.patch_size)
        return {"loss": F.mse_loss(predicted.float(), pick(target, wanted).float())}


def save_stage1(model: Stage1Model, path: Path, epoch: int, settings: Mapping[str, Any]) -> Path:
    """Writes upstream's stage-1 container (`model`, `epoch`, `args`); `args` are plain values."""
    args = {**asdict(model.sizes), "objective": model.objective, **settings}
    with atomic_path(path) as temporary:
        torch.save({"model": model.state_dict(), "epoch": epoch, "args": args}, temporary)
    return Path(path)


def load_stage1(source: str | Path) -> Stage1Model:
    """Builds the stage-1 model that a file holds (upstream's or this kit's), to train it further.

    Raises InputError where the file is not readable, or not a stage-1 file.
    """
    tensors = read_tensors(source)
    if "norm_4.weight" not in tensors:
        raise InputError(f"{source} is not a stage-1 file (it has no norm_4.weight); give one of stage 1")
    objective = "eq2" if "dec_mlp.0.weight" in tensors else "arg" if "mask" in tensors else "mae"
    dim = tensors["ar_token"].shape[-1] if "ar_token" in tensors else 0
    model = Stage1Model(infer_config(tensors), objective, dim)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{source} does not fit the stage-1 model: {str(error)[:300]}") from error
    return model
