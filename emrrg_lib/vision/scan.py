"""The selective scan of Mamba and its causal convolution, each with three backends.

`h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t u_t`, `y_t = C_t · h_t + D u_t`, then `y_t · SiLU(z_t)`.

Backends: `reference` (a short time loop in PyTorch that holds one state), `cpu` (numba kernels with their
backward, in `kernels/`), `cuda` (the kernels of mamba-ssm and causal-conv1d). Meaning and argument names are
those of mamba-ssm's `selective_scan_fn`. B and C may be grouped, so that the four scan directions run as one
call with G = 4 groups. B is the batch size in shapes and the input matrix in the equations.
"""

from __future__ import annotations

import functools
import logging

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("reference", "cpu", "cuda")
log = logging.getLogger("emrrg_lib.scan")


@functools.cache
def unavailable(backend: str) -> str | None:
    """Why `backend` cannot run here; None if it can. The kernels are imported, not only the packages."""
    try:
        if backend == "cpu":
            from emrrg_lib.vision.kernels import conv_cpu, scan_cpu  # noqa: F401
        elif backend == "cuda":
            if not torch.cuda.is_available():
                return "torch sees no CUDA device"
            import causal_conv1d_cuda  # noqa: F401
            import selective_scan_cuda  # noqa: F401
    except Exception as error:  # a stub wheel of mamba-ssm fails in many ways, not only ImportError
        return f"{type(error).__name__}: {error}"
    return None


@functools.cache
def _announce(device: str, backend: str, missing: str | None) -> None:
    if missing is None:
        log.info("selective scan on %s: backend '%s'", device, backend)
    else:
        slow = "the reference loop runs instead, many times as slow; `emrrg doctor` says what to do"
        log.warning("no scan kernel for %s (%s): %s", device, missing, slow)


def choose_backend(backend: str, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """Chooses a backend for `auto` and logs it once; an explicit choice is checked and never replaced.

    Raises:
        ValueError: an unknown name, or a backend that does not work on this machine, device or dtype.
    """
    if backend == "auto":
        wanted = "cuda" if device.type == "cuda" else "cpu"
        fits = device.type in ("cuda", "cpu") and dtype != torch.float64
        missing = unavailable(wanted) if fits else None
        chosen = wanted if fits and missing is None else "reference"
        _announce(device.type, chosen, missing)
        return chosen
    if backend not in BACKENDS:
        raise ValueError(f"unknown scan backend '{backend}'; choose auto, {', '.join(BACKENDS)}")
    if reason := unavailable(backend):
        raise ValueError(
            f"scan backend '{backend}' is not available here ({reason}); "
            "use backend='auto' or run `emrrg doctor`"
        )
    if backend != "reference" and backend != device.type:
        raise ValueError(
            f"scan backend '{backend}' cannot read tensors on '{device.type}'; "
            "move them or use backend='auto'"
        )
    if backend != "reference" and dtype == torch.float64:
        raise ValueError(f"scan backend '{backend}' works in float32; use 'reference' for float64")
    return backend


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
        backend: `auto`, `reference`, `cpu` or `cuda`.

    Returns:
        (B, D, L), of u's dtype; the state is kept in float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not agree, or a backend that is unknown or not available.
    """
    _check_shapes(u, delta, A, B, C)
    B, C = (m[:, None] if m.dim() == 3 else m for m in (B, C))
    backend = choose_backend(backend, u.device, u.dtype)
    if backend == "cuda":
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        u, delta, B, C = (t.to(u.dtype).contiguous() for t in (u, delta, B, C))
        z = None if z is None else z.to(u.dtype).contiguous()
        fp32 = [None if t is None else t.float() for t in (A, D, delta_bias)]
        return selective_scan_fn(u, delta, fp32[0], B, C, fp32[1], z, fp32[2], delta_softplus)
    if backend == "cpu":
        from emrrg_lib.vision.kernels.scan_cpu import scan

        return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return _reference_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)


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
    backend = choose_backend(backend, x.device, x.dtype)
    if backend == "cuda":
        from causal_conv1d import causal_conv1d_fn

        return causal_conv1d_fn(x.contiguous(), weight.to(x.dtype), bias.to(x.dtype), activation="silu")
    if backend == "cpu":
        from emrrg_lib.vision.kernels.conv_cpu import conv

        return conv(x, weight, bias)
    padded = F.pad(x, (weight.shape[1] - 1, 0))
    weight, bias = weight[:, None].to(x.dtype), bias.to(x.dtype)
    return F.silu(F.conv1d(padded, weight, bias, groups=x.shape[1]))
