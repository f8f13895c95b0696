"""The parts of the model worked out another way: the truth of the checks of notebook 11."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emrrg_lib.course.checks import array, call, expect
from emrrg_lib.course.checks.by_hand import adamw, epochs

SCAN_SLIPS = {
    "skip": "D · u is missing.",
    "raw": "Δ is used as given; softplus comes first.",
    "grow": "the state grows; the sign of A is in A already.",
    "swap": "B and C are exchanged.",
    "late": "the state is read before this token is written into it.",
    "plain": "Δ is missing in Δ_t · B_t · u_t.",
    "repeat": "channel c belongs to group c // d: repeat_interleave, not repeat.",
    "back": "it runs backwards.",
}


def closed_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, slip: str = ""
) -> Tensor:
    """y_t = Σ_{s ≤ t} C_t · exp(A · Σ_{s < τ ≤ t} Δ_τ) Δ_s B_s u_s + D u_t, without a recurrence.

    With a slip of `SCAN_SLIPS` it is the sum that this mistake computes.
    """
    if slip == "back":
        turned = (t.flip(-1) for t in (u, delta))
        return closed_scan(*turned, A, B.flip(-1), C.flip(-1), D).flip(-1)
    step, repeat = delta if slip == "raw" else F.softplus(delta), u.shape[1] // B.shape[1]
    if slip == "repeat":
        B, C = B.repeat(1, repeat, 1, 1), C.repeat(1, repeat, 1, 1)
    else:
        B, C = B.repeat_interleave(repeat, 1), C.repeat_interleave(repeat, 1)  # (B, channels, N, L)
    B, C, A = (C, B, A) if slip == "swap" else (B, C, -A if slip == "grow" else A)
    passed = step.cumsum(-1)
    since = passed[..., :, None] - passed[..., None, :]  # (B, channels, t, s)
    since = since - step[..., :, None] if slip == "late" else since
    decay = torch.exp(A[:, :, None, None] * since.tril(-(slip == "late"))[:, :, None])
    decay = decay.tril(-(slip == "late"))
    y = torch.einsum("bcnt,bcnts,bcns,bcs->bct", C, decay, B, u if slip == "plain" else step * u)
    return y if slip == "skip" else y + D[:, None] * u


def part(answer: Callable, shape: tuple[int, ...], *given: Any, cause: str, **named: Any) -> Tensor:
    """What a part of the model gives: a tensor of this shape."""
    yours = call(answer, *given, **named)
    expect(isinstance(yours, Tensor), "A part of the model takes tensors and gives a tensor.")
    array(yours, shape, cause)
    return yours


def draw_from(seed: int) -> Callable[..., Tensor]:
    """Draws float64 tensors of the shapes that it is called with."""
    stream = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=stream, dtype=torch.float64)


def flows(yours: Tensor, **inputs: Tensor) -> None:
    """A gradient goes back from what a part gives to each of the tensors that it was given."""
    still = [name for name, value in inputs.items() if not value.requires_grad]
    expect(not still, f"{still[:1]} does not train: leave its requires_grad as it is made.")
    expect(yours.requires_grad, "no gradient comes back; keep to torch, without .data or NumPy.")
    back = torch.autograd.grad(yours.sum(), tuple(inputs.values()), allow_unused=True, retain_graph=True)
    for name, gradient in zip(inputs, back, strict=True):
        expect(gradient is not None, f"no gradient reaches {name}; keep to torch, without .detach().")


def by_heads(
    layer: Any,
    norm: nn.Module,
    S: Tensor,
    query: Tensor,
    V: Tensor,
    seen: Tensor | None,
    text: Tensor | None,
    slip: str = "",
) -> Tensor:
    """Eq. 1 and 2, one head after the other; with a slip, with that mistake."""
    heads, h, V = query.shape[1], query.shape[3], V if slip == "norm" else norm(V)
    keys, values = (V @ p.weight.T + p.bias for p in (layer.k_proj, layer.v_proj))
    context = []
    for head in range(heads):
        group = head % layer.kv_heads if slip == "repeat" else head // (heads // layer.kv_heads)
        rows = slice(group * h, (group + 1) * h)
        scores = query[:, head] @ keys[..., rows].mT / (1.0 if slip == "scale" else math.sqrt(h))
        if seen is not None:
            scores = scores.masked_fill(~seen[:, None], -math.inf)
        context.append(scores.softmax(-1) @ values[..., rows])
    dynamic, alpha = S @ layer.gate_proj.weight.T + layer.gate_proj.bias, layer.warm_up
    gate = (dynamic if slip == "w" else torch.tanh(dynamic)) * (alpha if slip == "α" else torch.tanh(alpha))
    gate = gate if text is None else gate * text[..., None]
    return (0 if slip == "S" else S) + torch.cat(context, dim=-1) * gate


HYBRID_SLIPS = {
    "norm": "the visual tokens go through the layer's norm first.",
    "repeat": "query head i uses key head i // (heads / kv_heads): repeat_interleave, not repeat.",
    "scale": "the scores are divided by √head_dim.",
    "w": "the dynamic gate is tanh(w_g · S + b_g).",
    "α": "the warm-up is tanh(α), not α.",
    "S": "X′ is added to S.",
}


class GatedLine(nn.Module):
    """y = tanh(α) · tanh(g·x) · w·x + b: the smallest model with the gate of Eq. 2."""

    def __init__(self, w: np.ndarray, g: np.ndarray) -> None:
        super().__init__()
        self.w, self.gate_proj = nn.Parameter(torch.tensor(w[None])), nn.Parameter(torch.tensor(g[None]))
        self.b = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.warm_up = nn.Parameter(torch.full((1,), 0.2, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(3, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        gate = torch.tanh(self.warm_up) * torch.tanh(x @ self.gate_proj.T)[:, 0]
        return {"loss": (gate * (x @ self.w.T)[:, 0] + self.b - y).square().mean()}

    @property
    def numbers(self) -> np.ndarray:
        """w, g, b, α."""
        return torch.cat([self.w[0], self.gate_proj[0], self.b, self.warm_up]).detach().numpy().copy()


def gated_slope(p: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss of a GatedLine of the numbers p, and its gradient."""
    w, g = p[:-2].reshape(2, -1)
    alpha, gate, raw = math.tanh(p[-1]), np.tanh(x @ g), x @ w
    error = alpha * gate * raw + p[-2] - y
    slope = [
        *(error * alpha * gate) @ x,
        *(error * alpha * (1 - gate**2) * raw) @ x,
        error.sum(),
        (1 - alpha**2) * (error * gate * raw).sum(),
    ]
    return float((error**2).mean()), 2 * np.array(slope) / len(y)


