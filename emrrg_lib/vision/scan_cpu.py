"""Numba kernels of the selective scan and the causal convolution, with their own backward.

Inside, tensors are token-major: (B, L, D). W channels are walked together, and the loop over them is the
SIMD loop. The forward keeps the states of every SEGMENT-th step only; the backward walks one segment ahead
from its kept states, with its decays and states on a tape in the first-level cache, then back: no
(B, D, L, N) tensor exists. Gradients of B and C are summed over fixed chunks of W channels, so that the
result does not depend on the number of threads.
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

W = 128  # channels of a chunk; lanes beyond the last channel hold zeros
SEGMENT = 16  # steps between two kept states, about √L
# Slots of the work rows, each W numbers: of a step, of a state n, and of the tape. Rows are reached through
# an index array: LLVM then cannot hoist its overlap check between them out of the time loop, where it always
# fails and leaves scalar code (five times slower).
STEP, DRIVE, Y, DY, DDRIVE, DSTEP = (W * slot for slot in range(6))
A_, DH, DA = (W * slot for slot in range(3))
H, DECAY = 0, W
LOG2E, LN2 = np.float32(math.log2(math.e)), np.float32(math.log(2.0))
EXP2 = [np.float32(math.log(2.0)**k / math.factorial(k)) for k in range(7)]  # Taylor series of 2^f
P0, P1, P2, P3, P4, P5, P6 = EXP2
FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"}


@njit(inline="always", fastmath=FAST)
def _exp2(x):
    """2^x in float32 to 2 ulp for x in [-126, 127]: 2^k · p(f); plain arithmetic, so it vectorises."""
    x = min(max(x, float32(-126.0)), float32(127.0))
    k = int32(x + float32(127.5))  # exponent + 127, rounded: truncation of a positive number
    f = x - (float32(k) - float32(127.0))
    p = ((((P6 * f + P5) * f + P4) * f + P3) * f + P2) * f
    return ((p + P1) * f + P0) * np.int32(k << 23).view(np.float32)


@njit(inline="always", fastmath=FAST)
def _sigmoid(x):
    return float32(1.0) / (float32(1.0) + _exp2(-x * LOG2E))


@njit(fastmath=FAST)
def workspace(A, lo, width):
    """Zeroed rows of the states (A filled in, for base 2), of the steps, and of the tape; the row order."""
    states = np.zeros((A.shape[1], 3 * W), np.float32)
    for n in range(A.shape[1]):
        for d in range(width):
            states[n, A_ + d] = A[lo + d, n] * LOG2E
    steps, tape = np.zeros((SEGMENT, 6 * W), np.float32), np.zeros((SEGMENT + 1, 2 * W), np.float32)
    return states, steps, tape, np.arange(SEGMENT + 1)


@njit(fastmath=FAST)
def load_steps(u, dt, lo, width, steps):
    """Fills Δ_t and Δ_t u_t of a segment's steps and clears the sums."""
    for t in range(len(u)):
        steps[t, Y:] = 0
        for d in range(width):
            steps[t, STEP + d] = dt[t, lo + d]
            steps[t, DRIVE + d] = dt[t, lo + d] * u[t, lo + d]


@njit(fastmath=FAST)
def ahead(B, C, n, state, steps, tape, order):
    """Walks state n along a segment: the tape gets h_t and exp(Δ_t A), y_t grows by C_t h_t."""
    for t in range(len(B)):
        b, c, step, before, now = B[t, n], C[t, n], steps[order[t]], tape[order[t]], tape[order[t + 1]]
        for d in range(W):
            decay = _exp2(step[STEP + d] * state[A_ + d])
            h = decay * before[H + d] + step[DRIVE + d] * b
            now[H + d], now[DECAY + d] = h, decay
            step[Y + d] += h * c


@njit(fastmath=FAST)
def back(B, C, n, state, steps, tape, order, dB, dC):
    """Walks state n back along the segment: fills dB_t and dC_t, adds to the sums of steps and state."""
    for t in range(len(B) - 1, -1, -1):
        b, c, step, before, now = B[t, n], C[t, n], steps[order[t]], tape[order[t]], tape[order[t + 1]]
        db, dc = float32(0.0), float32(0.0)
        for d in range(W):
            dh = state[DH + d] + step[DY + d] * c
            dc += step[DY + d] * now[H + d]
            db += dh * step[DRIVE + d]
            step[DDRIVE + d] += dh * b
            dh = dh * now[DECAY + d]
            state[DH + d] = dh
            ddecay = dh * before[H + d]
            step[DSTEP + d] += ddecay * state[A_ + d]
            state[DA + d] += ddecay * step[STEP + d]
        dB[t, n], dC[t, n] = db, dc


