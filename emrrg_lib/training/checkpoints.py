"""Checkpoints are whole or absent: written in a side folder, synced, renamed, and checked when read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pooch import file_hash
from safetensors.torch import save_file
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from emrrg_lib.data.study import Study, in_parallel
from emrrg_lib.files import DISK_FULL, InputError, file_errno, processes, write_json
from emrrg_lib.run_folder import read_json, read_trained
from emrrg_lib.settings import differences
from emrrg_lib.sharding import shared_like, whole

PREFIX = "checkpoint-"
WEIGHTS = "model.safetensors"
MANIFEST = "complete.json"  # the SHA-256 of every other file, and the settings of the run
MANIFEST_SHAPE = {
    "files": dict[str, str],
    "settings": dict,
    "processes": int,
    "unlogged": {"loss": float, "since": int},
}
NEEDED = {WEIGHTS, TRAINER_STATE_NAME, OPTIMIZER_NAME, SCHEDULER_NAME}  # by every resume
BLOCK = 4096  # bytes
KEEP = 2  # the newest ones
log = logging.getLogger("emrrg_lib.checkpoints")


def image_identity(path: Path) -> bytes:
    """A hash of an image file: of all of a small one, of its length and 17 blocks of a large one.

    The last block of a PNG has the checksum of its pixels. MIMIC-CXR is 500 GB: to read it whole takes hours.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        for start in (*range(0, size, max(BLOCK, size // 16)), max(0, size - BLOCK)):
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.digest()


def data_digest(texts: Iterable[Any], images: Iterable[Path] = ()) -> str:
    """The digest of what a training sees, in its order: texts (or other JSON values) and image files."""
    digest = hashlib.sha256(json.dumps(list(texts)).encode())
    for identity in in_parallel(image_identity, images):
        digest.update(identity)
    return digest.hexdigest()


def studies_digest(studies: Sequence[Study]) -> str:
    """The `data_digest` of studies: ids, reports, views and images."""
    texts = ((study.id, study.report, study.views, len(study.images)) for study in studies)
    return data_digest(texts, (image for study in studies for image in study.images))


def partial_folder(out: Path, step: int) -> Path:
    """Where the checkpoint of `step` is written before it gets its name."""
    return out / f".{PREFIX}{step}.partial"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(written: Path, final: Path, facts: dict[str, Any]) -> None:
    """Makes a written folder a checkpoint: manifest, sync of every file, rename; removes older ones.

    Args:
        written: folder that holds all files. final: the checkpoint's path, in the folder of checkpoints.
        facts: stored in the manifest.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file())
    write_json(
        written / MANIFEST,
        facts | {"files": {str(path.relative_to(written)): file_hash(path) for path in files}},
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
    """Why a checkpoint cannot be used; None for a whole one."""
    try:
        files = read_json(checkpoint / MANIFEST, MANIFEST_SHAPE)["files"]
    except InputError:
        return f"it has no readable {MANIFEST}"
    if lacking := sorted(NEEDED - files.keys()):
        return f"{MANIFEST} does not list {lacking[0]}"
    for name, digest in files.items():
        if not (checkpoint / name).is_file() or file_hash(checkpoint / name) != digest:
            return f"{name} is missing or damaged"
    return None


def newest_complete(out: Path) -> Path | None:
    """The newest whole checkpoint in `out`; a warning names every newer one that is not whole.

    A process that was killed while it wrote leaves a folder behind: it is named too, and removed.
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


def refuse_changes(before: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Raises InputError that lists every setting in which a resumed run differs from its beginning."""
    if lines := differences(before, now):
        raise InputError(
            f"{where} was begun with other settings ({'; '.join(lines)}): resume with the same "
            "ones, or write to another folder"
        )


def explain_full_disk(error: Exception, out: Path, partial: Path) -> InputError | None:
    """The sentence for a checkpoint that a full disk did not let be written; None for another error."""
    if file_errno(error, out) not in DISK_FULL:
        return None
    shutil.rmtree(partial, ignore_errors=True)
    kept = newest_complete(out)
    last = f"{kept.name} is intact" if kept else "there is no earlier one"
    return InputError(
        f"the disk is full: the checkpoint {partial.name[1:].removesuffix('.partial')} could "
        f"not be written to {out}; {last}. Free some space, then go on with --resume"
    )


class SealedTrainer(Trainer):
    """A Trainer whose checkpoints hold the trained weights only and are whole or absent.

    Attributes:
        facts: settings that a resumed run must have in common with this one; in the manifest.
    """

    facts: dict[str, Any]
    _partial: Path | None = None  # folder of the checkpoint that is being written

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._partial or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint beside its place, then moves it there whole."""
        out, step = Path(self.args.output_dir), self.state.global_step
        loss = self.accelerator.gather(self._tr_loss).mean().item()
        self._partial = partial_folder(out, step)
        try:
            super()._save_checkpoint(model, trial)
            processes().wait_for_everyone()
            if self.args.should_save:
                name = f"{PREFIX}{step}"
                seal(
                    self._partial / name,
                    out / name,
                    {
                        "settings": self.facts,
                        "processes": self.args.world_size,
                        "unlogged": {"loss": loss, "since": self._globalstep_last_logged},
                    },
                )
                self._partial.rmdir()
        except Exception as error:
            if sentence := explain_full_disk(error, out, self._partial):
                raise sentence from error
            raise
        finally:
            self._partial = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the trained weights only, so that a checkpoint beside a 7B LLM stays small."""
        named = self.model.named_parameters()
        trained = {name: whole(p.detach()).cpu().contiguous() for name, p in named if p.requires_grad}
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(trained, folder / WEIGHTS)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Under FSDP2 too the files are those of one process, so any number of processes can go on."""
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        state = self.optimizer.state_dict()
        state["state"] = {i: {k: whole(v).cpu() for k, v in of.items()} for i, of in state["state"].items()}
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not (self.is_fsdp_enabled and checkpoint):
            return super()._load_optimizer_and_scheduler(checkpoint)
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for i, of in state["state"].items():
            state["state"][i] = {k: shared_like(v, parameters[i]) for k, v in of.items()}
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Reads the weights of `_save` back into the model, which holds the frozen ones already."""
        model = model or self.model
        wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
        tensors = read_trained(Path(resume_from_checkpoint) / WEIGHTS, wanted)
        model.load_state_dict({k: shared_like(v, wanted[k]) for k, v in tensors.items()}, strict=False)
