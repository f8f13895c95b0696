"""`emrrg train` as the benchmarks start it: killed at a step and resumed, plain and under FSDP2.

python -m emrrg_lib.bench.runs {plain|fsdp2} STEP train …    killed when it begins this step; 0: never
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed.fsdp
from accelerate import PartialState
from accelerate.commands.config import load_config_from_file
from accelerate.utils import DistributedType
from safetensors.torch import load_file

import emrrg_lib.training
from emrrg_lib import cli
from emrrg_lib.phantom import write_phantom
from emrrg_lib.run_folder import TRAINED_RECORD, read_json
from emrrg_lib.training.engine import KitTrainer

FSDP2 = Path(emrrg_lib.training.__file__).parent / "fsdp2.yaml"
STEPS, KILLED = 6, 4
SETTINGS = (
    f"llm.dtype=bfloat16 train.warm_steps=0 train.steps={STEPS} train.batch_size=2 train.save_steps=2 "
    "train.warmup_steps=1 train.validations=1 train.validation_studies=2 generation.max_new_tokens=8"
).split()


def use_fsdp2() -> None:
    """Sets what `accelerate launch --config_file fsdp2.yaml` sets for each process.

    accelerate knows FSDP2 for accelerators only. PyTorch's works on a CPU too, with gloo: there the processes
    are called GPUs' processes.
    """
    settings = load_config_from_file(str(FSDP2)).fsdp_config
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ.update({name.upper(): str(value) for name, value in settings.items()})
    if torch.cuda.is_available():
        return
    original = PartialState.__init__

    def begin(state: PartialState, *arguments: Any, **keywords: Any) -> None:
        original(state, *arguments, **keywords)
        if not torch.distributed.is_initialized():  # one process
            torch.distributed.init_process_group("gloo")
        state.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = begin


def kill_at(step: int) -> None:
    """The process kills itself when this training step begins; 0: never."""
    original, begun = KitTrainer.training_step, 0

    def training_step(trainer: KitTrainer, *arguments: Any, **keywords: Any) -> torch.Tensor:
        nonlocal begun
        begun += 1
        if begun == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(trainer, *arguments, **keywords)

    KitTrainer.training_step = training_step


def train(data: Path, out: Path, sharded: bool = False, killed: int = 0, *more: str) -> dict[str, Any]:
    """One short `emrrg train` in a process of its own; its record, empty if it was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = ["train", "--data", data, "--out", out, *more, "--set", *SETTINGS]
    done = subprocess.run(
        [sys.executable, "-m", __name__, "fsdp2" if sharded else "plain", str(killed), *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | ({name: str(value) for name, value in alone.items()} if sharded else {}),
    )
    if done.returncode != (-signal.SIGKILL if killed else 0):
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return {} if killed else read_json(out / "run.json", TRAINED_RECORD)


def resumed(sharded: bool) -> dict[str, Any]:
    """A run that was killed and resumed beside an undisturbed plain one: both curves, and differences."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = write_phantom(folder / "data", 12, seed=0, size=192, workers=1)
        plain = train(data, folder / "plain")
        train(data, folder / "killed", sharded, KILLED)
        again = train(data, folder / "killed", sharded, 0, "--resume")
        weights = [load_file(folder / run / "last.safetensors") for run in ("plain", "killed")]
    curves = [[point["loss"] for point in record["history"]] for record in (plain, again)]
    losses = max(abs(a - b) for a, b in zip(*curves, strict=True))
    largest = max((a - weights[1][key]).abs().max().item() for key, a in weights[0].items())
    found = {"steps": STEPS, "killed_at": KILLED, "fsdp2": sharded, "losses": curves[0], "resumed": curves[1]}
    found |= {"largest_difference_of_losses": losses, "of_weights": largest}
    return found | ({"error": "the curves differ"} if losses > 1e-2 else {})


if __name__ == "__main__":
    if sys.argv[1] == "fsdp2":
        use_fsdp2()
    kill_at(int(sys.argv[2]))
    raise SystemExit(cli.main(sys.argv[3:]))
