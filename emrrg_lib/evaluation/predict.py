"""Runs a model for its score table: writes every system's reports, linear-head labels, pointing and traces.

:func:`predict_run` needs the model and its data; :mod:`emrrg_lib.evaluation.score` then needs its files only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.data.study_set import StudySet, finding_mask
from emrrg_lib.evaluation.baselines import (
    fit_linear_head,
    nearest_neighbour,
    oracles,
    shuffled,
    text_controls,
)
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.evaluation.nlg import meteor_available, score_each
from emrrg_lib.evaluation.pointing import (
    MAPS,
    Case,
    naming_tokens,
    patch_mask,
    pointing_tables,
    sentence_tokens,
    token_map,
)
from emrrg_lib.files import processes, write_json
from emrrg_lib.generation import trace_report, write_reports
from emrrg_lib.language.hybrid_decoder import gates_scaled, hybrid_modules
from emrrg_lib.language.prompt import report_ids
from emrrg_lib.model import EMRRG
from emrrg_lib.run_folder import trace_file, write_predictions

EXAMPLES = 24  # studies of the page, with their traces
ENCODED = 20_000  # studies of a split that linear head and nearest neighbour see; MIMIC-CXR has 270,790

Splits = Mapping[str, StudySet]


@torch.no_grad()
def image_features(model: EMRRG, studies: StudySet) -> np.ndarray:
    """Features of the encoder as it was before stage 3: mean and maximum over the tokens of each view.

    Returns:
        (N, V · 2d), zeros for an absent view; with views `mean` (N, 2d), the mean over a study's views. N is
        at most ENCODED, the first studies of the split.
    """
    out, average, count = [], model.settings.data.views == "mean", min(len(studies), ENCODED)
    with model.untouched_encoder():
        for start in tqdm(range(0, count, 16), desc="encoding images", leave=False):
            rows = range(start, min(start + 16, count))
            pixels, mask = studies.images(rows)
            with model.mixed_precision():
                tokens = model.encoder(pixels.to(model.device)).float().cpu()
            pooled = torch.cat([tokens.mean(dim=1), tokens.amax(dim=1)], dim=-1)  # (I, 2d)
            views = pooled.new_zeros(*mask.shape, pooled.shape[1])
            views[mask] = pooled
            out.append((views.sum(1) / mask.sum(1, keepdim=True) if average else views.flatten(1)).numpy())
    return np.concatenate(out)


def _present(studies: StudySet) -> np.ndarray:
    """(N, 13) bool: observations worded as present or uncertain, without No Finding; N ≤ ENCODED."""
    labels = [
        study.labels or label_report(report)
        for study, report in zip(studies.studies[:ENCODED], studies.reports, strict=False)
    ]
    return np.array([[row[name] in (1, -1) for name in OBSERVATIONS[1:]] for row in labels])


def pointing_cases(model: EMRRG, studies: StudySet) -> dict[tuple[str, str], list[Case]]:
    """Teacher-forced maps of every finding that has a mask and is named in the reference, by key of MAPS."""
    size, cases = model.settings.encoder.image_size, {key: [] for key in MAPS}
    for index, study in enumerate(tqdm(studies.studies, desc="pointing", leave=False)):
        findings = [f for f in study.findings or () if f["label"] and any(f["masks"])]
        if not findings:
            continue
        traces = {
            position: trace_report(model, *studies.images([index]), studies.reports[index], position)
            for position in ("predicts", "own")
        }
        for finding in findings:
            tokens, mask = naming_tokens(traces["own"].tokens, finding["label"]), finding_mask(finding, size)
            for kind, position in MAPS if tokens else ():
                whole = position == "sentence"
                trace = traces["own" if whole else position]
                query = sentence_tokens(trace.tokens, tokens) if whole else tokens
                gate = trace.gate if kind == "attention x gate" else None
                cases[kind, position].append(
                    Case(
                        study.id,
                        finding["kind"],
                        token_map(trace.attention, query, gate),
                        patch_mask(mask, trace.grid),
                    )
                )
    return cases


def _image_systems(model: EMRRG, data: Splits) -> tuple[dict[str, list[str]], list[dict]]:
    """Two controls of the encoder: reports of the nearest training images, and the linear head's labels."""
    features = {split: image_features(model, studies) for split, studies in data.items()}
    neighbours = nearest_neighbour(features["train"], data["train"].reports[:ENCODED], features["test"])
    head = fit_linear_head(features["train"], _present(data["train"]), features["val"], _present(data["val"]))
    return {"nearest neighbour": neighbours}, head.labels(features["test"], OBSERVATIONS[1:])


