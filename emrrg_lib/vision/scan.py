"""The selective scan of Mamba and its causal convolution, each with four backends.

`h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t u_t`, `y_t = C_t · h_t + D u_t`, then `y_t · SiLU(z_t)`.

Backends: `reference` (a short time loop in PyTorch that holds one state), `cpu` (numba kernels), `triton`
(Triton kernels), both with their backward in `kernels/`, `cuda` (mamba-ssm's and causal-conv1d's kernels).
Meaning and argument names are those of mamba-ssm's `selective_scan_fn`. B and C may be grouped, so that the
four scan directions run as one call with G = 4 groups. B is the batch size in shapes and the input matrix
in the equations.
"""

from __future__ import annotations

import functools
import logging
import os

import torch
import torch.nn.functional as F
from torch import Tensor

# Backend → devices that it reads, for `auto` in this order; `reference` reads all. On ROCm the device is
# called cuda too. Triton's interpreter, which the tests use, reads tensors on the CPU.
DEVICES = {"cpu": ("cpu",), "triton": ("cuda",), "cuda": ("cuda",)}
if os.environ.get("TRITON_INTERPRET") == "1":
    DEVICES["triton"] = ("cpu",)
BACKENDS = ("reference", *DEVICES)
log = logging.getLogger("emrrg_lib.scan")


@functools.cache
def unavailable(backend: str) -> str | None:
    """Why `backend` cannot run here; None if it can. A GPU's kernels run once, forward and backward."""
    try:
        if backend == "cpu":
            from emrrg_lib.vision.kernels import conv_cpu, scan_cpu  # noqa: F401
        elif backend in DEVICES:
            if DEVICES[backend] == ("cuda",) and not torch.cuda.is_available():
                return "torch sees no CUDA device"
            worst = difference(backend)
            if not worst < 1e-4:
                return f"it differs from the reference loop by {worst:.1g}"
    except Exception as error:  # a stub wheel or a broken compiler fails in many ways
        return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    return None


