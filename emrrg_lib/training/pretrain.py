"""Runs stage 1, stage 2 and the language model; together they make the weights in `data/tiny/`.

Those see images and reports of their own phantom seed only; masks and true labels are not read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from emrrg_lib.config import PROMPT, TINY_ENCODER, EncoderConfig
from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.study import Study
from emrrg_lib.data.study_set import Indices
from emrrg_lib.files import InputError, atomic_path, processes, write_json
from emrrg_lib.language.llm import load_llm, tiny_lm, train_tokenizer
from emrrg_lib.language.prompt import text_batch
from emrrg_lib.phantom import write_phantom
from emrrg_lib.run_folder import read_json, run_record
from emrrg_lib.training.batches import CropCollator, PairCollator, find_images
from emrrg_lib.training.engine import KitTrainer, fit, loss_history
from emrrg_lib.training.recipes import PretrainConfig, Stage1Config, Stage2Config, per_process
from emrrg_lib.training.stage1 import Stage1Model, load_stage1, save_stage1
from emrrg_lib.training.stage2 import ContrastiveModel, save_stage2, tiny_text_encoder
from emrrg_lib.vision.mamba import VisionMamba
from emrrg_lib.vision.weights import load_vision_encoder, save_vision_encoder


def _finish(trainer: KitTrainer, out: Path, what: str, started: float, config: Any, **facts: Any) -> None:
    write_json(
        out / "run.json",
        run_record(what, started, config=asdict(config), history=loss_history(trainer), **facts),
    )


def run_stage1(
    images: Sequence[Path],
    encoder: EncoderConfig,
    recipe: Stage1Config,
    out: Path,
    seed: int = 0,
    resume: bool = False,
    weights: Path | None = None,
) -> Path:
    """Trains stage 1 on image files; returns `out/stage1.pth`, upstream's container.

    Args:
        images: image files of any size.
        encoder: sizes of the encoder; not used where `weights` gives them.
        recipe: objective and budget.
        out: folder for checkpoints, the file and `run.json`.
        resume: go on from the newest checkpoint in `out`.
        weights: a stage-1 file to start from (CXPMRG-Bench starts from ImageNet's).

    Raises:
        InputError: `weights` were trained with another objective, or cannot be read.
    """
    started = time.time()
    torch.manual_seed(seed)
    model = load_stage1(weights) if weights else Stage1Model(encoder, recipe.objective, recipe.decoder_dim)
    if model.objective != recipe.objective:
        raise InputError(
            f"{weights} was trained with objective '{model.objective}', not "
            f"'{recipe.objective}': choose the same"
        )
    trainer = fit(
        model,
        Indices(len(images)),
        CropCollator(images, model.sizes.image_size, recipe, seed),
        out / "checkpoints",
        steps=recipe.steps,
        batch_size=per_process(recipe.batch_size, processes().num_processes),
        learning_rate=recipe.base_learning_rate * recipe.batch_size / 256,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        betas=recipe.betas,
        schedule="cosine",
        seed=seed,
        resume=resume,
        bf16=torch.cuda.is_available(),
    )
    if trainer.is_world_process_zero():
        save_stage1(model, out / "stage1.pth", int(trainer.state.epoch or 0), asdict(recipe))
        _finish(trainer, out, "vision encoder, stage 1", started, recipe, images=len(images), seed=seed)
    processes().wait_for_everyone()  # the next stage reads the file
    return out / "stage1.pth"


def stage2_encoder(
    sizes: EncoderConfig, recipe: Stage2Config, weights: Path | None, seed: int
) -> VisionMamba:
    """The encoder stage 2 starts from: a stage-1 file, or `sizes` with random weights."""
    torch.manual_seed(seed)  # cls token and final norm are new
    if weights:
        return load_vision_encoder(weights, recipe.image_size, sizes.drop_path)
    return VisionMamba(replace(sizes, image_size=recipe.image_size))


def run_stage2(
    studies: Sequence[Study],
    encoder: VisionMamba,
    text_encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Stage2Config,
    out: Path,
    seed: int = 0,
    resume: bool = False,
) -> Path:
    """Trains stage 2 on image–report pairs; returns `out/stage2.pth`, upstream's container.

    Args:
        studies: with images and report.
        encoder: trained in place. text_encoder, tokenizer: of `load_text_encoder`.
        recipe: objective and budget.
        out, resume: as for stage 1.
    """
    started = time.time()
    torch.manual_seed(seed)
    model = ContrastiveModel(
        encoder, text_encoder, recipe.projection_dim, recipe.train_text, recipe.observation_weight
    )
    trainer = fit(
        model,
        Indices(len(studies)),
        PairCollator(studies, tokenizer, recipe, seed),
        out / "checkpoints",
        steps=recipe.steps,
        batch_size=per_process(recipe.batch_size, processes().num_processes),
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        betas=recipe.betas,
        schedule=recipe.schedule,
        seed=seed,
        save_steps=250,
        resume=resume,
        bf16=torch.cuda.is_available(),
    )
    if trainer.is_world_process_zero():
        save_stage2(model, out / "stage2.pth", int(trainer.state.epoch or 0), recipe.steps, asdict(recipe))
        _finish(trainer, out, "vision encoder, stage 2", started, recipe, studies=len(studies), seed=seed)
    processes().wait_for_everyone()
    return out / "stage2.pth"


def pretrain_lm(reports: list[str], config: PretrainConfig, out: Path, resume: bool) -> Path:
    """Trains tokenizer and language model on report text after the prompt; writes `out/report_lm`."""
    started = time.time()
    torch.manual_seed(config.seed)
    tokenizer = train_tokenizer(reports)
    model = tiny_lm(tokenizer)

    def collate(indices: list[int]) -> dict[str, torch.Tensor]:
        batch = text_batch(tokenizer, PROMPT, [reports[i] for i in indices], 128)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}

    trainer = fit(
        model,
        Indices(len(reports)),
        collate,
        out / "work" / "lm",
        steps=config.lm_steps,
        batch_size=per_process(config.lm_batch, processes().num_processes),
        learning_rate=config.lm_learning_rate,
        weight_decay=0.05,
        seed=config.seed,
        resume=resume,
    )
    if trainer.is_world_process_zero():
        with atomic_path(out / "report_lm") as folder:
            model.generation_config.pad_token_id = tokenizer.pad_token_id
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            _finish(
                trainer,
                folder,
                "report language model",
                started,
                config,
                made_from="text of PhantomCXR reports (train split of the pre-training seed)",
            )
    processes().wait_for_everyone()
    return out / "report_lm"


def pretrain_encoder(
    corpus: Path,
    studies: Sequence[Study],
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainConfig,
    out: Path,
    resume: bool,
) -> Path:
    """Stage 1, then stage 2 from its file; writes `out/encoder/encoder.safetensors`."""
    first, second = out / "work" / "stage1", out / "work" / "stage2"
    if not (resume and (first / "run.json").is_file()):
        run_stage1(find_images(corpus), TINY_ENCODER, config.stage1, first, config.seed, resume)
    encoder = stage2_encoder(TINY_ENCODER, config.stage2, first / "stage1.pth", config.seed)
    run_stage2(
        studies, encoder, tiny_text_encoder(tokenizer), tokenizer, config.stage2, second, config.seed, resume
    )
    if processes().is_main_process:
        save_vision_encoder(encoder, out / "encoder" / "encoder.safetensors")
        before, after = (read_json(folder / "run.json") for folder in (first, second))
        minutes = round(before["minutes"] + after["minutes"], 2)
        write_json(
            out / "encoder" / "run.json",
            after
            | {
                "minutes": minutes,
                "config": asdict(config),
                "stage1": before,
                "made_from": "PhantomCXR images and reports (train split of the pre-training seed)",
                "objective": "stage 1, then the contrastive image-report loss with observations and their "
                "side mined from the report text by label_report; no masks, no true labels",
            },
        )
    processes().wait_for_everyone()
    return out / "encoder" / "encoder.safetensors"


def pretrain_tiny(out: Path, config: PretrainConfig | None = None, resume: bool = False) -> Path:
    """Remakes the tiny weights in `out` (corpus, LM, encoder); finished parts are kept on resume."""
    config = config or PretrainConfig()
    corpus = out / "work" / "corpus"
    if processes().is_main_process and not (corpus / "annotation.json").is_file():
        write_phantom(corpus, config.studies, config.seed, splits=(0.95, 0.05, 0.0))
    processes().wait_for_everyone()
    studies = load_annotation(corpus, "train")
    lm = out / "report_lm"
    if not (resume and (lm / "run.json").is_file()):
        pretrain_lm([clean_report(study.report, "iu_xray") for study in studies], config, out, resume)
    if not (resume and (out / "encoder" / "run.json").is_file()):
        pretrain_encoder(corpus, studies, load_llm(str(lm))[1], config, out, resume)
    return out
