"""Stage 3: fine-tunes Partial LoRA, projector and hybrid layers on image–report pairs (paper §3.3–3.5)."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, TrainerCallback

from emrrg_lib.choices import check_choices
from emrrg_lib.config import EMRRGConfig
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study_set import Indices, StudySet
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.evaluation.nlg import score_reports
from emrrg_lib.files import processes, write_json
from emrrg_lib.generation import write_reports
from emrrg_lib.language.prompt import IGNORE, first_report_position, report_spans, text_batch
from emrrg_lib.model import EMRRG, require_weights
from emrrg_lib.run_folder import VALIDATION, read_config, read_json, write_config, write_trained
from emrrg_lib.run_record import run_record
from emrrg_lib.settings import to_dict
from emrrg_lib.training.batches import per_process, random_streams
from emrrg_lib.training.checkpoints import refuse_changes, studies_digest
from emrrg_lib.training.engine import fit, loss_history, require_loggers
from emrrg_lib.tuning.policy import learning_rate_groups

ENCODE_BATCH = 16


class StudyCollator:
    """Study indices → one training batch of the model, its images jittered where `data.augment` says so."""

    def __init__(self, studies: StudySet, model: EMRRG, seed: int) -> None:
        self.studies, self.seed = studies, seed
        self.tokenizer, self.data = model.tokenizer, model.settings.data
        self.image_in_prompt = model.settings.llm.image_in_prompt
        self.weight, self.weights = model.settings.train.finding_weight, {}

    def images(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The image side of the batch."""
        streams = random_streams(self.seed, indices) if self.data.augment else None
        pixels, mask = self.studies.images(indices, streams)
        return {"pixel_values": pixels, "view_mask": mask}

    def __call__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        reports, data = [self.studies.reports[i] for i in indices], self.data
        text = text_batch(self.tokenizer, data.prompt, reports, data.max_length, self.image_in_prompt)
        first = first_report_position(text["labels"])  # here, because a GPU would have to be waited for
        batch = self.images(indices) | text.data | {"first": first}
        return batch | ({"weights": self._weigh(reports, text["labels"])} if self.weight != 1 else {})

    def _weigh(self, reports: list[str], labels: torch.Tensor) -> torch.Tensor:
        """`finding_weights` at the places of the labels, (B, n)."""
        for report in set(reports) - self.weights.keys():
            self.weights[report] = finding_weights(self.tokenizer, report, self.data.max_length, self.weight)
        weights = torch.ones(labels.shape)
        weights[labels != IGNORE] = torch.cat([self.weights[report] for report in reports])
        return weights


class TokenCollator(StudyCollator):
    """The same batch with encoder tokens (I, M + 1, d) instead of images, computed once in float16."""

    def __init__(self, studies: StudySet, model: EMRRG, seed: int) -> None:
        super().__init__(studies, model, seed)
        self.model, self.tokens = model, None

    @torch.no_grad()
    def _encode(self) -> list[torch.Tensor]:
        self.model.eval()  # no drop-path; the Trainer sets the mode it needs
        tokens = []
        for start in range(0, len(self.studies), ENCODE_BATCH):
            pixels, masks = self.studies.images(range(start, min(start + ENCODE_BATCH, len(self.studies))))
            with self.model.mixed_precision():
                encoded = self.model.encoder(pixels.to(self.model.device)).half().cpu()
            tokens += encoded.split(masks.sum(dim=1).tolist())
        return tokens

    def images(self, indices: list[int]) -> dict[str, torch.Tensor]:
        if self.tokens is None:
            self.tokens = self._encode()
        rows = [self.tokens[i] for i in indices]
        views = torch.tensor([len(row) for row in rows])[:, None]
        width = self.studies.max_views or int(views.max())
        return {"tokens": torch.cat(rows).float(), "view_mask": torch.arange(width) < views}


class KeepBest(TrainerCallback):
    """Scores the model on validation at regular steps and keeps the weights with the best score.

    The joint part chooses anew: the warm part's best would be a model whose encoder was never tuned. The
    training ends early where `patience` validations in a row bring no better score.
    """

    def __init__(self, model: EMRRG, run: Path, resume: bool, score: Callable[[], float]) -> None:
        self.model, self.run, self.score = model, run, score
        self.settings = model.settings.train
        self.every, self.offset = 1, 0  # steps between validations, steps of earlier parts
        self.file = run / "checkpoints" / "validation.json"
        known = resume and self.file.is_file()
        self.history: list[dict] = read_json(self.file, list[VALIDATION]) if known else []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        step = self.offset + state.global_step
        self.history = [entry for entry in self.history if entry["step"] < step]  # after a resume
        score = self.score()
        best = all(score > entry["score"] for entry in self.history if entry["step"] > self.offset)
        self.history.append({"step": step, "score": score})
        if state.is_world_process_zero:
            if best:
                write_trained(self.run, self.model)
            write_json(self.file, self.history)
        part = [entry["score"] for entry in self.history if entry["step"] > self.offset]
        if self.settings.patience and len(part) - 1 - part.index(max(part)) >= self.settings.patience:
            control.should_training_stop = control.should_save = True