@njit(parallel=True, fastmath=FAST, cache=True)
def scan_forward(u, dt, A, B, C, D, kept, out):
    """Fills `out` (B, L, D) and `kept` (B, segments + 1, N, D), whose first states are zero."""
    batch, length, dim = u.shape
    groups, N = B.shape[1], B.shape[3]
    group = dim // groups
    chunks = (group + W - 1) // W
    for job in prange(batch * groups * chunks):
        b, g, lo = job // (groups * chunks), job // chunks % groups, job % chunks * W
        width, lo = min(W, group - lo), g * group + lo
        states, steps, tape, order = workspace(A, lo, width)
        for s in range(kept.shape[1] - 1):
            span = slice(s * SEGMENT, min(length, (s + 1) * SEGMENT))
            x, y = u[b, span], out[b, span]
            load_steps(x, dt[b, span], lo, width, steps)
            for n in range(N):
                for d in range(width):
                    tape[0, d] = kept[b, s, n, lo + d]
                ahead(B[b, g, span], C[b, g, span], n, states[n], steps, tape, order)
                for d in range(width):
                    kept[b, s + 1, n, lo + d] = tape[len(x), d]
            for t in range(len(x)):
                for d in range(width):
                    y[t, lo + d] = steps[t, Y + d] + D[lo + d] * x[t, lo + d]


@njit(parallel=True, fastmath=FAST, cache=True)
def scan_backward(u, dt, A, B, C, D, kept, dout, du, ddt, dA, dB, dC, dD):
    """Fills dA (B, D, N), zeroed dD (B, D), dB and dC (B, G, chunks, L, N), du and ddt (B, L, D)."""
    batch, length, dim = u.shape
    groups, N = B.shape[1], B.shape[3]
    group = dim // groups
    chunks = (group + W - 1) // W
    for job in prange(batch * groups * chunks):
        b, g, k = job // (groups * chunks), job // chunks % groups, job % chunks
        width, lo = min(W, group - k * W), g * group + k * W
        states, steps, tape, order = workspace(A, lo, width)
        for s in range(kept.shape[1] - 2, -1, -1):
            span = slice(s * SEGMENT, min(length, (s + 1) * SEGMENT))
            x, dy, dx, dstep = u[b, span], dout[b, span], du[b, span], ddt[b, span]
            load_steps(x, dt[b, span], lo, width, steps)
            for t in range(len(x)):
                for d in range(width):
                    steps[t, DY + d] = dy[t, lo + d]
            for n in range(N):
                for d in range(width):
                    tape[0, d] = kept[b, s, n, lo + d]
                ahead(B[b, g, span], C[b, g, span], n, states[n], steps, tape, order)
                back(B[b, g, span], C[b, g, span], n, states[n], steps, tape, order,
                     dB[b, g, k, span], dC[b, g, k, span])
            for t in range(len(x)):
                for d in range(width):
                    ddrive = steps[t, DDRIVE + d]
                    dx[t, lo + d] = ddrive * steps[t, STEP + d] + D[lo + d] * dy[t, lo + d]
                    dstep[t, lo + d] = ddrive * x[t, lo + d] + steps[t, DSTEP + d] * LN2
                    dD[b, lo + d] += dy[t, lo + d] * x[t, lo + d]
        for n in range(N):
            for d in range(width):
                dA[b, lo + d, n] = states[n, DA + d]


@njit(fastmath=FAST)
def convolve(x, weight, bias, t, y):
    """y ← bias + Σ_k weight[k] · x[t - K + 1 + k], zeros before the start; x (L, D), weight (K, D)."""
    y[:] = bias
    for k in range(max(0, len(weight) - 1 - t), len(weight)):
        for d in range(len(y)):
            y[d] += weight[k, d] * x[t - len(weight) + 1 + k, d]


