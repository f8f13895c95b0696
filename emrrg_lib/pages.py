"""Builds `report.html` of a run from its files alone: predictions, metrics, traces, images."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from .data.images import read_view
from .data.loading import load_annotation, load_mask
from .data.study import Study
from .evaluation.clinical import label_report
from .interpret import Example, Trace, overlays_from_trace, write_report_page
from .runs import read_config, read_json, read_predictions

PAGE_PIXELS = 192  # X-rays are drawn at least this large
NOTES = ("Synthetic data: PhantomCXR studies drawn by the kit. Not for clinical use.",
         "References are the full cleaned reports; labels are read by label_report, and uncertain "
         "counts as positive.")


def _masks(study: Study, size: int) -> dict[str, np.ndarray]:
    """Observation → (view, size, size) bool, the union of its findings' masks."""
    masks: dict[str, np.ndarray] = {}
    for finding in study.findings or ():
        if finding.get("label") and any(finding["masks"]):
            drawn = np.stack([np.zeros((size, size), bool) if path is None else load_mask(path, size)
                              for path in finding["masks"]])
            masks[finding["label"]] = masks.get(finding["label"], False) | drawn
    return masks


def _example(row: dict, study: Study, run: Path, size: int, layer: int | None) -> Example:
    trace_file = run / "traces" / f"{study.id}.npz"
    trace = Trace.load(trace_file) if trace_file.is_file() else None
    overlays = () if trace is None else overlays_from_trace(trace, layer, masks=_masks(study, size))
    return Example(id=study.id, images=[read_view(path, size) for path in study.images],
                   reference=row["reference"], hypothesis=row["hypothesis"],
                   labels_reference=row.get("labels"), labels_hypothesis=label_report(row["hypothesis"]),
                   scores=row.get("scores", {}), trace=trace, overlays=overlays)


def write_run_page(run: Path) -> Path:
    """Writes `report.html` into a run folder that has predictions and metrics; returns its path."""
    config, record = read_config(run), read_json(run / "run.json")
    metrics, rows = read_json(run / "metrics.json"), read_predictions(run)
    studies = {study.id: study for study in load_annotation(Path(record["data"]), "test")}
    traced = [row for row in rows if (run / "traces" / f"{row['id']}.npz").is_file()]
    layer = (metrics.get("pointing") or {}).get("position")
    size = max(config.encoder.image_size, PAGE_PIXELS)
    examples = [_example(row, studies[row["id"]], run, size, layer) for row in traced]
    facts = {"preset": config.preset, "seed": record["seed"], "training minutes": record["minutes"],
             "memory (GiB)": record["peak_memory_gib"], "written": time.strftime("%Y-%m-%d"),
             "commit": record["commit"] or "not a checkout",
             "versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items())}
    return write_report_page(run / "report.html", title=f"EMRRG, preset {config.preset}",
                             metrics=metrics, examples=examples, facts=facts, notes=NOTES)
