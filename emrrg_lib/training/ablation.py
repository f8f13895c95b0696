"""Ablation tables: rows of `data/ablations/NAME.csv`, each trained with several seeds and scored.

A job is one row with one seed and has its own folder. A finished job is not done again, and a stopped one
goes on from its last checkpoint. `results.csv` and the figure are written after every job.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.sources import Dataset, read_dataset
from emrrg_lib.data.study import SPLITS
from emrrg_lib.data.study_set import StudySet
from emrrg_lib.evaluation.baselines import oracles, shuffled, text_controls
from emrrg_lib.evaluation.intervals import point_scores, system_statistics
from emrrg_lib.files import InputError, processes, write_json, write_text
from emrrg_lib.generation import write_reports
from emrrg_lib.interpret.figures_scores import ablation_figure
from emrrg_lib.interpret.style import png_bytes
from emrrg_lib.model import EMRRG
from emrrg_lib.run_folder import TRAINED_RECORD, read_json, write_predictions
from emrrg_lib.run_record import run_record
from emrrg_lib.settings import to_dict
from emrrg_lib.training.ablation_rows import (
    Row,
    check_values,
    paper_values,
    pretrained_encoder,
    read_rows,
    row_config,
)
from emrrg_lib.training.checkpoints import refuse_changes
from emrrg_lib.training.finetune import run_finetune

CONSTANT, SHUFFLED = "constant report", "shuffled images"
_METRICS = dict[str, float | None]
JOB_SCORES = {  # the shape of scores.json
    "row": str,
    "seed": int,
    "config": dict,
    "trained": int,
    "minutes": float,
    "metrics": _METRICS,
    SHUFFLED: _METRICS,
}


@dataclass(frozen=True)
class Job:
    """One row with one seed: its configuration and its folder."""

    row: Row
    seed: int
    config: EMRRGConfig
    out: Path


def _minutes(done: Mapping[str, Sequence[Mapping]]) -> dict[str, float]:
    return {"job_minutes": round(sum(job["minutes"] for jobs in done.values() for job in jobs), 1)}


def run_ablation(
    name: str,
    config: EMRRGConfig,
    data: Path,
    out: Path,
    seeds: int,
    values: Sequence[str] = (),
    only: Sequence[str] = (),
) -> tuple[Path, dict[str, str]]:
    """Trains and scores every row with every seed, and writes `results.csv`, `figure.png`, `run.json`.

    Args:
        name: an ablation. only: names of rows; empty: all.
        config: the preset it starts from. seeds: how many, from its own upwards. data, out: its folders.
        values: settings of every row; `stage1.KEY=…` and `stage2.KEY=…` are those of pre-training.

    Returns:
        The table, and the reason for each row that was left out, such as missing weights. Raises InputError
        for an ablation, row or setting that does not exist, and for data that cannot be read.
    """
    rows, started = read_rows(name, only), time.time()
    check_values(config, rows, values)  # a wrong one stops here, not in every row
    dataset = read_dataset(data, config.train.seed)
    dataset.require_images(*SPLITS)
    controls = control_scores(dataset, config)
    done: dict[str, list[dict[str, Any]]] = {row.row: [] for row in rows}
    refused: dict[str, str] = {}
    jobs = [(row, config.train.seed + number) for row in rows for number in range(seeds)]
    for row, seed in tqdm(jobs, desc=name, unit="job"):
        if row.row in refused:
            continue
        try:
            done[row.row].append(run_job(plan_job(row, seed, config, data, out, values), data, done))
        except InputError as error:
            refused[row.row] = str(error)
            tqdm.write(f"{row.row}: left out: {error}")
        if processes().is_main_process:
            _write(name, rows, done, refused, _controls(controls, done), out)
    if processes().is_main_process:
        facts = {
            "config": to_dict(config),
            "values": list(values),
            "seeds": seeds,
            "dataset": dataset.caption,
            "rows": [asdict(row) for row in rows],
            "left_out": refused,
        }
        write_json(out / "run.json", run_record(f"ablation {name}", started, **facts, **_minutes(done)))
    processes().wait_for_everyone()
    return out / "results.csv", refused


def plan_job(row: Row, seed: int, config: EMRRGConfig, data: Path, out: Path, values: Sequence[str]) -> Job:
    """One row with one seed; pre-trains the row's encoder if that is not done yet."""
    config = row_config(config, row, values)
    config = replace(config, train=replace(config.train, seed=seed))
    if row.stage1 or row.stage2:
        weights = pretrained_encoder(config, row, values, data, out / "pretrained")
        config = replace(config, encoder_weights=weights)
    slug = re.sub(r"[^a-z0-9]+", "-", row.row.lower()).strip("-")
    slug += f"-{hashlib.sha256(row.row.encode()).hexdigest()[:4]}"  # two names may give the same letters
    return Job(row, seed, config, out / "jobs" / slug / f"seed-{seed}")


