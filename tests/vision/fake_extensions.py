"""CPU stand-ins of mamba-ssm's and causal-conv1d's extensions: every check of their C++, and right results.

Checked are the versions that pyproject.toml allows: selective_scan.cpp of mamba-ssm 2.3.0 and 2.3.1 and
causal_conv1d.cpp of 1.5.2 to 1.7.0 agree in them. Only that tensors are on a GPU is not checked.
"""

import sys
from types import ModuleType

import torch
import torch.nn.functional as F

from emrrg_lib.vision.scan import _reference_scan

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check(*conditions):
    for number, condition in enumerate(conditions):
        if not condition:
            raise RuntimeError(f"check {number} of the extension failed")


def dense(*tensors):
    check(*(t.stride(-1) == 1 or t.size(-1) == 1 for t in tensors))


def check_scan(u, delta, A, B, C, D, z, bias):
    (batch, dim, length), N, groups = u.shape, A.shape[1], B.shape[1]
    check(u.dtype in FLOATS, A.dtype == torch.float32, N <= 256, dim % groups == 0, z is None)
    check(*(t.dtype == u.dtype for t in (delta, B, C)))
    dense(u, delta, B, C)
    check(delta.shape == u.shape, A.shape == (dim, N), B.shape == C.shape == (batch, groups, N, length))
    for vector in (D, bias):
        if vector is not None:
            check(vector.dtype == torch.float32, vector.shape == (dim,))
            dense(vector)


def fwd(u, delta, A, B, C, D, z, bias, softplus):
    check_scan(u, delta, A, B, C, D, z, bias)
    with torch.autocast("cpu", enabled=False):
        out = _reference_scan(u, delta, A, B, C, D, None, bias, softplus)
    return [torch.empty_like(delta).copy_(out), u.new_zeros(*u.shape[:2], 1, 2 * A.shape[1]).float()]


def bwd(u, delta, A, B, C, D, z, bias, dout, states, out, dz, softplus, recompute):
    check_scan(u, delta, A, B, C, D, z, bias)
    check(dout.dtype == u.dtype, dout.shape == u.shape, states.dtype == A.dtype, not recompute)
    check(states.is_contiguous(), states.shape == (*u.shape[:2], -(-u.shape[2] // 2048), 2 * A.shape[1]))
    dense(dout)
    given = (u, delta, A, B, C, D, bias)
    leaves = [None if t is None else t.detach().float().requires_grad_() for t in given]
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        y = _reference_scan(*leaves[:6], None, leaves[6], softplus)
        grads = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], dout.float()))
    return [torch.Tensor() if t is None else next(grads).to(t.dtype) for t in given]


def check_conv(x, weight, bias):
    batch, dim, length = x.shape
    check(x.dtype in FLOATS, weight.dtype in FLOATS, weight.shape[0] == dim, 2 <= weight.shape[1] <= 4)
    check(x.stride(2) == 1 or x.stride(1) == 1)
    if x.stride(1) == 1 and x.stride(2) > 1:  # channels last
        check(dim % 8 == 0, x.stride(2) % 8 == 0, x.stride(0) % 8 == 0)
    check(bias.dtype == weight.dtype, bias.stride(-1) == 1, bias.shape == (dim,))


def conv(x, weight, bias):
    padded = F.pad(x.float(), (weight.shape[1] - 1, 0))
    return F.silu(F.conv1d(padded, weight.float()[:, None], bias.float(), groups=x.shape[1]))


class _Conv(torch.autograd.Function):
    """`causal_conv1d_fn` with SiLU: the Python part makes dout dense, the C++ reads it as x's type."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        check_conv(x, weight, bias)
        ctx.save_for_backward(x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return conv(x, weight, bias).to(x.dtype)

    @staticmethod
    def backward(ctx, dout):
        check_conv(*ctx.saved_tensors)
        check(dout.dtype == ctx.saved_tensors[0].dtype)
        leaves = [t.detach().float().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            grads = torch.autograd.grad(conv(*leaves), leaves, dout.float())
        return tuple(g.to(t.dtype) for g, t in zip(grads, ctx.saved_tensors, strict=True))


def causal_conv1d_fn(x, weight, bias, activation):
    check(activation == "silu")
    return _Conv.apply(x, weight, bias)


def install(monkeypatch):
    """Makes the two packages importable within a test."""
    for name, functions in (("selective_scan_cuda", (fwd, bwd)), ("causal_conv1d", (causal_conv1d_fn,))):
        module = ModuleType(name)
        vars(module).update({f.__name__: f for f in functions})
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "emrrg_lib.vision.kernels.scan_cuda", raising=False)
