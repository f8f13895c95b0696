"""Scores a run folder: predictions.jsonl in, metrics.json out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.study import OBSERVATIONS
from ..files import write_json
from ..runs import read_json, read_predictions
from .clinical import clinical_row, label_codes, label_report, positive
from .intervals import (
    SystemStatistics,
    bootstrap,
    paired_difference,
    percentiles,
    point_scores,
    resample,
    system_statistics,
)

SCHEMA = 1
MODEL = "model (beam search)"
NOTES = {
    MODEL: "reports written by beam search",
    "greedy": "the same model without beam search",
    "constant report": "one training report for everybody, the best on validation: uses no image",
    "most frequent report": "the commonest training report for everybody: uses no image",
    "random training report": "a random training report for each study: uses no image",
    "shuffled images": "the model's reports of other studies: right style, wrong patient",
    "gates closed": "the trained model with every gate at 0: what the language model says alone",
    "oracle re-wording": "the true findings in another random wording: a reader who sees everything",
    "oracle, commonest wording": "the true findings in the commonest wording: the ceiling of word overlap",
    "linear head": "a supervised linear head on the same frozen encoder: the ceiling of recognition",
}


def evaluate_run(run: Path) -> Path:
    """Writes `metrics.json` of a run: every system's scores with 95 % intervals.

    Raises:
        InputError: no or damaged predictions.
    """
    run = Path(run)
    rows = read_predictions(run)
    references = [row["reference"] for row in rows]
    labels = [row.get("labels") or label_report(row["reference"]) for row in rows]
    texts = {MODEL: [row["hypothesis"] for row in rows]}
    for name in rows[0].get("systems", {}):
        texts[name] = [row["systems"][name] for row in rows]
    statistics = {name: system_statistics(references, hypotheses, reference_labels=labels)
                  for name, hypotheses in texts.items()}
    table = [_row(name, system) for name, system in statistics.items()]
    if rows[0].get("linear_head"):
        table.append(_linear_head_row(labels, [row["linear_head"] for row in rows]))
    metrics: dict[str, Any] = {
        "schema": SCHEMA, "dataset": _dataset(run), "split": "test", "rows": table,
        "support": _support(labels), "differences": _differences(statistics),
        "labeler": "label_report; uncertain counts as positive"}
    if (run / "probes.json").is_file():
        metrics["pointing"] = read_json(run / "probes.json")["pointing"]
    if (run / "run.json").is_file():
        metrics["loss"] = _loss(read_json(run / "run.json"))
    return write_json(run / "metrics.json", metrics)


def _row(name: str, system: SystemStatistics) -> dict[str, Any]:
    intervals = {metric: list(pair) for metric, pair in bootstrap(system).items()}
    return {"system": name, "metrics": point_scores(system), "ci": intervals, "note": NOTES.get(name, "")}


def _linear_head_row(labels: list[dict], predicted: list[dict]) -> dict[str, Any]:
    """The linear head writes no text: clinical scores over its 13 observations only."""
    reference = label_codes(labels)
    hypothesis = label_codes([{name: None for name in OBSERVATIONS} | row for row in predicted])
    weights = resample(len(labels))
    kept = [name for name in clinical_row(reference, hypothesis, np.ones((1, len(labels))))
            if name.startswith("CE13_") or name.startswith("CE_F1")]
    point = clinical_row(reference, hypothesis, np.ones((1, len(labels))))
    spread = clinical_row(reference, hypothesis, weights)
    kept = [name for name in kept if name != "CE_F1 No Finding"]
    return {"system": "linear head", "metrics": {name: float(point[name][0]) for name in kept},
            "ci": {name: list(percentiles(spread[name])) for name in kept}, "note": NOTES["linear head"]}


def _support(labels: list[dict]) -> dict[str, int]:
    """How many references word each observation as present or uncertain."""
    counts = positive(label_codes(labels)).sum(axis=0)
    return {name: int(count) for name, count in zip(OBSERVATIONS, counts, strict=True)}


def _differences(statistics: dict[str, SystemStatistics]) -> list[dict[str, Any]]:
    """Paired differences of the model to every control, for the metrics the kit is judged by."""
    return [{"minus": name} | vars(paired_difference(metric, statistics[MODEL], other))
            for name, other in statistics.items() if name != MODEL
            for metric in ("Bleu_4", "CIDEr", "CE13_micro_F1")]


def _dataset(run: Path) -> str:
    record = read_json(run / "run.json") if (run / "run.json").is_file() else {}
    return record.get("dataset", "PhantomCXR (synthetic)" if "data" in record else "unknown")


def _loss(record: dict[str, Any]) -> dict[str, list]:
    history = record.get("history", [])
    return {"steps": [entry["step"] for entry in history], "train": [entry["loss"] for entry in history],
            "validation": []}
