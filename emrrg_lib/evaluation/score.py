"""Scores written reports: a run's predictions.jsonl → metrics.json.

No model is needed here: :mod:`emrrg_lib.evaluation.predict` has written the reports of every system, or
:mod:`emrrg_lib.evaluation.foreign` has read those of another one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.evaluation import intervals
from emrrg_lib.evaluation.clinical import clinical_row, label_codes, positive
from emrrg_lib.evaluation.intervals import SystemStatistics, paired_differences, system_statistics
from emrrg_lib.evaluation.learned import Source, add_learned, read_learned
from emrrg_lib.evaluation.metrics import CLINICAL, FINDING, WORDS, metric
from emrrg_lib.evaluation.nlg import meteor_available
from emrrg_lib.evaluation.other_labelers import MODEL, REFERENCES, RULES, Labeler
from emrrg_lib.files import InputError, write_json
from emrrg_lib.run_folder import PROBES, RECORD, read_config, read_json, read_predictions

SCHEMA = 1
CEILING, FLOOR = "references themselves", "says nothing"
NOTHING = "the images were seen ."  # names no finding, so that the labelers call it No Finding
_log = logging.getLogger(__name__)
NOTES = {
    MODEL: "reports written by beam search",
    "greedy": "the same model without beam search",
    "constant report": "one training report for everybody, the best on validation: uses no image",
    "most frequent report": "the commonest training report for everybody: uses no image",
    "random training report": "a random training report for each study: uses no image",
    "nearest neighbour": "the report of the training study whose images look most alike to the encoder",
    "shuffled images": "the model's reports of other studies: right style, wrong patient",
    "gates closed": "the trained model with every gate at 0: what the language model says alone",
    "oracle re-wording": "the true findings in another random wording: a reader who sees everything",
    "oracle, commonest wording": "the true findings in the commonest wording: the ceiling of word overlap",
    "linear head": "a supervised linear head on the same frozen encoder: the ceiling of recognition",
    CEILING: "the references scored against themselves: the most that a perfect system can reach",
    FLOOR: f"“{NOTHING}” for everybody: names no finding, so the labelers call it No Finding",
}

Rows = Sequence[Mapping[str, Any]]


def evaluate_run(
    run: Path, references: str | None = None, labeler: Labeler = RULES, sources: Sequence[Source] = ()
) -> Path:
    """Writes `metrics.json` of a run: every system's scores with 95 % intervals; returns its path.

    Args:
        run: folder with `predictions.jsonl`.
        references: `full`, or `emrrg`: cut to `max_length` tokens as the released code scores them
            (NOTES E26); None takes the run's configuration.
        labeler: reads references and reports. If it is RULES and the references are whole, then labels
            that the data set brings are used as the references' labels.
        sources: of learned metrics. Their values are kept in `learned.json`, and used again without them.

    Raises:
        InputError: predictions are missing or damaged, or the labeler has no labels for them.
    """
    run = Path(run)
    rows = read_predictions(run)
    config = read_config(run).data if (run / "config.json").is_file() else None
    if references is None:
        references = config.references if config else "full"
    systems = [row.get("systems") or {} for row in rows]
    if any(of.keys() != systems[0].keys() for of in systems):
        raise InputError(f"{run / 'predictions.jsonl'}: every line needs reports of the same systems")
    texts, labels = reference_side(rows, references, labeler)
    record = read_json(run / "run.json", RECORD) if (run / "run.json").is_file() else {}
    probes = read_json(run / "probes.json", PROBES) if (run / "probes.json").is_file() else {}
    written = {record.get("system") or MODEL: [row["hypothesis"] for row in rows]}
    written |= {name: [of[name] for of in systems] for name in systems[0]}
    worded = any(map(_worded, texts))
    written |= {FLOOR: [NOTHING] * len(rows)} | ({CEILING: texts} if worded else {})
    if sources:
        add_learned(run, sources, written, texts)
    by, learned = read_learned(run)
    statistics = statistics_of(written, texts, labels, labeler, learned)
    metrics = metrics_of(_dataset(record, probes), references, labeler.name, labels, statistics)
    if not worded:
        _keep_labels_only(metrics)
    metrics["learned"] = by
    metrics["split"] = record.get("split") or "test"
    metrics["cleaning"] = config.cleaning if config else record.get("cleaning")
    if all(row.get("linear_head") for row in rows):
        metrics["rows"].append(_linear_head_row(labels, [row["linear_head"] for row in rows]))
    if probes:
        metrics["pointing"] = probes.get("pointing")
    metrics["rows"][0]["metrics"] |= _costs(probes, record)
    if record.get("history"):
        metrics["loss"] = _loss(record["history"])
    return write_json(run / "metrics.json", metrics)


def _costs(probes: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, float]:
    """Minutes, seconds a report and tuned parameters of the system itself, by keys of METRICS."""
    costs = dict(probes.get("costs") or {})
    if costs and "minutes" in record:
        costs["training_minutes"] = record["minutes"]
    return costs


def _worded(text: str) -> bool:
    return any(map(str.isalnum, text))


def _keep_labels_only(metrics: dict[str, Any]) -> None:
    """Removes the metrics of words, where the data have labels and no reports."""
    for row in metrics["rows"]:
        for values in (row["metrics"], row["ci"]):
            for key in [key for key in values if metric(key).group == WORDS]:
                del values[key]
    metrics["references"] = "labels alone"
    metrics["differences"] = [row for row in metrics["differences"] if metric(row["metric"]).group != WORDS]


def reference_side(rows: Rows, references: str, labeler: Labeler) -> tuple[list[str], list[dict]]:
    """The reference texts and their labels; arguments as in `evaluate_run`."""
    key = {"full": "reference", "emrrg": "reference_emrrg"}[references]
    if not all(isinstance(row.get(key), str) for row in rows):
        raise InputError(
            "these predictions hold no cut references: only those of a run that this kit trained do; score "
            "them with --references full"
        )
    texts = [row[key] for row in rows]
    empty = [row["id"] for row in rows if not _worded(row[key])]
    labelled = all(row.get("labels") for row in rows)
    if len(empty) == len(rows) and not labelled:
        raise InputError("there is neither a reference report nor a label here: nothing can be scored")
    if empty and len(empty) < len(rows):
        _log.warning(
            "%d of %d references have no word, first that of study %r: every metric of words is 0 there",
            *(len(empty), len(rows), empty[0]),
        )
    if labelled and (labeler is RULES and references == "full" or len(empty) == len(rows)):
        return texts, [row["labels"] for row in rows]
    return texts, _labelled(labeler, texts, REFERENCES)


def metrics_of(
    dataset: str,
    references: str,
    labeler: str,
    labels: list[dict],
    statistics: Mapping[str, SystemStatistics],
) -> dict[str, Any]:
    """The content of `metrics.json`; its differences: the first system's scores minus those of each other."""
    model = next(iter(statistics))
    rows = [
        {
            "system": name,
            "metrics": intervals.point_scores(system),
            "note": NOTES.get(name, ""),
            "ci": {key: list(pair) for key, pair in intervals.bootstrap(system).items()},
        }
        for name, system in statistics.items()
    ]
    counts = positive(label_codes(labels)).sum(axis=0)  # worded as present or uncertain
    differences = [
        {"minus": name} | vars(difference)
        for name, other in statistics.items()
        if name != model
        for difference in paired_differences(statistics[model], other)
        if metric(difference.metric).judged
    ]
    return {
        "schema": SCHEMA,
        "dataset": dataset,
        "split": "test",
        "studies": len(labels),
        "references": references,
        "labeler": labeler,
        "uncertain": "counts as positive",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
        "support": dict(zip(OBSERVATIONS, counts.tolist(), strict=True)),
        "differences": differences,
    }


