"""The error for bad input, places of the kit, files written whole or not at all, several processes."""

from __future__ import annotations

import difflib
import errno
import glob
import json
import logging
import multiprocessing
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

if TYPE_CHECKING:
    from accelerate import PartialState


class InputError(ValueError):
    """Bad user input; the message is one sentence: what is wrong, where, and what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does."""


def terminate(number: int, frame: object) -> NoReturn:
    """The handler of SIGTERM. Raises Terminated."""
    raise Terminated


KIT = Path(__file__).resolve().parents[1]  # the checkout: notebooks, data, library
TINY_DIR = KIT / "data" / "tiny"  # the weights that the kit brings
ABLATIONS = KIT / "data" / "ablations"  # one table of rows an ablation
# By default a waiting thread of OpenMP spins for milliseconds. That takes time from other programs and from
# the threads it waits for. `emrrg bench load` measures the value; torch reads it once, when it is imported.
QUIET_THREADS = {"GOMP_SPINCOUNT": "10000"}


def cache_folder(name: str) -> Path:
    """The folder for converted weights or decoded images, in $EMRRG_CACHE or else in ~/.cache/emrrg.

    Where the home folder cannot be written, as in a container with a foreign user id: in `temporary_caches`.
    """
    if named := os.environ.get("EMRRG_CACHE"):
        return Path(named) / name
    folder = Path(os.path.expanduser("~"), ".cache", "emrrg", name)  # a user may have no home: "~" is left
    usable = folder.is_absolute() and (folder.exists() or can_write(folder))
    return folder if usable else temporary_caches() / name


def can_write(folder: Path) -> bool:
    """Whether files can be made in `folder`, which need not exist yet."""
    nearest = existing_parent(folder)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


@cache
def temporary_caches() -> Path:
    """This user's folder among the temporary ones; says once that it is used, and why."""
    user = getattr(os, "getuid", lambda: 0)()
    folder = Path(tempfile.gettempdir()) / f"emrrg-{user}"
    with suppress(FileExistsError):  # perhaps a file
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o022:
        folder = Path(tempfile.mkdtemp(prefix="emrrg-"))  # numba runs what its cache holds: never another's
    logging.getLogger("emrrg_lib").warning(
        "no cache folder can be written: caches go to %s; EMRRG_CACHE names another folder", folder
    )
    return folder


