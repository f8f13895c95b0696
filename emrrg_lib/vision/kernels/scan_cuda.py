"""mamba-ssm's CUDA kernel of the selective scan, called without the package's Python part.

That part imports names that releases of transformers drop, so it may fail where the kernel works. What the
kernel asks: u, delta, B and C of one type with a dense last axis, A, D and bias in float32, N ≤ 256. Its
backward adds by atomics, so two runs agree to rounding only.
"""

from __future__ import annotations

import selective_scan_cuda
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, bias, softplus):
        out, states, *_ = selective_scan_cuda.fwd(u, delta, A, B, C, D, None, bias, softplus)
        ctx.softplus = softplus
        ctx.save_for_backward(u, delta, A, B, C, D, bias, states)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        u, delta, A, B, C, D, bias, states = ctx.saved_tensors
        given = (u, delta, A, B, C, D, None, bias, dout.contiguous(), states, None, None, ctx.softplus, False)
        du, ddelta, dA, dB, dC, dD, dbias, *_ = selective_scan_cuda.bwd(*given)
        return du, ddelta, dA, dB, dC, None if D is None else dD, None if bias is None else dbias, None


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """The `cuda` backend of `selective_scan`; shapes as there, B and C already (B, G, N, L)."""
    u, delta, B, C = (t.to(u.dtype).contiguous() for t in (u, delta, B, C))
    A, D, bias = (None if t is None else t.float().contiguous() for t in (A, D, delta_bias))
    y = _Scan.apply(u, delta, A, B, C, D, bias, delta_softplus)
    return y if z is None else (y.float() * F.silu(z.float())).to(u.dtype)
