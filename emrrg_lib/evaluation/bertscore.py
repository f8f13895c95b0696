"""BERTScore (Zhang et al. 2020) with the weights of a local folder; no package and no network is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path

import torch
from tqdm import tqdm

from emrrg_lib.files import InputError, first_line

DISTILROBERTA = (
    "roberta",
    6,
    768,
    50265,
)  # kind, layers, width, vocabulary: the model of the published setting
LAYER = 5
_BASELINE = torch.tensor([0.84732, 0.84759504, 0.8473319])  # its P, R, F of unrelated texts, by bert-score

Score = Callable[[list[str], list[str]], dict[str, list[float]]]


def bertscore(folder: Path, idf: bool = False) -> tuple[str, Score]:
    """BERTScore F1 (Zhang et al. 2020) of a model folder.

    distilroberta-base gives the number that ReXrank prints (layer 5, rescaled by bert-score's baseline). Any
    other model is scored at its last layer without a baseline, and its name says so: no published setting.

    Args:
        folder: model and tokenizer, as `save_pretrained` writes them.
        idf: whether tokens are weighed by their rarity in the references.

    Returns:
        Its name, and (references, reports) -> {metric: N values}.

    Raises:
        InputError: the folder holds no model.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        spaced = {"add_prefix_space": True} if model.config.model_type == "roberta" else {}
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **spaced)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no model for BERTScore in {folder} ({first_line(error)}): fetch it there"
        ) from error
    c = model.config
    known = (c.model_type, c.num_hidden_layers, c.hidden_size, c.vocab_size) == DISTILROBERTA
    layer = LAYER if known else c.num_hidden_layers
    name = "distilroberta-base, layer 5, rescaled" if known else f"{folder.name}, layer {layer}"
    key = "bertscore_distilroberta" if known else "bertscore_local"

    def score(references: list[str], reports: list[str]) -> dict[str, list[float]]:
        texts = tqdm(sorted({*references, *reports}), desc="BERTScore", leave=False)
        vectors = {text: _token_vectors(text, tokenizer, model, layer) for text in texts}
        weights = _idf([vectors[text][0] for text in references]) if idf else {}
        pairs = [
            _greedy(vectors[report], vectors[reference], weights, tokenizer)
            for reference, report in zip(references, reports, strict=True)
        ]
        values = torch.stack(pairs)
        return {key: ((values - _BASELINE) / (1 - _BASELINE) if known else values)[:, 2].tolist()}

    note = "" if known else ": not the published setting"
    return f"BERTScore, {name}{', idf' if idf else ''}{note}", score


@torch.no_grad()
def _token_vectors(text: str, tokenizer, model, layer: int) -> tuple[list[int], torch.Tensor]:
    """Token ids of a text, and their unit vectors (n, D) at a layer."""
    tokens = tokenizer(" ".join(text.split()), truncation=True, max_length=512, return_tensors="pt")
    hidden = model(**tokens, output_hidden_states=True).hidden_states[layer][0]
    return tokens["input_ids"][0].tolist(), torch.nn.functional.normalize(hidden, dim=-1)


def _idf(references: Sequence[list[int]]) -> dict[int, float]:
    """How rare each token is among the references."""
    found = Counter(token for ids in references for token in set(ids))
    weights = {token: log((len(references) + 1) / (times + 1)) for token, times in found.items()}
    return weights | {-1: log(len(references) + 1)}  # -1: a token of no reference


def _greedy(report: tuple, reference: tuple, idf: Mapping[int, float], tokenizer) -> torch.Tensor:
    """P, R and F of one pair: each token is matched with the most similar one of the other text."""
    similar = report[1] @ reference[1].T
    sides = []
    for ids, best in ((report[0], similar.amax(1)), (reference[0], similar.amax(0))):
        ends = {tokenizer.cls_token_id, tokenizer.sep_token_id}
        weights = [idf.get(i, idf[-1]) if idf else float(i not in ends) for i in ids]
        share = torch.tensor(weights)
        sides.append((best * share).sum() / share.sum().clamp_min(1e-9) * (len(ids) > 2))
    p, r = sides
    return torch.stack([p, r, torch.nan_to_num(2 * p * r / (p + r))])
