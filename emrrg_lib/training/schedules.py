"""Learning-rate schedules: factors of the rate by step; `epoch` is the number of steps of an epoch."""

from __future__ import annotations

import math


def hold_rise_fall(step: int, warmup: int, steps: int, _epoch: int = 1, fall: float = 0.3) -> float:
    """Learning-rate factor: linear rise, constant, then a linear fall over the last `fall` of the run.

    A schedule that decays from the start leaves the hard findings unlearnt.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return min(1.0, max(0.0, (steps - step) / max(1.0, fall * steps)))


def cosine(step: int, warmup: int, steps: int, _epoch: int = 1) -> float:
    """Learning-rate factor: linear rise, then half a cosine down to 0 (NOTES B1)."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup)))) / 2


def cosine_by_epoch(step: int, _warmup: int, steps: int, epoch: int) -> float:
    """Learning-rate factor of the release: a cosine that falls after each epoch, to 1 % (NOTES B3)."""
    return 0.01 + 0.99 * cosine(step // epoch, 0, math.ceil(steps / epoch))


SCHEDULES = {"hold": hold_rise_fall, "cosine": cosine, "cosine-epoch": cosine_by_epoch}


def split_decay(groups: list[dict], decay: float) -> list[dict]:
    """Gives weight decay to matrices only; vectors and scalars (norms, biases, α, D) have none."""
    out = []
    for group in groups:
        params = [p for p in group["params"] if p.requires_grad]
        matrices, vectors = [p for p in params if p.dim() > 1], [p for p in params if p.dim() <= 1]
        for part, value in ((matrices, decay), (vectors, 0.0)):
            if part:
                out.append({"params": part, "lr": group["lr"], "weight_decay": value})
    return out
