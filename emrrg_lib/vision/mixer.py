"""The four-direction Mamba mixer (MambaXray-VL's `v3`; upstream_audit A3, paper Fig. 2).

Every direction reads the same X and Z in another order: row-major, its reverse, column-major, its
reverse; the cls token stays in the middle. One stacked scan does all four (G = 4).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

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

    in_proj and out_proj are shared; conv1d, x_proj, dt_proj, A_log and D exist per direction. The
    Linears are always called as modules: PEFT acts nowhere else (upstream reads `.weight`, so its
    LoRA never acted, upstream_audit §0 fact 3). `directions=1` is stage 1's mixer: the tokens are
    scanned once, in the order given, whatever their number and without a cls token (audit A7).
    """

    def __init__(self, dim: int, depth: int, side: int, d_state: int = 16, d_conv: int = 4,
                 scan_backend: str = "auto", directions: int = 4) -> None:
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
        x = causal_conv1d(X.flatten(2).transpose(1, 2), torch.cat([c.weight[:, 0] for c in convs]),
                          torch.cat([c.bias for c in convs]), self.scan_backend)  # (B, G·d, L)
        tokens = x.transpose(1, 2).unflatten(2, (G, dim)).unbind(2)
        projected = torch.stack(self._project("x_proj", tokens), dim=1)
        dt, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)  # (B, G, L, …)
        delta = torch.stack(self._project("dt_proj", dt.unbind(1)), dim=2)  # (B, L, G, d)
        A = -torch.exp(torch.cat([getattr(self, f"A{s}_log") for s in self.suffixes]).float())
        D = torch.cat([getattr(self, f"D{s}") for s in self.suffixes]).float()
        y = selective_scan(x, delta.flatten(2).transpose(1, 2), A, B.transpose(2, 3), C.transpose(2, 3), D,
                           delta_softplus=True, backend=self.scan_backend)
        # A token's Z is the same in every direction: gating the mean is the mean of the gated.
        mean = self._collect(y.transpose(1, 2).unflatten(2, (G, dim))) / G
        out = self.out_proj(mean * F.silu(Z))
        if not return_features:
            return out
        ordered = {"X": X.transpose(1, 2), "Z": self._spread(Z).transpose(1, 2)}
        return out, ordered | {"dt": dt, "B": B, "C": C}

    def _spread(self, tokens: Tensor) -> Tensor:
        """(B, L, d) → (B, L, G, d) in scan order; one direction takes the tokens as they come."""
        several = len(self.suffixes) > 1
        return _Spread.apply(tokens, self.orders, self.inverse) if several else tokens[:, :, None]

    def _collect(self, y: Tensor) -> Tensor:
        """(B, L, G, d) in scan order → (B, L, d), the sum over the directions in row order."""
        several = len(self.suffixes) > 1
        return _Collect.apply(y, self.orders, self.inverse) if several else y[:, :, 0]


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
