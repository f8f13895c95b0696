"""Numba kernels of the selective scan, with their own backward.

Inside, tensors are token-major: (B, L, D). W channels are walked together, and the loop over them is the
SIMD loop. The forward keeps the states of every SEGMENT-th step only; the backward walks one segment ahead
from its kept states, with its decays and states in a workspace that fits the caches, then back: no
(B, D, L, N) tensor exists. Gradients of B and C are summed over fixed chunks of W channels, so that the
result does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numba import float32, njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from emrrg_lib.vision.kernels.numba_tools import (
    FAST,
    LN2,
    LOG2E,
    array,
    copy,
    exp2,
    rows,
    use_torch_threads,
    zeros,
)

W = 128  # channels of a chunk; lanes beyond the last channel hold zeros
SEGMENT = 16  # steps between two kept states, about √L
# Slots of a step's row of the workspace, and of a state's row, each W numbers. The rows of the steps lie in
# one flat array, a constant ROW apart, and every loop over channels takes rows as views: so LLVM knows every
# distance and emits nothing but vector instructions. Indexing whole arrays there costs up to twice the time.
STEP, DRIVE, Y, DY, DDRIVE, DSTEP, H, DECAY = (W * slot for slot in range(8))  # H: the state before the step
ROW = 8 * W
A_, DH, DA = (W * slot for slot in range(3))


@njit(fastmath=FAST)
def workspace(A):
    """Zeroed rows of the states, with A (width, N) for base 2, and the rows of a segment and of its end."""
    states = np.zeros((A.shape[1], 3 * W), np.float32)
    for n in range(A.shape[1]):
        for d in range(A.shape[0]):
            states[n, A_ + d] = A[d, n] * LOG2E
    return states, np.zeros((SEGMENT + 1) * ROW, np.float32)


@njit(fastmath=FAST)
def load_steps(u, dt, steps):
    """Fills Δ_t and Δ_t u_t of a segment's steps, u and dt (T, width), and clears the sums."""
    for t in range(len(u)):
        row, x, step = steps[t * ROW : (t + 1) * ROW], u[t], dt[t]
        row[Y:H] = 0
        for d in range(len(x)):
            row[STEP + d] = step[d]
            row[DRIVE + d] = step[d] * x[d]


@njit(fastmath=FAST)
def store_outputs(u, D, steps, out):
    """Fills y_t = C_t · h_t + D u_t of a segment, (T, width)."""
    for t in range(len(u)):
        row, x, y = steps[t * ROW : (t + 1) * ROW], u[t], out[t]
        for d in range(len(x)):
            y[d] = row[Y + d] + D[d] * x[d]


@njit(fastmath=FAST)
def load_gradients(dout, steps):
    """Fills the gradients of y_t, (T, width)."""
    for t in range(len(dout)):
        copy(dout[t], steps[t * ROW + DY :])


@njit(fastmath=FAST)
def store_gradients(u, D, dout, steps, du, ddt, dD):
    """Fills du and ddt of a segment, (T, width), and adds to dD (width)."""
    for t in range(len(u)):
        row, x, dy, dx, dstep = steps[t * ROW : (t + 1) * ROW], u[t], dout[t], du[t], ddt[t]
        for d in range(len(x)):
            dx[d] = row[DDRIVE + d] * row[STEP + d] + D[d] * dy[d]
            dstep[d] = row[DDRIVE + d] * x[d] + row[DSTEP + d] * LN2
            dD[d] += dy[d] * x[d]


@njit(fastmath=FAST)
def ahead(B, C, n, state, steps):
    """Walks state n along a segment: the rows get h_t and exp(Δ_t A), y_t grows by C_t h_t."""
    for t in range(len(B)):
        b, c, row = B[t, n], C[t, n], steps[t * ROW : (t + 2) * ROW]
        for d in range(W):
            decay = exp2(row[STEP + d] * state[A_ + d])
            h = decay * row[H + d] + row[DRIVE + d] * b
            row[ROW + H + d], row[DECAY + d] = h, decay
            row[Y + d] += h * c


@njit(fastmath=FAST)
def back(B, C, n, state, steps, dB, dC):
    """Walks state n back along the segment: fills dB_t and dC_t, adds to the sums of steps and state."""
    for t in range(len(B) - 1, -1, -1):
        b, c, row = B[t, n], C[t, n], steps[t * ROW : (t + 2) * ROW]
        db, dc = float32(0.0), float32(0.0)
        for d in range(W):
            dh = state[DH + d] + row[DY + d] * c
            dc += row[DY + d] * row[ROW + H + d]
            db += dh * row[DRIVE + d]
            row[DDRIVE + d] += dh * b
            dh = dh * row[DECAY + d]
            state[DH + d] = dh
            ddecay = dh * row[H + d]
            row[DSTEP + d] += ddecay * state[A_ + d]
            state[DA + d] += ddecay * row[STEP + d]
        dB[t, n], dC[t, n] = db, dc


