"""Builds `report.html` of a run from its files alone: predictions, metrics, traces, images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emrrg_lib.data.images import load_mask, read_view
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import Study
from emrrg_lib.evaluation.labeler import VERSION, label_report
from emrrg_lib.evaluation.predict import EXAMPLES
from emrrg_lib.files import InputError
from emrrg_lib.interpret import Example, SystemReport, Trace, overlays_from_trace, write_report_page
from emrrg_lib.run_folder import read_config, read_json, read_predictions

PAGE_PIXELS = 192  # X-rays are drawn at least this large


def write_run_page(run: Path, against: Path | None = None) -> Path:
    """Writes `report.html` into a run folder that has predictions and metrics; returns its path.

    Args:
        run: the run whose page it is; its first studies are the examples.
        against: a second run on the same studies, whose model's scores and reports stand beside.

    Raises:
        InputError: a file is missing, or the two runs are not scored on the same studies alike.
    """
    config, record = read_config(run), read_json(run / "run.json")
    metrics, rows = read_json(run / "metrics.json"), read_predictions(run)
    names, others = ["Generated"], {}
    if against is not None:
        names = [run.resolve().name, against.resolve().name]
        others = {row["id"]: row for row in read_predictions(against)}
        metrics = _joined(metrics, read_json(against / "metrics.json"), names[1])
    data = read_dataset(record["data"], record["seed"])
    studies = {study.id: study for study in data.split("test")}
    shown = rows[:EXAMPLES]
    if against is not None and (missing := [row["id"] for row in shown if row["id"] not in others]):
        raise InputError(f"{against} has no report of study '{missing[0]}': give a run on the same studies")
    layer = (metrics.get("pointing") or {}).get("position")
    size = max(config.encoder.image_size, PAGE_PIXELS)
    examples = [
        _example([row, *filter(None, [others.get(row["id"])])], names, studies[row["id"]], run, size, layer)
        for row in shown
    ]
    facts = {
        "preset": config.preset,
        "seed": record["seed"],
        "training minutes": record["minutes"],
        "memory (GiB)": record["peak_memory_gib"],
        "written": time.strftime("%Y-%m-%d"),
        "commit": record["commit"] or "not a checkout",
        "versions": record["versions"],
    }
    title = f"EMRRG, preset {config.preset}" + (f": {' against '.join(names)}" if others else "")
    return write_report_page(
        run / "report.html",
        title=title,
        metrics=metrics,
        examples=examples,
        facts=facts,
        notes=_notes(metrics, data.synthetic),
    )


def _joined(metrics: dict, other: dict, name: str) -> dict:
    """The metrics with the other run's model as second row."""
    for key in ("dataset", "split", "references", "labeler"):
        if metrics.get(key) != other.get(key):
            raise InputError(
                f"the runs differ in '{key}' ({metrics.get(key)}; {other.get(key)}): "
                "score both alike with `emrrg evaluate --run`"
            )
    first, *rest = metrics["rows"]
    model = other["rows"][0] | {"system": f"{name}: {other['rows'][0]['system']}"}
    return metrics | {"rows": [first, model, *rest]}


def _notes(metrics: dict, synthetic: bool) -> list[str]:
    cut = metrics.get("references") == "emrrg"
    return ["Synthetic images, drawn by the kit: no patient's X-ray."] * synthetic + [
        "Not for clinical use.",
        f"References: {'cut as the released code scores them' if cut else 'the full cleaned reports'}. "
        f"Labels in the tables: {metrics['labeler']}, beside the examples: {VERSION}; "
        "uncertain counts as positive.",
    ]


def _example(
    rows: Sequence[dict], names: Sequence[str], study: Study, run: Path, size: int, layer: int | None
) -> Example:
    trace_file = run / "traces" / f"{study.id}.npz"
    trace = Trace.load(trace_file) if trace_file.is_file() else None
    overlays = () if trace is None else overlays_from_trace(trace, layer, masks=_masks(study, size))
    systems = [
        SystemReport(name, row["hypothesis"], label_report(row["hypothesis"]), row.get("scores", {}))
        for name, row in zip(names, rows, strict=True)
    ]
    return Example(
        id=study.id,
        images=[read_view(path, size) for path in study.images],
        reference=rows[0]["reference"],
        systems=systems,
        trace=trace,
        overlays=overlays,
        labels=rows[0].get("labels") or label_report(rows[0]["reference"]),
    )


def _masks(study: Study, size: int) -> dict[str, np.ndarray]:
    """Observation → (view, size, size) bool, the union of its findings' masks."""
    masks: dict[str, np.ndarray] = {}
    for finding in study.findings or ():
        if finding.get("label") and any(finding["masks"]):
            drawn = np.stack(
                [
                    np.zeros((size, size), bool) if path is None else load_mask(path, size)
                    for path in finding["masks"]
                ]
            )
            masks[finding["label"]] = masks.get(finding["label"], False) | drawn
    return masks
