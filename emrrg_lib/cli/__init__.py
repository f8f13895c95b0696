"""The command line: `emrrg <command>`, the same program as `python -m emrrg_lib <command>`.

Each module of this package has `register(subparsers)`, which adds its parsers, and one function a command.
That function takes the parsed options and returns the exit code; its docstring is the command's help, with
examples in its last paragraph. It imports heavy modules itself, so that `emrrg --help` answers at once. Bad
input of any kind ends as one sentence on stderr and exit code 2; a programming error keeps its traceback.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

from emrrg_lib import __version__
from emrrg_lib.cli import course, data, evaluate, model, train
from emrrg_lib.cli.parsing import Parser
from emrrg_lib.files import DISK_FULL, InputError, Terminated, existing_parent, file_errno, terminate

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 done, 1 doctor found a lack, 2 bad input.

    Args:
        arguments: The words after `emrrg`; None takes them from the command line.
    """
    _print_anything()
    options = _parser().parse_args(arguments)
    target = next((path for name in options.writes.split() if (path := getattr(options, name))), None)
    try:
        if target is not None:
            _require_writable(target)
        first = os.environ.get("RANK", "0") == "0"  # torchrun: only one process prints
        with _sigterm_stops(), nullcontext() if first else redirect_stdout(StringIO()):
            return options.run_command(options)
    except KeyboardInterrupt as stop:
        by, code = ("SIGTERM", 143) if isinstance(stop, Terminated) else ("Ctrl-C", 130)
        saved = f"; {stop}" if str(stop) else ""
        again = "; the same command with --resume goes on from there" if hasattr(options, "resume") else ""
        return _say(f"stopped by {by}, nothing half-written is left{saved}{again}", code)
    except BrokenPipeError:  # `emrrg info | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        return _say(str(error), 2)
    except Exception as error:
        sentence = explain_file_error(error, target)
        if sentence is None:
            raise
        return _say(sentence, 2)


def _print_anything() -> None:
    """A character that the output cannot hold (cp1252, ascii) is replaced, here and in child processes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's stream holds everything
            stream.reconfigure(errors="replace")
    os.environ["PYTHONIOENCODING"] = f"{getattr(sys.stdout, 'encoding', None) or 'utf-8'}:replace"


@contextmanager
def _sigterm_stops() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: open files are removed, workers end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(sentence: str, code: int) -> int:
    print(f"emrrg: {sentence}", file=sys.stderr)
    return code


def explain_file_error(error: Exception, out: Path | None = None) -> str | None:
    """One sentence for a failed read or write: what, where, what to do; None for any other error."""
    number = file_errno(error, out)
    if number is None:
        return str(error) if isinstance(error, OSError) else None
    writing = number in (*DISK_FULL, errno.EROFS)
    path = out if writing and out is not None else getattr(error, "filename", None)
    return f"cannot use {path or out or 'a file'}: {_REASONS.get(number, os.strerror(number))}"


def _require_writable(out: Path) -> None:
    """Tries to write beside or into `out`, so that a long job does not fail at its end.

    Raises:
        InputError: `out` or a part of its path is a file.
        OSError: The folder cannot be written.
    """
    folder = existing_parent(out)
    if not folder.is_dir():
        raise InputError(f"cannot write to {out}: {folder} is a file; choose another folder")
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="emrrg",
        description="X-ray report generation by EMRRG, at three sizes: tiny, laptop and paper.",
        epilog="Start with `emrrg doctor`, then `emrrg demo`. Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"emrrg {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(run_command=lambda options: parser.print_help() or 0, writes="")
    for group in (train, data, evaluate, model, course):
        group.register(subparsers)
    return parser
