"""Tar and zip archives of unknown origin: checked to the last byte, then unpacked.

A member that would leave the folder, a link, a device or contents far larger than the archive mean that it
is not what it claims to be: the whole archive is refused before anything is written.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm import tqdm

from emrrg_lib.files import InputError

MAX_RATIO = 100  # the reports of Open-i shrink 21-fold, its PNG files not at all
SMALL = 64 * 2**20  # bytes; contents up to this size may shrink more: a small archive is mostly padding
_DAMAGE = (
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # an encrypted zip, or one of a compression unknown to Python
    FileExistsError,  # a member that is a file and a folder
    NotADirectoryError,
    IsADirectoryError,
)


def is_archive(path: Path) -> bool:
    """Whether the file's name is that of an archive this module reads."""
    return path.name.lower().endswith((".tgz", ".tar.gz", ".tar", ".zip"))


def escapes(name: str) -> bool:
    """Whether a relative name is absolute or climbs out of its folder, on POSIX or on Windows."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return "\0" in name or any(p.is_absolute() or p.drive or p.root or ".." in p.parts for p in paths)


def check_archive(path: str | Path) -> int:
    """Reads an archive to its end; returns the bytes that it unpacks to.

    Raises:
        InputError: The file is missing, damaged or not an archive, holds a link, a device or a path that
            leaves the folder, or unpacks to more than `MAX_RATIO` times its size.
    """
    path = Path(path)
    with _opened(path) as archive:
        is_zip = isinstance(archive, zipfile.ZipFile)
        if is_zip:
            members = _zip_members(archive, path)
        else:
            members = [(m.name, m.isdir() or (m.isreg() and not m.issparse()), m.size) for m in archive]
        for name, plain, _ in members:
            _require(plain, path, f"holds {name!r}, a link or device")
            _require(not escapes(name), path, f"holds {name!r}, a path that leaves the folder")
        if is_zip and (wrong := archive.testzip()):
            raise zipfile.BadZipFile(f"the checksum of {wrong} is wrong")
    return sum(size for *_, size in members)


@contextmanager
def unpacked(archives: Iterable[Path], folder: Path) -> Iterator[Path]:
    """Unpacks archives into `folder`, which is removed at the end; nothing is written if one is unsound.

    Args:
        archives: Their files.
        folder: A new folder; one that a killed process has left behind is replaced.

    Raises:
        InputError: See `check_archive`; or the disk has too little space for the contents.
    """
    archives = list(archives)
    needed = sum(map(check_archive, archives))
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_space(folder.parent, needed)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for path in tqdm(archives, desc="unpacking", unit="archive", delay=2):
            with _opened(path, measured=True) as archive:
                if isinstance(archive, zipfile.ZipFile):
                    archive.extractall(folder)
                else:
                    archive.extractall(folder, filter="data")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_space(folder: Path, needed: int) -> None:
    """Raises InputError if the disk of `folder` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder} needs about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free:"
            " free some space or choose another folder"
        )


def _zip_members(archive: zipfile.ZipFile, path: Path) -> list[tuple[str, bool, int]]:
    """(name, whether it is a plain file or folder, bytes) of every member, if they are not too large."""
    entries = archive.infolist()
    _require_limit(sum(entry.file_size for entry in entries), path)
    kinds = (0, 4, 8)  # file type in a Unix mode: not given, folder, plain
    return [(entry.filename, entry.external_attr >> 28 in kinds, entry.file_size) for entry in entries]


@contextmanager
def _opened(path: Path, measured: bool = False) -> Iterator[tarfile.TarFile | zipfile.ZipFile]:
    """Opens an archive, after a first pass over gzip's contents; errors become one sentence with its name."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        packed = start == b"\x1f\x8b"
        if packed and not measured:
            _measure_gzip(path)
        is_zip = start == b"PK"
        with zipfile.ZipFile(path) if is_zip else tarfile.open(path, "r:gz" if packed else "r:") as archive:
            yield archive
    except FileNotFoundError:
        raise InputError(f"no archive at {path}: check the path") from None
    except _DAMAGE as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise InputError(f"{path} is damaged or no tar or zip archive ({reason}): fetch it again") from error


def _measure_gzip(path: Path) -> None:
    """Reads all that gzip has packed, headers of a tar included, and compares its checksum at the end."""
    total = 0
    with gzip.open(path) as stream:
        for block in tqdm(iter(lambda: stream.read(2**20), b""), f"checking {path.name}", unit="MB", delay=2):
            total += len(block)
            _require_limit(total, path)


def _require_limit(total: int, path: Path) -> None:
    limit = max(MAX_RATIO * path.stat().st_size, SMALL)
    _require(total <= limit, path, "unpacks to far more than its own size")


def _require(sound: bool, path: Path, fault: str) -> None:
    if not sound:
        raise InputError(f"{path} is refused, nothing was written: it {fault}")
