"""The selective scan in Triton, with its own backward: it needs no build and comes with every CUDA torch.

Tensors are token-major: u, Δ and y are (B, L, D), A is (N, D), B and C are (B, G, L, N). One program is one
warp. It owns W channels of one group and walks the steps, its states (N, W) in registers. The forward keeps
the state before every S-th step. The backward walks one segment ahead from a kept state, writes the states
down, then walks back. It sums gradients of B and C over the channels of a program, and PyTorch sums the
programs in a fixed order: no atomics, so equal inputs give equal bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

S = 16  # steps between two kept states, about √L
WIDTH, STATES = 32, 512  # the most channels W and states of a program: more than these spill registers
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load(u, dt, B, bias, at, matrix, c, inside, states, SOFTPLUS: tl.constexpr):
    """u_t, Δ_t before and after softplus, and B_t (N, 1)."""
    x = tl.load(u + at, inside, 0.0).to(tl.float32)
    raw = tl.load(dt + at, inside, 0.0).to(tl.float32)
    if bias is not None:
        raw += tl.load(bias + c, inside, 0.0)
    step = raw
    if SOFTPLUS:  # log(1 + e); the quotient keeps the digits of a small e
        e = tl.exp(tl.minimum(raw, 20.0))
        whole = 1.0 + e
        soft = tl.where(whole == 1.0, e, tl.log(whole) * (e / tl.where(whole == 1.0, 1.0, whole - 1.0)))
        step = tl.where(raw > 20.0, raw, soft)
    return x, raw, step, tl.load(B + matrix, states, 0.0).to(tl.float32)[:, None]


@triton.jit
def _scan_forward(
    u, dt, A, B, C, D, bias, out, kept, length, dim, group, segments,
    N: tl.constexpr, P: tl.constexpr, W: tl.constexpr, S: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    g, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    own = tl.program_id(0) * W + tl.arange(0, W)
    c, inside, n = g * group + own, own < group, tl.arange(0, P)
    tile, states = n[:, None] * dim + c[None, :], n < N
    both = states[:, None] & inside[None, :]
    a = tl.load(A + tile, both, 0.0) * LOG2E
    h = tl.zeros((P, W), tl.float32)
    for segment in range(segments):
        tl.store(kept + (b * segments + segment) * N * dim + tile, h, both)
        for t in range(segment * S, min(length, segment * S + S)):
            at = (b * length + t) * dim + c
            matrix = ((b * tl.num_programs(1) + g) * length + t) * N + n
            x, raw, step, Bt = _load(u, dt, B, bias, at, matrix, c, inside, states, SOFTPLUS)
            h = tl.exp2(step[None, :] * a) * h + (step * x)[None, :] * Bt
            y = tl.sum(h * tl.load(C + matrix, states, 0.0).to(tl.float32)[:, None], 0)
            if D is not None:
                y += x * tl.load(D + c, inside, 0.0)
            tl.store(out + at, y.to(out.dtype.element_ty), inside)


@triton.jit
def _scan_backward(
    u, dt, A, B, C, D, bias, dout, kept, work, du, ddt, dA, dB, dC, dD, length, dim, group, segments,
    N: tl.constexpr, P: tl.constexpr, W: tl.constexpr, S: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    k, g, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    own = k * W + tl.arange(0, W)
    c, inside, n = g * group + own, own < group, tl.arange(0, P)
    tile, states = n[:, None] * dim + c[None, :], n < N
    both = states[:, None] & inside[None, :]
    matrices = (b * tl.num_programs(1) + g) * length
    sums = ((b * tl.num_programs(1) + g) * tl.num_programs(0) + k) * length
    a = tl.load(A + tile, both, 0.0)
    dh, da = tl.zeros((P, W), tl.float32), tl.zeros((P, W), tl.float32)
    dskip = tl.zeros((W,), tl.float32)
    for back in range(segments):
        segment = segments - 1 - back
        first, last = segment * S, min(length, segment * S + S)
        h = tl.load(kept + (b * segments + segment) * N * dim + tile, both, 0.0)
        for t in range(first, last):
            tl.store(work + (b * S + t - first) * N * dim + tile, h, both)
            at, matrix = (b * length + t) * dim + c, (matrices + t) * N + n
            x, raw, step, Bt = _load(u, dt, B, bias, at, matrix, c, inside, states, SOFTPLUS)
            h = tl.exp2(step[None, :] * (a * LOG2E)) * h + (step * x)[None, :] * Bt
        tl.debug_barrier()
        for i in range(last - first):
            t = last - 1 - i
            at, matrix, total = (b * length + t) * dim + c, (matrices + t) * N + n, (sums + t) * N + n
            x, raw, step, Bt = _load(u, dt, B, bias, at, matrix, c, inside, states, SOFTPLUS)
            dy = tl.load(dout + at, inside, 0.0).to(tl.float32)
            decay = tl.exp2(step[None, :] * (a * LOG2E))
            held = decay * tl.load(work + (b * S + t - first) * N * dim + tile, both, 0.0)
            drive = (step * x)[None, :]
            dh += dy[None, :] * tl.load(C + matrix, states, 0.0).to(tl.float32)[:, None]
            tl.store(dC + total, tl.sum((held + drive * Bt) * dy[None, :], 1), states)
            tl.store(dB + total, tl.sum(dh * drive, 1), states)
            ddrive, ddecay = tl.sum(dh * Bt, 0), dh * held
            da += ddecay * step[None, :]
            dstep, dx = ddrive * x + tl.sum(ddecay * a, 0), ddrive * step
            if SOFTPLUS:
                dstep *= 1.0 / (1.0 + tl.exp(-raw))
            if D is not None:
                dx += dy * tl.load(D + c, inside, 0.0)
            dskip += dy * x
            tl.store(du + at, dx.to(du.dtype.element_ty), inside)
            tl.store(ddt + at, dstep, inside)
            dh *= decay
        tl.debug_barrier()
    tl.store(dA + b * N * dim + tile, da, both)
    tl.store(dD + b * dim + c, dskip, inside)


def block(N: int) -> dict[str, int]:
    """The constants of both kernels for N states a channel."""
    P = triton.next_power_of_2(N)
    return {"N": N, "P": P, "W": max(1, min(WIDTH, STATES // P)), "S": S}


def _launch(kernel, tensors: list[Tensor | None], softplus: bool) -> None:
    u, _, A, B = tensors[:4]
    (batch, length, dim), groups, sizes = u.shape, B.shape[1], block(A.shape[0])
    group, options = dim // groups, {"num_warps": 1, "enable_fp_fusion": True}
    grid = (triton.cdiv(group, sizes["W"]), groups, batch)
    kernel[grid](*tensors, length, dim, group, triton.cdiv(length, S), **sizes, SOFTPLUS=softplus, **options)


@torch.library.custom_op("emrrg::scan", mutates_args=())
def _scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The output (B, L, D) of `dtype` and the kept states (B, segments, N, D)."""
    out, kept = _scan_results(u, dt, A, B, C, D, bias, softplus, dtype)
    _launch(_scan_forward, [u, dt, A, B, C, D, bias, out, kept], softplus)
    return out, kept


