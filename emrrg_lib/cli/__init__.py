"""The command line: `emrrg <command>`, the same program as `python -m emrrg_lib <command>`.

Commands import what they need when they run, so that `emrrg --help` answers at once. Bad input of
any kind ends as one sentence on stderr and exit code 2; a programming error keeps its traceback.


What each command of `emrrg` does, one module a group; `cli.py` joins them.

Each module has `register(subparsers)`, which adds its parsers, and one function a command that takes
the parsed options and returns the exit code. Heavy modules are imported inside those functions, so
that `emrrg --help` answers at once.
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
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

from emrrg_lib import __version__
from emrrg_lib.cli import ablate, bench, course, data, evaluate, model, train
from emrrg_lib.files import InputError

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
        first = os.environ.get("RANK", "0") == "0"  # torchrun: one process speaks for all
        with nullcontext() if first else redirect_stdout(StringIO()):
            return options.run_command(options)
    except KeyboardInterrupt as stop:
        saved = f"; {stop}" if str(stop) else ""
        again = "; the same command with --resume goes on from there" if hasattr(options, "resume") else ""
        return _say(f"stopped by Ctrl-C, nothing half-written is left{saved}{again}", 130)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emrrg",
        description="X-ray report generation by EMRRG, at three sizes: tiny, laptop and paper.",
        epilog="Start with `emrrg doctor`, then `emrrg demo`. Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"emrrg {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (train, ablate, data, evaluate, model, course, bench):
        group.register(subparsers)
    return parser
