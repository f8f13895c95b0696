"""The causal convolution with SiLU in Triton, with its own backward; token-major, as `triton_scan`.

A program owns T steps of W channels. The backward writes the weights' gradients of each program apart, and
PyTorch sums them in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = {"T": 32, "W": 64}
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _shifted(x, t, b, c, length, dim):
    """x at steps t, zero outside the sequence; (T, W) float32."""
    inside = ((t >= 0) & (t < length))[:, None] & (c < dim)[None, :]
    return tl.load(x + (b * length + t[:, None]) * dim + c[None, :], inside, 0.0).to(tl.float32)


@triton.jit
def _weights(weight, k, c, dim, K: tl.constexpr):
    return tl.load(weight + c * K + k, c < dim, 0.0).to(tl.float32)[None, :]


@triton.jit
def _sums(x, weight, bias, t, b, c, length, dim, K: tl.constexpr):
    """The values before SiLU at steps t."""
    y = tl.load(bias + c, c < dim, 0.0).to(tl.float32)[None, :]
    for k in tl.static_range(K):
        y = y + _weights(weight, k, c, dim, K) * _shifted(x, t - (K - 1 - k), b, c, length, dim)
    return y


@triton.jit
def _conv_forward(x, weight, bias, out, length, dim, K: tl.constexpr, T: tl.constexpr, W: tl.constexpr):
    c, b = tl.program_id(0) * W + tl.arange(0, W), tl.program_id(2).to(tl.int64)
    t = tl.program_id(1) * T + tl.arange(0, T)
    y = _sums(x, weight, bias, t, b, c, length, dim, K)
    place = out + (b * length + t[:, None]) * dim + c[None, :]
    tl.store(place, (y * tl.sigmoid(y)).to(out.dtype.element_ty), (t < length)[:, None] & (c < dim)[None, :])


@triton.jit
def _conv_backward(
    x, weight, bias, dout, dx, dweight, dbias, length, dim, K: tl.constexpr, T: tl.constexpr, W: tl.constexpr
):  # fmt: skip
    c, b = tl.program_id(0) * W + tl.arange(0, W), tl.program_id(2).to(tl.int64)
    t = tl.program_id(1) * T + tl.arange(0, T)
    part = (b * tl.num_programs(1) + tl.program_id(1)) * dim + c
    total = tl.zeros((T, W), tl.float32)
    for j in tl.static_range(K):  # step t + j takes x_t by weight K - 1 - j
        y = _sums(x, weight, bias, t + j, b, c, length, dim, K)
        s = tl.sigmoid(y)
        dy = _shifted(dout, t + j, b, c, length, dim) * s * (1.0 + y * (1.0 - s))
        total += dy * _weights(weight, K - 1 - j, c, dim, K)
        if j == 0:
            tl.store(dbias + part, tl.sum(dy, 0), c < dim)
            for k in tl.static_range(K):
                product = dy * _shifted(x, t - (K - 1 - k), b, c, length, dim)
                tl.store(dweight + part * K + k, tl.sum(product, 0), c < dim)
    place = dx + (b * length + t[:, None]) * dim + c[None, :]
    tl.store(place, total.to(dx.dtype.element_ty), (t < length)[:, None] & (c < dim)[None, :])


def _grid(x: Tensor) -> tuple[int, int, int]:
    batch, length, dim = x.shape
    return triton.cdiv(dim, TILE["W"]), triton.cdiv(length, TILE["T"]), batch


@torch.library.custom_op("emrrg::conv", mutates_args=())
def _conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the convolution; x (B, L, D), weight (D, K), bias (D,)."""
    out = torch.empty_like(x)
    _conv_forward[_grid(x)](x, weight, bias, out, *x.shape[1:], K=weight.shape[1], **TILE, **OPTIONS)
    return out


@_conv.register_fake
def _(x, weight, bias):
    return torch.empty_like(x)


@torch.library.custom_op("emrrg::conv_backward", mutates_args=())
def _conv_gradients(x: Tensor, weight: Tensor, bias: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    grid, dx = _grid(x), torch.empty_like(x)
    dweight = x.new_empty(x.shape[0], grid[1], *weight.shape, dtype=torch.float32)
    dbias = x.new_empty(dweight.shape[:3], dtype=torch.float32)
    tensors = (x, weight, bias, dout, dx, dweight, dbias)
    _conv_backward[grid](*tensors, *x.shape[1:], K=weight.shape[1], **TILE, **OPTIONS)
    return dx, dweight.sum((0, 1)).to(weight.dtype), dbias.sum((0, 1)).to(bias.dtype)


@_conv_gradients.register_fake
def _(x, weight, bias, dout):
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


_conv.register_autograd(
    lambda ctx, dout: _conv_gradients(*ctx.saved_tensors, dout.contiguous()), setup_context=_save
)


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The `triton` backend of `causal_conv1d`; shapes as there."""
    return _conv(x.mT.contiguous(), weight.contiguous(), bias.contiguous()).mT
