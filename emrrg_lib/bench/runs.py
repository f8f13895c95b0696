"""`emrrg train` as the benchmarks start it: with FSDP2, on a CPU too, and killed at a step.

python -m emrrg_lib.bench.runs STEP train …    `emrrg train …`, killed when it begins this step (0: never)
"""

from __future__ import annotations

import os

import torch
import torch.distributed.fsdp
from accelerate import PartialState
from accelerate.commands.config import load_config_from_file
from accelerate.utils import DistributedType

from emrrg_lib.files import KIT

FSDP2 = KIT / "emrrg_lib" / "training" / "fsdp2.yaml"


def use_fsdp2() -> None:
    """Sets what `accelerate launch --config_file fsdp2.yaml` sets for each process.

    accelerate knows FSDP2 for accelerators only. PyTorch's works on a CPU too, with gloo: there the processes
    are called GPUs' processes.
    """
    settings = load_config_from_file(str(FSDP2)).fsdp_config
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ.update({name.upper(): str(value).lower() for name, value in settings.items()})
    for name in ("FSDP_AUTO_WRAP_POLICY", "FSDP_STATE_DICT_TYPE"):
        os.environ[name] = os.environ[name].upper()
    if torch.cuda.is_available():
        return
    original = PartialState.__init__

    def begin(state: PartialState, *arguments, **keywords) -> None:
        original(state, *arguments, **keywords)
        if not torch.distributed.is_initialized():  # one process
            torch.distributed.init_process_group("gloo")
        state.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = begin
