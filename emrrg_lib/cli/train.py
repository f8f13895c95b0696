"""Commands that train: demo, train, pretrain."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import (
    add_command,
    add_group,
    add_out,
    add_seed,
    add_system,
    at_least,
    chosen_system,
    refuse_taken,
)


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    _add_demo(subparsers)
    _add_train(subparsers)
    _add_pretrain(subparsers)


def _add_demo(subparsers) -> None:
    command = add_command(
        subparsers,
        "demo",
        demo,
        "phantom X-rays -> fine-tuned tiny model -> scored reports in one page",
        "emrrg demo",
        "emrrg demo --studies 300 --seed 1 --out runs/small",
    )
    add_out(command, "runs/demo", "run folder to write")
    command.add_argument(
        "--studies",
        type=at_least(20),
        default=2000,
        metavar="N",
        help="phantom studies, split into train, val and test (default: 2000)",
    )
    command.add_argument(
        "--steps", type=at_least(1), metavar="N", help="warm steps of stage 3 (default: the preset's)"
    )
    add_seed(command)


def demo(options: Namespace) -> int:
    """The main job: data, fine-tuning, reports, scores and the page."""
    from emrrg_lib.run.demo import run_demo

    page = run_demo(options.out, options.studies, options.seed, options.steps)
    print(f"Wrote {options.out}; open {page}")
    return 0


def _add_train(subparsers) -> None:
    command = add_command(
        subparsers,
        "train",
        train,
        "fine-tune a model on a data folder in the R2Gen layout (stage 3)",
        "emrrg train --data phantom --out runs/mine",
        "emrrg train --data phantom --out runs/mine --resume",
        "torchrun --nproc-per-node 2 -m emrrg_lib train --data phantom --out runs/mine",
    )
    add_system(command)
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="annotation.json + images/")
    command.add_argument(
        "--set",
        dest="values",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of config.py, such as train.batch_size=4 train.accumulation=2",
    )
    add_out(command, None, "run folder to write")
    command.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")


def train(options: Namespace) -> int:
    """Stage 3 on a data folder."""
    from emrrg_lib.config import with_values
    from emrrg_lib.training.finetune import run_finetune

    config = with_values(chosen_system(options), options.values)
    refuse_taken(options.out, options.resume)
    run = run_finetune(config, options.data, options.out, options.resume)
    print(f"Wrote {run}; next: emrrg evaluate --run {run}")
    return 0


def _add_pretrain(subparsers) -> None:
    group = add_group(
        subparsers,
        "pretrain",
        "stage 1 (images), stage 2 (images and reports), or the shipped tiny weights",
        "emrrg pretrain stage1 --data phantom --out runs/stage1",
        "emrrg pretrain stage2 --data phantom --weights runs/stage1/stage1.pth --out runs/stage2",
        "emrrg pretrain tiny",
    )
    tiny = add_command(
        group,
        "tiny",
        pretrain_tiny,
        "make the shipped tiny encoder, language model and tokenizer again",
        "emrrg pretrain tiny --out runs/pretrain --resume",
    )
    add_out(tiny, "runs/pretrain", "folder to write")
    tiny.add_argument("--studies", type=at_least(40), default=12_000, help="phantom studies (default: 12000)")
    for name in ("lm", "stage1", "stage2"):
        tiny.add_argument(f"--{name}-steps", type=at_least(1), metavar="N", help="default: the recipe's")
    tiny.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    first = add_command(
        group,
        "stage1",
        stage1,
        "self-supervised pre-training on images alone",
        "emrrg pretrain stage1 --data phantom --objective mae --out runs/mae",
    )
    first.add_argument(
        "--objective",
        choices=["arg", "eq2", "mae"],
        default="arg",
        help="next cluster's pixels, next token (the paper's Eq. 2), or masked patches",
    )
    second = add_command(
        group,
        "stage2",
        stage2,
        "contrastive pre-training on images and reports",
        "emrrg pretrain stage2 --data phantom --text-encoder minilm --out runs/stage2",
    )
    second.add_argument(
        "--text-encoder", metavar="NAME", help="tiny, minilm, a hub id or a folder (default: the recipe's)"
    )
    for command, data in ((first, "data folder, or any folder of images"), (second, "data folder")):
        command.add_argument(
            "--size",
            choices=["tiny", "base", "large"],
            default="tiny",
            help="encoder and recipe (default: tiny)",
        )
        command.add_argument("--data", type=Path, required=True, metavar="DIR", help=data)
        command.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint to start from")
        command.add_argument("--steps", type=at_least(1), metavar="N", help="default: the recipe's")
        command.add_argument("--batch-size", type=at_least(1), metavar="N", help="default: the recipe's")
        add_out(command, None, "folder to write")
        add_seed(command)
        command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def pretrain_tiny(options: Namespace) -> int:
    """Makes the tiny weights again."""
    from emrrg_lib.training import pretrain, recipes

    if not options.resume:
        for part in ("report_lm", "encoder", "work/stage1", "work/stage2"):
            refuse_taken(options.out / part, resume=False)
    config = recipes.PretrainConfig(
        studies=options.studies,
        stage1=recipes.chosen(recipes.STAGE1_TINY, steps=options.stage1_steps),
        stage2=recipes.chosen(recipes.STAGE2_TINY, steps=options.stage2_steps),
    )
    config = recipes.chosen(config, lm_steps=options.lm_steps)
    print(f"Wrote {pretrain.pretrain_tiny(options.out, config, options.resume)}")
    return 0


def stage1(options: Namespace) -> int:
    """Stage 1 on images."""
    from emrrg_lib.training import pretrain, recipes
    from emrrg_lib.training.batches import find_images

    recipe = recipes.chosen(
        recipes.STAGE1[options.size],
        objective=options.objective,
        steps=options.steps,
        batch_size=options.batch_size,
    )
    refuse_taken(options.out, options.resume)
    file = pretrain.run_stage1(
        find_images(options.data),
        recipes.ENCODERS[options.size],
        recipe,
        options.out,
        options.seed,
        options.resume,
        options.weights,
    )
    print(f"Wrote {file}; next: emrrg pretrain stage2 --weights {file}")
    return 0


def stage2(options: Namespace) -> int:
    """Stage 2 on image-report pairs."""
    from emrrg_lib.data.annotation import load_annotation
    from emrrg_lib.training import pretrain, recipes
    from emrrg_lib.training.stage2 import load_text_encoder

    recipe = recipes.chosen(
        recipes.STAGE2[options.size],
        text_encoder=options.text_encoder,
        steps=options.steps,
        batch_size=options.batch_size,
    )
    refuse_taken(options.out, options.resume)
    studies = load_annotation(options.data, "train")
    encoder = pretrain.stage2_encoder(recipes.ENCODERS[options.size], recipe, options.weights, options.seed)
    file = pretrain.run_stage2(
        studies,
        encoder,
        *load_text_encoder(recipe.text_encoder),
        recipe,
        options.out,
        options.seed,
        options.resume,
    )
    print(f"Wrote {file}; next: emrrg train --encoder-weights {file}")
    return 0
