"""One engine for every stage: transformers.Trainer with named parameter groups and lean checkpoints."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

WEIGHTS = "model.safetensors"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def hold_rise_fall(step: int, warmup: int, steps: int, fall: float = 0.3) -> float:
    """Learning-rate factor: linear rise, constant, then a linear fall over the last `fall` of the run.

    A schedule that decays from the start leaves the hard findings unlearnt.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return min(1.0, max(0.0, (steps - step) / max(1.0, fall * steps)))


class KitTrainer(Trainer):
    """A Trainer that takes (parameters, learning rate) groups and keeps the model's own loss."""

    def __init__(self, *args: Any, groups: Callable[[nn.Module], list[dict]] | None = None,
                 weight_decay: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups, self._decay = groups, weight_decay

    def create_optimizer(self, model: nn.Module | None = None):
        if self.optimizer is None:
            groups = self._groups(self.model) if self._groups else [
                {"params": list(self.model.parameters()), "lr": self.args.learning_rate}]
            self.optimizer = torch.optim.AdamW(split_decay(groups, self._decay), betas=(0.9, 0.98))
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: hold_rise_fall(step, warmup, num_training_steps))
        return self.lr_scheduler


    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Writes only what trains, so that a checkpoint next to a 7B LLM stays small."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: p.detach().cpu().contiguous()
                   for name, p in self.model.named_parameters() if p.requires_grad}
        save_file(trained, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Reads what `_save` wrote back into the model; frozen weights are there already."""
        tensors = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        (model or self.model).load_state_dict(tensors, strict=False)

    def restore_finished(self, checkpoint: str) -> bool:
        """Loads a checkpoint of the last step and says True; `train` would add a step to it."""
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if state.global_step < self.args.max_steps:
            return False
        self._load_from_checkpoint(checkpoint)
        self.state = state
        return True


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


def fit(model: nn.Module, dataset: Dataset, collate: Callable, out: Path, *, steps: int,
        batch_size: int, learning_rate: float, warmup_steps: int = 100, weight_decay: float = 0.01,
        clip: float = 1.0, seed: int = 0, save_steps: int = 500, resume: bool = False,
        groups: Callable[[nn.Module], list[dict]] | None = None,
        callbacks: list[TrainerCallback] | None = None) -> KitTrainer:
    """Trains for `steps` optimiser steps with checkpoints in `out`; returns the finished trainer.

    `resume` goes on from the newest checkpoint in `out`, if there is one.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_freed_memory()
    arguments = TrainingArguments(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=batch_size,
        learning_rate=learning_rate, warmup_steps=warmup_steps, max_grad_norm=clip, seed=seed,
        logging_steps=max(1, min(50, steps // 20)), save_steps=save_steps, save_total_limit=2,
        report_to=[], remove_unused_columns=False, dataloader_num_workers=0,
        use_cpu=not torch.cuda.is_available(), disable_tqdm=False)
    trainer = KitTrainer(model=model, args=arguments, train_dataset=dataset, data_collator=collate,
                         groups=groups, weight_decay=weight_decay, callbacks=callbacks)
    checkpoint = get_last_checkpoint(str(out)) if resume and Path(out).is_dir() else None
    if checkpoint and trainer.restore_finished(checkpoint):
        return trainer
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def loss_history(trainer: Trainer) -> list[dict[str, float]]:
    """[{step, loss}] as logged."""
    return [{"step": entry["step"], "loss": entry["loss"]} for entry in trainer.state.log_history
            if "loss" in entry and math.isfinite(entry["loss"])]
