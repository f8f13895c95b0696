"""Makes the weights in `data/tiny/`: the report language model and the stage-2 encoder.

Both see images and reports of their own phantom seed only; masks and true labels are not read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ..config import PROMPT, TINY_ENCODER
from ..data.cleaning import clean_report
from ..data.images import ImageBank, jitter, normalise
from ..data.loading import load_annotation
from ..data.phantom import write_phantom
from ..data.study import Study
from ..data.study_set import Indices
from ..files import atomic_path, write_json
from ..language.llm import load_llm, tiny_lm, train_tokenizer
from ..language.prompt import text_batch
from ..vision.checkpoints import save_vision_encoder
from ..vision.encoder import VisionMamba
from .contrastive import ContrastiveModel
from .engine import fit, loss_history
from .mining import mine_targets
from .record import run_record


@dataclass(frozen=True)
class PretrainConfig:
    """Budget: about 100 minutes on 2 cores."""

    seed: int = 20251019  # disjoint from every demo seed
    studies: int = 12_000
    lm_steps: int = 2000
    lm_batch: int = 32
    lm_learning_rate: float = 2e-3
    encoder_steps: int = 2000
    encoder_batch: int = 32
    encoder_learning_rate: float = 1.5e-3
    lateral_share: float = 0.2  # share of studies whose lateral view joins a step


class PairCollator:
    """Study indices → one contrastive batch: jittered images, report tokens, mined targets."""

    def __init__(self, studies: Sequence[Study], reports: list[str], tokenizer, size: int,
                 lateral_share: float, seed: int) -> None:
        self.bank = ImageBank(studies, size)
        self.reports, self.tokenizer, self.lateral_share = reports, tokenizer, lateral_share
        self.targets = torch.stack([mine_targets(study.report) for study in studies])
        self.seed = seed

    def __call__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, int(torch.randint(2**31, ()))]))
        images, study, frontal = [], [], []
        for row, index in enumerate(indices):
            views = self.bank[index]
            keep = len(views) if rng.random() < self.lateral_share else 1
            images += views[:keep]
            study += [row] * keep
            frontal += [True] + [False] * (keep - 1)
        text = self.tokenizer([self.reports[i] for i in indices], padding=True, truncation=True,
                              max_length=128, return_tensors="pt", padding_side="right")
        return {"pixel_values": normalise(jitter(images, rng)), "study": torch.tensor(study),
                "frontal": torch.tensor(frontal), "input_ids": text.input_ids,
                "attention_mask": text.attention_mask, "targets": self.targets[indices]}


def pretrain_lm(reports: list[str], config: PretrainConfig, out: Path, resume: bool) -> Path:
    """Trains tokenizer and language model on report text after the prompt; writes `out/report_lm`."""
    started = time.time()
    torch.manual_seed(config.seed)
    tokenizer = train_tokenizer(reports)
    model = tiny_lm(tokenizer)

    def collate(indices: list[int]) -> dict[str, torch.Tensor]:
        batch = text_batch(tokenizer, PROMPT, [reports[i] for i in indices], 128)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask,
                "labels": batch.labels}

    trainer = fit(model, Indices(len(reports)), collate, out / "work" / "lm", steps=config.lm_steps,
                  batch_size=config.lm_batch, learning_rate=config.lm_learning_rate,
                  weight_decay=0.05, seed=config.seed, resume=resume)
    with atomic_path(out / "report_lm") as folder:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "run.json", run_record(
            "report language model", started, config=asdict(config), history=loss_history(trainer),
            made_from="text of PhantomCXR reports (train split of the pre-training seed)"))
    return out / "report_lm"


def pretrain_encoder(studies: Sequence[Study], reports: list[str], tokenizer,
                     config: PretrainConfig, out: Path, resume: bool) -> Path:
    """Stage 2 on phantom pairs; writes `out/encoder/encoder.safetensors`."""
    started = time.time()
    torch.manual_seed(config.seed)
    collate = PairCollator(studies, reports, tokenizer, TINY_ENCODER.image_size,
                           config.lateral_share, config.seed)
    model = ContrastiveModel(VisionMamba(TINY_ENCODER), len(tokenizer), tokenizer.pad_token_id)
    trainer = fit(model, Indices(len(studies)), collate, out / "work" / "encoder",
                  steps=config.encoder_steps, batch_size=config.encoder_batch,
                  learning_rate=config.encoder_learning_rate, weight_decay=0.05, seed=config.seed,
                  warmup_steps=200, save_steps=250, resume=resume)
    folder = out / "encoder"
    save_vision_encoder(model.visual_encoder, folder / "encoder.safetensors")
    write_json(folder / "run.json", run_record(
        "vision encoder, stage 2", started, config=asdict(config), history=loss_history(trainer),
        made_from="PhantomCXR images and reports (train split of the pre-training seed)",
        objective="contrastive image-report loss, plus observations and their side mined from the "
                  "report text by label_report as an auxiliary objective; no masks, no true labels"))
    return folder / "encoder.safetensors"


def pretrain_tiny(out: Path, config: PretrainConfig | None = None, resume: bool = False) -> Path:
    """Remakes the tiny weights in `out` (corpus, LM, encoder); finished parts are kept on resume."""
    config = config or PretrainConfig()
    corpus = out / "work" / "corpus"
    if not (corpus / "annotation.json").is_file():
        write_phantom(corpus, config.studies, config.seed, splits=(0.95, 0.05, 0.0))
    studies = load_annotation(corpus, "train")
    reports = [clean_report(study.report, "iu_xray") for study in studies]
    lm = out / "report_lm"
    if not (resume and (lm / "run.json").is_file()):
        pretrain_lm(reports, config, out, resume)
    tokenizer = load_llm(str(lm))[1]
    if not (resume and (out / "encoder" / "run.json").is_file()):
        pretrain_encoder(studies, reports, tokenizer, config, out, resume)
    return out

