"""What a frozen LLM needs to be trained through: no dropout, and bfloat16 weights that a CPU can use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def without_dropout(llm: nn.Module) -> nn.Module:
    """Sets the LLM's own dropouts to 0: it is frozen, also in the train mode that checkpointing needs."""
    for module in llm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return llm


class HalfStoredLinear(nn.Linear):
    """bfloat16 weights with float32 arithmetic on a CPU.

    A CPU without bfloat16 units takes 200 times longer for the gradient of a bfloat16 product (measured:
    22 s against 0.1 s for 200 × 5504 × 2048). The float32 copy lives as long as its layer is computed.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return super().forward(x)
        return F.linear(x.float(), self.weight.float(), None if self.bias is None else self.bias.float())


def compute_in_float32(llm: nn.Module) -> None:
    """Makes every plain bfloat16 Linear of the LLM a `HalfStoredLinear`; names and weights stay."""
    for module in llm.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:
            module.__class__ = HalfStoredLinear
