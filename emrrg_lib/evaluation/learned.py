"""Metrics that models compute: RadEval's, BERTScore and SembScore of local weights, values made elsewhere.

Every source gives one value a study. `learned.json` of a run folder keeps them by a hash of the texts, so
that intervals, controls, comparisons and the page use them as they use any metric.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from emrrg_lib.data.study import bare_id, read_lines
from emrrg_lib.evaluation.bertscore import bertscore
from emrrg_lib.evaluation.metrics import metric
from emrrg_lib.evaluation.other_labelers import load_chexbert
from emrrg_lib.files import InputError, close_name, first_line, write_json
from emrrg_lib.run_folder import LEARNED, read_json

RADEVAL = {
    "radgraph": "radgraph-xl of StanfordAIMI/RRG_scorers",
    "radgraph_radcliq": "radgraph of StanfordAIMI/RRG_scorers",
    "bertscore": "distilbert-base-uncased",
    "radeval_bertscore": "IAMJB/RadEvalModernBERT",
    "ratescore": "Angelakeke/RaTE-NER-Deberta and FremyCompany/BioLORD-2023-C",
    "radcliq": "distilroberta-base, bert-base-uncased, chexbert.pth and radgraph of StanfordAIMI/RRG_scorers",
    "f1chexbert": "bert-base-uncased and chexbert.pth of StanfordAIMI/RRG_scorers",
    "srrbert": "StanfordAIMI/SRR-BERT-Leaves-with-Statuses",
    "temporal": "stanza's English radiology models",
    "green": "StanfordAIMI/GREEN-radllama2-7b and a GPU",
    "crimson": "its language model and a GPU",
    "bleu": "no weights",
    "rouge": "no weights",
}
"""Metric of RadEval -> the weights it needs."""

RADCLIQ = {  # part -> mean, scale, coefficient of RadCliQ-v1 (Yu et al. 2023); that of BLEU-2 is 4e-12
    "radgraph_radcliq": (0.53792312, 0.30282584, -0.377083683),
    "bertscore_distilroberta": (0.61757256, 0.22430938, -0.3703001),
    "semb_score": (0.76479421, 0.25394391, -0.252616218),
}
_REXRANK = {  # columns of CXR-Report-Metric, with which ReXrank scores
    "radgraph_combined": "radgraph_radcliq",
    "bertscore": "bertscore_distilroberta",
    "semb_score": "semb_score",
    "RadCliQ-v1": "radcliq_v1",
}

Values = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Source:
    """Where values come from: name and version, and (references, reports) -> metric -> a value a study."""

    by: str
    score: Callable[[list[str], list[str]], Values]
    controls: bool = True  # False: the values of one system, made elsewhere


def source_named(word: str, ids: Sequence[str], weights: Path | None, bert: Path | None) -> list[Source]:
    """The sources that a word of `--metrics` names.

    Args:
        word: `radeval:NAME,NAME`, `bertscore:FOLDER`, `bertscore-idf:FOLDER`, `semb`, or
            `recorded:FILE`.
        ids: of the run's studies, in order. weights, bert: of CheXbert, for `semb`.

    Raises:
        InputError: an unknown word or metric, or its package, weights or file are not on this machine.
    """
    kind, _, rest = word.partition(":")
    if kind == "radeval" and rest:
        return [_radeval(name) for name in rest.split(",")]
    if kind in ("bertscore", "bertscore-idf") and rest:
        return [Source(*bertscore(Path(rest), kind.endswith("idf")))]
    if kind == "recorded" and rest:
        return [recorded(Path(rest), ids)]
    if word == "semb":
        if not (weights and bert):
            raise InputError(
                "--metrics semb needs --weights chexbert.pth and --bert, a bert-base-uncased folder"
            )
        return [semb_score(weights, bert)]
    raise InputError(f"no metrics '{word}': take radeval:NAME,NAME, bertscore:FOLDER, semb or recorded:FILE")


def _radeval(name: str) -> Source:
    if name not in RADEVAL:
        hint = close_name(name, RADEVAL)
        raise InputError(f"RadEval has no metric '{name}' for this kit; {hint}there are {', '.join(RADEVAL)}")
    try:
        package, version = import_module("radeval"), metadata.version("radeval")
        sys.modules.setdefault("RadEval", package)  # 2.2.1 imports its RadGraph under this name
        scorer = package.RadEval(metrics=[name], per_sample=True, show_progress=False)
    except ImportError as error:
        raise InputError(
            f"--metrics radeval:{name} needs the package radeval with all that it requires "
            f"({first_line(error)}): pip install radeval"
        ) from error
    except Exception as error:  # hub, torch, stanza and tokenizers each have their own kinds
        raise InputError(
            f"--metrics radeval:{name} needs {RADEVAL[name]} ({first_line(error)}): fetch it with "
            "`hf download`, or let the library do it with HF_HUB_OFFLINE=0"
        ) from error
    return Source(f"RadEval {version}, {name}", lambda refs, hyps: scorer(refs=refs, hyps=hyps))


def recorded(file: Path, ids: Sequence[str]) -> Source:
    """Values that another tool has written for these reports.

    Args:
        file: RadEval's per-sample output as JSON (metric -> values in the studies' order), or the CSV of
            CXR-Report-Metric (ReXrank) with `study_id` and a column a metric.
        ids: of the studies, in order.
    """
    if file.suffix == ".csv":
        header, lines = read_lines(file)
        if "study_id" not in header:
            raise InputError(f"{file} has no column 'study_id', so its values belong to no study")
        names = [bare_id(cells[header.index("study_id")]) for cells in lines.values()]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise InputError(f"{file} has study {twice[0]!r} twice: keep one of them")
        table = dict(zip(names, lines.values(), strict=True))
        if lacking := [name for name in ids if bare_id(name) not in table]:
            raise InputError(
                f"{file} lacks {len(lacking)} of {len(ids)} studies, the first is {lacking[0]!r}"
            )
        rows = [dict(zip(header, table[bare_id(name)], strict=True)) for name in ids]
        values = {
            key: [_number(row[name]) for row in rows] for name, key in _REXRANK.items() if name in header
        }
    else:
        content = read_json(file, dict)
        values = {key: value for key, value in content.items() if isinstance(value, list)}
    if not values:
        raise InputError(f"{file} holds no values by study: RadEval writes them with per_sample=True")
    return Source(f"{file.name}, made elsewhere", lambda refs, hyps: values, controls=False)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")  # refused below, with the name of the metric


def semb_score(weights: Path, bert: Path) -> Source:
    """SembScore: the cosine of CheXbert's cls vectors of reference and report (Yu et al. 2023)."""
    tokenizer, model = load_chexbert(weights, bert)

    @torch.no_grad()
    def vector(text: str) -> torch.Tensor:
        tokens = tokenizer(" ".join(text.split()), truncation=True, max_length=512, return_tensors="pt")
        return model.bert(**tokens).last_hidden_state[0, 0]

    def score(references: list[str], reports: list[str]) -> Values:
        found = {text: vector(text) for text in tqdm({*references, *reports}, desc="SembScore", leave=False)}
        pairs = zip(references, reports, strict=True)
        return {"semb_score": [torch.cosine_similarity(found[a], found[b], dim=0).item() for a, b in pairs]}

    return Source("SembScore, CheXbert", score)


