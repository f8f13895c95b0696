"""Float64 loops in numpy of the selective scan and the causal convolution, and inputs to compare them."""

import numpy as np
import torch

from emrrg_lib.vision.scan import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

# ------------------------------------------------------------------------ the independent float64 loops


def sigmoid(x):
    return 0.5 * (1 + np.tanh(x / 2))


def scan_loop(v, softplus, dout):
    """Forward and hand-derived backward of the scan, one time step at a time, all in float64.

    Returns the output (B, D, L) and the gradient of every input in `v` for dL/dout = `dout`.
    """
    v = {k: np.asarray(x, np.float64) for k, x in v.items()}
    u, A, B, C = v["u"], v["A"], v["B"], v["C"]
    grouped = B.ndim == 4
    B, C = (m if grouped else m[:, None] for m in (B, C))
    batch, dim, length = u.shape
    group = [d // (dim // B.shape[1]) for d in range(dim)]
    raw = v["delta"] + (v["delta_bias"][:, None] if "delta_bias" in v else 0)
    step = np.logaddexp(0, raw) if softplus else raw
    h, states = np.zeros((batch, dim, A.shape[1])), []
    y = np.zeros((batch, dim, length))
    for t in range(length):
        b_t, c_t = B[:, group][..., t], C[:, group][..., t]  # (B, D, N)
        h = np.exp(step[:, :, t, None] * A) * h + (step * u)[:, :, t, None] * b_t
        states.append(h)
        y[:, :, t] = (h * c_t).sum(-1)
    y = y + (v["D"][:, None] * u if "D" in v else 0)
    out = y * v["z"] * sigmoid(v["z"]) if "z" in v else y

    g, dy = {}, dout
    if "z" in v:
        s = sigmoid(v["z"])
        g["z"], dy = dout * y * (s + v["z"] * s * (1 - s)), dout * v["z"] * s
    g["u"] = dy * v["D"][:, None] if "D" in v else np.zeros_like(u)
    if "D" in v:
        g["D"] = (dy * u).sum((0, 2))
    dstep, g["A"] = np.zeros_like(step), np.zeros_like(A)
    g["B"], g["C"] = np.zeros_like(B), np.zeros_like(C)
    dh = np.zeros_like(h)
    for t in reversed(range(length)):
        before = states[t - 1] if t else np.zeros_like(h)
        decay, b_t = np.exp(step[:, :, t, None] * A), B[:, group][..., t]
        dh = dh + dy[:, :, t, None] * C[:, group][..., t]
        for d in range(dim):
            g["C"][:, group[d], :, t] += dy[:, d, t, None] * states[t][:, d]
            g["B"][:, group[d], :, t] += dh[:, d] * (step * u)[:, d, t, None]
        ddrive = (dh * b_t).sum(-1)
        g["u"][:, :, t] += ddrive * step[:, :, t]
        dstep[:, :, t] = ddrive * u[:, :, t] + (dh * before * decay * A).sum(-1)
        g["A"] += (dh * before * decay * step[:, :, t, None]).sum(0)
        dh = dh * decay
    g["delta"] = dstep * sigmoid(raw) if softplus else dstep
    if "delta_bias" in v:
        g["delta_bias"] = g["delta"].sum((0, 2))
    if not grouped:
        g["B"], g["C"] = g["B"][:, 0], g["C"][:, 0]
    return out, g


def conv_loop(x, weight, bias, dout):
    """SiLU(causal convolution) and its gradients, one position at a time, in float64."""
    x, weight, bias = (np.asarray(a, np.float64) for a in (x, weight, bias))
    length, width = x.shape[2], weight.shape[1]
    a = np.zeros_like(x)
    for t in range(length):
        for k in range(width):
            past = t - width + 1 + k
            a[:, :, t] += weight[:, k] * x[:, :, past] if past >= 0 else 0
    a += bias[:, None]
    s = sigmoid(a)
    da = dout * (s + a * s * (1 - s))
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    for t in range(length):
        for k in range(width):
            past = t - width + 1 + k
            if past >= 0:
                dx[:, :, past] += da[:, :, t] * weight[:, k]
                dweight[:, k] += (da[:, :, t] * x[:, :, past]).sum(0)
    return a * s, {"x": dx, "weight": dweight, "bias": da.sum((0, 2))}


# ------------------------------------------------------------------------------------------- inputs


def inputs(length, groups=4, N=16, leave_out=(), batch=2, dim=8, seed=0):
    """Float64 leaves in the ranges of a real mixer; `groups=None` gives B and C without groups."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    matrix = (batch, N, length) if groups is None else (batch, groups, N, length)
    made = {
        "u": normal(batch, dim, length),
        "delta": normal(batch, dim, length) - 1,
        "A": -torch.exp(normal(dim, N)),
        "B": normal(*matrix),
        "C": normal(*matrix),
        "D": normal(dim),
        "z": normal(batch, dim, length),
        "delta_bias": normal(dim) * 0.5,
    }
    return {k: v for k, v in made.items() if k not in leave_out}


def run(values, backend, softplus=True, dtype=torch.float32, half=()):
    """Output and gradients as float64 numpy arrays; `half` names the inputs given in bfloat16."""
    leaves = {
        k: v.detach().to(torch.bfloat16 if k in half else dtype).requires_grad_() for k, v in values.items()
    }
    out = selective_scan(**leaves, delta_softplus=softplus, backend=backend)
    torch.manual_seed(1)
    dout = torch.randn(out.shape, dtype=torch.float64).to(out.dtype)
    out.backward(dout.to(out.device))
    assert all(leaf.grad.dtype == leaf.dtype for leaf in leaves.values())
    grads = {k: leaf.grad.double().cpu().numpy() for k, leaf in leaves.items()}
    return out.detach().double().cpu().numpy(), grads, dout.double().numpy()


def close(got, wanted, tolerance):
    """Largest difference relative to the largest wanted value."""
    scale = max(np.abs(wanted).max(initial=0), 1e-3)
    assert got.shape == wanted.shape
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max(initial=0) <= tolerance * scale


def agree(values, backend, tolerance, softplus=True, dtype=torch.float32):
    out, grads, dout = run(values, backend, softplus, dtype)
    wanted, wanted_grads = scan_loop(values, softplus, dout)
    close(out, wanted, tolerance)
    assert set(grads) == set(wanted_grads)
    for name in grads:
        close(grads[name], wanted_grads[name], tolerance)
