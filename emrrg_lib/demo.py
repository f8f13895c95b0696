"""The main job of the kit: phantom data → stage 3 → reports → scores → page, in one run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .config import preset
from .data.phantom import write_phantom
from .evaluation.predict import predict_run
from .evaluation.run import evaluate_run
from .files import write_json
from .model import EMRRG
from .pages import write_run_page
from .runs import read_json
from .training.finetune import run_finetune

TEST, VALIDATION = 240, 120  # studies; the rest trains


def split_shares(studies: int) -> tuple[float, float, float]:
    """Shares of train, val and test: at most TEST and VALIDATION studies, fewer of a small set."""
    test, val = min(TEST, studies // 4), min(VALIDATION, studies // 8)
    return (studies - test - val) / studies, val / studies, test / studies


def run_demo(out: Path, studies: int, seed: int, steps: int | None = None) -> Path:
    """Runs the demo into `out` and returns the page to open.

    Args:
        out: run folder; `out/data` gets the phantom studies (kept if they are there already).
        studies: how many studies to draw. seed: of the data and of the training.
        steps: optimiser steps of stage 3; None takes the preset's.
    """
    config = preset("tiny")
    train = replace(config.train, seed=seed, steps=steps or config.train.steps)
    config = replace(config, train=train)
    data = out / "data"
    wanted = {"seed": seed, "studies": studies}
    if not _holds(data, wanted):
        print(f"[1/4] drawing {studies} phantom studies into {data}")
        write_phantom(data, studies, seed, size=config.encoder.image_size, splits=split_shares(studies))
        write_json(out / "data.json", wanted)
    print("[2/4] stage 3: Partial LoRA, projector and hybrid layers")
    run_finetune(config, data, out)
    print("[3/4] writing and scoring reports")
    predict_run(EMRRG.from_run(out), out, data, seed)
    evaluate_run(out)
    print("[4/4] drawing the page")
    return write_run_page(out)


def _holds(data: Path, wanted: dict) -> bool:
    """Whether `data` is the phantom set that is wanted."""
    made = data.parent / "data.json"
    return (data / "annotation.json").is_file() and made.is_file() and read_json(made) == wanted