@_scan.register_fake
def _scan_results(u, dt, A, B, C, D, bias, softplus, dtype):
    kept = A.new_empty(u.shape[0], (u.shape[1] + S - 1) // S, *A.shape)
    return torch.empty_like(u, dtype=dtype), kept


@torch.library.custom_op("emrrg::scan_backward", mutates_args=())
def _scan_gradients(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    kept: Tensor,
    dout: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, A, B, C and D, float32 but for u's."""
    (batch, length, dim), (N, _), groups = u.shape, A.shape, B.shape[1]
    programs = triton.cdiv(dim // groups, block(N)["W"])
    du, ddt = torch.empty_like(u), torch.empty_like(u, dtype=torch.float32)
    dA, dD, work = A.new_empty(batch, N, dim), A.new_empty(batch, dim), A.new_empty(batch, S, N, dim)
    dB, dC = (A.new_empty(batch, groups, programs, length, N) for _ in range(2))
    tensors = [u, dt, A, B, C, D, bias, dout, kept, work, du, ddt, dA, dB, dC, dD]
    _launch(_scan_backward, tensors, softplus)
    return du, ddt, dA.sum(0), dB.sum(2), dC.sum(2), dD.sum(0)


@_scan_gradients.register_fake
def _(u, dt, A, B, C, D, bias, kept, dout, softplus):
    u32, B32, C32 = (torch.empty_like(t, dtype=torch.float32) for t in (u, B, C))
    return torch.empty_like(u), u32, torch.empty_like(A), B32, C32, A.new_empty(A.shape[1])


def _save(ctx, inputs, output):
    *tensors, ctx.softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[1])


def _backward(ctx, dout, _):
    u, dt, A, B, C, D, bias, kept = ctx.saved_tensors
    given = (u, dt, A, B, C, D, bias, kept, dout.contiguous(), ctx.softplus)
    du, ddt, dA, dB, dC, dD = _scan_gradients(*given)
    dD, dbias = None if D is None else dD, None if bias is None else ddt.sum((0, 1))
    return du, ddt.to(dt.dtype), dA, dB.to(B.dtype), dC.to(C.dtype), dD, dbias, None, None


_scan.register_autograd(_backward, setup_context=_save)


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
    """The `triton` backend of `selective_scan`; shapes as there, B and C already (B, G, N, L)."""
    u_, delta, B, C = (t.mT.contiguous() for t in (u, delta, B, C))  # no copy of token-major memory
    D, delta_bias = (None if t is None else t.float().contiguous() for t in (D, delta_bias))
    dtype = u.dtype if z is None else torch.float32
    y, _ = _scan(u_, delta, A.float().t().contiguous(), B, C, D, delta_bias, delta_softplus, dtype)
    return y.mT if z is None else (y.mT * F.silu(z.float())).to(u.dtype)
