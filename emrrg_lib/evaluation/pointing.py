"""The pointing game: does the model look at a finding while it writes the finding's name?

The reference report is teacher-forced. The query is the tokens of the word that names the finding, or all
tokens of its sentence, in which side and place are chosen. The map is the mean over heads of one hybrid
layer's cross-attention, or that mean weighted by the gate, of one layer or summed over all layers. The
layer is chosen on validation, on localised findings. A map *hits* if its arg-max patch over all views lies
within one patch (8-neighbourhood) of the mask. A finding is *localised* if at most a quarter of all patches
would hit, and *small* if at most 15 % would: a hit on a heart that fills the frame proves little.

Every table also has three expected shares. *Chance* is the share of patches that would hit. The *centre*
prior always points at the middle of the first view. The *place* prior points at the patch that would have
hit most often on validation, for each finding. Attention that beats only chance may have learnt where such
findings usually are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from emrrg_lib.evaluation.intervals import percentiles, resample
from emrrg_lib.files import InputError

MAPS = tuple(
    (kind, token) for kind in ("attention", "attention x gate") for token in ("predicts", "own", "sentence")
)
"""(map, positions): the map is read at the position that predicts the word, at the word's own, or over its
whole sentence."""

NAMING: dict[str, list[str]] = {}
"""Observation -> patterns of the words that name it, the most specific first; a group marks the word."""

with open(Path(__file__).with_name("naming.csv"), encoding="utf-8", newline="") as _table:
    for _row in csv.DictReader(_table):
        NAMING.setdefault(_row["observation"], []).append(_row["pattern"])

AREAS = {"small": 0.15, "localised": 0.25}
"""Group of findings -> largest share of the patches that would hit."""


@dataclass(frozen=True)
class Case:
    """One finding of one study with the attention paid while it is named.

    Attributes:
        study, kind: id of the study and kind of the finding.
        maps: float (layer, view, patch), see :func:`token_map`.
        mask: bool (view, rows, cols), patches the finding touches.
    """

    study: str
    kind: str
    maps: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Pointing:
    """One row of the table.

    Attributes:
        kind: the finding, a group of :data:`AREAS`, or "all". cases: how many.
        hit: share of hits. low, high: its 95 % interval, resampled by study.
        gain: hit minus centre. gain_low, gain_high: its 95 % interval.
        chance, centre, place: expected share for a random patch, share for the middle of the first view,
            share for the kind's most frequent patch on validation.
    """

    kind: str
    cases: int
    hit: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    chance: float
    centre: float
    place: float


_NEGATION = re.compile(r"\b(?:no|not|without|negative for|free of)\b[^.]*$")


def naming_span(text: str, observation: str, affirmed: bool = True) -> tuple[int, int] | None:
    """The place of the most specific word that names an observation.

    Args:
        text: a report or sentence. observation: a key of :data:`NAMING`.
        affirmed: skip words inside a negation.

    Returns:
        Start and end of the first such word in `text`; None where there is no such word.

    Raises:
        InputError: an unknown observation.
    """
    if observation not in NAMING:
        raise InputError(f"No naming words for {observation!r}: choose one of {', '.join(NAMING)}.")
    text = text.lower()
    for pattern in NAMING[observation]:
        for match in re.finditer(rf"\b(?:{pattern})", text):
            if not (affirmed and _NEGATION.search(text[: match.start()])):
                return match.span(match.lastindex or 0)
    return None


def naming_tokens(tokens: Sequence[str], observation: str) -> list[int]:
    """Positions of the tokens that spell the affirmed word for an observation; [] where no word names it.

    Args:
        tokens: the report's tokens as text pieces, leading spaces kept.
        observation: a key of :data:`NAMING`; InputError for any other.
    """
    span = naming_span("".join(tokens), observation)
    if span is None:
        return []
    ends = np.cumsum([len(token) for token in tokens])
    first, last = np.searchsorted(ends, [span[0], span[1] - 1], side="right")
    return list(range(int(first), int(last) + 1))


def sentence_tokens(tokens: Sequence[str], named: Sequence[int]) -> list[int]:
    """Positions of all tokens of the sentence around `named`, the positions from :func:`naming_tokens`."""
    text, ends = "".join(tokens), np.cumsum([len(token) for token in tokens])
    before, full_stop, _ = text[: ends[named[0]] - len(tokens[named[0]]) + 1].rpartition(". ")
    stop = text.find(". ", ends[named[-1]] - 1)
    places = [len(before + full_stop), stop if stop >= 0 else len(text) - 1]
    first, last = np.searchsorted(ends, places, side="right")
    return list(range(int(first), int(last) + 1))


def token_map(attention: np.ndarray, tokens: Sequence[int], gate: np.ndarray | None = None) -> np.ndarray:
    """Attention of the naming tokens, averaged over heads and tokens.

    Args:
        attention: float (layer, head, token, view, patch) of a trace. tokens: positions of the naming tokens.
        gate: (layer, token) to weight every token by how far its gate is open; None: all tokens alike.

    Returns:
        float (layer, view, patch). With `gate` (layer + 1, view, patch): the last map is the sum over layers.

    Raises:
        InputError: there is no token.
    """
    if len(tokens) == 0:
        raise InputError("The finding is not named: there is no token to read the attention of.")
    chosen = np.asarray(attention, float)[:, :, list(tokens)].mean(axis=1)
    if gate is None:
        return chosen.mean(axis=1)
    weights = np.abs(np.asarray(gate, float)[:, list(tokens)])
    weighted = np.einsum("lt,ltvp->lvp", weights, chosen)
    return np.concatenate([weighted, weighted.sum(axis=0, keepdims=True)])


def patch_mask(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Patches that a pixel mask touches: bool (view, H, W) -> bool (view, rows, cols).

    Raises InputError where the mask is smaller than the grid.
    """
    mask = np.asarray(mask, bool)
    views, height, width = mask.shape
    if height < grid[0] or width < grid[1]:
        raise InputError(f"A mask of {height}x{width} pixels is smaller than the grid {grid}.")
    touched = np.zeros((views, *grid), bool)
    view, row, column = np.nonzero(mask)
    touched[view, row * grid[0] // height, column * grid[1] // width] = True
    return touched


def dilate(mask: np.ndarray) -> np.ndarray:
    """Add the 8 neighbours: bool (view, rows, cols) to the same shape."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    return sliding_window_view(padded, (3, 3), axis=(1, 2)).any(axis=(-2, -1))


def hits(case: Case) -> np.ndarray:
    """Whether the arg-max patch of each layer's map hits: bool (layer,)."""
    allowed = dilate(case.mask).reshape(-1)
    return allowed[case.maps.reshape(len(case.maps), -1).argmax(axis=1)]


def validation_hits(validation: Sequence[Case]) -> np.ndarray:
    """Share of hits of each layer's map on the localised cases (on all where none is): float (layer,).

    Raises InputError without a case.
    """
    if len(validation) == 0:
        raise InputError("No validation case names a finding: the layer cannot be chosen.")
    local = [case for case in validation if dilate(case.mask).mean() <= AREAS["localised"]]
    return np.mean([hits(case) for case in local or validation], axis=0)


def choose_layer(validation: Sequence[Case]) -> int:
    """The layer (index into the maps) that hits most often on validation; InputError without a case."""
    return int(validation_hits(validation).argmax())


def place_priors(validation: Sequence[Case]) -> dict[str, int]:
    """Kind -> flat patch index that would have hit most often on validation."""
    sums: dict[str, np.ndarray] = {}
    for case in validation:
        sums[case.kind] = sums.get(case.kind, 0) + dilate(case.mask).reshape(-1).astype(float)
    return {kind: int(total.argmax()) for kind, total in sums.items()}


def pointing_game(cases: Sequence[Case], layer: int, priors: Mapping[str, int]) -> list[Pointing]:
    """The table of the pointing game.

    Args:
        cases: test cases. layer: from :func:`choose_layer` on validation.
        priors: from :func:`place_priors` on validation; a kind without a prior never hits.

    Returns:
        One row per kind in alphabetical order, then those groups of :data:`AREAS` that have cases, then
        "all".

    Raises:
        InputError: there is no case.
    """
    if len(cases) == 0:
        raise InputError("No test case names a finding: there is nothing to point at.")
    values = np.array([_case_values(case, layer, priors) for case in cases])
    studies, kinds = np.array([case.study for case in cases]), np.array([case.kind for case in cases])
    groups = {str(kind): kinds == kind for kind in sorted(set(kinds))}
    groups |= {name: values[:, 1] <= area for name, area in AREAS.items()} | {"all": values[:, 1] <= 1}
    rows = []
    for name, chosen in groups.items():
        if chosen.any():
            hit, chance, centre, place = values[chosen].T
            ends = _interval(hit, studies[chosen])
            gain, gain_ends = float((hit - centre).mean()), _interval(hit - centre, studies[chosen])
            priors_hit = (float(column.mean()) for column in (chance, centre, place))
            rows.append(Pointing(name, len(hit), float(hit.mean()), *ends, gain, *gain_ends, *priors_hit))
    return rows


def pointing_tables(
    validation: Mapping[tuple[str, str], Sequence[Case]],
    test: Mapping[tuple[str, str], Sequence[Case]],
    layers: Sequence[int],
) -> dict | None:
    """The pointing game of every map, each at the layer that points best on validation.

    Args:
        validation, test: key of :data:`MAPS` -> cases. layers: the LLM's index of each hybrid layer.

    Returns:
        `variants`, one dict for each map, with its `map` and `token` (the key of MAPS), `layer` (the LLM's
        index, or "all"), `position` (index into a case's maps), `validation` (share of hits on the localised
        cases) and `rows`; `chosen`, the index of the variant that is best on validation; and `layer`,
        `position` and `rows` of the first one, plain attention at the predicting position. None where no
        finding with a mask is named.
    """
    if not all(validation.values()) or not all(test.values()):
        return None
    variants = []
    for kind, token in MAPS:
        known, position = validation[kind, token], choose_layer(validation[kind, token])
        variant = {"map": kind, "token": token, "layer": [*layers, "all"][position], "position": position}
        variant["validation"] = float(validation_hits(known)[position])
        rows = pointing_game(test[kind, token], position, place_priors(known))
        variants.append(variant | {"rows": [asdict(row) for row in rows]})
    best = int(np.argmax([variant["validation"] for variant in variants]))
    first = {name: variants[0][name] for name in ("layer", "position", "rows")}
    return first | {"variants": variants, "chosen": best}


def _case_values(case: Case, layer: int, priors: Mapping[str, int]) -> list[float]:
    """Hit, chance, centre and place of one case."""
    allowed = dilate(case.mask)
    rows, columns = case.mask.shape[1:]
    middle = allowed[0, (rows - 1) // 2 : rows // 2 + 1, (columns - 1) // 2 : columns // 2 + 1]
    prior = priors.get(case.kind)
    place = 0.0 if prior is None else float(allowed.reshape(-1)[prior])
    return [float(hits(case)[layer]), float(allowed.mean()), float(middle.mean()), place]


def _interval(values: np.ndarray, studies: np.ndarray) -> tuple[float, float]:
    """Interval of the mean when whole studies are drawn: a study brings all its cases."""
    _, index = np.unique(studies, return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    weights = resample(len(counts))
    return percentiles((weights @ sums) / (weights @ counts))