def run_job(job: Job, data: Path, done: Mapping[str, Sequence[Mapping]]) -> dict[str, Any]:
    """Trains and scores one job as far as this is not done yet; returns the content of `scores.json`.

    A row with the configuration of an earlier one takes that row's scores. Raises InputError where the
    folder was begun with other settings, or weights are missing.
    """
    settings = json.loads(json.dumps(to_dict(job.config)))
    file = job.out / "scores.json"
    if file.is_file():
        scores = read_json(file, JOB_SCORES)
        refuse_changes(scores["config"], settings, job.out)
        return scores
    for name, jobs in done.items():
        for other in jobs:
            if other["config"] == settings:
                return {**other, "same_as": name}
    if not (job.out / "run.json").is_file():
        run_finetune(job.config, data, job.out, resume=True)
    return score_job(job, data, settings)


def score_job(job: Job, data: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Beam-search reports of the test split and their scores; the only control is shuffled images."""
    started, state = time.time(), processes()
    record = read_json(job.out / "run.json", TRAINED_RECORD)
    model = EMRRG.from_run(job.out).to(state.device)
    test = StudySet(read_dataset(data, record["seed"]).split("test"), job.config)
    reports = write_reports(model, test, describe="writing reports")
    labels = [study.labels for study in test.studies]
    scores = {
        "row": job.row.row,
        "seed": job.seed,
        "config": settings,
        "trained": sum(t.numel() for t in model.trained_state().values()),
        "minutes": round(record["minutes"] + (time.time() - started) / 60, 2),
        "metrics": _scores(test.reports, reports, labels),
        SHUFFLED: _scores(test.reports, shuffled(reports, job.seed), labels),
    }
    if state.is_main_process:
        write_predictions(
            job.out,
            (
                {"id": study.id, "reference": reference, "hypothesis": report, "labels": study.labels}
                for study, reference, report in zip(test.studies, test.reports, reports, strict=True)
            ),
        )
        write_json(job.out / "scores.json", scores)
        shutil.rmtree(job.out / "checkpoints", ignore_errors=True)  # no run resumes from here
    state.wait_for_everyone()
    return scores


def _scores(
    references: Sequence[str], reports: Sequence[str], labels: Sequence[Mapping | None]
) -> dict[str, float | None]:
    known = list(labels) if all(labels) else None
    return point_scores(system_statistics(references, reports, known))


def control_scores(dataset: Dataset, config: EMRRGConfig) -> dict[str, dict[str, float | None]]:
    """Metrics of the systems that see no image, and of the oracles where the findings are known."""
    rule, studies = config.data.cleaning, dataset.split("test")
    train, val, test = (
        [clean_report(study.report, rule) for study in dataset.split(split)] for split in SPLITS
    )
    systems = text_controls(train, val, len(test), config.train.seed)
    systems |= oracles(studies, config.train.seed, rule)
    labels = [study.labels for study in studies]
    return {name: _scores(test, reports, labels) for name, reports in systems.items()}


def _controls(known: Mapping[str, Mapping], done: Mapping[str, Sequence[Mapping]]) -> dict[str, Mapping]:
    """The known ones, and the mean over all rows of their reports given to other patients."""
    moved = [job[SHUFFLED] for jobs in done.values() for job in jobs]
    return dict(known) | ({SHUFFLED: pd.DataFrame(moved).mean().to_dict()} if moved else {})


def _write(
    name: str,
    rows: Sequence[Row],
    done: Mapping[str, Sequence[Mapping]],
    refused: Mapping[str, str],
    lines: Mapping[str, Mapping],
    out: Path,
) -> None:
    """Writes `results.csv` (jobs, rows left out, controls, papers) and `figure.png`."""
    paper = {row.row: paper_values(row) for row in rows}
    table = [
        {
            "source": "this run",
            "row": row.row,
            "seed": job["seed"],
            "minutes": job["minutes"],
            "trained": job["trained"],
            "note": f"same settings as {job['same_as']}" if "same_as" in job else row.note,
            **job["metrics"],
        }
        for row in rows
        for job in done[row.row]
    ]
    table += [{"source": "left out", "row": row, "note": why} for row, why in refused.items()]
    table += [{"source": "control", "row": row, **metrics} for row, metrics in lines.items()]
    table += [
        {"source": f"paper, {dataset}", "row": row, **metrics}
        for row, sets in paper.items()
        for dataset, metrics in sets.items()
    ]
    first = ["source", "row", "seed", "minutes", "trained", "note"]
    frame = pd.DataFrame(table).astype(
        {"seed": "Int64", "trained": "Int64"} if done and any(done.values()) else {}
    )
    frame = frame[[c for c in first if c in frame] + [c for c in frame if c not in first]]
    write_text(out / "results.csv", frame.to_csv(index=False, float_format="%.4f"))
    if any(done.values()):
        drawn = {name: lines[name] for name in (CONSTANT, SHUFFLED)}
        scored = {row: [job["metrics"] for job in jobs] for row, jobs in done.items()}
        picture = ablation_figure(name, scored, drawn, paper)
        (out / "figure.png").write_bytes(png_bytes(picture, dpi=150, colours=64))
        write_text(out / "figure.txt", picture.alt + "\n")
