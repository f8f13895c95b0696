"""Numba kernels of the selective scan and the causal convolution, with their own backward.

One row (b, d) is walked at a time with its state in registers; the loop over the N states has a length
known at compile time, so that it becomes SIMD code. The backward walks the row forward once more,
keeps that row's states (L × N numbers, in the first-level cache) and then walks back: no (B, D, L, N)
tensor exists. Gradients of B and C are summed over fixed chunks of channels, so that the result does
not depend on the number of threads.

The kernels get N as `lanes`, a tuple of N zeros: a tuple's length is part of its type, so numba compiles
one version for each N. (A closure over N would do the same, but numba never finds it in its cache again.)
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba import float32, int32, njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

# Slots of a tape row and of the local rows, each N numbers. The tape's rows are reached through an index
# array: LLVM then cannot hoist its overlap check between them out of the time loop, where it always fails
# and leaves scalar code (five times slower).
B_, C_, BEFORE, DECAY, DB, DC = range(6)
STATE, A_, DA = range(3)
CHUNKS = 4  # channel chunks per (batch, group); fixed, hence deterministic
LOG2E, LN2 = np.float32(math.log2(math.e)), np.float32(math.log(2.0))
UNIT_GATE = 1.278464542761074  # z with z·σ(z) = 1
FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"}


@njit(inline="always", fastmath=FAST)
def _exp(x):
    """exp(x) in float32 to 2 ulp for x in [-87, 88]: 2^k · p(f); plain arithmetic, so it vectorises."""
    scaled = min(max(x, float32(-87.0)), float32(88.0)) * LOG2E
    k = int32(scaled + float32(127.5))  # exponent + 127, rounded: truncation of a positive number
    f = (scaled - (float32(k) - float32(127.0))) * LN2
    p = float32(1 / 720) * f + float32(1 / 120)
    p = p * f + float32(1 / 24)
    p = p * f + float32(1 / 6)
    p = p * f + float32(0.5)
    p = p * f + float32(1.0)
    p = p * f + float32(1.0)
    return p * np.int32(k << 23).view(np.float32)


@njit(inline="always", fastmath=FAST)
def _sigmoid(x):
    return float32(1.0) / (float32(1.0) + _exp(-x))


@njit(fastmath=FAST)
def gate_forward(u, gate, skip, y):
    """y ← (y + D u) · SiLU(z), one row."""
    for t in range(u.shape[0]):
        y[t] = (y[t] + skip * u[t]) * gate[t] * _sigmoid(gate[t])


@njit(fastmath=FAST)
def gate_back(u, gate, dout, skip, y, dgate):
    """Back through y · SiLU(z) and the skip: y becomes dL/dy; returns dL/dD of the row."""
    dskip = float32(0.0)
    for t in range(u.shape[0]):
        z, dy = gate[t], dout[t]
        s = _sigmoid(z)
        dgate[t] = dy * (y[t] + skip * u[t]) * s * (float32(1.0) + z * (float32(1.0) - s))
        y[t] = dy * z * s
        dskip += y[t] * u[t]
    return dskip


@njit(fastmath=FAST)
def walk(u, dt, tape, local, order, y, lanes):
    """Walks one row: tape[t] holds B_t and C_t, and gets h_{t-1} and exp(Δ_t A); y_t = C_t · h_t."""
    N = len(lanes)
    local[STATE * N:(STATE + 1) * N] = 0
    for t in range(u.shape[0]):
        row, step, drive, total = tape[order[t]], dt[t], dt[t] * u[t], float32(0.0)
        for n in range(N):
            decay, h = _exp(step * local[A_ * N + n]), local[STATE * N + n]
            row[BEFORE * N + n], row[DECAY * N + n] = h, decay
            h = decay * h + drive * row[B_ * N + n]
            local[STATE * N + n] = h
            total += h * row[C_ * N + n]
        y[t] = total


@njit(fastmath=FAST)
def walk_back(u, dt, dy, tape, local, order, skip, du, ddt, lanes):
    """Walks the row back from its end; adds to dB_t, dC_t on the tape and to dA in `local`."""
    N = len(lanes)
    local[STATE * N:(STATE + 1) * N] = 0
    local[DA * N:(DA + 1) * N] = 0
    for t in range(u.shape[0] - 1, -1, -1):
        row, step, x, dy_t, drive = tape[order[t]], dt[t], u[t], dy[t], dt[t] * u[t]
        ddrive, dstep = float32(0.0), float32(0.0)
        for n in range(N):
            before, decay = row[BEFORE * N + n], row[DECAY * N + n]
            dh = local[STATE * N + n] + dy_t * row[C_ * N + n]
            row[DC * N + n] += dy_t * (decay * before + drive * row[B_ * N + n])
            row[DB * N + n] += dh * drive
            ddrive += dh * row[B_ * N + n]
            dh_before = dh * decay
            local[STATE * N + n] = dh_before
            dstep += dh_before * before * local[A_ * N + n]
            local[DA * N + n] += dh_before * before * step
        du[t] = ddrive * step + dy_t * skip
        ddt[t] = dstep + ddrive * x


@njit(fastmath=FAST)
def new_tape(B, C, slots, lanes):
    """The tape of one (batch, group) with B and C filled in, local rows, and the row order."""
    length, N = B.shape[0], len(lanes)
    tape, local = np.zeros((length, slots * N), np.float32), np.zeros(3 * N, np.float32)
    tape[:, :N], tape[:, N:2 * N] = B, C
    return tape, local, np.arange(length)


@njit(parallel=True, fastmath=FAST, cache=True)
def scan_forward(u, dt, A, B, C, D, gate, out, lanes):
    """Fills `out`. Rows are (B, D, L); B and C are (B, G, L, N)."""
    batch, dim, length = u.shape
    groups, N = B.shape[1], len(lanes)
    width = dim // groups
    for job in prange(batch * groups * CHUNKS):
        b, g, chunk = job // (groups * CHUNKS), job // CHUNKS % groups, job % CHUNKS
        tape, local, order = new_tape(B[b, g], C[b, g], 4, lanes)
        for d in range(g * width + width * chunk // CHUNKS,
                       g * width + width * (chunk + 1) // CHUNKS):
            local[A_ * N:(A_ + 1) * N] = A[d]
            walk(u[b, d], dt[b, d], tape, local, order, out[b, d], lanes)
            gate_forward(u[b, d], gate[b, d], D[d], out[b, d])


@njit(parallel=True, fastmath=FAST, cache=True)
def scan_backward(u, dt, A, B, C, D, gate, dout, du, ddt, dgate, dA, dB, dC, dD, lanes):
    """Fills the gradients: dA (B, D, N), dD (B, D), dB and dC (B, G, CHUNKS, L, N), the rest (B, D, L)."""
    batch, dim, length = u.shape
    groups, N = B.shape[1], len(lanes)
    width = dim // groups
    for job in prange(batch * groups * CHUNKS):
        b, g, chunk = job // (groups * CHUNKS), job // CHUNKS % groups, job % CHUNKS
        tape, local, order = new_tape(B[b, g], C[b, g], 6, lanes)
        y = np.empty(length, np.float32)
        for d in range(g * width + width * chunk // CHUNKS,
                       g * width + width * (chunk + 1) // CHUNKS):
            local[A_ * N:(A_ + 1) * N] = A[d]
            walk(u[b, d], dt[b, d], tape, local, order, y, lanes)
            dD[b, d] = gate_back(u[b, d], gate[b, d], dout[b, d], D[d], y, dgate[b, d])
            walk_back(u[b, d], dt[b, d], y, tape, local, order, D[d], du[b, d], ddt[b, d], lanes)
            dA[b, d] = local[DA * N:(DA + 1) * N]
        dB[b, g, chunk] = tape[:, DB * N:(DB + 1) * N]
        dC[b, g, chunk] = tape[:, DC * N:(DC + 1) * N]


@njit(parallel=True, fastmath=FAST, cache=True)
def _conv_forward(x, weight, bias, out):
    batch, dim, length = x.shape
    width = weight.shape[1]
    for row in prange(batch * dim):
        b, d = row // dim, row % dim
        y = out[b, d]
        y[:] = bias[d]
        for k in range(width):
            shift, w = width - 1 - k, weight[d, k]
            for t in range(length - shift):
                y[t + shift] += w * x[b, d, t]
        for t in range(length):
            y[t] *= _sigmoid(y[t])


@njit(parallel=True, fastmath=FAST, cache=True)
def _conv_backward(x, weight, bias, dout, dx, dweight, dbias):
    batch, dim, length = x.shape
    width = weight.shape[1]
    for row in prange(batch * dim):
        b, d = row // dim, row % dim
        y = np.full(length, bias[d], np.float32)
        for k in range(width):
            shift, w = width - 1 - k, weight[d, k]
            for t in range(length - shift):
                y[t + shift] += w * x[b, d, t]
        total = float32(0.0)
        for t in range(length):  # y becomes dL/d(pre-activation)
            s = _sigmoid(y[t])
            y[t] = dout[b, d, t] * s * (float32(1.0) + y[t] * (float32(1.0) - s))
            total += y[t]
        dbias[b, d] = total
        dx[b, d, :] = 0
        for k in range(width):
            shift, w, total = width - 1 - k, weight[d, k], float32(0.0)
            for t in range(length - shift):
                dx[b, d, t] += w * y[t + shift]
                total += x[b, d, t] * y[t + shift]
            dweight[b, d, k] = total


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().contiguous().numpy()


def _use_torch_threads() -> None:
    """Gives numba as many threads as PyTorch may use, so that one setting governs both."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


