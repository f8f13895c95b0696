"""Decoded images on disk: a data set's pictures are read and resized once, later runs map them in.

A shard is one `.npy` file of up to `SHARD` resized images, uint8 (n, size, size, 1), or 3 channels if a
picture of it is in colour. Its name is a hash of the size and of each file's path, length and time
of change, so a changed file makes a new shard; it is renamed into place when complete, so nothing
half-written is ever read, and a job that was stopped goes on after the last whole shard.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from emrrg_lib.data.annotation import load_picture
from emrrg_lib.files import InputError, atomic_path, cache_folder

SHARD = 2048  # images; 75 MB of grey at 192 px
_KEPT_DAYS = 30  # a shard that no run has used for so long is removed
_log = logging.getLogger(__name__)


def read_planes(path: str | Path, size: int) -> np.ndarray:
    """One image file as uint8 (size, size, 1), or (size, size, 3) if it is in colour.

    Straight bicubic resize. Grey is resized once instead of three times: the channels of upstream's
    RGB picture are computed one by one and would be equal.
    """
    values = np.asarray(load_picture(path).resize((size, size), Image.Resampling.BICUBIC))
    if values.ndim == 2:
        return values[..., None]
    return values[..., :1] if (values == values[..., :1]).all() else values


def colour(planes: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 1 or 3) → a copy of (H, W, 3)."""
    return np.repeat(np.asarray(planes), 3 // planes.shape[-1], axis=-1)


def in_parallel(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`map` on threads (Pillow decodes and resizes outside Python's lock), a bounded number ahead."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        items = iter(items)
        while batch := list(islice(items, 256)):
            yield from pool.map(function, batch)


def open_views(paths: Sequence[Path], size: int) -> list[np.ndarray]:
    """The images as shards of `SHARD`, in order; read from the cache, or decoded into it.

    Raises:
        InputError: an image is missing or damaged; the file is named.
    """
    folder = cache_folder("images")
    with tqdm(total=len(paths), desc="reading images", unit="image") as bar:
        return [
            _shard(paths[start : start + SHARD], size, folder, bar) for start in range(0, len(paths), SHARD)
        ]


def _shard(paths: Sequence[Path], size: int, folder: Path, bar: tqdm) -> np.ndarray:
    file = folder / f"{_key(paths, size)}.npy"
    try:
        views = np.load(file, mmap_mode="r")
        os.utime(file)
        bar.update(len(paths))
        return views
    except (OSError, ValueError, EOFError):  # not there, or damaged
        views = _decode(paths, size, bar)
    try:
        with atomic_path(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, views)
        _remove_unused(folder)
        return np.load(file, mmap_mode="r")
    except OSError as error:
        _log.warning(
            "cannot keep decoded images in %s (%s): they stay in memory; EMRRG_CACHE names another folder",
            folder,
            error.strerror or error,
        )
        return views


def _decode(paths: Sequence[Path], size: int, bar: tqdm) -> np.ndarray:
    views = []
    for planes in in_parallel(lambda path: read_planes(path, size), paths):
        views.append(planes)
        bar.update()
    channels = max(planes.shape[-1] for planes in views)
    return np.stack([np.repeat(planes, channels // planes.shape[-1], axis=-1) for planes in views])


def _key(paths: Sequence[Path], size: int) -> str:
    digest = hashlib.sha256(f"1 {size}".encode())  # 1: version of the decoding
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            raise InputError(f"no image file at {path}: check the path") from None
        digest.update(f"\n{os.path.abspath(path)} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _remove_unused(folder: Path) -> None:
    for file in folder.glob("*.npy"):
        if time.time() - file.stat().st_mtime > _KEPT_DAYS * 86_400:
            file.unlink(missing_ok=True)
