"""What each command of `emrrg` does; `cli.py` has parsed and checked the options.

Heavy modules are imported inside the functions, so that `emrrg --help` answers at once. Each one
takes the parsed options and returns the exit code.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.errors import InputError


def demo(options: Namespace) -> int:
    """The main job: data, fine-tuning, reports, scores and the page."""
    from emrrg_lib.demo import run_demo

    page = run_demo(options.out, options.studies, options.seed, options.steps)
    print(f"Wrote {options.out}; open {page}")
    return 0


def train(options: Namespace) -> int:
    """Stage 3 on a data folder."""
    from emrrg_lib.config import preset
    from emrrg_lib.training.finetune import run_finetune

    config = preset(options.preset)
    run = run_finetune(config, options.data, options.out, options.resume)
    print(f"Wrote {run}; next: emrrg evaluate --run {run}")
    return 0


def generate(options: Namespace) -> int:
    """Prints one report for the views of one study."""
    run = _run_folder(options.run)
    from emrrg_lib.inference import generate_reports

    for report in generate_reports(run, options.images, options.greedy):
        print(report)
    return 0


def evaluate(options: Namespace) -> int:
    """Scores a run's predictions."""
    run = _run_folder(options.run)
    from emrrg_lib.demo import score_run

    print(f"Wrote {run / 'metrics.json'}; open {score_run(run)}")
    return 0


def pretrain(options: Namespace) -> int:
    """Makes the tiny weights again."""
    from emrrg_lib.training.pretrain import PretrainConfig, pretrain_tiny

    config = PretrainConfig(studies=options.studies, lm_steps=options.lm_steps,
                            encoder_steps=options.encoder_steps)
    pretrain_tiny(options.out, config, options.resume)
    print(f"Wrote {options.out}")
    return 0


def data_phantom(options: Namespace) -> int:
    """Draws a phantom data set."""
    if options.out.exists() and any(options.out.iterdir()):
        raise InputError(f"{options.out} is not empty: remove it or choose another --out")
    from emrrg_lib.data.phantom import write_phantom

    folder = write_phantom(
        options.out, options.studies, options.seed, size=options.size, workers=options.workers
    )
    print(f"Wrote {options.studies} studies to {folder}; next: emrrg train --data {folder}")
    return 0


def data_check(options: Namespace) -> int:
    """Reads every entry and every image of a data folder and names each image that is unfit."""
    from tqdm import tqdm

    from emrrg_lib.data.loading import load_annotation, load_rgb

    studies = load_annotation(options.data, check_images=False)
    bad = []
    for image in tqdm([image for study in studies for image in study.images], unit="image"):
        try:
            load_rgb(image)
        except InputError as error:
            bad.append(str(error))
    if bad:
        listed = "\n  ".join(bad)
        raise InputError(f"{options.data}: {len(bad)} image(s) cannot be used:\n  {listed}")
    print(f"{options.data} is fine: {len(studies)} studies, every image can be read")
    return 0


def info(options: Namespace) -> int:
    """Prints a preset's map."""
    from emrrg_lib.info import describe

    print(describe(options.preset))
    return 0


def doctor(options: Namespace) -> int:
    """Prints the doctor's list; exit code 1 when the CPU path cannot run."""
    from emrrg_lib.doctor import check, healthy, report

    checks = check()
    print(report(checks))
    return 0 if healthy(checks) else 1


def _run_folder(run: Path) -> Path:
    if not run.is_dir():
        raise InputError(f"no run folder at {run}: `emrrg demo` writes runs/demo")
    return run
