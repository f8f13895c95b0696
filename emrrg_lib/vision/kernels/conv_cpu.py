"""Numba kernels of the causal convolution with SiLU, with their own backward; token-major, as `scan_cpu`."""

from __future__ import annotations

import torch
from numba import float32, njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from emrrg_lib.vision.kernels.numba_tools import FAST, array, copy, rows, sigmoid, use_torch_threads, zeros

W = 128  # channels that one thread sums the weights' gradients of


@njit(fastmath=FAST)
def add_product(a, x, y):
    """y ← y + a ⊙ x, row by row."""
    for d in range(len(y)):
        y[d] += a[d] * x[d]


@njit(fastmath=FAST)
def convolve(x, weight, bias, t, y):
    """y ← bias + Σ_k weight[k] · x[t - K + 1 + k], zeros before the start; x (L, D), weight (K, D)."""
    copy(bias, y)
    for k in range(max(0, len(weight) - 1 - t), len(weight)):
        add_product(weight[k], x[t - len(weight) + 1 + k], y)


@njit(parallel=True, fastmath=FAST, cache=True)
def conv_forward(x, weight, bias, out):
    """Fills `out` (B, L, D); weight (K, D)."""
    batch, length, dim = x.shape
    for job in prange(batch * length):
        y = out[job // length, job % length]
        convolve(x[job // length], weight, bias, job % length, y)
        for d in range(dim):
            y[d] *= sigmoid(y[d])


@njit(parallel=True, fastmath=FAST, cache=True)
def conv_backward(x, weight, bias, dout, dy, dx, dweight, dbias):
    """Fills dy (B, L, D), the gradient before SiLU, dx, and the zeroed dweight (K, D) and dbias (D)."""
    batch, length, dim = x.shape
    last = len(weight) - 1
    for job in prange(batch * length):
        b, t = job // length, job % length
        y, grad = dy[b, t], dout[b, t]
        convolve(x[b], weight, bias, t, y)
        for d in range(dim):
            s = sigmoid(y[d])
            y[d] = grad[d] * s * (float32(1.0) + y[d] * (float32(1.0) - s))
    for job in prange(batch * length):
        b, t = job // length, job % length
        total = dx[b, t]
        total[:] = 0
        for k in range(max(0, last + 1 - length + t), last + 1):
            add_product(weight[k], dy[b, t + last - k], total)
    for chunk in prange((dim + W - 1) // W):
        channels = slice(chunk * W, min(dim, chunk * W + W))
        for b in range(batch):
            for t in range(length):
                grad, total = dy[b, t, channels], dbias[channels]
                for d in range(len(total)):
                    total[d] += grad[d]
                for k in range(max(0, last - t), last + 1):
                    add_product(grad, x[b, t - last + k, channels], dweight[k, channels])


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight, bias)
        use_torch_threads()
        out = torch.empty(x.transpose(1, 2).shape)
        conv_forward(rows(x), rows(weight), array(bias), out.numpy())
        return out.transpose(1, 2).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, weight, bias = ctx.saved_tensors
        use_torch_threads()
        (batch, dim, length), width = x.shape, weight.shape[1]
        dy, dx = (torch.empty(batch, length, dim) for _ in range(2))
        dweight, dbias = zeros(width, dim), zeros(dim)
        conv_backward(
            rows(x), rows(weight), array(bias), rows(dout), *(g.numpy() for g in (dy, dx, dweight, dbias))
        )
        return dx.transpose(1, 2).to(x.dtype), dweight.t().to(weight.dtype), dbias.to(bias.dtype)


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The `cpu` backend of `causal_conv1d`; shapes as there."""
    return _Conv.apply(x, weight, bias)