def difference(backend: str) -> float:
    """Largest relative difference from the reference loop, of outputs and gradients of a small mixer."""
    results, device = [], DEVICES.get(backend, ("cpu",))[0]
    shapes = ((2, 8, 6), (2, 8, 6), (8, 4), (2, 2, 4, 6), (2, 2, 4, 6), (8,), (8, 4))
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        for name in (backend, "reference"):
            g = torch.Generator().manual_seed(0)
            leaves = [torch.rand(s, generator=g).to(device).requires_grad_() for s in shapes]
            u, delta, A, B, C, D, weight = leaves
            y = _scan(name, _conv(name, u, weight, D), delta, -A, B, C, D, None, D, True)
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    pairs = zip(*results, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@functools.cache
def _announce(device: str, backend: str, missing: str | None) -> None:
    if missing is None:
        log.info("selective scan on %s: backend '%s'", device, backend)
    else:
        slow = "the reference loop runs instead, many times as slow, and in training it keeps every state"
        log.warning("no scan kernel for %s (%s): %s; `emrrg doctor` says what to do", device, missing, slow)


@torch.compiler.assume_constant_result
def choose_backend(backend: str, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """Chooses a backend for `auto` and logs it once; an explicit choice is checked and never replaced.

    Raises:
        ValueError: an unknown name, or a backend that does not work on this machine, device or dtype.
    """
    if backend == "auto":
        return _automatic(device.type) if dtype != torch.float64 else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"unknown scan backend '{backend}'; choose auto, {', '.join(BACKENDS)}")
    if reason := unavailable(backend):
        raise ValueError(
            f"scan backend '{backend}' is not available here ({reason}); "
            "use backend='auto' or run `emrrg doctor`"
        )
    if device.type not in DEVICES.get(backend, (device.type,)):
        raise ValueError(
            f"scan backend '{backend}' cannot read tensors on '{device.type}'; "
            "move them or use backend='auto'"
        )
    if backend != "reference" and dtype == torch.float64:
        raise ValueError(f"scan backend '{backend}' works in float32; use 'reference' for float64")
    return backend


def _automatic(device: str) -> str:
    """The first backend that works on this kind of device, else `reference` with a warning."""
    reasons = {}
    for name in (name for name, devices in DEVICES.items() if device in devices):
        reasons[name] = unavailable(name)
        if reasons[name] is None:
            _announce(device, name, None)
            return name
    missing = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    _announce(device, "reference", None if device == "meta" else missing or "the kit has none")
    return "reference"


def _check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    batch, dim, length = u.shape
    if delta.shape != u.shape:
        raise ValueError(f"delta {tuple(delta.shape)} must have the shape of u {tuple(u.shape)}")
    if A.dim() != 2 or A.shape[0] != dim:
        raise ValueError(f"A {tuple(A.shape)} must be (D, N) with D = {dim}")
    for name, m in (("B", B), ("C", C)):
        fits = m.dim() in (3, 4) and m.shape[0] == batch and m.shape[-2:] == (A.shape[1], length)
        if not fits or (m.dim() == 4 and dim % m.shape[1]):
            raise ValueError(
                f"{name} {tuple(m.shape)} must be (B, N, L) or (B, G, N, L) with "
                f"B={batch}, N={A.shape[1]}, L={length} and G a divisor of D={dim}"
            )


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Runs the selective scan; same meaning as mamba-ssm's `selective_scan_fn`.

    Args:
        u: input, (B, D, L).
        delta: step sizes before bias and softplus, (B, D, L).
        A: state matrix, negative, (D, N) float32.
        B: input matrix, (B, N, L) or grouped (B, G, N, L); channel c uses group c // (D // G).
        C: output matrix, shaped like B.
        D: skip weights, (D,) float32.
        z: gate; the output is multiplied by SiLU(z), (B, D, L).
        delta_bias: added to delta, (D,) float32.
        delta_softplus: whether softplus is applied to delta (after the bias).
        backend: `auto`, `reference`, `cpu`, `triton` or `cuda`.

    Returns:
        (B, D, L), of u's dtype; the state is kept in float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not agree, or a backend that is unknown or not available.
    """
    _check_shapes(u, delta, A, B, C)
    B, C = (m[:, None] if m.dim() == 3 else m for m in (B, C))
    backend = choose_backend(backend, u.device, u.dtype)
    return _scan(backend, u, delta, A, B, C, D, z, delta_bias, delta_softplus)


def _scan(backend: str, *args) -> Tensor:
    """`selective_scan` by a backend that works; B and C (B, G, N, L)."""
    if backend == "triton":
        from emrrg_lib.vision.kernels.triton_scan import scan
    elif backend == "cuda":
        from emrrg_lib.vision.kernels.scan_cuda import scan
    elif backend == "cpu":
        from emrrg_lib.vision.kernels.scan_cpu import scan
    else:
        scan = _reference_scan
    return scan(*args)


def _reference_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus) -> Tensor:
    """The time loop: one state of shape (B, D, N), slices taken once by `unbind`."""
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    repeat = u.shape[1] // B.shape[1]
    delta = delta.to(dtype) if delta_bias is None else delta.to(dtype) + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    x, A, B, C = (t.to(dtype) for t in (u, A, B, C))
    state, outputs = x.new_zeros(u.shape[0], u.shape[1], A.shape[1]), []
    slices = (t.unbind(-1) for t in (delta, x, B, C))
    for delta_t, x_t, B_t, C_t in zip(*slices, strict=True):
        B_t, C_t = (m.repeat_interleave(repeat, dim=1) for m in (B_t, C_t))  # (B, D, N)
        state = torch.exp(delta_t[..., None] * A) * state + (delta_t * x_t)[..., None] * B_t
        outputs.append((state * C_t).sum(-1))
    y = torch.stack(outputs, dim=-1)  # (B, D, L)
    y = y if D is None else y + x * D[:, None]
    return (y if z is None else y * F.silu(z.to(dtype))).to(u.dtype)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, backend: str = "auto") -> Tensor:
    """Depth-wise causal convolution followed by SiLU, as causal-conv1d's `causal_conv1d_fn`.

    Args:
        x: (B, D, L). weight: (D, K). bias: (D,). backend: as in `selective_scan`.

    Returns:
        (B, D, L): SiLU(bias + Σ_k weight[:, k] · x[:, :, t - K + 1 + k]), zeros before the start.
    """
    return _conv(choose_backend(backend, x.device, x.dtype), x, weight, bias)


def _conv(backend: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`causal_conv1d` by a backend that works."""
    if backend == "triton":
        from emrrg_lib.vision.kernels.triton_conv import conv

        return conv(x, weight, bias)
    if backend == "cuda":
        from causal_conv1d import causal_conv1d_fn

        return causal_conv1d_fn(x.contiguous(), weight.float(), bias.float(), activation="silu")
    if backend == "cpu":
        from emrrg_lib.vision.kernels.conv_cpu import conv

        return conv(x, weight, bias)
    padded = F.pad(x, (weight.shape[1] - 1, 0))
    weight, bias = weight[:, None].to(x.dtype), bias.to(x.dtype)
    return F.silu(F.conv1d(padded, weight, bias, groups=x.shape[1]))