def validation_score(model: EMRRG, validation: StudySet) -> float:
    """0.8 · BLEU-4 + 0.2 · CIDEr of greedy reports, as upstream chooses its checkpoints (NOTES G)."""
    count = min(model.settings.train.validation_studies or len(validation), len(validation))
    texts = write_reports(model, validation, range(count), num_beams=1, describe="validating")
    scores = score_reports(validation.reports[:count], texts, meteor=False)
    return 0.8 * scores["Bleu_4"] + 0.2 * scores["CIDEr"]


def is_abnormal(report: str) -> bool:
    """Whether the report words an observation other than No Finding as present or uncertain."""
    return any(value in (1, -1) for name, value in label_report(report).items() if name != "No Finding")


def finding_weights(
    tokenizer: PreTrainedTokenizerFast, report: str, max_length: int, weight: float
) -> torch.Tensor:
    """How often each token of a report and its end symbol counts, float32: `weight` or 1.

    `weight` have the tokens of sentences that `is_abnormal`. They are a small part of the words, and most
    of the others can be written without the image.
    """
    text = report.strip()
    weights = torch.ones(min(max_length, len(spans := report_spans(tokenizer, text))) + 1)
    for sentence in re.finditer(r"(?s).+?(?:\.\s+|$)", text):
        if is_abnormal(sentence[0]):
            inside = [sentence.start() < end <= sentence.end() for _, end in spans[:max_length]]
            weights[:-1][torch.tensor(inside)] = weight
    return weights


def run_finetune(
    config: EMRRGConfig,
    data_dir: Path,
    out: Path,
    resume: bool = False,
    score: Callable[[EMRRG, StudySet], float] = validation_score,
    report_to: Sequence[str] = (),
) -> Path:
    """Trains on the `train` split of `data_dir` and writes the run folder `out`.

    Writes config.json, run.json, trained.safetensors (the best checkpoint on `val`) and last.safetensors.

    Args:
        score: of a model on the validation split; the weights with the highest one are kept.
        report_to: loggers of the Trainer beside loss.csv, such as tensorboard.

    Raises:
        InputError: data that cannot be read, weights that are missing, a resume with another
            configuration (every difference is named); and what `fit` raises.
    """
    started, settings, state = time.time(), config.train, processes()
    check_choices(config)
    require_loggers(report_to)
    if resume and (out / "config.json").is_file():
        refuse_changes(to_dict(read_config(out)), to_dict(config), out)
    require_weights(config)  # the cheap checks come first: images are decoded once all else is there
    dataset = read_dataset(data_dir, settings.seed)
    dataset.require_images("train", "val")
    with state.main_process_first():  # which fills the cache of images
        train, validation = (StudySet(dataset.split(name), config) for name in ("train", "val"))
    model = EMRRG.from_preset(config).to(state.device)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if state.is_main_process:
        _begin(out, config, resume)
    state.wait_for_everyone()
    keep = KeepBest(model, out, resume, lambda: score(model, validation))
    data = studies_digest([*train.studies, *validation.studies])
    history = _fit_parts(model, train, data, keep, resume, report_to)
    if state.is_main_process:
        write_trained(out, model, "last.safetensors")
        facts = {"seed": settings.seed, "config": to_dict(config)}
        facts |= {"data": str(data_dir), "dataset": dataset.caption}
        curves = {"history": history, "validation": keep.history}
        write_json(out / "run.json", run_record("stage 3", started, **facts, **curves))
    state.wait_for_everyone()
    return out


def _begin(out: Path, config: EMRRGConfig, resume: bool) -> None:
    if not resume:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        (out / "run.json").unlink(missing_ok=True)
    write_config(out, config)


def _fit_parts(
    model: EMRRG, train: StudySet, data: str, keep: KeepBest, resume: bool, report_to: Sequence[str]
) -> list[dict[str, float]]:
    """Trains the warm and the joint part, `data` being the digest of both splits; their loss curve."""
    settings, history = model.settings.train, []
    drawn = Indices(
        len(train), [settings.abnormal_factor if is_abnormal(report) else 1 for report in train.reports]
    )
    parts = (
        ("warm", settings.warm_steps, TokenCollator, 1.0),
        ("joint", settings.joint_steps(len(drawn)), StudyCollator, settings.joint_factor),
    )
    for name, steps, collator, factor in parts:
        if not steps:
            continue
        keep.every = math.ceil(steps / settings.validations)
        trainer = fit(
            model,
            drawn,
            collator(train, model, settings.seed),
            keep.run / "checkpoints" / name,
            steps=steps,
            batch_size=per_process(settings.batch_size, processes().num_processes * settings.accumulation),
            accumulation=settings.accumulation,
            learning_rate=factor * settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            schedule=settings.schedule,
            betas=settings.betas,
            seed=settings.seed,
            save_steps=settings.save_steps,
            resume=resume,
            names=[study.id for study in train.studies],
            data=data,
            report_to=report_to,
            callbacks=[keep],
            groups=partial(
                learning_rate_groups,
                learning_rate=factor * settings.learning_rate,
                gate_learning_rate=factor * settings.gate_learning_rate,
            ),
        )
        history += [{**entry, "step": keep.offset + entry["step"]} for entry in loss_history(trainer)]
        keep.offset += trainer.state.global_step
    return history
