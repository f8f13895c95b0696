"""Reading tar and zip archives of unknown origin, member by member, without unpacking them.

Nothing is written under a name taken from an archive. A member that would leave its folder, a link, a
device and a bomb are refused all the same: they mean that the archive is not what it claims to be.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from tqdm import tqdm

from emrrg_lib.files import InputError

MAX_RATIO = 100  # the reports of Open-i shrink 21-fold, its PNG files not at all
MAX_MEMBER = 256 * 2**20  # bytes; a member is held in memory whole
_FREE = 64 * 2**20  # small archives of padding may shrink more than MAX_RATIO
_DAMAGE = (gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
# RuntimeError: an encrypted zip, or one of a compression unknown to Python


def is_archive(path: Path) -> bool:
    """Whether the file's name is that of an archive this module reads."""
    return path.name.lower().endswith((".tgz", ".tar.gz", ".tar", ".zip"))


def escapes(name: str) -> bool:
    """Whether a relative name is absolute or climbs out of its folder, on POSIX or on Windows."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return "\0" in name or any(p.is_absolute() or p.drive or p.root or ".." in p.parts for p in paths)


def members(path: str | Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields (name, read) for every file in an archive, in order; call `read` before the next step.

    Going to the end proves the archive whole: gzip's checksum is verified there, zip's with each `read`.

    Raises:
        InputError: missing, no archive, damaged, a member that leaves the folder, a link or device, a
            member above `MAX_MEMBER`, or contents above `MAX_RATIO` times the size of the archive.
    """
    path = Path(path)
    with _named(path), open(path, "rb") as file:
        start = file.read(4)
        file.seek(0)
        limit = max(MAX_RATIO * path.stat().st_size, _FREE)
        for name, read in (_zip if start.startswith(b"PK") else _tar)(path, file, limit):
            yield name, partial(_read, path, read)


def _read(path: Path, read: Callable[[], bytes]) -> bytes:
    with _named(path):
        return read()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns the errors of a missing or damaged archive into one sentence that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"no archive at {path}: check the path") from None
    except _DAMAGE as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise InputError(f"{path} is damaged or no tar or zip archive ({reason}): fetch it again") from error


def check_archive(path: str | Path) -> dict[str, int]:
    """Reads an archive to its end; returns each file's name and bytes. Raises as `members` does."""
    each = tqdm(members(path), desc=f"checking {Path(path).name}", unit="file", delay=2)
    return {name: len(read()) for name, read in each}


class _Bounded:
    """A reader that refuses to hand out more than `limit` bytes in all."""

    def __init__(self, file: BinaryIO, limit: int, path: Path):
        self.file, self.left, self.path = file, limit, path

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.left -= len(data)
        _require(self.left >= 0, self.path, "unpacks to far more than its own size")
        return data


def _require(sound: bool, path: Path, fault: str) -> None:
    if not sound:
        raise InputError(f"{path} is refused, nothing was written: it {fault}")


def _check_name(name: str, size: int, path: Path) -> None:
    _require(not escapes(name), path, f"holds {name!r}, a path that leaves the folder")
    _require(size <= MAX_MEMBER, path, f"holds {name!r} of {size:,} bytes, more than {MAX_MEMBER:,}")


def _tar(path: Path, file: BinaryIO, limit: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = _Bounded(gzip.GzipFile(fileobj=file) if packed else file, limit, path)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=2**18) as archive:
        for member in archive:
            plain = member.isreg() and not member.issparse()
            _require(plain or member.isdir(), path, f"holds {member.name!r}, a link or device")
            _check_name(member.name, member.size, path)
            if plain:
                yield member.name, archive.extractfile(member).read
    while stream.read(2**20):  # gzip compares its checksum at the very end
        pass


def _zip(path: Path, file: BinaryIO, limit: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _require(sum(e.file_size for e in entries) <= limit, path, "unpacks to far more than its own size")
        for entry in entries:
            kind = entry.external_attr >> 28  # the file type of a Unix mode: 8 plain, 4 folder, 0 not told
            _require(kind in (0, 4, 8), path, f"holds {entry.filename!r}, a link or device")
            _check_name(entry.filename, entry.file_size, path)
            if not entry.is_dir():
                yield entry.filename, lambda entry=entry: archive.read(entry)
