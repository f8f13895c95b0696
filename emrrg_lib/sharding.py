"""FSDP2: which weights of the model form a group, and tensors that several processes share.

`fully_shard` asks for one dtype of the trained weights of a group. Frozen weights beside them, also of
another dtype, are allowed, but are gathered in a slower way. So each kind of the LLM's weights has groups of
its own:

    a decoder layer                     frozen, the LLM's dtype
    its cross-attention                 trained, float32
    embeddings; last norm and lm_head   frozen, the LLM's dtype; one group if the weights are tied
    the root: all else                  float32: encoder with its LoRA, projector, its norm, view embedding

accelerate makes these groups when it finds the names below, as it does in every model of transformers.
Releases before its tail groups leave embeddings, last norm and lm_head in the root. LoRA in the LLM is in the
group of its layer.
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from emrrg_lib.language.hybrid_decoder import hybrid_modules


class Shardable(nn.Module):
    """What accelerate asks a model with an `llm` for, see above."""

    llm: Any
    base_model_prefix = "decoder"  # there accelerate looks for the last norm

    @property
    def decoder(self) -> nn.Module:
        """The LLM without lm_head."""
        return self.llm.get_decoder()

    @property
    def _no_split_modules(self) -> list[str]:
        cross = {type(module).__name__ for module in hybrid_modules(self.llm).values()}
        return [*(self.llm._no_split_modules or ()), *cross]

    def get_input_embeddings(self) -> nn.Module:
        """The LLM's."""
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The LLM's lm_head."""
        return self.llm.get_output_embeddings()

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 has shared the weights out; then all processes have to make the same calls."""
        return hasattr(self, "unshard")


def fsdp_wanted() -> bool:
    """Whether `accelerate launch` has asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def whole(value: Any) -> Any:
    """The whole of a tensor that is shared out, if all processes ask for it; any other value as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def shared_like(value: Any, parameter: Tensor) -> Any:
    """A whole tensor shared out as `parameter` is; a scalar, or beside a whole parameter, as it is."""
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None or not value.dim():
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), mesh, parameter.placements)
