"""Recipes and runs of stage 1, stage 2 and the language model; together they make `data/tiny/`.

`data/tiny/` comes from images and reports of a phantom seed that nothing else uses, not from masks or true
labels. NOTES B1 and B2 have the released recipes; `Stage1Config` takes ARM's batch of 256.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from emrrg_lib.config import PROMPT, TINY_ENCODER, EncoderConfig
from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.study import Study
from emrrg_lib.data.study_set import Indices
from emrrg_lib.files import InputError, atomic_path, processes, write_json
from emrrg_lib.language.llm import prepare_tokenizer, tiny_lm, train_tokenizer
from emrrg_lib.language.prompt import framed, text_batch
from emrrg_lib.phantom import write_phantom
from emrrg_lib.run_folder import read_json
from emrrg_lib.run_record import run_record
from emrrg_lib.settings import Count, Positive, Settings
from emrrg_lib.training.batches import CropCollator, PairCollator, find_images
from emrrg_lib.training.checkpoints import data_digest, studies_digest
from emrrg_lib.training.engine import fit, loss_history
from emrrg_lib.training.shares import per_process
from emrrg_lib.training.stage1 import Stage1Config, Stage1Model, load_stage1, save_stage1
from emrrg_lib.training.stage2 import ContrastiveModel, Stage2Config, save_stage2, tiny_text_encoder
from emrrg_lib.vision.mamba import VisionMamba
from emrrg_lib.vision.weights import load_vision_encoder, save_vision_encoder

# Phantoms fill the frame and stand straight: gentler crops are nearer to the images of the later stages.
STAGE1_TINY = Stage1Config(
    decoder_dim=64,
    steps=1000,
    warmup_steps=50,
    batch_size=32,
    base_learning_rate=2.4e-2,
    crop_scale=(0.6, 1.0),
    flip=False,
)
# Normal reports are near duplicates, so CLIP's loss alone is too weak; an early decay loses hard findings.
STAGE2_TINY = Stage2Config(
    image_size=96,
    text_encoder="tiny",
    projection_dim=128,
    cleaning="iu_xray",
    steps=2400,
    warmup_steps=200,
    batch_size=32,
    learning_rate=1.5e-3,
    schedule="hold",
    weight_decay=0.05,
    betas=(0.9, 0.98),
    clip=3.0,
    jitter=True,
    lateral_share=0.2,
    observation_weight=10.0,
)
PHANTOM_TEXT = "text of PhantomCXR reports (train split of the pre-training seed)"
STAGE1 = {"tiny": STAGE1_TINY, "base": Stage1Config(), "large": Stage1Config()}  # by names of ENCODERS
STAGE2 = {"tiny": STAGE2_TINY, "base": Stage2Config(), "large": Stage2Config()}


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """How the weights in `data/tiny/` are made: corpus → language model; stage 1 → stage 2."""

    seed: Annotated[int, 0, 2**32 - 1] = 20251019  # no demo has this seed
    studies: Count = 12_000
    lm_steps: Count = 2000
    lm_batch: Count = 32
    lm_learning_rate: Positive = 2e-3
    stage1: Stage1Config = field(default_factory=lambda: STAGE1_TINY)
    stage2: Stage2Config = field(default_factory=lambda: STAGE2_TINY)


def _pretrain(
    what: str,
    make: Callable[[], tuple[nn.Module, int, Callable]],
    save: Callable[[nn.Module, int], None],
    folder: Path,
    config: Settings,
    facts: dict[str, Any],
    *,
    seed: int,
    batch_size: int,
    checkpoints: Path | None = None,
    **fitting: Any,
) -> None:
    """Trains one model; then one process writes weights and `run.json`, and all processes wait for both.

    Args:
        what, config, facts: what `run.json` says about the run.
        make: gives the model, the number of samples and the collator; called with the seed set.
        save: writes the model's weights into `folder`; gets the number of finished epochs too.
        batch_size: over all processes. checkpoints: default: `folder/checkpoints`. fitting: for `fit`.
    """
    started = time.time()
    torch.manual_seed(seed)
    model, samples, collate = make()
    trainer = fit(
        model,
        Indices(samples),
        collate,
        checkpoints or folder / "checkpoints",
        batch_size=per_process(batch_size, processes().num_processes),
        seed=seed,
        **fitting,
    )
    if trainer.is_world_process_zero():
        save(model, int(trainer.state.epoch or 0))
        facts = {"config": asdict(config), "history": loss_history(trainer), **facts}
        write_json(folder / "run.json", run_record(what, started, **facts))
    processes().wait_for_everyone()  # the next stage reads the files


def _shared(recipe: Stage1Config | Stage2Config) -> dict[str, Any]:
    """The options of `fit` that the recipes of both stages name alike."""
    names = "steps batch_size learning_rate warmup_steps schedule weight_decay clip betas".split()
    return {name: getattr(recipe, name) for name in names} | {"bf16": torch.cuda.is_available()}


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
        images: image files of any size. encoder: its sizes; not used where `weights` gives them.
        out: folder for checkpoints, the file and `run.json`; `resume` goes on from the newest checkpoint.
        weights: a stage-1 file to start from (CXPMRG-Bench starts from ImageNet's).

    Raises:
        InputError: `weights` were trained with another objective, or cannot be read.
    """

    def make() -> tuple[Stage1Model, int, Callable]:
        if not weights:
            model = Stage1Model(encoder, recipe.objective, recipe.decoder_dim)
        elif (model := load_stage1(weights)).objective != recipe.objective:
            raise InputError(f"{weights} was trained with objective '{model.objective}': choose the same")
        return model, len(images), CropCollator(images, model.sizes.image_size, recipe, seed)

    _pretrain(
        "vision encoder, stage 1",
        make,
        lambda model, epoch: save_stage1(model, out / "stage1.pth", epoch, asdict(recipe)),
        out,
        recipe,
        {"images": len(images), "seed": seed},
        data=data_digest((), images),
        seed=seed,
        resume=resume,
        **_shared(recipe),
    )
    return out / "stage1.pth"