def radcliq_v1(parts: Values) -> list[float]:
    """RadCliQ-v1 of each study from its parts (keys of RADCLIQ), as ReXrank computes it; low is good."""
    columns = [
        (np.asarray(parts[key]) - mean) / scale * weight for key, (mean, scale, weight) in RADCLIQ.items()
    ]
    return np.sum(columns, axis=0).tolist()


def add_learned(
    run: Path, sources: Sequence[Source], systems: Mapping[str, list[str]], texts: list[str]
) -> None:
    """Scores the systems with the sources, and adds the values to the run's `learned.json`.

    Args:
        run: folder. systems: name -> reports; the first one is the run's own. texts: the references.

    Raises:
        InputError: a source gives another number of values than studies, or a value that is not finite.
    """
    file = run / "learned.json"
    kept = read_json(file, LEARNED) if file.is_file() else {"by": {}, "values": {}}
    for number, reports in enumerate(systems.values()):
        values = kept["values"].setdefault(_hash(texts, reports), {})
        for source in sources:
            if number and not source.controls:
                continue
            for key, found in source.score(texts, reports).items():
                values[key] = _checked(key, found, len(texts), source.by)
                kept["by"][key] = source.by
        own = "from " + ", ".join(metric(key).label for key in RADCLIQ)
        if values.keys() >= RADCLIQ.keys() and kept["by"].setdefault("radcliq_v1", own) == own:
            values["radcliq_v1"] = radcliq_v1(values)
    write_json(file, kept)


def _checked(key: str, values: Sequence[Any], studies: int, by: str) -> list[float]:
    try:
        found = np.asarray(values, float)
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if found.shape != (studies,) or not np.isfinite(found).all():
        raise InputError(f"{by}: '{key}' must have one finite number for each of the {studies} studies")
    return found.tolist()


def _hash(references: Sequence[str], reports: Sequence[str]) -> str:
    texts = json.dumps([list(references), list(reports)], ensure_ascii=True)
    return hashlib.sha256(texts.encode()).hexdigest()[:16]


def read_learned(run: Path) -> tuple[dict[str, str], Callable[[list[str], list[str]], dict[str, np.ndarray]]]:
    """Who made a run's learned metrics, and (references, reports) -> metric -> values, {} without any."""
    file = run / "learned.json"
    kept = read_json(file, LEARNED) if file.is_file() else {"by": {}, "values": {}}

    def values(references: list[str], reports: list[str]) -> dict[str, np.ndarray]:
        found = kept["values"].get(_hash(references, reports), {})
        return {key: np.asarray(column) for key, column in found.items()}

    return kept["by"], values
