"""How fast pictures are read: 6,000 decoded and resized to 192 px, and a second time from the cache.

A sample is timed and scaled up. Its files repeat a few drawn pictures, grey with film-like noise; they lie
in memory already, so the disk's own speed is not part of the figures.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from emrrg_lib.data.images import SHARD, colour, open_views

SIZES = ((512, 624), (2048, 2500))  # width, height: Open-i's small pictures, and full-size radiographs
FILES, SIDE, DRAWN = 6000, 192, 4


def run(quick: bool = False) -> dict:
    """Seconds for 6,000 files, first and second epoch, and their ratio, for each picture size.

    On a machine that does other work too, the processor's seconds over the number of threads say more.
    """
    sample = 60 if quick else 300
    result: dict = {"files": FILES, "sample": sample, "side": SIDE, "threads": os.cpu_count()}
    for width, height in SIZES:
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, EMRRG_CACHE=folder):
            drawn = [_draw(Path(folder) / f"{i}.png", width, height, i) for i in range(DRAWN)]
            paths = [drawn[i % DRAWN] for i in range(sample)]
            cpu = time.process_time()
            first = _epoch(paths)
            cpu = time.process_time() - cpu
            second = min(_epoch(paths) for _ in range(3))
            size = drawn[0].stat().st_size
        result[f"{width}x{height}"] = {
            "first_epoch_seconds": first * FILES / sample,
            "first_epoch_cpu_seconds": cpu * FILES / sample,
            "second_epoch_seconds": second * FILES / sample,
            "ratio": first / second,
            "bytes_a_file": size,
        }
    return result


def _draw(path: Path, width: int, height: int, seed: int) -> Path:
    """A grey PNG that compresses like a radiograph: smooth shapes and noise."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (20, 16), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(smooth) + rng.normal(0, 4, (height, width))
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path)
    return path


def _epoch(paths: list[Path]) -> float:
    """Seconds to open the views and to hand out each as (H, W, 3) once."""
    start = time.perf_counter()
    shards = open_views(paths, SIDE)
    for i in range(len(paths)):
        colour(shards[i // SHARD][i % SHARD])
    return time.perf_counter() - start