def cut_reference(model: EMRRG, report: str) -> str:
    """The reference as the released code scores it: its first `max_length` tokens (NOTES E26)."""
    ids = report_ids(model.tokenizer, report, model.settings.data.max_length)[:-1]
    return model.tokenizer.decode(ids, skip_special_tokens=True).strip()


def predict_run(model: EMRRG, run: Path, data_dir: Path, seed: int = 0) -> Path:
    """Writes `predictions.jsonl`, `probes.json` and the traces of the page's examples.

    Each line holds id, reference (whole, and `reference_emrrg` as released), hypothesis, per-study scores,
    the reference's labels where the data set brings them, the other systems' reports (`systems`) and the
    linear head's labels.
    """
    dataset = read_dataset(data_dir, seed)
    dataset.require_reports()
    data = {split: StudySet(dataset.split(split), model.settings) for split in ("train", "val", "test")}
    test, started = data["test"], time.time()
    hypotheses = write_reports(model, test, describe="writing reports (beam search)")
    minutes, tuned = (time.time() - started) / 60, sum(t.numel() for t in model.trained_state().values())
    costs = {"minutes": minutes, "seconds": 60 * minutes / len(test), "parameters_millions": tuned / 1e6}
    systems = {"greedy": write_reports(model, test, describe="writing reports (greedy)", num_beams=1)}
    layers = list(hybrid_modules(model.llm))
    if layers:
        with gates_scaled(model.llm, dict.fromkeys(layers, 0.0)):
            systems["gates closed"] = write_reports(model, test, describe="writing reports (gates closed)")
    if not processes().is_main_process:  # only reports are shared out
        return run / "predictions.jsonl"
    systems["shuffled images"] = shuffled(hypotheses, seed)
    systems |= text_controls(data["train"].reports, data["val"].reports, len(test), seed)
    neighbours, head = _image_systems(model, data)
    systems |= neighbours | oracles(test.studies, seed, model.settings.data.cleaning)
    write_predictions(run, _lines(model, test, hypotheses, systems, head))
    pointing = layers and pointing_tables(*(pointing_cases(model, s) for s in (data["val"], test)), layers)
    probes = {"pointing": pointing or None, "dataset": dataset.caption, "costs": costs}
    write_json(run / "probes.json", probes)
    if layers:
        write_traces(model, run, test, hypotheses)
    return run / "predictions.jsonl"


def _lines(
    model: EMRRG,
    test: StudySet,
    hypotheses: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    head: Sequence,
) -> Iterator[dict[str, Any]]:
    """One line of `predictions.jsonl` for each study, scored."""
    every = [report for reports in (hypotheses, *systems.values()) for report in reports]
    meteor = meteor_available([*test.reports] * (1 + len(systems)), every)  # the score table needs all
    scores = score_each(test.reports, hypotheses, meteor)
    for i, study in enumerate(test.studies):
        yield {
            "id": study.id,
            "reference": test.reports[i],
            "hypothesis": hypotheses[i],
            "reference_emrrg": cut_reference(model, test.reports[i]),
            "scores": scores[i],
            "labels": study.labels,
            "linear_head": head[i],
            "systems": {name: texts[i] for name, texts in systems.items()},
        }


def write_traces(model: EMRRG, run: Path, test: StudySet, hypotheses: Sequence[str]) -> None:
    """Traces of the first studies' generated reports."""
    for i in range(min(EXAMPLES, len(test))):
        trace = trace_report(model, *test.images([i]), hypotheses[i])
        trace.save(trace_file(run, test.studies[i].id))
