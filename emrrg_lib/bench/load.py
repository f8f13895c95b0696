"""How waiting threads behave on an idle machine and on one that computes something else as well.

Threads of OpenMP spin while they wait for work. That saves time where every thread has a core. Beside other
programs it burns the share of the machine that the work needs. `emrrg_lib` therefore shortens the spin
(`QUIET_THREADS`). Each setting is measured in its own process, because the runtime reads it once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from emrrg_lib.files import QUIET_THREADS

SETTINGS: dict[str, dict[str, str]] = {  # name → environment of the process
    "as shipped": {},
    "without the setting": {"GOMP_SPINCOUNT": "300000"},  # libgomp's own default
    "one thread": {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
}


def load(quick: bool = False) -> dict:
    """Seconds of a training step, the encoder and reports, idle and beside one busy process a core."""
    figures: dict[str, dict] = {}
    for state, others in (("idle", 0), ("busy", os.cpu_count() or 1)):
        with busy_processes(others):
            figures[state] = {name: _in_process(values, quick) for name, values in SETTINGS.items()}
    shipped = "as shipped"
    ratios = {
        state: {
            name: {task: round(s / runs[base][task], 2) for task, s in runs[shipped].items()}
            for name, base in (("times_without", "without the setting"), ("times_one_thread", "one thread"))
        }
        for state, runs in figures.items()
    }
    return {"busy_processes": os.cpu_count(), "setting": QUIET_THREADS, "seconds": figures, "shipped": ratios}


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Within it `count` processes compute without a pause."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_compute, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _compute() -> None:
    while True:
        sum(range(100_000))


def _in_process(values: dict[str, str], quick: bool) -> dict[str, float]:
    environment = os.environ | QUIET_THREADS | values
    command = [sys.executable, "-m", "emrrg_lib.bench.load", *["quick"] * quick]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(quick: bool) -> dict[str, float]:
    """The median seconds of each task, in this process."""
    import torch

    from emrrg_lib.bench.system import batch_of
    from emrrg_lib.model import EMRRG

    model, studies = EMRRG.from_preset("tiny").train(), 2 if quick else 16
    batch = batch_of(model, studies)
    pixels = batch.pop("pixel_values")
    with torch.no_grad():
        tokens = model.encoder(pixels)

    def step() -> None:
        model(**batch, tokens=tokens)["loss"].backward()
        model.zero_grad(set_to_none=True)

    tasks = {
        "training step": step,
        "encoder": lambda: model.encoder(pixels).sum().backward(),
        "reports": lambda: model.generate(
            pixels[:4], batch["view_mask"][:2], max_new_tokens=4 if quick else 30
        ),
    }
    seconds = {}
    for name, task in tasks.items():
        times = []
        for _ in range(2 if quick else 9):
            started = time.perf_counter()
            task()
            times.append(time.perf_counter() - started)
        seconds[name] = round(sorted(times[1:])[len(times[1:]) // 2], 4)
    return seconds


if __name__ == "__main__":
    print(json.dumps(_measure("quick" in sys.argv)))