def _labelled(labeler: Labeler, texts: list[str], which: str) -> list[dict]:
    labels = labeler.label(texts, which)
    if lacking := labels.count(None):
        raise InputError(f"{labeler.name} has no labels for {lacking} of {len(labels)} {which}")
    return labels


def statistics_of(
    written: Mapping[str, list[str]],
    texts: list[str],
    labels: list[dict],
    labeler: Labeler,
    learned: Callable[[list[str], list[str]], dict[str, np.ndarray]] = lambda texts, reports: {},
    must: Sequence[str] = (),
) -> dict[str, SystemStatistics]:
    """The statistics of every system, by its name.

    `learned` gives the values of learned metrics. The systems in `must` (none: the first one, as MODEL) need
    labels; another one that a CSV does not cover has no clinical scores.
    """
    who = {name: name for name in written} | {CEILING: REFERENCES}
    if not must:
        must = (next(iter(written)),)
        who |= {must[0]: MODEL}
    found = {
        name: _labelled(labeler, reports, who[name]) if name in must else labeler.label(reports, who[name])
        for name, reports in written.items()
    }
    every = [report for reports in written.values() for report in reports]
    meteor = meteor_available(texts * len(written), every)  # one start of Java for the whole table
    return {
        name: replace(
            system_statistics(texts, reports, labels, found[name], meteor), learned=learned(texts, reports)
        )
        for name, reports in written.items()
    }


def _linear_head_row(labels: list[dict], predicted: list[dict]) -> dict[str, Any]:
    """Clinical scores of the linear head over its 13 observations; it writes no text."""
    reference = label_codes(labels)
    hypothesis = label_codes([{name: None for name in OBSERVATIONS} | row for row in predicted])
    point = clinical_row(reference, hypothesis, np.ones((1, len(labels))))
    spread = clinical_row(reference, hypothesis, intervals.resample(len(labels)))
    groups = (CLINICAL["CE13"], FINDING)
    kept = [name for name in point if metric(name).group in groups and name != "CE_F1 No Finding"]
    return {
        "system": "linear head",
        "metrics": {name: float(point[name][0]) for name in kept},
        "ci": {name: list(intervals.percentiles(spread[name])) for name in kept},
        "note": NOTES["linear head"],
    }


def _dataset(record: dict[str, Any], probes: dict[str, Any]) -> str:
    known = probes.get("dataset") or record.get("dataset")
    return known or ("PhantomCXR (synthetic)" if "data" in record else "unknown")


def _loss(history: list[dict[str, float]]) -> dict[str, list]:
    return {
        "steps": [entry["step"] for entry in history],
        "train": [entry["loss"] for entry in history],
        "validation": [],
    }
