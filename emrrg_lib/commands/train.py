"""Commands that train: demo, train, pretrain."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from .parsing import add_command, add_out, add_seed, at_least


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    _add_demo(subparsers)
    _add_train(subparsers)
    _add_pretrain(subparsers)


def _add_demo(subparsers) -> None:
    command = add_command(
        subparsers, "demo", demo, "phantom X-rays -> fine-tuned tiny model -> scored reports in one page",
        "emrrg demo", "emrrg demo --studies 300 --seed 1 --out runs/small")
    add_out(command, "runs/demo", "run folder to write")
    command.add_argument("--studies", type=at_least(20), default=2000, metavar="N",
                         help="phantom studies, split into train, val and test (default: 2000)")
    command.add_argument("--steps", type=at_least(1), metavar="N",
                         help="warm steps of stage 3 (default: the preset's)")
    add_seed(command)


def demo(options: Namespace) -> int:
    """The main job: data, fine-tuning, reports, scores and the page."""
    from emrrg_lib.demo import run_demo

    page = run_demo(options.out, options.studies, options.seed, options.steps)
    print(f"Wrote {options.out}; open {page}")
    return 0


def _add_train(subparsers) -> None:
    command = add_command(
        subparsers, "train", train, "fine-tune a model on a data folder in the R2Gen layout (stage 3)",
        "emrrg train --data phantom --out runs/mine", "emrrg train --data phantom --out runs/mine --resume")
    command.add_argument("--preset", default="tiny", help="preset of config.py (default: tiny)")
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="annotation.json + images/")
    add_out(command, None, "run folder to write")
    command.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")


def train(options: Namespace) -> int:
    """Stage 3 on a data folder."""
    from emrrg_lib.config import preset
    from emrrg_lib.training.finetune import run_finetune

    run = run_finetune(preset(options.preset), options.data, options.out, options.resume)
    print(f"Wrote {run}; next: emrrg evaluate --run {run}")
    return 0


def _add_pretrain(subparsers) -> None:
    command = add_command(
        subparsers, "pretrain", pretrain, "make the shipped tiny encoder, language model and tokenizer again",
        "emrrg pretrain tiny", "emrrg pretrain tiny --out runs/pretrain --resume")
    command.add_argument("what", choices=["tiny"], help="what to pre-train")
    add_out(command, "runs/pretrain", "folder to write")
    command.add_argument("--studies", type=at_least(40), default=12_000,
                         help="phantom studies (default: 12000)")
    command.add_argument("--lm-steps", type=at_least(1), default=2000, help="language model (default: 2000)")
    command.add_argument("--encoder-steps", type=at_least(1), default=2000, help="stage 2 (default: 2000)")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def pretrain(options: Namespace) -> int:
    """Makes the tiny weights again."""
    from emrrg_lib.training.pretrain import PretrainConfig, pretrain_tiny

    config = PretrainConfig(studies=options.studies, lm_steps=options.lm_steps,
                            encoder_steps=options.encoder_steps)
    pretrain_tiny(options.out, config, options.resume)
    print(f"Wrote {options.out}")
    return 0
