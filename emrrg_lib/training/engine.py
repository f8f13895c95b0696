"""One engine for every stage: transformers.Trainer with named parameter groups and whole checkpoints.

A run that was killed goes on from its newest whole checkpoint and gives the same curve as an undisturbed
run: the checkpoint holds the trained weights, optimiser, schedule, random state and the loss not yet logged.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME

from emrrg_lib.config import Schedule
from emrrg_lib.files import InputError, processes
from emrrg_lib.run_folder import read_json
from emrrg_lib.settings import Count, NotNegative, Rate, Settings, Whole
from emrrg_lib.training import checkpoints
from emrrg_lib.training.schedules import SCHEDULES, split_decay
from emrrg_lib.training.shares import DRAWN, Batches, ShareCollator
from emrrg_lib.training.watch import (
    FiniteGradients,
    LossCurve,
    StopOnSignal,
    curve,
    in_notebook,
    keep_freed_memory,
    memory_explained,
)

log = logging.getLogger("emrrg_lib.training")


@dataclass(frozen=True, kw_only=True)
class Budget(Settings):
    """How long and how a model is trained. A resumed run must have the same values, except `save_steps`."""

    steps: Count  # of the optimiser
    batch_size: Count  # studies that a process takes at once
    accumulation: Count = 1  # batches of one step
    seed: Annotated[int, 0, 2**32 - 1] = 0
    learning_rate: NotNegative
    warmup_steps: Whole = 100
    weight_decay: NotNegative = 0.01
    clip: NotNegative = 1.0  # largest norm of the gradient; 0 does not clip
    betas: tuple[Rate, Rate] = (0.9, 0.98)
    schedule: Schedule = "hold"
    save_steps: Count = 500  # between checkpoints

    def facts(self, studies: int) -> dict[str, Any]:
        """The values that a resumed run is compared by, as JSON; the batch is that of all processes."""
        values = asdict(self) | {"betas": list(self.betas), "studies": studies}
        del values["save_steps"]
        return values | {"batch_size": self.batch_size * processes().num_processes}

    def arguments(self, out: Path, bf16: bool, report_to: Sequence[str] = ()) -> TrainingArguments:
        """The same for the Trainer, which writes to `out`."""
        return TrainingArguments(
            output_dir=str(out),
            max_steps=self.steps,
            per_device_train_batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulation,
            average_tokens_across_devices=True,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            max_grad_norm=self.clip,
            seed=self.seed,
            logging_steps=max(1, min(50, self.steps // 20)),
            save_steps=self.save_steps,
            report_to=list(report_to),
            logging_nan_inf_filter=not torch.cuda.is_available(),  # it asks after each batch
            remove_unused_columns=False,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=in_notebook(),
        )


def require_loggers(names: Sequence[str]) -> None:
    """Raises InputError for a logger of the Trainer that is unknown or not installed."""
    installed = get_available_reporting_integrations()
    if missing := [name for name in names if name not in installed]:
        raise InputError(
            f"cannot report to '{missing[0]}': it is not installed here or not known to the Trainer; "
            f"there are: {', '.join(installed) or 'none; try `pip install tensorboard`'}"
        )


class KitTrainer(checkpoints.SealedTrainer):
    """A Trainer that takes (parameters, learning rate) groups and keeps the model's own loss.

    Args:
        budget: of the training.
        groups: makes the groups; None: all parameters at the learning rate.
        names: of the studies, for messages. data: `data_digest` of them.
    """

    def __init__(
        self,
        *args: Any,
        budget: Budget,
        groups: Callable[[nn.Module], list[dict]] | None = None,
        names: Sequence[str] | None = None,
        data: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.facts = budget.facts(len(self.train_dataset)) | {"digest of ids, reports and images": data}
        self._budget, self._groups, self._gradients = budget, groups, FiniteGradients(names)
        self._resumed: str | None = None  # checkpoint whose random state is still to be restored
        self._drawn, self._epoch = list[int](), 0  # studies of this step; where the training begins
        self._share = self._iterator = None  # the ShareCollator; the iterator of the epoch

    def create_optimizer(self, model: nn.Module | None = None):
        if self.optimizer is None:
            groups = [{"params": list(self.model.parameters()), "lr": self.args.learning_rate}]
            if self._groups:
                groups = self._groups(self.model)
            groups = split_decay(groups, self._budget.weight_decay)
            self.optimizer = torch.optim.AdamW(
                groups, betas=self._budget.betas, fused=torch.cuda.is_available() or None
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.lr_scheduler is None:
            factor = SCHEDULES[self._budget.schedule]
            warmup = self.args.get_warmup_steps(num_training_steps)
            studies = self.facts["batch_size"] * self._budget.accumulation  # of a step, over all processes
            epoch = math.ceil(len(self.train_dataset) / studies)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: factor(step, warmup, num_training_steps, epoch)
            )
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader:
        """Batches that are the same for any number of processes; each is drawn only when it is needed."""
        count = self.args.world_size
        # a loss that is a mean over tokens allows shares of any size; other losses need equal shares
        batches = Batches(
            len(self.train_dataset),
            self.args.per_device_train_batch_size * count,
            self.args.seed,
            1 if self.model_accepts_loss_kwargs else count,
        )
        self._share = ShareCollator(self.data_collator, self.args.process_index, count)
        loader = DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self._share)
        batches.set_epoch(self._epoch)  # before transformers 5.17 a resume in mid-epoch does not set it
        loader.set_epoch = batches.set_epoch  # the Trainer calls it
        return loader

    def get_batch_samples(self, epoch_iterator, num_batches: int, device):
        """The batches of one step; a resumed run restores its random state before the first is drawn."""
        self._load_rng_state(self._resumed)
        if epoch_iterator is not self._iterator:
            self._iterator, self._batches = epoch_iterator, self._share.in_order(epoch_iterator)
        self._drawn, iterator = [], map(self._note_drawn, self._batches)
        there = device if self.args.world_size > 1 else torch.device("cpu")  # for the number of tokens
        return super().get_batch_samples(iterator, num_batches, there)

    def _prepare_input(self, data):
        """Moves a batch without waiting for the GPU; what is pinned travels beside the computing."""
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _note_drawn(self, batch: dict) -> dict:
        self._drawn += batch.pop(DRAWN)
        return batch

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restores the random state once: the Trainer calls this again after the first batch was drawn."""
        if checkpoint == self._resumed:
            super()._load_rng_state(checkpoint)
            self._resumed = None

    def _get_grad_norm(self, model: nn.Module, grad_norm=None):
        """The gradient's norm, before the optimiser uses it; see `FiniteGradients`."""
        norm = super()._get_grad_norm(model, grad_norm)
        self._gradients.note(self.state.global_step + 1, norm, self._drawn, self.optimizer)
        return norm

    def close(self) -> None:
        """Ends the threads that make batches."""
        if self._share:
            self._share.close()

    def log(self, *args: Any, **kwargs: Any) -> None:
        self._gradients.look()
        super().log(*args, **kwargs)

    def _save_checkpoint(self, *args: Any) -> None:
        self._gradients.look()
        super()._save_checkpoint(*args)

    def run(self, resume: bool) -> None:
        """Trains; with `resume` it goes on from the newest whole checkpoint, if there is one.

        Raises:
            InputError: the run was begun with other settings.
        """
        with processes().main_process_first():  # which removes folders that are not whole
            checkpoint = checkpoints.newest_complete(Path(self.args.output_dir)) if resume else None
        if not checkpoint:
            self.train()
            return
        manifest = read_json(checkpoint / checkpoints.MANIFEST, checkpoints.MANIFEST_SHAPE)
        checkpoints.refuse_changes(manifest["settings"], self.facts, checkpoint.parent)
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:  # finished
            self._load_from_checkpoint(str(checkpoint))
            self.state = state
            return
        if (before := manifest["processes"]) != self.args.world_size:
            log.warning(
                "begun with %d processes, resumed with %d: the training goes on with other random numbers",
                before,
                self.args.world_size,
            )
        self.add_callback(_Unlogged(self, **manifest["unlogged"]))
        self._resumed, self._epoch = str(checkpoint), int(state.epoch or 0)
        self.train(resume_from_checkpoint=str(checkpoint))


