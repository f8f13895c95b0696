"""Checkpoints that are whole or not there: written beside, synced, renamed, and checked when read."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from emrrg_lib.files import InputError, write_json
from emrrg_lib.run_folder import read_json

PREFIX = "checkpoint-"
MANIFEST = "complete.json"  # sizes and SHA-256 of the other files, and what the run is
KEEP = 2  # the newest ones
log = logging.getLogger("emrrg_lib.checkpoints")


def partial_folder(out: Path, step: int) -> Path:
    """Where the checkpoint of `step` is written before it gets its name."""
    return out / f".{PREFIX}{step}.partial"


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(written: Path, final: Path, facts: dict[str, Any]) -> None:
    """Makes a written folder a checkpoint: manifest, sync of every file, rename; removes older ones.

    Args:
        written: folder in which all files are. final: its name-to-be, in the folder of checkpoints.
        facts: kept in the manifest.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file())
    write_json(
        written / MANIFEST,
        facts | {"files": {str(path.relative_to(written)): _digest(path) for path in files}},
    )
    for path in (*files, written / MANIFEST, written):
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(written, final)
    _sync(final.parent)
    for old in _by_step(final.parent)[KEEP:]:
        shutil.rmtree(old.rename(old.with_name(f".{old.name}.partial")))


def _by_step(out: Path) -> list[Path]:
    """The checkpoints in `out`, newest first, whole or not."""
    steps = {path: path.name.removeprefix(PREFIX) for path in out.glob(f"{PREFIX}*") if path.is_dir()}
    return sorted((p for p in steps if steps[p].isdigit()), key=lambda p: int(steps[p]), reverse=True)


def flaw(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None for a whole one."""
    try:
        files = read_json(checkpoint / MANIFEST)["files"]
    except (InputError, KeyError, TypeError):
        return f"it has no readable {MANIFEST}"
    return next(
        (
            f"{name} is missing or damaged"
            for name, digest in files.items()
            if not (checkpoint / name).is_file() or _digest(checkpoint / name) != digest
        ),
        None,
    )


def newest_complete(out: Path) -> Path | None:
    """The newest whole checkpoint in `out`; what is skipped on the way is named in a warning.

    Folders left by a process that was killed while it wrote are named too, and removed.
    """
    for left in sorted(out.glob(f".{PREFIX}*.partial")):
        if not left.with_name(left.name[1:].removesuffix(".partial")).is_dir():
            log.warning("skipped %s: the run was stopped while it was written", left)
        shutil.rmtree(left)
    for checkpoint in _by_step(out):
        if (wrong := flaw(checkpoint)) is None:
            return checkpoint
        log.warning("skipped %s: %s", checkpoint, wrong)
    return None


def differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """`key: old -> new` of every value that differs, nested keys joined by dots."""
    lines = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key, "(not set)"), now.get(key, "(not set)")
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{path}{key}.")
        elif old != new:
            lines.append(f"{path}{key}: {old} -> {new}")
    return lines


def refuse_changes(before: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Raises InputError with every difference between what a run was begun with and what is asked now."""
    if lines := differences(before, now):
        raise InputError(
            f"{where} was begun with other settings ({'; '.join(lines)}): resume with the same "
            "ones, or write to another folder"
        )


def explain_failure(error: Exception, out: Path, partial: Path) -> InputError | None:
    """The sentence for a checkpoint that could not be written because the disk is full; else None.

    A full disk comes as an OSError, as safetensors' own error, or as a RuntimeError of torch.save that does
    not say why; so the space that is left counts as well.
    """
    code = getattr(error, "errno", None)
    said = code in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
    if not said and shutil.disk_usage(out).free > 1_000_000:
        return None
    shutil.rmtree(partial, ignore_errors=True)
    kept = newest_complete(out)
    last = f"{kept.name} is intact" if kept else "there is no earlier one"
    return InputError(
        f"the disk is full: the checkpoint {partial.name[1:].removesuffix('.partial')} could "
        f"not be written to {out}; {last}. Free some space, then go on with --resume"
    )
