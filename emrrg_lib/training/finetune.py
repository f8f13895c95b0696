"""Stage 3: fine-tunes Partial LoRA, projector and hybrid layers on image–report pairs (paper §3.3–3.5)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from ..config import EMRRGConfig, to_dict
from ..data.loading import load_annotation
from ..data.study_set import Indices, StudySet
from ..evaluation.nlg import score_reports
from ..files import write_json
from ..inference import write_reports
from ..language.prompt import text_batch
from ..model import EMRRG
from ..runs import write_config, write_trained
from ..tuning.policy import learning_rate_groups
from .engine import fit, loss_history
from .record import run_record

VALIDATION_STUDIES = 100  # enough to rank checkpoints; greedy, so that it takes seconds


class StudyCollator:
    """Study indices → one training batch of the model, images jittered."""

    def __init__(self, studies: StudySet, model: EMRRG, seed: int) -> None:
        self.studies, self.tokenizer, self.data, self.seed = studies, model.tokenizer, model.config.data, seed

    def __call__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        draw = int(torch.randint(2**31, ()))  # from the Trainer's stream, which a resumed run restores
        pixels, mask = self.studies.images(indices, np.random.default_rng([self.seed, draw]))
        text = text_batch(self.tokenizer, self.data.prompt, [self.studies.reports[i] for i in indices],
                          self.data.max_length)
        return {"pixel_values": pixels, "view_mask": mask, "input_ids": text.input_ids,
                "attention_mask": text.attention_mask, "labels": text.labels}


class KeepBest(TrainerCallback):
    """Generates on validation every so often and keeps the weights with the best score.

    The score is 0.8 · BLEU-4 + 0.2 · CIDEr, as upstream chooses its checkpoints (audit G).
    """

    def __init__(self, model: EMRRG, validation: StudySet, every: int, run: Path) -> None:
        self.model, self.validation, self.every, self.run = model, validation, every, run
        self.history: list[dict] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        chosen = list(range(min(VALIDATION_STUDIES, len(self.validation))))
        texts = write_reports(self.model, self.validation, chosen, num_beams=1, describe="validating")
        scores = score_reports([self.validation.reports[i] for i in chosen], texts, meteor=False)
        score = 0.8 * scores["Bleu_4"] + 0.2 * scores["CIDEr"]
        if not self.history or score > max(entry["score"] for entry in self.history):
            write_trained(self.run, self.model)
        self.history.append({"step": state.global_step, "score": score})


def run_finetune(config: EMRRGConfig, data_dir: Path, out: Path, resume: bool = False) -> Path:
    """Trains on the `train` split of `data_dir` and writes the run folder `out`.

    Writes config.json, run.json and trained.safetensors (the best checkpoint on `val`).

    Raises:
        InputError: data that cannot be read, or an `out` that holds another run.
    """
    started = time.time()
    train = StudySet(load_annotation(data_dir, "train"), config)
    validation = StudySet(load_annotation(data_dir, "val"), config)
    model = EMRRG.from_preset(config)
    write_config(out, config)
    settings = config.train
    keep = KeepBest(model, validation, max(1, settings.steps // settings.validations), out)
    trainer = fit(
        model, Indices(len(train)), StudyCollator(train, model, settings.seed), out / "checkpoints",
        steps=settings.steps, batch_size=settings.batch_size, learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps, weight_decay=settings.weight_decay, clip=settings.clip,
        seed=settings.seed, resume=resume, callbacks=[keep],
        groups=lambda m: learning_rate_groups(m, settings.learning_rate, settings.gate_learning_rate))
    write_json(out / "run.json", run_record(
        "stage 3", started, seed=settings.seed, config=to_dict(config), data=str(data_dir),
        history=loss_history(trainer), validation=keep.history))
    return out
