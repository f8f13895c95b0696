"""Several processes side by side (`torchrun`): who this one is, and gathering what all have made."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object


def processes() -> PartialState:
    """`num_processes`, `process_index` and `is_main_process` of this one; joins the others at first use."""
    return PartialState(cpu=not torch.cuda.is_available())


def gather(items: list[Any]) -> list[Any]:
    """The items of all processes, by rank, on every process."""
    return gather_object(items) if processes().num_processes > 1 else items


def any_process(said: bool) -> bool:
    """Whether any process says so."""
    return said if processes().num_processes == 1 else any(gather_object([said]))
