"""The pieces that the parsers of all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from emrrg_lib.files import InputError


def add_command(
    subparsers, name: str, function: Callable | None, summary: str, *examples: str
) -> argparse.ArgumentParser:
    """Adds one command; its `writes` names the option holding the folder it writes to, if any."""
    command = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run_command=function, writes=None)
    return command


def add_group(subparsers, name: str, summary: str, *examples: str):
    """Adds a command that has commands of its own; returns their subparsers."""
    group = add_command(subparsers, name, None, summary, *examples)
    return group.add_subparsers(title="commands", metavar="COMMAND", required=True)


def at_least(low: float, kind: type = int) -> Callable:
    """An argparse type: a number of this kind that is not below `low`."""

    def parse(text: str):
        value = kind(text)
        if not value >= low:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


def add_out(command: argparse.ArgumentParser, default: str | None, text: str, name: str = "--out") -> None:
    """The folder a command writes; `main` tests that it can be written before the work begins."""
    note = " (default: %(default)s)" if default else ""
    command.add_argument(
        name,
        dest="out",
        type=Path,
        default=default,
        required=default is None,
        metavar="DIR",
        help=text + note,
    )
    command.set_defaults(writes="out")


def add_seed(command: argparse.ArgumentParser) -> None:
    """`--seed`."""
    command.add_argument("--seed", type=at_least(0), default=0, help="seed of everything random (default: 0)")


def add_run(command: argparse.ArgumentParser) -> None:
    """`--run`, an existing run folder."""
    command.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="run folder, such as runs/demo"
    )


def run_folder(run: Path) -> Path:
    """`run` itself; InputError if there is no such folder."""
    if not run.is_dir():
        raise InputError(f"no run folder at {run}: `emrrg demo` writes runs/demo")
    return run


def refuse_taken(out: Path, resume: bool) -> None:
    """Raises InputError where a training in `out` would overwrite another one or mix with other files."""
    from emrrg_lib.files import processes

    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if not held or not processes().is_main_process:  # the main process may have begun to write already
        return
    if not held & {"run.json", "config.json", "checkpoints"}:
        raise InputError(f"{out} holds files of something else; name a new folder")
    if "run.json" in held and not resume:
        raise InputError(f"{out} holds a finished training: choose another folder, or delete it")
    if "checkpoints" in held and not resume:
        raise InputError(
            f"{out} holds a training that was stopped: go on with --resume, choose another "
            "folder, or delete it"
        )


def add_system(command: argparse.ArgumentParser) -> None:
    """The options that choose a system: preset, policy, encoder size and weights, LLM, released settings."""
    command.add_argument("--preset", default="tiny", help="preset of config.py (default: tiny)")
    command.add_argument(
        "--policy",
        metavar="NAME",
        help="what trains: full, frozen, lora-x, lora-x+in_proj, table5-1 ... table6-X",
    )
    command.add_argument("--encoder", choices=["base", "large"], help="size of a paper preset's encoder")
    command.add_argument("--encoder-weights", metavar="FILE", help="checkpoint of the encoder")
    command.add_argument("--llm", metavar="NAME", help="a named LLM, a hub id, a folder or a .gguf file")
    command.add_argument(
        "--released-code", action="store_true", help="the released code's settings in place of the paper's"
    )


def chosen_system(options: argparse.Namespace):
    """The EMRRGConfig that the options of `add_system` ask for."""
    from dataclasses import replace

    from emrrg_lib.config import large_encoder, preset, released_code
    from emrrg_lib.tuning.policy import apply_policy

    config = preset(options.preset)
    if options.encoder and (config.encoder.kind, config.encoder.patch_size) != ("mamba", 16):
        raise InputError(
            f"preset '{config.preset}' has an encoder of its own; --encoder goes with the paper "
            "presets, such as iu-xray"
        )
    if options.encoder == "large":
        config = large_encoder(config)
    if options.released_code:
        config = released_code(config)
    if options.policy:
        config = apply_policy(config, options.policy)
    if options.encoder_weights:
        config = replace(config, encoder_weights=options.encoder_weights)
    if options.llm:
        config = replace(config, llm=replace(config.llm, name=options.llm))
    return config
