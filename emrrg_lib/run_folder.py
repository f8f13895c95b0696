"""The run folder, the form of every run: its files, and the record of how it was made.

    config.json           the whole configuration
    run.json              seed, commit, versions, hardware, minutes, memory
    trained.safetensors   the tensors that trained, under their names in `EMRRG.state_dict()`
    predictions.jsonl     one line a study: id, reference, hypothesis, scores
    metrics.json          the score table
    report.html           the page

This module reads and writes the first four.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from emrrg_lib import __version__
from emrrg_lib.config import EMRRGConfig
from emrrg_lib.files import KIT, InputError, atomic_path, processes, write_json, write_text
from emrrg_lib.language.llm import cpu_multiplies_bfloat16
from emrrg_lib.settings import from_dict, to_dict


def read_json(path: Path) -> Any:
    """Reads a JSON file of a run; InputError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"no {path.name} in {path.parent}: give the folder of a finished run "
            "(`emrrg demo` makes runs/demo)"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not readable JSON ({error}); run the step that writes it again"
        ) from error


def read_config(run: str | Path) -> EMRRGConfig:
    """The configuration of a run."""
    path = Path(run) / "config.json"
    return from_dict(read_json(path), EMRRGConfig, str(path))


def write_config(run: Path, config: EMRRGConfig) -> None:
    """Writes `config.json`."""
    write_json(run / "config.json", to_dict(config))


def write_trained(run: Path, model, name: str = "trained.safetensors") -> Path:
    """Writes the tensors that trained, under their names in `EMRRG.state_dict()`."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.trained_state().items()}
    with atomic_path(run / name) as temporary:
        save_file(tensors, temporary)
    return run / name


def write_predictions(run: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes `predictions.jsonl`, one object a study."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    return write_text(run / "predictions.jsonl", "".join(f"{line}\n" for line in lines))


def read_predictions(run: Path) -> list[dict[str, Any]]:
    """Reads `predictions.jsonl`. InputError names the line that is wrong or repeats an id."""
    path = Path(run) / "predictions.jsonl"
    if not path.is_file():
        raise InputError(f"no predictions.jsonl in {run}: run `emrrg train` or `emrrg demo` first")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged ({error}); run the step that writes it again") from error
    rows, seen = [], set()
    # splitlines() would also cut at characters that JSON does not escape, such as U+2028
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        try:
            row = json.loads(line)
            fits = all(isinstance(row[k], str) for k in ("id", "reference", "hypothesis"))
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise InputError(f"{path}, line {number}: expected an object with id, reference and hypothesis")
        if row["id"] in seen:
            raise InputError(f"{path}, line {number}: the id '{row['id']}' occurs a second time")
        seen.add(row["id"])
        rows.append(row)
    if not rows:
        raise InputError(f"{path} is empty: there is nothing to score")
    return rows


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
    """Versions, hardware, minutes since `started` (a time.time()) and memory, together with `facts`."""
    cuda = torch.cuda.is_available()
    return {
        "what": what,
        "kit": __version__,
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
