"""The selective scan at the base encoder's size: backend `cpu`, the `reference` loop, and a naive scan.

The naive scan treats the four directions one after the other and makes decays and inputs of all steps at
once, tensors (B, D, L, N), as the reference in mamba-ssm does. Goals: `cpu` at least 6 times as fast as
`reference` and 50 times as fast as the naive scan, forward and backward.
"""

from __future__ import annotations

import multiprocessing
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from emrrg_lib.bench.timing import compare, interleaved
from emrrg_lib.run_folder import peak_memory_gib
from emrrg_lib.vision.scan import selective_scan

BATCH, DIM, STATES, LENGTH, DIRECTIONS = 2, 768, 16, 197, 4


def inputs(length: int = LENGTH, dim: int = DIM) -> list[Tensor]:
    """u, delta, A, B, C, D of four directions as the mixer gives them: float32, token-major in memory."""
    torch.manual_seed(0)
    channels, matrix = DIRECTIONS * dim, (BATCH, DIRECTIONS, length, STATES)
    A = -torch.arange(1.0, STATES + 1).repeat(channels, 1)
    u, delta = torch.randn(BATCH, length, channels), torch.randn(BATCH, length, channels) - 4
    made = [
        u.transpose(1, 2),
        delta.transpose(1, 2),
        A,
        torch.randn(matrix).transpose(2, 3),
        torch.randn(matrix).transpose(2, 3),
        torch.ones(channels),
    ]
    return [tensor.requires_grad_() for tensor in made]


def naive_scan(u, delta, A, B, C, D) -> Tensor:
    """One direction after the other; holds (B, D, L, N) tensors. Shapes as in `selective_scan`."""
    outputs = []
    for g, channels in enumerate(torch.arange(u.shape[1]).chunk(B.shape[1])):
        step = F.softplus(delta[:, channels])
        decay = torch.exp(torch.einsum("bdl,dn->bdln", step, A[channels]))
        drive = torch.einsum("bdl,bnl,bdl->bdln", step, B[:, g], u[:, channels])
        state, ys = torch.zeros_like(decay[:, :, 0]), []
        for t in range(u.shape[2]):
            state = decay[:, :, t] * state + drive[:, :, t]
            ys.append(torch.einsum("bdn,bn->bd", state, C[:, g, :, t]))
        outputs.append(torch.stack(ys, dim=2) + u[:, channels] * D[channels, None])
    return torch.cat(outputs, dim=1)


def one_pass(kind: str, values: list[Tensor]) -> list[Tensor]:
    """Forward and backward; `kind` is `naive` or a backend. Returns the output and all gradients."""
    if kind == "naive":
        out = naive_scan(*values)
    else:
        out = selective_scan(*values, delta_softplus=True, backend=kind)
    return [out, *torch.autograd.grad(out.square().sum(), values)]


def added_memory(kind: str) -> float:
    """Peak memory of this process that one pass adds, GiB; call it in a new process."""
    one_pass(kind, inputs(length=2, dim=8))  # libraries and kernels are loaded before
    values, before = inputs(), peak_memory_gib()
    one_pass(kind, values)
    return peak_memory_gib() - before


def run(quick: bool = False) -> dict:
    """Seconds forward and backward, times the `cpu` backend's, and the memory that a pass adds."""
    kinds, memory = ("cpu", "reference", "naive"), {}
    for kind in () if quick else kinds:  # first: a new process counts its parent's peak as its own
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory[kind] = round(pool.apply(added_memory, (kind,)), 3)
    values = inputs(length=33 if quick else LENGTH)
    passes = {kind: partial(one_pass, kind, values) for kind in kinds}
    naive = {"naive": passes.pop("naive")}  # half a minute a pass: one round
    seconds = interleaved(passes, rounds=1 if quick else 5) | interleaved(naive, rounds=1)
    return {
        "batch": BATCH,
        "channels": DIM,
        "directions": DIRECTIONS,
        "states": STATES,
        "length": values[0].shape[2],
        **compare(seconds, "cpu"),
        "added_memory_gib": memory,
    }
