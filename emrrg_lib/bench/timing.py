"""Timing that two systems on a busy machine can be compared by."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from tqdm import tqdm


def interleaved(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Runs the tasks in turn, `rounds` times after one warm-up, and returns the best seconds of each."""
    best = dict.fromkeys(tasks, float("inf"))
    for turn in tqdm(range(rounds + 1), desc="round"):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if turn:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def compare(seconds: Mapping[str, float], base: str) -> dict[str, dict[str, float]]:
    """{"seconds": …, "ratio": each one's time over that of `base`}."""
    return {
        "seconds": {name: round(s, 4) for name, s in seconds.items()},
        f"times_{base}": {name: round(s / seconds[base], 2) for name, s in seconds.items()},
    }
