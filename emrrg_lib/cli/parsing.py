"""The pieces that the parsers of all commands share."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from emrrg_lib.config import DECODERS, ENCODERS
from emrrg_lib.files import InputError, close_name, first_line
from emrrg_lib.settings import MOST


class Parser(argparse.ArgumentParser):
    """A parser that suggests the close one of the words that an argument or an option may be."""

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does; an unknown option is told with the close one of the command."""
        options, rest = super().parse_known_args(args, namespace)
        for word in rest:
            name = word.partition("=")[0]
            if name.startswith("--") and (hint := close_name(name, self._option_string_actions)):
                self.error(f"unrecognized arguments: {word}; {hint.strip()}")
        return options, rest

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '?([^']*?)'? \(choose from (.*)\)", message):
            hint = close_name(found[1], re.findall(r"[\w.+-]+", found[2]))
            message += f"; {hint.strip()}" if hint else ""
        super().error(message)


def add_command(
    subparsers, name: str, function: Callable, text: str = "", more: str = "", writes: str = ""
) -> argparse.ArgumentParser:
    """Adds one command: the docstring of `function` is its help, the last paragraph of which holds examples.

    Args:
        text: in place of the docstring. more: is printed below the examples.
        writes: names the options, in order, of which the first given one is the folder to write; `main` tests
            it before the work begins.
    """
    text = text or inspect.getdoc(function) or f"{name}\n\nemrrg {name}"
    summary, _, examples = text.rpartition("\n\n")
    command = _add(subparsers, name, summary, [*examples.splitlines(), *filter(None, [more])])
    command.set_defaults(run_command=function, writes=writes)
    return command


def add_group(subparsers, name: str, summary: str, *examples: str):
    """Adds a command that is a group of commands; returns their subparsers."""
    group = _add(subparsers, name, summary, examples)
    group.set_defaults(run_command=lambda options: group.print_help() or 0, writes="")
    return group.add_subparsers(title="commands", metavar="COMMAND")


