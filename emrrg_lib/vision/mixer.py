"""The four-direction Mamba mixer (MambaXray-VL's `v3`; upstream_audit A3, paper Fig. 2).

Every direction reads the same X and Z in another order: row-major, its reverse, column-major, its
reverse; the cls token stays in the middle. One stacked scan does all four (G = 4).
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .selective_scan import causal_conv1d, selective_scan

DIRECTIONS = ("", "_b", "_c", "_c_b")  # suffixes of the parameters: rows, rows back, columns, columns back


def scan_orders(side: int) -> Tensor:
    """Token order of each direction, (4, L) with L = side² + 1; `x[order]` is the scanned sequence."""
    patches, middle = side * side, side * side // 2
    rows = torch.arange(patches + 1)
    without_cls = torch.cat([rows[:middle], rows[middle + 1:]])
    columns = without_cls.view(side, side).t().flatten()
    columns = torch.cat([columns[:middle], rows[middle:middle + 1], columns[middle:]])
    return torch.stack([rows, rows.flip(0), columns, columns.flip(0)])


class _Reorder(torch.autograd.Function):
    """(B, C, L) → (B, 4, C, L): one gather a direction; backward gathers by the inverse orders."""

    @staticmethod
    def forward(ctx, x, orders, inverse):
        ctx.save_for_backward(inverse)
        return torch.stack([x.index_select(2, order) for order in orders], dim=1)

    @staticmethod
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        parts = [grad[:, g].index_select(2, order) for g, order in enumerate(inverse)]
        return parts[0] + parts[1] + parts[2] + parts[3], None, None


class RowBlockLinear(nn.Linear):
    """A Linear whose output rows have names, such as X and Z: where Partial LoRA may act."""

    def __init__(self, in_features: int, **rows: int) -> None:
        super().__init__(in_features, sum(rows.values()), bias=False)
        stops = itertools.accumulate(rows.values())
        self.row_blocks = {name: (stop - rows[name], stop) for name, stop in zip(rows, stops, strict=True)}


class MambaMixer(nn.Module):
    """X, Z → Δ, B, C → scan in four directions → mean → out_proj; (B, L, d) → (B, L, d).

    in_proj and out_proj are shared; conv1d, x_proj, dt_proj, A_log and D exist per direction. The
    Linears are always called as modules: PEFT acts nowhere else (upstream reads `.weight`, so its
    LoRA never acted, upstream_audit §0 fact 3).
    """

    def __init__(self, dim: int, depth: int, side: int, d_state: int = 16, d_conv: int = 4,
                 scan_backend: str = "auto") -> None:
        super().__init__()
        self.dim, self.d_state, self.dt_rank = dim, d_state, math.ceil(dim / 16)
        self.scan_backend = scan_backend
        orders = scan_orders(side)
        self.register_buffer("orders", orders, persistent=False)
        self.register_buffer("inverse", orders.argsort(dim=1), persistent=False)
        self.in_proj = RowBlockLinear(dim, X=dim, Z=dim)
        for s in DIRECTIONS:
            self.add_module(f"conv1d{s}", nn.Conv1d(dim, dim, d_conv, groups=dim))
            self.add_module(f"x_proj{s}", RowBlockLinear(dim, dt=self.dt_rank, B=d_state, C=d_state))
            self.add_module(f"dt_proj{s}", nn.Linear(self.dt_rank, dim))
            self.register_parameter(f"A{s}_log", nn.Parameter(self._initial_A_log()))
            self.register_parameter(f"D{s}", nn.Parameter(torch.ones(dim)))
            self._init_dt(getattr(self, f"dt_proj{s}"))
        self.out_proj = nn.Linear(dim, dim, bias=False)
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(depth)

    def _initial_A_log(self) -> Tensor:
        return torch.arange(1, self.d_state + 1, dtype=torch.float32).repeat(self.dim, 1).log()

    def _init_dt(self, dt_proj: nn.Linear) -> None:
        """Step sizes start log-uniform in [1e-3, 1e-1] (upstream_audit A8)."""
        bound = self.dt_rank**-0.5
        nn.init.uniform_(dt_proj.weight, -bound, bound)
        dt = torch.exp(torch.empty(self.dim).uniform_(math.log(1e-3), math.log(1e-1)))
        with torch.no_grad():
            dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus⁻¹

    def _per_direction(self, name: str) -> list[nn.Module]:
        return [getattr(self, f"{name}{s}") for s in DIRECTIONS]

    def forward(self, u: Tensor, return_features: bool = False):
        """Mixes the tokens.

        Args:
            u: (B, L, d), cls token in the middle.
            return_features: also return the intermediate features of each direction.

        Returns:
            (B, L, d); with `return_features` a pair with the dict of X (B, 4, L, d), Z (B, 4, L, d),
            dt (B, 4, L, R), B (B, 4, L, N) and C (B, 4, L, N), each in its scan order.
        """
        batch, length, dim = u.shape
        xz = self.in_proj(u).transpose(1, 2).contiguous()  # (B, 2d, L)
        xz = _Reorder.apply(xz, self.orders, self.inverse)  # (B, 4, 2d, L)
        X, Z = (half.reshape(batch, 4 * dim, length) for half in xz.chunk(2, dim=2))
        convs = self._per_direction("conv1d")
        x = causal_conv1d(X, torch.cat([c.weight[:, 0] for c in convs]),
                          torch.cat([c.bias for c in convs]), self.scan_backend)
        x_tokens = x.view(batch, 4, dim, length).transpose(2, 3)  # (B, 4, L, d)
        projected = torch.stack([p(x_tokens[:, g])
                                 for g, p in enumerate(self._per_direction("x_proj"))], dim=1)
        dt, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = torch.stack([p(dt[:, g]).transpose(1, 2)
                             for g, p in enumerate(self._per_direction("dt_proj"))], dim=1)
        A = -torch.exp(torch.cat([getattr(self, f"A{s}_log") for s in DIRECTIONS]).float())
        D = torch.cat([getattr(self, f"D{s}") for s in DIRECTIONS]).float()
        y = selective_scan(x, delta.reshape(batch, 4 * dim, length), A, B.transpose(2, 3),
                           C.transpose(2, 3), D, Z, delta_softplus=True, backend=self.scan_backend)
        out = self.out_proj(self._merge(y.view(batch, 4, dim, length)).transpose(1, 2))
        if not return_features:
            return out
        tokens = {"X": xz[:, :, :dim].transpose(2, 3), "Z": xz[:, :, dim:].transpose(2, 3)}
        return out, tokens | {"dt": dt, "B": B, "C": C}

    def _merge(self, y: Tensor) -> Tensor:
        """(B, 4, d, L) in scan order → (B, d, L): each direction put back in row order, then the mean."""
        return sum(y[:, g].index_select(2, order) for g, order in enumerate(self.inverse)) / 4


class SwiGLU(nn.Module):
    """w3(SiLU(w1 x) ⊙ w2 x), hidden width 4·d·2 // 3, all with bias; (B, L, d) → (B, L, d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim * 4 * 2 // 3
        self.w1, self.w2 = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.w3 = nn.Linear(hidden, dim)
        for layer in (self.w1, self.w2, self.w3):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))
