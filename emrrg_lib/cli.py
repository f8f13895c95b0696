"""The command line: `emrrg <command>`, the same program as `python -m emrrg_lib <command>`.

Commands import what they need when they run, so that `emrrg --help` answers at once. Bad input of
any kind ends as one sentence on stderr and exit code 2; a programming error keeps its traceback.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from emrrg_lib import __version__, commands
from emrrg_lib.errors import InputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
    errno.EROFS: "the folder is read-only; choose another one",
    errno.EACCES: "permission denied; choose another folder or change its permissions",
    errno.EPERM: "the system forbids it; choose another folder",
    errno.ENOENT: "it does not exist; check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "it is a folder, a file is needed; check the path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
_DISK_FULL_BYTES = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 done, 1 doctor found a lack, 2 bad input.

    Args:
        arguments: The words after `emrrg`; None takes them from the command line.
    """
    options = _parser().parse_args(arguments)
    target = getattr(options, options.writes) if options.writes else None
    try:
        if target is not None:
            _require_writable(target)
        return options.run_command(options)
    except KeyboardInterrupt:
        again = "; --resume goes on from the last checkpoint" if hasattr(options, "resume") else ""
        return _say(f"stopped by Ctrl-C, nothing half-written is left{again}", 130)
    except BrokenPipeError:  # `emrrg info | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        return _say(str(error), 2)
    except Exception as error:
        sentence = explain_file_error(error, target)
        if sentence is None:
            raise
        return _say(sentence, 2)


def _say(sentence: str, code: int) -> int:
    print(f"emrrg: {sentence}", file=sys.stderr)
    return code


def explain_file_error(error: Exception, out: Path | None = None) -> str | None:
    """One sentence for a failed read or write: what, where, what to do; None for any other error.

    Full disks come in three shapes: an OSError, an error of safetensors whose text ends in
    "(os error 28)", and a RuntimeError of torch.save that does not say why. The last is known by
    its effect: there is no space left under `out`.
    """
    number = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(found.group(1))
    if number is None and out is not None:
        if shutil.disk_usage(_existing(out)).free < _DISK_FULL_BYTES:
            number = errno.ENOSPC
    if number is None:
        return str(error) if isinstance(error, OSError) else None
    writing = number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    path = out if writing and out is not None else getattr(error, "filename", None)
    return f"cannot use {path or out or 'a file'}: {_REASONS.get(number, os.strerror(number))}"