def _add(subparsers, name: str, summary: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    first = summary.splitlines()[0].rstrip(".")
    return subparsers.add_parser(
        name,
        help=first[0].lower() + first[1:],
        description=summary,
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def choices(kind: type, field: str) -> list[str]:
    """The values that a field of a settings class may have."""
    return list(get_args(get_type_hints(kind)[field]))


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not low <= (value := int(text)) <= high:
            raise argparse.ArgumentTypeError(
                f"{text} is below {low}" if value < low else f"{text:.40} is above {high}"
            )
        return value

    parse.__name__ = "whole number"
    return parse


def add_number(
    command: argparse.ArgumentParser,
    name: str,
    text: str,
    default: int | None = None,
    low: int = 1,
    required: bool = False,
    high: int = MOST,
) -> None:
    """An option for a whole number; its default, where it has one, is added to the help."""
    note = "" if default is None else " (default: %(default)s)"
    command.add_argument(
        name, type=whole_number(low, high), default=default, required=required, metavar="N", help=text + note
    )


def add_path(
    command: argparse._ActionsContainer, name: str, text: str, metavar: str = "DIR", **more: Any
) -> None:
    """An option for a file or folder; with a default it is added to the help."""
    note = " (default: %(default)s)" if more.get("default") else ""
    command.add_argument(name, type=Path, metavar=metavar, help=text + note, **more)


def add_out(command: argparse.ArgumentParser, default: str | None, text: str, name: str = "--out") -> None:
    """The folder that a command writes."""
    default = default and Path(default)
    add_path(command, name, text, dest="out", default=default, required=default is None)
    command.set_defaults(writes="out")


def add_seed(command: argparse.ArgumentParser) -> None:
    """`--seed`."""
    add_number(command, "--seed", "seed of everything random", 0, low=0)


def add_resume(command: argparse.ArgumentParser) -> None:
    """`--resume`."""
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def add_run(command: argparse.ArgumentParser, required: bool = True) -> None:
    """`--run`, an existing run folder."""
    add_path(command, "--run", "run folder, such as runs/demo", required=required)


def add_preset(command: argparse._ActionsContainer, text: str = "preset of config.py") -> None:
    """`--preset`."""
    command.add_argument("--preset", default="tiny", help=f"{text} (default: tiny)")


def add_values(command: argparse.ArgumentParser, text: str) -> None:
    """`--set`, settings as words KEY=VALUE."""
    command.add_argument("--set", dest="values", nargs="+", default=[], metavar="KEY=VALUE", help=text)


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
        raise InputError(f"{out} holds other files than those of a training; name a new folder")
    if "run.json" in held and not resume:
        raise InputError(f"{out} holds a finished training: choose another folder, or delete it")
    if "checkpoints" in held and not resume:
        raise InputError(
            f"{out} holds a training that was stopped: go on with --resume, choose another "
            "folder, or delete it"
        )


def add_system(command: argparse.ArgumentParser) -> None:
    """The options that choose a system: preset, policy, encoder size and weights, LLM, released settings."""
    whole = command.add_mutually_exclusive_group()
    add_preset(whole)
    add_path(whole, "--config", "a run's config.json, or the same as YAML; in place of a preset", "FILE")
    command.add_argument(
        "--policy",
        metavar="NAME",
        help="what trains: lora-x+in_proj, a row of the papers' tables such as table5-3, and others; "
        "an unknown name lists all",
    )
    sizes = [name for name in ENCODERS if name != "tiny"]
    command.add_argument("--encoder", choices=sizes, help="size of a paper preset's encoder")
    command.add_argument("--encoder-weights", metavar="FILE", help="checkpoint of the encoder")
    words = command.add_mutually_exclusive_group()
    words.add_argument("--llm", metavar="NAME", help="a named LLM, a hub id, a folder or a .gguf file")
    words.add_argument(
        "--decoder", choices=DECODERS, help="in place of an LLM: a decoder that trains from scratch"
    )
    command.add_argument(
        "--released-code", action="store_true", help="the released code's settings in place of the paper's"
    )


def config_file(path: Path):
    """The EMRRGConfig of a JSON or YAML file; prints on stderr where it differs from its preset.

    Raises:
        InputError: no such file, no JSON or YAML object, or a preset or setting that does not exist.
    """
    import yaml

    from emrrg_lib.config import EMRRGConfig
    from emrrg_lib.presets import preset
    from emrrg_lib.settings import differences, from_dict, to_dict

    class Loader(yaml.SafeLoader):
        """Reads 1e-05 as a number, as JSON does, which is otherwise YAML."""

    exponent = re.compile(r"-?\d+(\.\d+)?[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-0123456789"))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506, a SafeLoader
        values = json.loads(json.dumps(values, default=str))  # keys are texts
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}; give JSON or YAML") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no settings: give an object such as that of a run's config.json")
    base = preset(str(values.get("preset", "tiny")))
    config = from_dict(merged(to_dict(base), values), EMRRGConfig, str(path))
    what = "\n  ".join(differences(to_dict(base), to_dict(config))) or "nothing"
    print(f"{path}, other than preset '{config.preset}':\n  {what}", file=sys.stderr)
    return config


def merged(base: dict, values: dict) -> dict:
    """`base` with `values`, object by object: what a file leaves out stays."""
    objects = (key for key, value in values.items() if isinstance(value, dict))
    deeper = [key for key in objects if isinstance(base.get(key), dict)]
    return base | values | {key: merged(base[key], values[key]) for key in deeper}


def chosen_system(options: argparse.Namespace):
    """The EMRRGConfig that the options of `add_system` ask for."""
    from dataclasses import replace

    from emrrg_lib.presets import classic_decoder, large_encoder, preset, released_code
    from emrrg_lib.tuning.policy import apply_policy

    config = config_file(options.config) if options.config else preset(options.preset)
    if options.encoder and (config.encoder.kind, config.encoder.patch_size) != ("mamba", 16):
        raise InputError(
            f"preset '{config.preset}' has another kind of encoder; --encoder goes with the paper "
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
    if options.decoder:
        config = classic_decoder(config, options.decoder)
    return config