@njit(parallel=True, fastmath=FAST, cache=True)
def scan_forward(u, dt, A, B, C, D, kept, out):
    """Fills `out` (B, L, D) and `kept` (B, segments + 1, N, D), whose first states are zero."""
    batch, length, dim = u.shape
    groups, N = B.shape[1], B.shape[3]
    group = dim // groups
    chunks = (group + W - 1) // W
    for job in prange(batch * groups * chunks):
        b, g, k = job // (groups * chunks), job // chunks % groups, job % chunks
        channels = slice(g * group + k * W, g * group + min(group, k * W + W))
        states, steps = workspace(A[channels])
        for s in range(kept.shape[1] - 1):
            span = slice(s * SEGMENT, min(length, (s + 1) * SEGMENT))
            x, Bs, Cs = u[b, span, channels], B[b, g, span], C[b, g, span]
            last = steps[len(x) * ROW + H :]
            load_steps(x, dt[b, span, channels], steps)
            for n in range(N):
                copy(kept[b, s, n, channels], steps[H:])
                ahead(Bs, Cs, n, states[n], steps)
                now = kept[b, s + 1, n, channels]
                copy(last[: len(now)], now)
            store_outputs(x, D[channels], steps, out[b, span, channels])


@njit(parallel=True, fastmath=FAST, cache=True)
def scan_backward(u, dt, A, B, C, D, kept, dout, du, ddt, dA, dB, dC, dD):
    """Fills dA (B, D, N), zeroed dD (B, D), dB and dC (B, G, chunks, L, N), du and ddt (B, L, D)."""
    batch, length, dim = u.shape
    groups, N = B.shape[1], B.shape[3]
    group = dim // groups
    chunks = (group + W - 1) // W
    for job in prange(batch * groups * chunks):
        b, g, k = job // (groups * chunks), job // chunks % groups, job % chunks
        channels = slice(g * group + k * W, g * group + min(group, k * W + W))
        states, steps = workspace(A[channels])
        for s in range(kept.shape[1] - 2, -1, -1):
            span = slice(s * SEGMENT, min(length, (s + 1) * SEGMENT))
            x, dy = u[b, span, channels], dout[b, span, channels]
            Bs, Cs, dBs, dCs = B[b, g, span], C[b, g, span], dB[b, g, k, span], dC[b, g, k, span]
            load_steps(x, dt[b, span, channels], steps)
            load_gradients(dy, steps)
            for n in range(N):
                copy(kept[b, s, n, channels], steps[H:])
                ahead(Bs, Cs, n, states[n], steps)
                back(Bs, Cs, n, states[n], steps, dBs, dCs)
            store_gradients(
                x, D[channels], dy, steps, du[b, span, channels], ddt[b, span, channels], dD[b, channels]
            )
        for n in range(N):
            for d in range(channels.stop - channels.start):
                dA[b, channels.start + d, n] = states[n, DA + d]


class _Scan(torch.autograd.Function):
    """u, dt (B, D, L) → (B, D, L) in float32; keeps its inputs and the states of every SEGMENT-th step."""

    @staticmethod
    def forward(ctx, u, dt, A, B, C, D):
        use_torch_threads()
        batch, dim, length = u.shape
        kept = torch.empty(batch, -(-length // SEGMENT) + 1, A.shape[1], dim)
        kept[:, 0] = 0
        out = torch.empty(batch, length, dim)
        scan_forward(rows(u), rows(dt), array(A), rows(B), rows(C), array(D), kept.numpy(), out.numpy())
        ctx.save_for_backward(u, dt, A, B, C, D, kept)
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        u, dt, A, B, C, D, kept = ctx.saved_tensors
        use_torch_threads()
        (batch, dim, length), (_, groups, N, _) = u.shape, B.shape
        du, ddt = (torch.empty(batch, length, dim) for _ in range(2))
        dA, dD = zeros(batch, dim, N), zeros(batch, dim)
        dB, dC = (torch.empty(batch, groups, -(-dim // groups // W), length, N) for _ in range(2))
        scan_backward(
            rows(u),
            rows(dt),
            array(A),
            rows(B),
            rows(C),
            array(D),
            kept.numpy(),
            rows(dout),
            *(g.numpy() for g in (du, ddt, dA, dB, dC, dD)),
        )
        dB, dC = (g.sum(2).transpose(2, 3).to(B.dtype) for g in (dB, dC))
        du, ddt = (g.transpose(1, 2).to(t.dtype) for g, t in ((du, u), (ddt, dt)))
        return du, ddt, dA.sum(0), dB, dC, dD.sum(0)


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
    """The `cpu` backend of `selective_scan`; shapes as there, B and C already (B, G, N, L)."""
    delta = delta.float() if delta_bias is None else delta.float() + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    skip = u.new_zeros(u.shape[1], dtype=torch.float32) if D is None else D
    y = _Scan.apply(u, delta, A, B, C, skip)
    return (y if z is None else y * F.silu(z.float())).to(u.dtype)
