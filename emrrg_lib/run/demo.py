"""The main job of the kit, in one run folder: phantom data → stage 3 → reports → scores → page."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import SPLITS
from emrrg_lib.evaluation.learned import Source
from emrrg_lib.evaluation.other_labelers import RULES, Labeler
from emrrg_lib.evaluation.predict import predict_run
from emrrg_lib.evaluation.score import evaluate_run
from emrrg_lib.files import processes, write_json
from emrrg_lib.interpret.page import write_run_page
from emrrg_lib.model import EMRRG, require_weights
from emrrg_lib.phantom import write_phantom
from emrrg_lib.presets import preset
from emrrg_lib.run.explore import write_example_pages
from emrrg_lib.run.inference import write_card
from emrrg_lib.run_folder import TRAINED_RECORD, read_json
from emrrg_lib.settings import to_dict
from emrrg_lib.training.finetune import run_finetune

TEST, VALIDATION = 240, 120  # studies; the rest trains


def split_shares(studies: int) -> tuple[float, float, float]:
    """Shares of train, val and test; a small set has fewer than TEST and VALIDATION studies."""
    test, val = min(TEST, studies // 4), min(VALIDATION, studies // 8)
    return (studies - test - val) / studies, val / studies, test / studies


def run_demo(
    out: Path, studies: int, seed: int, steps: int | None = None, config: EMRRGConfig | None = None
) -> Path:
    """Runs the demo into `out` and returns the page to open.

    Args:
        out: run folder; `out/data` gets the phantom studies (kept if they are there already).
        studies: how many studies to draw. seed: of the data and of the training.
        steps: warm steps of stage 3; None takes the configuration's.
        config: of the system; None takes the preset `tiny`.
    """
    config = config or preset("tiny")
    train = replace(config.train, seed=seed, warm_steps=steps or config.train.warm_steps)
    config = replace(config, train=train)
    require_weights(config)
    data = out / "data"
    seconds: dict[str, float] = {}
    wanted = {"seed": seed, "studies": studies}
    if not _holds(data, wanted):
        print(f"[1/4] drawing {studies} phantom studies into {data}")
        with _timed(seconds, "drawing"):
            write_phantom(data, studies, seed, size=config.encoder.image_size, splits=split_shares(studies))
        write_json(out / "data.json", wanted)
    print("[2/4] stage 3: Partial LoRA, projector and hybrid layers")
    with _timed(seconds, "training"):
        run_finetune(config, data, out, resume=_interrupted(out, config))
    print("[3/4] writing and scoring reports, [4/4] drawing the page")
    (out / "predictions.jsonl").unlink(missing_ok=True)
    page = score_run(out, seconds=seconds)
    print("Seconds:", ", ".join(f"{part} {spent:.0f}" for part, spent in seconds.items()))
    return page


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Notes how long the block took."""
    started = time.time()
    yield
    seconds[part] = time.time() - started


def score_run(
    run: Path,
    references: str | None = None,
    labeler: Labeler = RULES,
    sources: Sequence[Source] = (),
    seconds: dict[str, float] | None = None,
) -> Path:
    """Writes predictions (where there are none yet), metrics.json, report.html and the card of a trained run.

    `references`, `labeler` and `sources` are those of `evaluate_run`; `seconds` gets the time of each part.

    Returns:
        The page. Raises InputError if `run` is not a trained run, or its data is missing.
    """
    state, seconds = processes(), {} if seconds is None else seconds
    if not (run / "predictions.jsonl").is_file():
        record = read_json(run / "run.json", TRAINED_RECORD)
        read_dataset(record["data"], record["seed"]).require_images(*SPLITS)  # before the model is loaded
        with _timed(seconds, "writing reports"):
            predict_run(EMRRG.from_run(run).to(state.device), run, Path(record["data"]), record["seed"])
    if state.is_main_process:
        with _timed(seconds, "scoring"):
            evaluate_run(run, references, labeler, sources)
        with _timed(seconds, "drawing pages"):
            write_example_pages(run)
            write_run_page(run)
        if (run / "config.json").is_file():  # reports of another system have none
            write_card(run)
    state.wait_for_everyone()
    return run / "report.html"


def _interrupted(out: Path, config: EMRRGConfig) -> bool:
    """Whether `out` holds the same training, stopped before its end."""
    begun = (out / "config.json").is_file() and not (out / "run.json").is_file()
    return begun and read_json(out / "config.json", dict) == json.loads(json.dumps(to_dict(config)))


def _holds(data: Path, wanted: dict) -> bool:
    """Whether `data` is the wanted phantom set."""
    made = data.parent / "data.json"
    return (data / "annotation.json").is_file() and made.is_file() and read_json(made, dict) == wanted
