"""`emrrg bench gpu`: runs the parts of `gpu_parts.py`, keeps their lines, makes tables of them.

Each part is a process of its own with a time limit, so that a part that fails or hangs takes no other with
it. A later call goes on with the parts that have not ended, so a machine that is lent for minutes is enough.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Timer

import psutil
import torch

from emrrg_lib.bench.gpu_parts import PARTS
from emrrg_lib.files import InputError, text_table, write_text
from emrrg_lib.run.costs import Measured, describe_hours

DONE = "done_minutes"  # key of a part's last line
LIMITS = {part.__name__: minutes for part, minutes in PARTS.items()}


def measure(minutes: float, device: str, file: Path | None, parts: Sequence[str] = ()) -> Iterator[dict]:
    """Runs the parts one after the other and yields each line, as soon as it is in `file`.

    A part that has ended in `file` is not run again. One that may take longer than what is left of `minutes`
    is not begun, and its line says so; that line is not kept.

    Args:
        device: cuda, or cpu at tiny sizes. parts: those to run, none: all.

    Raises:
        InputError: no CUDA device, an unknown part, a file that is not such a file or of another machine.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch sees no CUDA device here; --device cpu runs the same parts at tiny sizes")
    if unknown := sorted(set(parts) - LIMITS.keys()):
        raise InputError(f"there is no part '{unknown[0]}'; choose from {', '.join(LIMITS)}")
    end, kept = time.monotonic() + 60 * minutes, _ended(file, device)
    if file:
        write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
    known = {line["part"] for line in kept}
    for name in (n for n in LIMITS if n not in known and (n == "environment" or not parts or n in parts)):
        left = end - time.monotonic()
        if left < 60 * LIMITS[name]:
            reason = f"it may take {LIMITS[name]} minutes, {max(0, left) / 60:.1f} are left"
            yield {"part": name, "not_begun": reason}
            continue
        for line in run_part(name, device, 60 * LIMITS[name]):
            line = {"part": name, **line}
            if file:
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(line) + "\n")
            yield line


def _ended(file: Path | None, device: str) -> list[dict]:
    """The lines of the parts that have ended in `file`."""
    lines = read_lines(file) if file and file.is_file() else []
    here = device, torch.cuda.get_device_name() if torch.cuda.is_available() else None
    for line in lines:
        if line["part"] == "environment" and "hardware" in line:
            there = line["device"], line["hardware"]["gpu"]
            if there != here:
                raise InputError(f"{file} is of another machine ({there}, not {here}): name another file")
    ended = {line["part"] for line in lines if DONE in line}
    return [line for line in lines if line["part"] in ended]


def run_part(name: str, device: str, limit: float) -> Iterator[dict]:
    """The lines of one part; a part that fails or takes more than `limit` seconds ends in an error line."""
    command, started = [sys.executable, "-m", "emrrg_lib.bench.gpu", name, device], time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    timer, said = Timer(limit, _end, (child,)), ""
    timer.start()
    try:
        for line in child.stdout or ():
            if line.startswith('{"') and line.endswith("\n"):
                yield json.loads(line)
            else:
                said = line.strip() or said
        if child.wait():
            yield {"error": "the time limit" if not timer.is_alive() else said}
        else:
            yield {DONE: round((time.monotonic() - started) / 60, 2)}
    finally:
        timer.cancel()
        _end(child)


def _end(child: subprocess.Popen) -> None:
    """Kills a part, and what it has started."""
    if child.poll() is None:
        for process in (*psutil.Process(child.pid).children(recursive=True), child):
            process.kill()
        child.wait()


def read_lines(file: Path) -> list[dict]:
    """The lines of a file; the last one may be cut off. Raises InputError for another file."""
    try:
        *lines, _ = file.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines]
        if all(isinstance(row["part"], str) for row in rows):
            return rows
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{file} holds no lines of `emrrg bench gpu --json`")


def report(file: Path) -> str:
    """The lines of a file as Markdown tables, one a part, and the hours of full runs that follow."""
    parts: dict[str, list[dict]] = {}
    for row in read_lines(file):
        parts.setdefault(row.pop("part"), []).append(row)
    text = []
    for part, rows in parts.items():
        rows = [row for row in rows if DONE not in row] or rows
        if part == "environment" and "hardware" in rows[0]:
            rows = [{**rows[0]["hardware"], **rows[0]["versions"]}]
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[str(row.get(name, "")) for name in names] for row in rows]
        text.append(f"{part}\n\n{text_table([names, *cells], left=len(names), markdown=True)}")
    return "\n\n".join([*text, f"hours of full runs\n\n{describe_hours(measured(parts))}"])


def measured(parts: dict[str, list[dict]]) -> Measured:
    """The best training step of mimic-cxr, and the best writing of 100 tokens, for each study."""
    steps = [
        row["step_ms"] / row["batch"] / 1000
        for row in parts.get("training", ())
        if row.get("preset") == "mimic-cxr" and "step_ms" in row
    ]
    reports = [
        row["batch_ms"] / row["batch"] / 1000
        for row in parts.get("generation", ())
        if row.get("preset") == "mimic-cxr" and row.get("tokens") == 100 and "batch_ms" in row
    ]
    return Measured(min(steps, default=None), min(reports, default=None))


if __name__ == "__main__":
    chosen = {part.__name__: part for part in PARTS}[sys.argv[1]]
    for found in chosen(sys.argv[2]):
        print(json.dumps(found), flush=True)
