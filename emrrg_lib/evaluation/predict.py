"""Everything a score table needs from the model: reports of every system, linear head, pointing cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..data.cleaning import clean_report
from ..data.loading import load_annotation, load_mask
from ..data.phantom import commonest_wording, reword
from ..data.study import OBSERVATIONS, Study
from ..data.study_set import StudySet
from ..files import write_json
from ..generation import trace_report
from ..inference import write_reports
from ..language.hybrid_decoder import gates_scaled, hybrid_modules
from ..model import EMRRG
from ..runs import write_predictions
from .baselines import constant_report, fit_linear_head, most_frequent_report, random_reports, shuffled
from .clinical import label_report
from .localization import (
    Case,
    choose_layer,
    naming_tokens,
    patch_mask,
    place_priors,
    pointing_game,
    token_map,
)
from .nlg import score_each

EXAMPLES = 24  # studies of the page, with their traces


def reference_labels(study: Study, report: str) -> dict[str, int | None]:
    """The study's own labels as worded, or those that `label_report` reads from its report."""
    return study.labels if study.labels is not None else label_report(report)


@torch.no_grad()
def image_features(model: EMRRG, studies: StudySet) -> np.ndarray:
    """Frozen pre-trained encoder features, (N, V · 2d): mean and maximum over the tokens of each view."""
    out = []
    with model.encoder.disable_adapter():
        for start in tqdm(range(0, len(studies), 16), desc="encoding images", leave=False):
            rows = range(start, min(start + 16, len(studies)))
            pixels, mask = studies.images(rows)
            tokens = model.encoder(pixels[mask])
            pooled = torch.cat([tokens.mean(dim=1), tokens.amax(dim=1)], dim=-1)  # (I, 2d)
            views = pooled.new_zeros(*mask.shape, pooled.shape[1])
            views[mask] = pooled
            out.append(views.flatten(1).numpy())
    return np.concatenate(out)


def _present(studies: StudySet) -> np.ndarray:
    """(N, 13) bool: observations worded as present or uncertain, No Finding left out."""
    labels = [reference_labels(s, r) for s, r in zip(studies.studies, studies.reports, strict=True)]
    return np.array([[row[name] in (1, -1) for name in OBSERVATIONS[1:]] for row in labels])


def linear_head_labels(model: EMRRG, train: StudySet, val: StudySet, test: StudySet) -> list[dict]:
    """Labels of the test studies by a supervised linear head on the same encoder: a ceiling."""
    head = fit_linear_head(image_features(model, train), _present(train),
                           image_features(model, val), _present(val))
    return head.labels(image_features(model, test), OBSERVATIONS[1:])


def pointing_cases(model: EMRRG, studies: StudySet) -> list[Case]:
    """Teacher-forced attention of every localised finding that the reference names."""
    grid = (model.settings.encoder.side,) * 2
    cases = []
    for index, study in enumerate(tqdm(studies.studies, desc="pointing", leave=False)):
        findings = [f for f in study.findings or () if any(f["masks"])]
        if not findings:
            continue
        trace = trace_report(model, *studies.images([index]), studies.reports[index])
        for finding in findings:
            tokens = naming_tokens(trace.tokens, finding["kind"])
            if tokens:
                size = model.settings.encoder.image_size
                mask = np.stack([np.zeros((size, size), bool) if path is None else load_mask(path, size)
                                 for path in finding["masks"]])
                cases.append(Case(study.id, finding["kind"], token_map(trace.attention, tokens),
                                  patch_mask(mask, grid)))
    return cases


def pointing_table(model: EMRRG, val: StudySet, test: StudySet) -> dict | None:
    """The pointing game of the layer that points best on validation; None without masks."""
    validation, cases = pointing_cases(model, val), pointing_cases(model, test)
    if not validation or not cases:
        return None
    layer = choose_layer(validation)
    rows = pointing_game(cases, layer, place_priors(validation))
    return {"layer": list(hybrid_modules(model.llm))[layer], "position": layer,
            "rows": [asdict(row) for row in rows]}


def _text_systems(train: StudySet, val: StudySet, test: StudySet, seed: int) -> dict[str, list[str]]:
    """Controls made of text alone."""
    count = len(test)
    systems = {"constant report": [constant_report(train.reports, val.reports)] * count,
               "most frequent report": [most_frequent_report(train.reports)] * count,
               "random training report": random_reports(train.reports, count, seed)}
    if all(study.findings is not None for study in test.studies):
        rng = np.random.default_rng(seed)
        systems["oracle re-wording"] = [
            clean_report(reword(s.findings, rng), "iu_xray") for s in test.studies]
        systems["oracle, commonest wording"] = [
            clean_report(commonest_wording(s.findings), "iu_xray") for s in test.studies]
    return systems


def predict_run(model: EMRRG, run: Path, data_dir: Path, seed: int = 0) -> Path:
    """Writes `predictions.jsonl`, `probes.json` and the traces of the page's examples.

    Each line holds id, reference, hypothesis, per-study scores, labels of the reference, the other
    systems' reports (`systems`) and the linear head's labels.
    """
    train, val, test = (StudySet(load_annotation(data_dir, split), model.settings)
                        for split in ("train", "val", "test"))
    hypotheses = write_reports(model, test, describe="writing reports (beam search)")
    systems = {"greedy": write_reports(model, test, describe="writing reports (greedy)", num_beams=1)}
    with gates_scaled(model.llm, dict.fromkeys(hybrid_modules(model.llm), 0.0)):
        systems["gates closed"] = write_reports(model, test, describe="writing reports (gates closed)")
    systems["shuffled images"] = shuffled(hypotheses, seed)
    systems |= _text_systems(train, val, test, seed)
    head = linear_head_labels(model, train, val, test)
    scores = score_each(test.reports, hypotheses)
    write_predictions(run, (
        {"id": study.id, "reference": test.reports[i], "hypothesis": hypotheses[i], "scores": scores[i],
         "labels": reference_labels(study, test.reports[i]), "linear_head": head[i],
         "systems": {name: texts[i] for name, texts in systems.items()}}
        for i, study in enumerate(test.studies)))
    write_json(run / "probes.json", {"pointing": pointing_table(model, val, test)})
    write_traces(model, run, test, hypotheses)
    return run / "predictions.jsonl"


def write_traces(model: EMRRG, run: Path, test: StudySet, hypotheses: Sequence[str]) -> None:
    """Traces of the first studies' generated reports, `traces/<id>.npz`."""
    for i in range(min(EXAMPLES, len(test))):
        trace = trace_report(model, *test.images([i]), hypotheses[i])
        trace.save(run / "traces" / f"{test.studies[i].id}.npz")
