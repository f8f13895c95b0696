"""One engine for every stage: transformers.Trainer with named parameter groups and whole checkpoints.

A run that was killed goes on from its newest whole checkpoint along the curve it would have taken: the
checkpoint holds what trains, optimiser, schedule, random state and the loss not yet logged.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from emrrg_lib.files import InputError, gather, processes
from emrrg_lib.run_folder import read_json
from emrrg_lib.training import checkpoints
from emrrg_lib.training.batches import DRAWN, Batches, ShareCollator, study_names
from emrrg_lib.training.watch import LossCurve, StopOnSignal, curve, in_notebook

WEIGHTS = "model.safetensors"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt
log = logging.getLogger("emrrg_lib.training")


def hold_rise_fall(step: int, warmup: int, steps: int, fall: float = 0.3) -> float:
    """Learning-rate factor: linear rise, constant, then a linear fall over the last `fall` of the run.

    A schedule that decays from the start leaves the hard findings unlearnt.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return min(1.0, max(0.0, (steps - step) / max(1.0, fall * steps)))


def cosine(step: int, warmup: int, steps: int) -> float:
    """Learning-rate factor: linear rise, then half a cosine down to 0 (NOTES B1)."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup)))) / 2


SCHEDULES = {"hold": hold_rise_fall, "cosine": cosine}


class KitTrainer(Trainer):
    """A Trainer that takes (parameters, learning rate) groups and keeps the model's own loss.

    Args:
        groups: makes the groups; None: all parameters at the learning rate.
        names: of the studies, for messages.
        settings: what a resumed run must have in common with this one.
    """

    def __init__(
        self,
        *args: Any,
        groups: Callable[[nn.Module], list[dict]] | None = None,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.98),
        schedule: str = "hold",
        names: Sequence[str] | None = None,
        settings: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._groups, self._decay, self._betas = groups, weight_decay, betas
        self._factor = SCHEDULES[schedule]
        self._names, self._settings = names, settings or {}
        self._resumed: str | None = None  # checkpoint whose random state is still to be restored
        self._partial: Path | None = None  # folder of the checkpoint that is being written
        self._drawn: list[int] = []  # studies of this step

    def create_optimizer(self, model: nn.Module | None = None):
        if self.optimizer is None:
            groups = (
                self._groups(self.model)
                if self._groups
                else [{"params": list(self.model.parameters()), "lr": self.args.learning_rate}]
            )
            self.optimizer = torch.optim.AdamW(split_decay(groups, self._decay), betas=self._betas)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: self._factor(step, warmup, num_training_steps)
            )
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader:
        """Batches that are the same for any number of processes, drawn when they are needed, not before."""
        count = self.args.world_size
        # a loss that is a mean over tokens bears shares of any size; others get equal ones
        batches = Batches(
            len(self.train_dataset),
            self.args.per_device_train_batch_size * count,
            self.args.seed,
            1 if self.model_accepts_loss_kwargs else count,
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            pin_memory=torch.cuda.is_available(),
            collate_fn=ShareCollator(self.data_collator, self.args.process_index, count),
        )
        loader.set_epoch = batches.set_epoch  # the Trainer calls it
        return loader

    def get_batch_samples(self, epoch_iterator, num_batches: int, device):
        """The batches of one step; a resumed run restores its random state before the first is drawn."""
        self._load_rng_state(self._resumed)
        self._drawn, iterator = [], map(self._note_drawn, epoch_iterator)
        return super().get_batch_samples(iterator, num_batches, device)

    def _note_drawn(self, batch: dict) -> dict:
        self._drawn += batch.pop(DRAWN)
        return batch

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Once only: the Trainer calls it again after the first batch, which has then moved on."""
        if checkpoint == self._resumed:
            super()._load_rng_state(checkpoint)
            self._resumed = None

    def _get_grad_norm(self, model: nn.Module, grad_norm=None):
        """The gradient's norm, before the optimiser uses it. Raises InputError if it is not finite."""
        norm = super()._get_grad_norm(model, grad_norm)
        if math.isfinite(norm):
            return norm
        studies = study_names(gather(self._drawn), self._names)
        raise InputError(
            f"training stopped at step {self.state.global_step + 1}: loss or gradient is not finite (NaN) on "
            f"the studies {studies}. Look at their images and reports; else lower the learning rate or turn "
            "clipping on (clip 1). Earlier checkpoints are intact"
        )

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._partial or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint beside its place, then moves it there whole."""
        out, step = Path(self.args.output_dir), self.state.global_step
        loss = self.accelerator.gather(self._tr_loss).mean().item()
        self._partial = checkpoints.partial_folder(out, step)
        try:
            super()._save_checkpoint(model, trial)
            processes().wait_for_everyone()
            if self.args.should_save:
                name = f"{checkpoints.PREFIX}{step}"
                checkpoints.seal(
                    self._partial / name,
                    out / name,
                    {
                        "settings": self._settings,
                        "processes": self.args.world_size,
                        "unlogged": {"loss": loss, "since": self._globalstep_last_logged},
                    },
                )
                self._partial.rmdir()
        except Exception as error:
            if sentence := checkpoints.explain_failure(error, out, self._partial):
                raise sentence from error
            raise
        finally:
            self._partial = None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Writes only what trains, so that a checkpoint next to a 7B LLM stays small."""
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            trained = {
                name: p.detach().cpu().contiguous()
                for name, p in self.model.named_parameters()
                if p.requires_grad
            }
            save_file(trained, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Reads what `_save` wrote back into the model; frozen weights are there already."""
        tensors = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        (model or self.model).load_state_dict(tensors, strict=False)

    def run(self, resume: bool) -> None:
        """Trains; with `resume` on from the newest whole checkpoint, if there is one.

        Raises:
            InputError: it was begun with other settings.
        """
        with processes().main_process_first():  # which clears away what is not whole
            checkpoint = checkpoints.newest_complete(Path(self.args.output_dir)) if resume else None
        if not checkpoint:
            self.train()
            return
        manifest = read_json(checkpoint / checkpoints.MANIFEST)
        checkpoints.refuse_changes(manifest["settings"], self._settings, checkpoint.parent)
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:  # it was finished
            self._load_from_checkpoint(str(checkpoint))
            self.state = state
            return
        if (before := manifest["processes"]) != self.args.world_size:
            log.warning(
                "begun with %d processes, resumed with %d: it goes on, but with other random numbers",
                before,
                self.args.world_size,
            )
        self.add_callback(_Unlogged(self, **manifest["unlogged"]))
        self._resumed = str(checkpoint)
        self.train(resume_from_checkpoint=str(checkpoint))


class _Unlogged(TrainerCallback):
    """Gives a resumed run the loss of the steps since the last logged one: the curve gets the same points."""

    def __init__(self, trainer: KitTrainer, loss: float, since: int) -> None:
        self.trainer, self.loss, self.since = trainer, loss, since

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.trainer._tr_loss += self.loss
        self.trainer._globalstep_last_logged = self.since


def split_decay(groups: list[dict], decay: float) -> list[dict]:
    """Gives weight decay to matrices only; vectors and scalars (norms, biases, α, D) get none."""
    out = []
    for group in groups:
        params = [p for p in group["params"] if p.requires_grad]
        matrices, vectors = [p for p in params if p.dim() > 1], [p for p in params if p.dim() <= 1]
        for part, value in ((matrices, decay), (vectors, 0.0)):
            if part:
                out.append({"params": part, "lr": group["lr"], "weight_decay": value})
    return out


def keep_freed_memory() -> None:
    """Lets glibc keep freed memory instead of giving it back after every step (faster on a CPU)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tune
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in ((M_TRIM_THRESHOLD, 2**31 - 1), (M_MMAP_MAX, 0)):
            mallopt(parameter, value)


def fit(
    model: nn.Module,
    dataset: Dataset,
    collate: Callable,
    out: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int = 100,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.98),
    schedule: str = "hold",
    seed: int = 0,
    save_steps: int = 500,
    resume: bool = False,
    accumulation: int = 1,
    groups: Callable[[nn.Module], list[dict]] | None = None,
    names: Sequence[str] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    bf16: bool = False,
) -> KitTrainer:
    """Trains for `steps` optimiser steps with checkpoints and `loss.csv` in `out`; returns the trainer.

    Args:
        model: returns a dict with `loss`.
        dataset: of study numbers; collate: numbers → batch. Randomness comes from torch's stream.
        batch_size: studies that a process takes at once; a step takes `accumulation` such batches.
        clip: largest norm of the gradient; 0 does not clip.
        resume: go on from the newest whole checkpoint in `out`, if there is one.
        names: of the studies, for messages.
        bf16: the forward pass in bfloat16 where autocast allows it; weights stay float32.

    Raises:
        InputError: a loss that is not finite, no memory, a full disk, or a resume with other settings.
        KeyboardInterrupt: after Ctrl-C, when a checkpoint of the step is saved.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_freed_memory()
    count = processes().num_processes
    settings = {
        "steps": steps,
        "batch_size": batch_size * count,
        "accumulation": accumulation,
        "seed": seed,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "weight_decay": weight_decay,
        "clip": clip,
        "betas": list(betas),
        "schedule": schedule,
        "studies": len(dataset),
    }
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        average_tokens_across_devices=True,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        max_grad_norm=clip,
        seed=seed,
        logging_steps=max(1, min(50, steps // 20)),
        save_steps=save_steps,
        report_to=[],
        remove_unused_columns=False,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=in_notebook(),
    )
    trainer = KitTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
        groups=groups,
        weight_decay=weight_decay,
        betas=betas,
        schedule=schedule,
        names=names,
        settings=settings,
        callbacks=[*callbacks, LossCurve(Path(out) / "loss.csv")],
    )
    trainer.remove_callback(PrinterCallback)  # of a notebook, where the loss curve is the display
    with memory_explained(settings, count), StopOnSignal(trainer):
        trainer.run(resume)
    return trainer


@contextlib.contextmanager
def memory_explained(settings: dict[str, Any], count: int):
    """Turns running out of memory into an InputError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's errors are RuntimeErrors
        if (
            not isinstance(error, MemoryError)
            and "out of memory" not in str(error).lower()
            and "can't allocate memory" not in str(error)
        ):
            raise
        taken = f"{settings['batch_size'] // count} studies at once"
        raise InputError(
            f"out of memory with {taken}: raise accumulation (now {settings['accumulation']}; the same "
            "training in smaller batches), set gradient_checkpointing, or lower batch_size, max_length or "
            "image_size; --resume goes on from the last checkpoint"
        ) from error


def loss_history(trainer: Trainer) -> list[dict[str, float]]:
    """[{step, loss}] as logged."""
    return [{"step": entry["step"], "loss": entry["loss"]} for entry in curve(trainer.state.log_history)]