def _existing(path: Path) -> Path:
    """The nearest folder on the way up from `path` that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _require_writable(out: Path) -> None:
    """Tries to write beside or into `out`, so that a long job does not fail at its end.

    Raises:
        InputError: `out` or a part of its path is a file.
        OSError: The folder cannot be written.
    """
    folder = _existing(out)
    if not folder.is_dir():
        raise InputError(f"cannot write to {out}: {folder} is a file; choose another folder")
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096)


# -------------------------------------------------------------------------------------- parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emrrg",
        description="X-ray report generation by EMRRG, at three sizes: tiny, laptop and paper.",
        epilog="Start with `emrrg doctor`, then `emrrg demo`. Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"emrrg {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(subparsers)
    _add_train(subparsers)
    _add_generate(subparsers)
    _add_evaluate(subparsers)
    _add_pretrain(subparsers)
    _add_data(subparsers)
    _add_info(subparsers)
    _add(
        subparsers, "doctor", commands.doctor,
        "look at this machine: what is OK, what is missing, how to mend it", "emrrg doctor",
    )
    return parser


def _add(subparsers, name: str, function, summary: str, *examples: str) -> argparse.ArgumentParser:
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


def _at_least(low: float, kind: type = int):
    """An argparse type: a number of this kind that is not below `low`."""

    def parse(text: str):
        value = kind(text)
        if not value >= low:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


def _out(command: argparse.ArgumentParser, default: str | None, text: str) -> None:
    note = " (default: %(default)s)" if default else ""
    command.add_argument(
        "--out", type=Path, default=default, required=default is None, metavar="DIR",
        help=text + note,
    )
    command.set_defaults(writes="out")


def _seed(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed", type=_at_least(0), default=0, help="seed of everything random (default: 0)"
    )


def _add_demo(subparsers) -> None:
    command = _add(
        subparsers, "demo", commands.demo,
        "phantom X-rays -> fine-tuned tiny model -> scored reports in one page",
        "emrrg demo", "emrrg demo --studies 300 --seed 1 --out runs/small",
    )
    _out(command, "runs/demo", "run folder to write")
    command.add_argument(
        "--studies", type=_at_least(20), default=2000, metavar="N",
        help="phantom studies, split into train, val and test (default: 2000)",
    )
    command.add_argument(
        "--steps", type=_at_least(1), metavar="N", help="warm steps of stage 3 (default: the preset's)"
    )
    _seed(command)


def _add_train(subparsers) -> None:
    command = _add(
        subparsers, "train", commands.train,
        "fine-tune a model on a data folder in the R2Gen layout (stage 3)",
        "emrrg train --data phantom --out runs/mine",
        "emrrg train --data phantom --out runs/mine --resume",
    )
    command.add_argument("--preset", default="tiny", help="preset of config.py (default: tiny)")
    command.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="annotation.json + images/"
    )
    _out(command, None, "run folder to write")
    command.add_argument(
        "--resume", action="store_true", help="go on from the run's last checkpoint"
    )


def _add_generate(subparsers) -> None:
    command = _add(
        subparsers, "generate", commands.generate, "write a report for X-ray files",
        "emrrg generate --run runs/demo --images frontal.png lateral.png",
    )
    _run(command)
    command.add_argument(
        "--images", type=Path, nargs="+", required=True, metavar="FILE",
        help="the views of one study, frontal first",
    )
    command.add_argument("--greedy", action="store_true", help="greedy decoding, no beam search")


def _add_evaluate(subparsers) -> None:
    command = _add(
        subparsers, "evaluate", commands.evaluate,
        "score a run's predictions.jsonl into metrics.json", "emrrg evaluate --run runs/demo",
    )
    _run(command)
    command.set_defaults(writes="run")


def _add_pretrain(subparsers) -> None:
    command = _add(
        subparsers, "pretrain", commands.pretrain,
        "make the shipped tiny encoder, language model and tokenizer again",
        "emrrg pretrain tiny", "emrrg pretrain tiny --out runs/pretrain --resume",
    )
    command.add_argument("what", choices=["tiny"], help="what to pre-train")
    _out(command, "runs/pretrain", "folder to write")
    command.add_argument(
        "--studies", type=_at_least(40), default=12_000, help="phantom studies (default: 12000)"
    )
    command.add_argument(
        "--lm-steps", type=_at_least(1), default=2000, help="language model (default: 2000)"
    )
    command.add_argument(
        "--encoder-steps", type=_at_least(1), default=2000, help="stage 2 (default: 2000)"
    )
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def _add_data(subparsers) -> None:
    data = _add(
        subparsers, "data", None, "make or check a data folder",
        "emrrg data phantom --studies 1000 --seed 0 --out phantom", "emrrg data check phantom",
    )
    kinds = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    phantom = _add(
        kinds, "phantom", commands.data_phantom, "draw PhantomCXR studies in the R2Gen layout",
        "emrrg data phantom --studies 1000 --seed 0 --out phantom",
    )
    _out(phantom, None, "folder to write; must be empty or new")
    phantom.add_argument(
        "--studies", type=_at_least(1), required=True, metavar="N", help="how many studies"
    )
    phantom.add_argument(
        "--size", type=_at_least(32), default=96, help="side in pixels (default: 96)"
    )
    phantom.add_argument(
        "--workers", type=_at_least(1), default=2, help="processes that draw (default: 2)"
    )
    _seed(phantom)
    check = _add(
        kinds, "check", commands.data_check, "read every entry and image of a data folder",
        "emrrg data check phantom",
    )
    check.add_argument("data", type=Path, metavar="DIR", help="annotation.json + images/")


def _add_info(subparsers) -> None:
    command = _add(
        subparsers, "info", commands.info,
        "print a preset's map: part, paper section, shape, parameters, trained or not",
        "emrrg info --preset tiny",
    )
    command.add_argument("--preset", default="tiny", help="preset of config.py (default: tiny)")


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="run folder, such as runs/demo"
    )