class _Scan(torch.autograd.Function):
    """Rows (B, D, L) in, one output; keeps its inputs only and recomputes the states."""

    @staticmethod
    def forward(ctx, u, dt, A, B, C, D, z):
        ctx.save_for_backward(u, dt, A, B, C, D, z)
        _use_torch_threads()
        out = torch.empty(u.shape, dtype=torch.float32)
        rows = [_array(t) for t in (u, dt, A, B.transpose(2, 3), C.transpose(2, 3), D, z)]
        scan_forward(*rows, out.numpy(), (0,) * A.shape[1])
        return out.to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        u, dt, A, B, C, D, z = ctx.saved_tensors
        _use_torch_threads()
        batch, groups, states, length = B.shape
        du, ddt, dz = (torch.empty(u.shape, dtype=torch.float32) for _ in range(3))
        dA, dD, dB, dC = (torch.empty(shape, dtype=torch.float32) for shape in (
            (batch, *A.shape), (batch, *D.shape), *2 * [(batch, groups, CHUNKS, length, states)]))
        rows = [_array(t) for t in (u, dt, A, B.transpose(2, 3), C.transpose(2, 3), D, z, dout)]
        grads = (du, ddt, dz, dA, dB, dC, dD)
        scan_backward(*rows, *(g.numpy() for g in grads), (0,) * A.shape[1])
        dB, dC = (g.sum(2).transpose(2, 3).to(B.dtype) for g in (dB, dC))
        return du.to(u.dtype), ddt.to(dt.dtype), dA.sum(0), dB, dC, dD.sum(0), dz.to(z.dtype)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight, bias)
        _use_torch_threads()
        out = torch.empty(x.shape, dtype=torch.float32)
        _conv_forward(_array(x), _array(weight), _array(bias), out.numpy())
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, weight, bias = ctx.saved_tensors
        _use_torch_threads()
        dx = torch.empty(x.shape, dtype=torch.float32)
        dweight, dbias = (torch.empty(x.shape[0], *t.shape, dtype=torch.float32) for t in (weight, bias))
        _conv_backward(_array(x), _array(weight), _array(bias), _array(dout),
                       dx.numpy(), dweight.numpy(), dbias.numpy())
        return dx.to(x.dtype), dweight.sum(0).to(weight.dtype), dbias.sum(0).to(bias.dtype)


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
         z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    """The `cpu` backend of `selective_scan`; shapes as there, B and C already (B, G, N, L)."""
    delta = delta.float() if delta_bias is None else delta.float() + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    skip = u.new_zeros(u.shape[1], dtype=torch.float32) if D is None else D
    if z is not None:
        return _Scan.apply(u, delta, A, B, C, skip, z)
    # Without a gate the kernel's factor z·σ(z) must be 1: it is at this z.
    return _Scan.apply(u, delta, A, B, C, skip, torch.full_like(u, UNIT_GATE, dtype=torch.float32))


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The `cpu` backend of `causal_conv1d`; shapes as there."""
    return _Conv.apply(x, weight, bias)
