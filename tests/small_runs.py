"""`emrrg train` on a small model in a separate process, which can be killed or be one of several.

A fork server imports the kit once, so that each process starts in a fraction of a second.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import socket

import torch

from emrrg_lib.settings import to_dict
from emrrg_lib.vision.weights import save_vision_encoder

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["small_runs", "emrrg_lib.training.finetune", "emrrg_lib.run.demo", "emrrg_lib.bench.runs"]
)


def on_disk(folder, config, encoder, llm, tokenizer):
    """The configuration with base weights in `folder`, as a user's own would be."""
    save_vision_encoder(encoder, folder / "encoder.safetensors")
    llm.save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    return dataclasses.replace(
        config,
        encoder_weights=str(folder / "encoder.safetensors"),
        llm=dataclasses.replace(config.llm, name=str(folder / "llm")),
    )


def config_file(folder, config, train, encoder, llm, tokenizer):
    """The file of such a configuration with these training settings."""
    config = on_disk(folder, config, encoder, llm, tokenizer)
    file = folder / "config.json"
    file.write_text(json.dumps(to_dict(dataclasses.replace(config, train=train))))
    return file


def start(function, *arguments, **environment):
    """Starts `function(*arguments)` with these environment variables; returns the process."""
    process = CONTEXT.Process(target=_run, args=(environment, function, arguments))
    process.start()
    return process


def exit_code(process):
    """Waits for the process; its exit code, or minus the signal that ended it."""
    process.join(120)
    return process.exitcode


def together(function, *arguments, count=2):
    """Runs `function` in `count` processes that know each other, as torchrun starts them; exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = [
        start(
            function,
            *arguments,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(count),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(count)
    ]
    return [exit_code(process) for process in group]


def _run(environment, function, arguments):
    os.environ.update(environment)
    torch.set_num_threads(1)
    raise SystemExit(function(*arguments))


def command(config_file, words, kill=None):
    """`emrrg` with these words, where the preset `small` is the configuration in a file.

    Args:
        kill: (place, times): SIGKILL when `place` of PLACES is reached for the n-th time.
    """
    from emrrg_lib import cli, config, presets
    from emrrg_lib.settings import from_dict

    presets.PRESETS["small"] = from_dict(json.loads(config_file.read_text()), config.EMRRGConfig, "config")
    if kill:
        _kill_at(*kill)
    return cli.main([str(word) for word in words])


def sharded_command(config_file, words, kill=None):
    """The same under FSDP2."""
    from emrrg_lib.bench.runs import use_fsdp2

    use_fsdp2()
    return command(config_file, words, kill)


def _kill_at(place, times):
    from emrrg_lib.training import checkpoints, engine, finetune

    owner, name = {
        "batch": (engine.KitTrainer, "training_step"),
        "validation": (finetune, "write_reports"),
        "best weights": (finetune, "write_trained"),
        "save: weights": (checkpoints, "save_file"),
        "save: optimiser": (torch, "save"),
        "save: manifest": (checkpoints, "sha256"),
        "save: rename": (checkpoints, "_sync"),
        "save: old ones": (checkpoints.shutil, "rmtree"),
    }[place]
    original, calls = getattr(owner, name), iter(range(1, times + 1))

    def killing(*arguments, **keywords):
        if next(calls) < times:
            return original(*arguments, **keywords)
        if name == "save":  # half of the file is there
            open(arguments[1], "wb").write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, killing)
