"""CLIP's loss in its smallest form, over the studies of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

MAX_SCALE = 100.0  # CLIP's bound; the released code has none, so its temperature can run away


def gather_batch(x: Tensor) -> Tensor:
    """(S, P) of this process → (W · S, P) of all W processes, in rank order; gradients flow back.

    Every process computes the whole loss, so its gradient reaches each row W times; DDP's mean over
    the processes divides by W again. All processes need the same S.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    return torch.cat(all_gather(x.contiguous()))


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over the batch, at least in float32; image, text: (S, P), unnormalised."""
    precise = torch.promote_types(image.dtype, torch.float32)
    image, text = F.normalize(image.to(precise), dim=-1), F.normalize(text.to(precise), dim=-1)
    with torch.autocast(image.device.type, enabled=False):  # bfloat16 would round a logit of 50 by 0.1
        logits = logit_scale.exp().clamp(max=MAX_SCALE) * image @ text.t()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
