"""Benchmarks of `emrrg bench`: parts of the model and the whole system, each as ratios on one machine."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

KINDS = {  # kind → module with a function of that name (full-size: full_size), sentence for the help
    "scan": ("scans", "The selective scan: backend cpu, the reference loop, a naive scan."),
    "encoder": ("scans", "The base encoder forward and backward, beside its Linear layers alone."),
    "rivals": (
        "scans",
        "Scan and encoder beside other ways to run Mamba on a CPU, and how their time grows.",
    ),
    "hybrid": ("parts", "Generation with and without hybrid layers at Qwen1.5-1.8B's layer shape."),
    "train": ("system", "A training step of stage 3 without each of its savings."),
    "generate": ("system", "Beam search without each of its savings."),
    "data": ("parts", "Reading images: decode and resize, and from the cache."),
    "batch": ("parts", "What making one batch costs a processor at the sizes of the paper's presets."),
    "load": (
        "parts",
        "A training step, the encoder and reports, on an idle machine and beside busy processes.",
    ),
    "full-size": (
        "system",
        "One study through the paper's iu-xray system with random weights: time and memory.",
    ),
}


def measure(kind: str, quick: bool = False) -> dict:
    """The figures of one benchmark; `quick` takes small sizes, only to see that it runs."""
    module = importlib.import_module(f"emrrg_lib.bench.{KINDS[kind][0]}")
    return getattr(module, kind.replace("-", "_"))(quick)


def interleaved(
    tasks: Mapping[Any, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Any, float]:
    """Runs the tasks in turn, `rounds` times after one warm-up, and returns the best seconds of each.

    Two systems on a busy machine can be compared by these times.
    """
    from tqdm import tqdm

    best = dict.fromkeys(tasks, float("inf"))
    for turn in tqdm(range(rounds + 1), desc="round"):
        for name, task in tasks.items():
            started = clock()
            task()
            if turn:
                best[name] = min(best[name], clock() - started)
    return best


def compare(seconds: Mapping[str, float], base: str) -> dict[str, dict[str, float]]:
    """{"seconds": …, "times_BASE": the seconds of each task over those of `base`}."""
    return {
        "seconds": {name: round(s, 4) for name, s in seconds.items()},
        f"times_{base}": {name: round(s / seconds[base], 2) for name, s in seconds.items()},
    }