@njit(parallel=True, fastmath=FAST, cache=True)
def conv_forward(x, weight, bias, out):
    """Fills `out` (B, L, D); weight (K, D)."""
    batch, length, dim = x.shape
    for job in prange(batch * length):
        y = out[job // length, job % length]
        convolve(x[job // length], weight, bias, job % length, y)
        for d in range(dim):
            y[d] *= _sigmoid(y[d])


@njit(parallel=True, fastmath=FAST, cache=True)
def conv_backward(x, weight, bias, dout, dy, dx, dweight, dbias):
    """Fills dy (B, L, D), the gradient before SiLU, and the zeroed dx, dweight (K, D) and dbias (D)."""
    batch, length, dim = x.shape
    last = len(weight) - 1
    for job in prange(batch * length):
        b, t = job // length, job % length
        y = dy[b, t]
        convolve(x[b], weight, bias, t, y)
        for d in range(dim):
            s = _sigmoid(y[d])
            y[d] = dout[b, t, d] * s * (float32(1.0) + y[d] * (float32(1.0) - s))
    for job in prange(batch * length):
        b, t = job // length, job % length
        for k in range(max(0, last + 1 - length + t), last + 1):
            for d in range(dim):
                dx[b, t, d] += weight[k, d] * dy[b, t + last - k, d]
    for chunk in prange((dim + W - 1) // W):
        lo, hi = chunk * W, min(dim, chunk * W + W)
        for b in range(batch):
            for t in range(length):
                for d in range(lo, hi):
                    dbias[d] += dy[b, t, d]
                for k in range(max(0, last - t), last + 1):
                    for d in range(lo, hi):
                        dweight[k, d] += x[b, t - last + k, d] * dy[b, t, d]


def _rows(tensor: Tensor) -> np.ndarray:
    """float32, the last two axes swapped; no copy where the memory is token-major already."""
    return tensor.detach().float().transpose(-1, -2).contiguous().numpy()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().contiguous().numpy()


def _new(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32)


def _use_torch_threads() -> None:
    """Gives numba as many threads as PyTorch may use, so that one setting governs both."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch.get_num_threads() != threads:  # numba's start sets OpenMP to all cores, and PyTorch obeys it
        torch.set_num_threads(threads)


class _Scan(torch.autograd.Function):
    """u, dt (B, D, L) → (B, D, L) in float32; keeps its inputs and the states of every SEGMENT-th step."""

    @staticmethod
    def forward(ctx, u, dt, A, B, C, D):
        _use_torch_threads()
        batch, dim, length = u.shape
        kept = _new(batch, -(-length // SEGMENT) + 1, A.shape[1], dim)
        out = torch.empty(batch, length, dim)
        scan_forward(_rows(u), _rows(dt), _array(A), _rows(B), _rows(C), _array(D), kept.numpy(), out.numpy())
        ctx.save_for_backward(u, dt, A, B, C, D, kept)
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        u, dt, A, B, C, D, kept = ctx.saved_tensors
        _use_torch_threads()
        (batch, dim, length), (_, groups, N, _) = u.shape, B.shape
        du, ddt = (torch.empty(batch, length, dim) for _ in range(2))
        dA, dD = _new(batch, dim, N), _new(batch, dim)
        dB, dC = (torch.empty(batch, groups, -(-dim // groups // W), length, N) for _ in range(2))
        scan_backward(_rows(u), _rows(dt), _array(A), _rows(B), _rows(C), _array(D), kept.numpy(),
                      _rows(dout), *(g.numpy() for g in (du, ddt, dA, dB, dC, dD)))
        dB, dC = (g.sum(2).transpose(2, 3).to(B.dtype) for g in (dB, dC))
        du, ddt = (g.transpose(1, 2).to(t.dtype) for g, t in ((du, u), (ddt, dt)))
        return du, ddt, dA.sum(0), dB, dC, dD.sum(0)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight, bias)
        _use_torch_threads()
        out = torch.empty(x.transpose(1, 2).shape)
        conv_forward(_rows(x), _rows(weight), _array(bias), out.numpy())
        return out.transpose(1, 2).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, weight, bias = ctx.saved_tensors
        _use_torch_threads()
        (batch, dim, length), width = x.shape, weight.shape[1]
        dy, dx, dweight, dbias = (_new(*shape) for shape in (
            (batch, length, dim), (batch, length, dim), (width, dim), (dim,)))
        conv_backward(_rows(x), _rows(weight), _array(bias), _rows(dout),
                      *(g.numpy() for g in (dy, dx, dweight, dbias)))
        return dx.transpose(1, 2).to(x.dtype), dweight.t().to(weight.dtype), dbias.to(bias.dtype)


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
         z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    """The `cpu` backend of `selective_scan`; shapes as there, B and C already (B, G, N, L)."""
    delta = delta.float() if delta_bias is None else delta.float() + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    skip = u.new_zeros(u.shape[1], dtype=torch.float32) if D is None else D
    y = _Scan.apply(u, delta, A, B, C, skip)
    return (y if z is None else y * F.silu(z.float())).to(u.dtype)


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The `cpu` backend of `causal_conv1d`; shapes as there."""
    return _Conv.apply(x, weight, bias)
