"""What every `run.json` says about its making: date, commit, versions, hardware, minutes, memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from datetime import date
from importlib import metadata
from typing import Any

import torch

from emrrg_lib import __version__
from emrrg_lib.files import KIT, processes
from emrrg_lib.language.frozen import cpu_multiplies_bfloat16

PACKAGES = ("torch", "transformers", "peft", "numpy", "numba")


def _commit() -> str | None:
    """The kit's git commit, with `+changes` if files differ from it; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(KIT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def run_record(what: str, started: float, **facts: Any) -> dict[str, Any]:
    """Date, versions, hardware, minutes since `started` (a time.time()) and memory, together with `facts`."""
    cuda = torch.cuda.is_available()
    return {
        "what": what,
        "kit": __version__,
        "date": date.today().isoformat(),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "bfloat16_units": cpu_multiplies_bfloat16(),
            "threads": torch.get_num_threads(),
            "processes": processes().num_processes,
            "gpu": torch.cuda.get_device_name() if cuda else None,
        },
        "minutes": round((time.time() - started) / 60, 2),
        "peak_memory_gib": round(peak_memory_gib(), 2),
        **facts,
    }
