"""Stage 3: fine-tunes Partial LoRA, projector and hybrid layers on image–report pairs (paper §3.3–3.5)."""

from __future__ import annotations

import math
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainerCallback

from ..config import EMRRGConfig, to_dict
from ..data.loading import load_annotation
from ..data.study_set import Indices, StudySet
from ..evaluation.clinical import label_report
from ..evaluation.nlg import score_reports
from ..files import write_json
from ..inference import write_reports
from ..language.prompt import text_batch
from ..model import EMRRG
from ..runs import read_json, write_config, write_trained
from ..tuning.policy import learning_rate_groups
from .engine import fit, loss_history
from .record import run_record

ENCODE_BATCH = 16
VALIDATION_STUDIES = 80  # enough to rank checkpoints; greedy, so that it takes seconds


class StudyCollator:
    """Study indices → one training batch of the model, images jittered."""

    def __init__(self, studies: StudySet, model: EMRRG, seed: int) -> None:
        self.studies, self.seed = studies, seed
        self.tokenizer, self.data = model.tokenizer, model.settings.data

    def images(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The image side of the batch."""
        draw = int(torch.randint(2**31, ()))  # from the Trainer's stream, which a resumed run restores
        pixels, mask = self.studies.images(indices, np.random.default_rng([self.seed, draw]))
        return {"pixel_values": pixels, "view_mask": mask}

    def __call__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        text = text_batch(self.tokenizer, self.data.prompt, [self.studies.reports[i] for i in indices],
                          self.data.max_length)
        return self.images(indices) | {"input_ids": text.input_ids, "attention_mask": text.attention_mask,
                                       "labels": text.labels}


class TokenCollator(StudyCollator):
    """The same batch from encoder tokens computed once: (I, M + 1, d) kept as half precision."""

    @torch.no_grad()
    def __init__(self, studies: StudySet, model: EMRRG, seed: int) -> None:
        super().__init__(studies, model, seed)
        self.tokens, self.masks = [], []
        for start in tqdm(range(0, len(studies), ENCODE_BATCH), desc="encoding images", leave=False):
            pixels, masks = studies.images(range(start, min(start + ENCODE_BATCH, len(studies))))
            tokens = model.encoder(pixels[masks]).half()
            self.tokens += tokens.split(masks.sum(dim=1).tolist())
            self.masks += masks

    def images(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"tokens": torch.cat([self.tokens[i] for i in indices]).float(),
                "view_mask": torch.stack([self.masks[i] for i in indices])}


class KeepBest(TrainerCallback):
    """Generates on validation every so often and keeps the weights with the best score.

    The score is 0.8 · BLEU-4 + 0.2 · CIDEr, as upstream chooses its checkpoints (audit G).
    """

    def __init__(self, model: EMRRG, validation: StudySet, run: Path, resume: bool) -> None:
        self.model, self.validation, self.run = model, validation, run
        self.every, self.offset = 1, 0  # steps between validations, steps of earlier parts
        self.file = run / "checkpoints" / "validation.json"
        self.history: list[dict] = read_json(self.file) if resume and self.file.is_file() else []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        step = self.offset + state.global_step
        self.history = [entry for entry in self.history if entry["step"] < step]  # after a resume
        chosen = list(range(min(VALIDATION_STUDIES, len(self.validation))))
        texts = write_reports(self.model, self.validation, chosen, num_beams=1, describe="validating")
        scores = score_reports([self.validation.reports[i] for i in chosen], texts, meteor=False)
        score = 0.8 * scores["Bleu_4"] + 0.2 * scores["CIDEr"]
        if not self.history or score > max(entry["score"] for entry in self.history):
            write_trained(self.run, self.model)
        self.history.append({"step": step, "score": score})
        write_json(self.file, self.history)


def is_abnormal(report: str) -> bool:
    """Whether the report words an observation other than No Finding as present or uncertain."""
    return any(value in (1, -1) for name, value in label_report(report).items() if name != "No Finding")


def run_finetune(config: EMRRGConfig, data_dir: Path, out: Path, resume: bool = False) -> Path:
    """Trains on the `train` split of `data_dir` and writes the run folder `out`.

    Writes config.json, run.json and trained.safetensors (the best checkpoint on `val`).

    Raises:
        InputError: data that cannot be read, or weights that are missing.
    """
    started, settings = time.time(), config.train
    train = StudySet(load_annotation(data_dir, "train"), config)
    validation = StudySet(load_annotation(data_dir, "val"), config)
    model = EMRRG.from_preset(config)
    if not resume:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        (out / "run.json").unlink(missing_ok=True)
    write_config(out, config)
    keep, history = KeepBest(model, validation, out, resume), []
    drawn = Indices(len(train), [settings.abnormal_factor if is_abnormal(report) else 1
                                 for report in train.reports])
    parts = (("warm", settings.warm_steps, TokenCollator, 1.0),
             ("joint", settings.steps, StudyCollator, settings.joint_factor))
    for name, steps, collator, factor in parts:
        if not steps:
            continue
        keep.every = math.ceil(steps / settings.validations)
        trainer = fit(
            model, drawn, collator(train, model, settings.seed), out / "checkpoints" / name,
            steps=steps, batch_size=settings.batch_size, learning_rate=factor * settings.learning_rate,
            warmup_steps=settings.warmup_steps, weight_decay=settings.weight_decay, clip=settings.clip,
            seed=settings.seed, resume=resume, callbacks=[keep], groups=partial(
                learning_rate_groups, learning_rate=factor * settings.learning_rate,
                gate_learning_rate=factor * settings.gate_learning_rate))
        history += [{**entry, "step": keep.offset + entry["step"]} for entry in loss_history(trainer)]
        keep.offset += steps
    write_json(out / "run.json", run_record(
        "stage 3", started, seed=settings.seed, config=to_dict(config), data=str(data_dir),
        history=history, validation=keep.history))
    return out