def set_environment() -> None:
    """Sets what libraries read when they are imported; a value that the user has set stays.

    Models come from this machine only: `hf download` fetches them, or HF_HUB_OFFLINE=0 lets the libraries do
    it. Numba keeps compiled kernels beside their modules, or else in a cache folder that can be written.
    """
    chosen = {} if "OMP_WAIT_POLICY" in os.environ else QUIET_THREADS
    for name, value in ({"HF_HUB_OFFLINE": "1"} | chosen).items():
        os.environ.setdefault(name, value)
    named, kit = os.environ.get("NUMBA_CACHE_DIR"), Path(__file__).parent
    beside = [kit / room / "__pycache__" for room in ("vision/kernels", "phantom")]
    if not (named and can_write(Path(named))) and not all(map(can_write, beside)):
        with suppress(OSError):  # nothing at all can be written; the kernels' own message says it
            kept = cache_folder("numba")
            os.environ["NUMBA_CACHE_DIR"] = str(kept if can_write(kept) else temporary_caches() / "numba")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path`; renames it to `path` on success, removes it on error.

    Works for a file and for a folder that does not exist yet. The parent folder is created. A sibling that a
    killed process of this machine has left behind is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = f".{path.name}.{zlib.crc32(platform.node().encode()):08x}-"
    for left in path.parent.glob(f"{glob.escape(start)}*.partial"):
        pid = left.name[len(start) :].partition(".")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            _remove(left)
    temporary = path.with_name(f"{start}{os.getpid()}.partial")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def end_with_parent() -> None:
    """Starts a worker of a pool so that it ends also when its parent is killed and cannot end it."""

    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent:  # always so in a worker
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def write_text(path: str | Path, text: str) -> Path:
    """Writes UTF-8 text atomically and returns the path; half a surrogate pair becomes its JSON escape."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Writes indented JSON atomically and returns the path; NaN is refused (ValueError)."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def plain_cell(value: Any) -> Any:
    """A cell for a CSV file; a quote comes before a text that a spreadsheet would run as a formula."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def first_line(error: Exception) -> str:
    """The first line of an error's text; where the hub was not asked, that the files are not here."""
    text = str(error).strip() or repr(error)
    if "couldn't connect to" in text or "offline mode" in text:  # HF_HUB_OFFLINE, or no network
        return "it is not on this machine"
    return text.splitlines()[0].rstrip(".")


def close_name(name: str, known: Iterable[str]) -> str:
    """ "did you mean 'tiny'? " where a known name is close, else nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{found[0]}'? " if found else ""


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_BYTES = 1_000_000  # with less free space than this a disk counts as full


def existing_parent(path: Path) -> Path:
    """`path` itself, or the nearest of its parents that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def file_errno(error: Exception, out: Path | None = None) -> int | None:
    """The system's number (`errno`) of a failed read or write; None for an error that has none.

    A full disk comes in three shapes: an OSError, an error of safetensors whose text ends in
    "(os error 28)", and a RuntimeError of torch.save that does not say why. The third is recognised by the
    free space under `out`.
    """
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        return int(found.group(1))
    number = error.errno if isinstance(error, OSError) else None
    if number is None and out is not None and shutil.disk_usage(existing_parent(out)).free < FULL_BYTES:
        return errno.ENOSPC
    return number


def text_table(rows: Sequence[Sequence[str]], left: int = 1, markdown: bool = False) -> str:
    """A table whose first row is its header; the first `left` columns are aligned to the left."""
    header, *body = rows
    if markdown:
        rule = ["---" if i < left else "---:" for i in range(len(header))]
        tag = re.compile(r"<(?=[a-zA-Z/!])")
        lines = [[tag.sub("&lt;", cell).replace("|", r"\|") for cell in row] for row in (header, rule, *body)]
        return "\n".join(f"| {' | '.join(row)} |" for row in lines)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    spaced = (header, ["-" * width for width in widths], *body)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in spaced
    )


_LATEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {mark: f"{{{mark}}}" for mark in "[*"}  # behind a line's end, LaTeX would read them as its options
    | {
        "\\": "/",
        "~": " ",
        "^": " ",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
        "±": r"$\pm$",
        "→": r"$\to$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "\u2011": "-",
    }
)


def latex_table(rows: Sequence[Sequence[str]], left: int, caption: str) -> str:
    """The same table for LaTeX, as a `table` with a `tabular` in it; it needs no package."""

    def escaped(text: str) -> str:
        return text.translate(_LATEX)

    header, *body = [" & ".join(map(escaped, row)) + r" \\" for row in rows]
    columns = "l" * left + "r" * (len(rows[0]) - left)
    lines = [
        r"\begin{table}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\hline",
        header,
        r"\hline",
        *body,
        r"\hline",
    ]
    return "\n".join([*lines, r"\end{tabular}", rf"\caption{{{escaped(caption)}}}", r"\end{table}"])


def processes() -> PartialState:
    """The state of this process: `num_processes`, `process_index`, `is_main_process`; first use joins it."""
    import torch  # imported late: `emrrg --help` needs neither
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def gather(items: list[Any]) -> list[Any]:
    """The items of all processes in the order of their ranks; every process gets them all."""
    if processes().num_processes == 1:
        return items
    from accelerate.utils import gather_object

    return gather_object(items)


def any_process(said: bool) -> bool:
    """Whether `said` is true on any process."""
    return any(gather([said]))