LOOP_SLIPS = {
    "one rate": "the gate (gate_proj, warm_up) has its own rate.",
    "α alone": "gate_proj belongs to the gate too; its rate is gate_rate.",
    "g alone": "warm_up belongs to the gate too; its rate is gate_rate.",
    "all": "everything has the gate's rate.",
    "clip": "the gradient's norm is clipped to 1.",
    "factor": "each rate is multiplied by factor(step).",
    "late": "the factor is that of another step; count from 0.",
    "decay": "matrices decay by .01.",
    "w alone": "the gate's matrix decays too.",
    "vectors": "vectors decay too; only matrices (dim() > 1) do.",
    "order": "every epoch is a new permutation, of the seed plus the number of the epoch.",
    "betas": "those are torch's betas; the kit's are (.9, .98).",
}


def trained_gate(
    start: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    steps: int,
    size: int,
    rate: float,
    gate_rate: float,
    slip: str = "",
) -> tuple[list[float], np.ndarray]:
    """Losses and last numbers of a trained GatedLine; with a slip of `LOOP_SLIPS`, with that mistake."""
    width = (len(start) - 2) // 2

    def each(w: float, g: float, b: float, alpha: float) -> np.ndarray:
        return np.array([w] * width + [g] * width + [b, alpha])

    own = {"one rate": (rate, rate), "α alone": (rate, gate_rate), "g alone": (gate_rate, rate)}
    other = gate_rate if slip == "all" else rate
    g_rate, alpha_rate = own.get(slip, (gate_rate, gate_rate))
    w_decay, g_decay = 0.01 * (slip != "decay"), 0.01 * (slip not in ("decay", "w alone"))
    vectors = 0.01 * (slip == "vectors")
    factors = 1 - (np.zeros(steps) if slip == "factor" else np.arange(steps) + (slip == "late")) / steps
    return adamw(
        start,
        lambda numbers, chosen: gated_slope(numbers, x[chosen], y[chosen]),
        epochs(len(y), size, 7, slip == "order"),
        each(other, g_rate, other, alpha_rate),
        each(w_decay, g_decay, vectors, vectors),
        factors.tolist(),
        math.inf if slip == "clip" else 1.0,
        0.999 if slip == "betas" else 0.98,
    )