class _Unlogged(TrainerCallback):
    """Gives a resumed run the loss of the steps since the last logged one: the curve gets the same points."""

    def __init__(self, trainer: KitTrainer, loss: float, since: int) -> None:
        self.trainer, self.loss, self.since = trainer, loss, since

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.trainer._tr_loss += self.loss
        self.trainer._globalstep_last_logged = self.since


def fit(
    model: nn.Module,
    dataset: Dataset,
    collate: Callable,
    out: Path,
    *,
    resume: bool = False,
    groups: Callable[[nn.Module], list[dict]] | None = None,
    names: Sequence[str] | None = None,
    data: str = "",
    callbacks: Sequence[TrainerCallback] = (),
    bf16: bool = False,
    report_to: Sequence[str] = (),
    **budget: Any,
) -> KitTrainer:
    """Trains with checkpoints and `loss.csv` in `out`; returns the trainer.

    Args:
        model: returns a dict with `loss`.
        dataset: of study numbers; collate: numbers → batch. Randomness comes from torch's stream.
        resume: go on from the newest whole checkpoint in `out`, if there is one.
        names: of the studies, for messages. data: their `data_digest`; a resumed run must have the same.
        bf16: the forward pass in bfloat16 where autocast allows it; weights stay float32.
        report_to: the Trainer's loggers, such as tensorboard or wandb.
        budget: fields of `Budget`; `steps`, `batch_size` and `learning_rate` are needed.

    Raises:
        InputError: a loss that is not finite, no memory, a full disk, or a resume with other settings.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when a checkpoint of the step is saved.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_freed_memory()
    plan = Budget(**budget)
    trainer = KitTrainer(
        model=model,
        args=plan.arguments(out, bf16, report_to),
        train_dataset=dataset,
        data_collator=collate,
        budget=plan,
        groups=groups,
        names=names,
        data=data,
        callbacks=[*callbacks, LossCurve(Path(out) / "loss.csv")],
    )
    trainer.remove_callback(PrinterCallback)  # of a notebook, where the loss curve is the display
    with memory_explained(plan.batch_size, plan.accumulation), StopOnSignal(trainer), closing(trainer):
        trainer.run(resume)
    return trainer


def loss_history(trainer: Trainer) -> list[dict[str, float]]:
    """[{step, loss}] as logged."""
    return [{"step": entry["step"], "loss": entry["loss"]} for entry in curve(trainer.state.log_history)]
