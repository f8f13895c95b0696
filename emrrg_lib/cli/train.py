"""Commands that train: demo, train, pretrain, ablate."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from emrrg_lib.cli.parsing import (
    add_command,
    add_group,
    add_number,
    add_out,
    add_path,
    add_preset,
    add_resume,
    add_seed,
    add_system,
    add_values,
    chosen_system,
    refuse_taken,
)
from emrrg_lib.config import ENCODERS, Objective
from emrrg_lib.files import ABLATIONS, InputError

RECIPES = "default: the recipe's"


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    command = add_command(subparsers, "demo", demo)
    add_out(command, "runs/demo", "run folder to write")
    add_number(command, "--studies", "phantom studies, split into train, val and test", 3600, low=20)
    add_number(command, "--steps", "warm steps of stage 3 (default: the preset's)")
    add_seed(command)
    command = add_command(subparsers, "train", train)
    add_system(command)
    add_path(command, "--data", "annotation.json + images/", required=True)
    add_values(command, "settings of config.py, such as train.batch_size=4 train.accumulation=2")
    add_out(command, None, "run folder to write")
    command.add_argument(
        "--report-to",
        nargs="+",
        default=[],
        metavar="NAME",
        help="the Trainer's loggers, as tensorboard",
    )
    add_resume(command)
    _add_pretrain(subparsers)
    _add_ablate(subparsers)


def demo(options: Namespace) -> int:
    """Phantom X-rays -> fine-tuned tiny model -> scored reports in one page.

    emrrg demo
    emrrg demo --studies 300 --seed 1 --out runs/small
    """
    from emrrg_lib.run.demo import run_demo

    page = run_demo(options.out, options.studies, options.seed, options.steps)
    print(f"Wrote {options.out}; open {page}")
    return 0


def train(options: Namespace) -> int:
    """Fine-tune a model on a data folder in the R2Gen layout (stage 3).

    emrrg train --data phantom --out runs/mine
    emrrg train --data phantom --out runs/mine --resume
    emrrg train --config runs/mine/config.json --data phantom --out runs/again --report-to tensorboard
    torchrun --nproc-per-node 2 -m emrrg_lib train --data phantom --out runs/mine
    """
    from emrrg_lib.config import with_values
    from emrrg_lib.training.finetune import run_finetune

    config = with_values(chosen_system(options), options.values)
    refuse_taken(options.out, options.resume)
    run = run_finetune(config, options.data, options.out, options.resume, report_to=options.report_to)
    print(f"Wrote {run}; next: emrrg evaluate --run {run}")
    return 0


def _add_pretrain(subparsers) -> None:
    group = add_group(
        subparsers,
        "pretrain",
        "Stage 1 (images), stage 2 (images and reports), or the shipped tiny weights.",
        "emrrg pretrain stage1 --data phantom --out runs/stage1",
        "emrrg pretrain stage2 --data phantom --weights runs/stage1/stage1.pth --out runs/stage2",
        "emrrg pretrain tiny",
    )
    tiny = add_command(group, "tiny", pretrain_tiny)
    add_out(tiny, "runs/pretrain", "folder to write")
    add_number(tiny, "--studies", "phantom studies", 12_000, low=40)
    for name in ("lm", "stage1", "stage2"):
        add_number(tiny, f"--{name}-steps", RECIPES)
    add_resume(tiny)
    first = add_command(group, "stage1", stage1)
    first.add_argument(
        "--objective",
        choices=get_args(Objective),
        default="arg",
        help="arg: the next cluster's pixels; eq2: the next token, the paper's Eq. 2; mae: masked patches",
    )
    second = add_command(group, "stage2", stage2)
    second.add_argument(
        "--text-encoder", metavar="NAME", help=f"tiny, minilm, a hub id or a folder ({RECIPES})"
    )
    language = add_command(group, "lm", pretrain_lm)
    for command, data in ((first, "data folder, or any folder of images"), (second, "data folder")):
        command.add_argument(
            "--size", choices=list(ENCODERS), default="tiny", help="encoder and recipe (default: tiny)"
        )
        add_path(command, "--weights", "checkpoint to start from", "FILE")
        add_number(command, "--batch-size", RECIPES)
        add_path(command, "--data", data, required=True)
    add_path(language, "--data", "data folder; its training reports are read", required=True)
    for command in (first, second, language):
        add_number(command, "--steps", RECIPES)
        add_out(command, None, "folder to write")
        add_seed(command)
        add_resume(command)


def _with_options(recipe: Any, **options: Any) -> Any:
    """The recipe with those options that were given."""
    return replace(recipe, **{name: value for name, value in options.items() if value is not None})


def pretrain_tiny(options: Namespace) -> int:
    """Make the shipped tiny encoder, language model and tokenizer again.

    emrrg pretrain tiny --out runs/pretrain --resume
    """
    from emrrg_lib.training import pretrain

    if not options.resume:
        for part in ("report_lm", "encoder", "work/stage1", "work/stage2"):
            refuse_taken(options.out / part, resume=False)
    config = _with_options(
        pretrain.PretrainConfig(),
        studies=options.studies,
        lm_steps=options.lm_steps,
        stage1=_with_options(pretrain.STAGE1_TINY, steps=options.stage1_steps),
        stage2=_with_options(pretrain.STAGE2_TINY, steps=options.stage2_steps),
    )
    print(f"Wrote {pretrain.pretrain_tiny(options.out, config, options.resume)}")
    return 0


def pretrain_lm(options: Namespace) -> int:
    """Tokenizer and tiny language model from the training reports of a data folder.

    emrrg pretrain lm --data iu --steps 600 --out runs/iu-lm
    """
    from emrrg_lib.data.annotation import load_annotation
    from emrrg_lib.data.cleaning import clean_report
    from emrrg_lib.training import pretrain

    refuse_taken(options.out, options.resume)
    studies = load_annotation(options.data, "train")
    config = _with_options(pretrain.PretrainConfig(), lm_steps=options.steps, seed=options.seed)
    reports = [clean_report(study.report, "iu_xray") for study in studies]
    made_from = f"text of the {len(reports)} training reports of {options.data.name}"
    folder = pretrain.pretrain_lm(reports, config, options.out, options.resume, made_from)
    print(f"Wrote {folder}; next: emrrg train --llm {folder}")
    return 0


def stage1(options: Namespace) -> int:
    """Self-supervised pre-training on images alone.

    emrrg pretrain stage1 --data phantom --objective mae --out runs/mae
    """
    from emrrg_lib.training.batches import find_images
    from emrrg_lib.training.pretrain import STAGE1, run_stage1

    given = {name: getattr(options, name) for name in ("objective", "steps", "batch_size")}
    recipe = _with_options(STAGE1[options.size], **given)
    refuse_taken(options.out, options.resume)
    images, encoder = find_images(options.data), ENCODERS[options.size]
    file = run_stage1(images, encoder, recipe, options.out, options.seed, options.resume, options.weights)
    print(f"Wrote {file}; next: emrrg pretrain stage2 --weights {file}")
    return 0


def stage2(options: Namespace) -> int:
    """Contrastive pre-training on images and reports.

    emrrg pretrain stage2 --data phantom --text-encoder minilm --out runs/stage2
    """
    from emrrg_lib.data.annotation import load_annotation
    from emrrg_lib.training.pretrain import STAGE2, run_stage2, stage2_encoder
    from emrrg_lib.training.stage2 import load_text_encoder

    given = {name: getattr(options, name) for name in ("text_encoder", "steps", "batch_size")}
    recipe = _with_options(STAGE2[options.size], **given)
    refuse_taken(options.out, options.resume)
    studies = load_annotation(options.data, "train")
    encoder = stage2_encoder(ENCODERS[options.size], recipe, options.weights, options.seed)
    text = load_text_encoder(recipe.text_encoder)
    file = run_stage2(studies, encoder, *text, recipe, options.out, options.seed, options.resume)
    print(f"Wrote {file}; next: emrrg train --encoder-weights {file}")
    return 0


def _add_ablate(subparsers) -> None:
    command = add_command(subparsers, "ablate", ablate, writes="out")
    names = ", ".join(sorted(path.stem for path in ABLATIONS.glob("*.csv")))
    command.add_argument("name", metavar="NAME", help=f"a table of data/ablations: {names}")
    add_preset(command)
    add_number(command, "--seeds", "trainings of each row", 1)
    add_path(command, "--data", "data folder (default: phantom studies drawn to OUT/data)")
    add_number(command, "--studies", "without --data: how many studies to draw", 2000, low=20)
    command.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only these rows")
    add_values(command, "settings of every row; stage1.KEY and stage2.KEY are those of pre-training")
    add_path(command, "--out", "folder (default: runs/ablations/NAME)")


def ablate(options: Namespace) -> int:
    """Train and score the rows of an ablation table, row by row.

    The same command goes on after a stop. The exit code is 1 if a row was left out.

    emrrg ablate table5 --seeds 3
    emrrg ablate gate --rows static none --set train.warm_steps=400
    emrrg ablate cxpmrg-table4 --data phantom --set stage1.steps=500 stage2.steps=800
    """
    from emrrg_lib.config import with_values
    from emrrg_lib.presets import preset
    from emrrg_lib.training.ablation import run_ablation
    from emrrg_lib.training.ablation_rows import check_values, read_rows, require_some_weights

    config, out = preset(options.preset), options.out or Path("runs/ablations") / options.name
    rows = read_rows(options.name, options.rows)
    check_values(config, rows, options.values)  # before anything is drawn
    require_some_weights(config, rows, options.values)
    if {row.paper_table for row in rows} & {"emrrg_table5", "emrrg_table6"}:
        llm = with_values(config, [word for word in options.values if word.startswith("llm.")]).llm.name
        if llm != "llama2-7b":
            print(
                f"note: the LLM here is '{llm}'; the paper's rows beside it are of Llama-2-7B: take --preset "
                "mimic-cxr or chexpert-plus",
                file=sys.stderr,
            )
    data = options.data or _phantom(out / "data", options.studies, config)
    table, refused = run_ablation(
        options.name, config, data, out, options.seeds, options.values, options.rows
    )
    print(f"Wrote {table} and {table.with_name('figure.png')}")
    for row, reason in refused.items():
        print(f"left out: {row}: {reason}")
    return 1 if refused else 0


def _phantom(data: Path, studies: int, config) -> Path:
    """Draws PhantomCXR once, split like the demo's studies."""
    from emrrg_lib.phantom import write_phantom
    from emrrg_lib.run.demo import split_shares

    if config.encoder.patch_size == 16:
        raise InputError(f"preset '{config.preset}' is made for real images: name a data folder by --data")
    if not (data / "annotation.json").is_file():
        write_phantom(data, studies, 0, size=config.encoder.image_size, splits=split_shares(studies))
    return data