def stage2_encoder(
    sizes: EncoderConfig, recipe: Stage2Config, weights: Path | None, seed: int
) -> VisionMamba:
    """The encoder from which stage 2 starts: of a stage-1 file, or of `sizes` with random weights."""
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

    The encoder is trained in place; text encoder and tokenizer are those of `load_text_encoder`.
    """

    def make() -> tuple[ContrastiveModel, int, Callable]:
        model = ContrastiveModel(
            encoder, text_encoder, recipe.projection_dim, recipe.train_text, recipe.observation_weight
        )
        return model, len(studies), PairCollator(studies, tokenizer, recipe, seed)

    _pretrain(
        "vision encoder, stage 2",
        make,
        lambda model, epoch: save_stage2(model, out / "stage2.pth", epoch, recipe.steps, asdict(recipe)),
        out,
        recipe,
        {"studies": len(studies), "seed": seed},
        data=studies_digest(studies),
        seed=seed,
        resume=resume,
        save_steps=250,
        **_shared(recipe),
    )
    return out / "stage2.pth"


def pretrain_lm(
    reports: list[str], config: PretrainConfig, out: Path, resume: bool, made_from: str = PHANTOM_TEXT
) -> Path:
    """Trains tokenizer and language model on report text after the prompt; writes `out/report_lm`."""
    # the prompt's words become tokens too, which makes every step of stage 3 shorter
    tokenizer, folder = train_tokenizer([*reports, *[framed(PROMPT)] * len(reports)]), out / "report_lm"

    def collate(indices: list[int]) -> dict[str, torch.Tensor]:
        return text_batch(tokenizer, PROMPT, [reports[i] for i in indices], 128).data

    def save(model: PreTrainedModel, epoch: int) -> None:
        with atomic_path(folder) as temporary:
            model.generation_config.pad_token_id = tokenizer.pad_token_id
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)

    _pretrain(
        "report language model",
        lambda: (tiny_lm(tokenizer), len(reports), collate),
        save,
        folder,
        config,
        {"made_from": made_from},
        checkpoints=out / "work" / "lm",
        data=data_digest(reports),
        seed=config.seed,
        resume=resume,
        steps=config.lm_steps,
        batch_size=config.lm_batch,
        learning_rate=config.lm_learning_rate,
        weight_decay=0.05,
    )
    return folder


def pretrain_encoder(
    corpus: Path,
    studies: Sequence[Study],
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainConfig,
    out: Path,
    resume: bool,
) -> Path:
    """Stage 1, then stage 2 with a `tokenizer` of reports; writes `out/encoder/encoder.safetensors`."""
    first, second = out / "work" / "stage1", out / "work" / "stage2"
    if not (resume and (first / "run.json").is_file()):
        run_stage1(find_images(corpus), TINY_ENCODER, config.stage1, first, config.seed, resume)
    encoder = stage2_encoder(TINY_ENCODER, config.stage2, first / "stage1.pth", config.seed)
    text = tiny_text_encoder(tokenizer), tokenizer
    run_stage2(studies, encoder, *text, config.stage2, second, config.seed, resume)
    if processes().is_main_process:
        save_vision_encoder(encoder, out / "encoder" / "encoder.safetensors")
        before, after = (read_json(folder / "run.json", {"minutes": float}) for folder in (first, second))
        facts = {
            "minutes": round(before["minutes"] + after["minutes"], 2),
            "config": asdict(config),
            "stage1": before,
            "made_from": "PhantomCXR images and reports (train split of the pre-training seed)",
            "objective": "stage 1, then the contrastive image-report loss with observations and their "
            "side mined from the report text by label_report; no masks, no true labels",
        }
        write_json(out / "encoder" / "run.json", after | facts)
    processes().wait_for_everyone()
    return out / "encoder" / "encoder.safetensors"


def pretrain_tiny(out: Path, config: PretrainConfig = PretrainConfig(), resume: bool = False) -> Path:
    """Remakes the tiny weights in `out` (corpus, LM, encoder); finished parts are kept on resume."""
    corpus = out / "work" / "corpus"
    if processes().is_main_process and not (corpus / "annotation.json").is_file():
        write_phantom(corpus, config.studies, config.seed, splits=(0.95, 0.05, 0.0))
    processes().wait_for_everyone()
    studies = load_annotation(corpus, "train")
    reports = [clean_report(study.report, "iu_xray") for study in studies]
    if not (resume and (out / "report_lm" / "run.json").is_file()):
        pretrain_lm(reports, config, out, resume)
    if not (resume and (out / "encoder" / "run.json").is_file()):
        pretrain_encoder(corpus, studies, prepare_tokenizer(train_tokenizer(reports)), config, out, resume)
    return out
