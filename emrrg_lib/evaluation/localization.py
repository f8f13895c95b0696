"""The pointing game: does the model look at a finding while it writes the finding's name?

The reference report is teacher-forced; the query is the tokens of the word that names the finding;
the map is the mean over heads of one hybrid layer's cross-attention, chosen on validation. A hit:
the arg-max patch over all views lies within one patch (8-neighbourhood) of the mask. Beside it
stand *chance* (the share of patches that would hit), a *centre* prior (the middle of the first
view) and a *place* prior (per finding, the patch that would have hit most often on validation):
attention that beats only chance may have learnt where such findings usually are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emrrg_lib.errors import InputError
from emrrg_lib.evaluation.intervals import percentiles, resample

NAMES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        r"cardiomegal\w*",
        r"(?:heart|cardiac)\b[^.]*?\b(enlarg\w*)",
        r"(enlarg\w*)[^.]*?\b(?:heart|cardiac)",
        r"heart|cardiac",
    ),
    "mediastinum": (
        r"widen\w*",
        r"mediastin\w*\b[^.]*?\b(enlarg\w*)",
        r"(enlarg\w*)[^.]*?\bmediastin",
        r"mediastin\w*",
    ),
    "effusion": (r"effusions?", r"fluid", r"blunt\w*"),
    "pneumothorax": (r"pneumothora\w*",),
    "consolidation": (r"consolidat\w*",),
    "opacity": (r"opaci\w*", r"infiltrat\w*", r"airspace", r"haz\w*"),
    "atelectasis": (r"atelecta\w*", r"collaps\w*", r"volume loss"),
    "nodule": (r"nodul\w*", r"mass(?:es)?\b", r"lesions?"),
    "edema": (r"edema\w*", r"congesti\w*"),
    "pleural thickening": (r"thicken\w*", r"pleural"),
    "fracture": (r"fractur\w*",),
    "hyperinflation": (r"hyper\w+", r"emphysem\w*", r"copd", r"flatten\w*"),
    "device": (r"pacemakers?", r"catheters?", r"tubes?", r"ports?\b", r"lines?\b", r"leads?\b"),
    "hernia": (r"hernia\w*",),
    "scoliosis": (r"scolio\w*",),
    "calcification": (r"calcif\w*", r"granulom\w*"),
}
"""Kind of finding -> patterns of the words that name it, best first; a group marks the word."""

_NEGATION = re.compile(r"\b(?:no|not|without|negative for|free of)\b[^.]*$")


@dataclass(frozen=True)
class Case:
    """One finding of one study with the attention paid while it is named.

    Attributes:
        study: id of the study.
        kind: kind of the finding.
        maps: float (layer, view, patch), attention of the naming tokens.
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
        kind: the finding, or "all".
        cases: how many.
        hit: share of hits.
        low: lower end of the 95 % interval, resampled by study.
        high: upper end.
        chance: expected share for a random patch.
        centre: share for the middle of the first view.
        place: share for the kind's most frequent patch on validation.
    """

    kind: str
    cases: int
    hit: float
    low: float
    high: float
    chance: float
    centre: float
    place: float


def naming_tokens(tokens: Sequence[str], kind: str) -> list[int]:
    """Positions of the tokens that make up the word naming a finding.

    Args:
        tokens: the report's tokens as text pieces, leading spaces kept.
        kind: a key of :data:`NAMES`.

    Returns:
        The tokens of the first word found outside a negation by the best pattern that finds one;
        empty where the report does not name the finding.

    Raises:
        InputError: an unknown kind.
    """
    if kind not in NAMES:
        raise InputError(f"No naming words for {kind!r}: choose one of {', '.join(NAMES)}.")
    text = "".join(tokens).lower()
    ends = np.cumsum([len(token) for token in tokens])
    for pattern in NAMES[kind]:
        for match in re.finditer(rf"\b(?:{pattern})", text):
            if not _NEGATION.search(text[: match.start()]):
                start, end = match.span(match.lastindex or 0)
                first = int(np.searchsorted(ends, start, side="right"))
                last = int(np.searchsorted(ends, end - 1, side="right"))
                return list(range(first, last + 1))
    return []


def token_map(
    attention: np.ndarray, tokens: Sequence[int], gate: np.ndarray | None = None
) -> np.ndarray:
    """Attention of the naming tokens, averaged over heads and tokens.

    Args:
        attention: float (layer, head, token, view, patch) of a teacher-forced trace.
        tokens: positions of the naming tokens.
        gate: (layer, token) to weight every token by how far its gate is open; None weights all
            tokens alike.

    Returns:
        float (layer, view, patch).

    Raises:
        InputError: there is no token.
    """
    if len(tokens) == 0:
        raise InputError("The finding is not named: there is no token to read the attention of.")
    chosen = np.asarray(attention, float)[:, :, list(tokens)].mean(axis=1)
    if gate is None:
        return chosen.mean(axis=1)
    weights = np.abs(np.asarray(gate, float)[:, list(tokens)])
    return np.einsum("lt,ltvp->lvp", weights, chosen)


def patch_mask(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Patches that a pixel mask touches.

    Args:
        mask: bool (view, H, W).
        grid: patch grid (rows, cols).

    Returns:
        bool (view, rows, cols).

    Raises:
        InputError: the mask is smaller than the grid.
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
    rows, columns = mask.shape[1:]
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    shifts = (padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    return np.logical_or.reduce(list(shifts))


def hits(case: Case) -> np.ndarray:
    """Whether the arg-max patch of each layer's map hits: bool (layer,)."""
    layers = len(case.maps)
    allowed = dilate(case.mask).reshape(-1)
    return allowed[case.maps.reshape(layers, -1).argmax(axis=1)]


def choose_layer(validation: Sequence[Case]) -> int:
    """The hybrid layer (index into the trace) that hits most often on validation.

    Raises:
        InputError: there is no case.
    """
    if len(validation) == 0:
        raise InputError("No validation case names a finding: the layer cannot be chosen.")
    return int(np.mean([hits(case) for case in validation], axis=0).argmax())


def place_priors(validation: Sequence[Case]) -> dict[str, int]:
    """Kind -> flat patch index that would have hit most often on validation."""
    sums: dict[str, np.ndarray] = {}
    for case in validation:
        sums[case.kind] = sums.get(case.kind, 0) + dilate(case.mask).reshape(-1).astype(float)
    return {kind: int(total.argmax()) for kind, total in sums.items()}


def pointing_game(
    cases: Sequence[Case], layer: int, priors: Mapping[str, int], seed: int = 0
) -> list[Pointing]:
    """The table of the pointing game.

    Args:
        cases: test cases.
        layer: chosen by :func:`choose_layer` on validation.
        priors: of :func:`place_priors` on validation; a kind without one never hits.
        seed: of the bootstrap.

    Returns:
        One row per kind in alphabetical order, then "all".

    Raises:
        InputError: there is no case.
    """
    if len(cases) == 0:
        raise InputError("No test case names a finding: there is nothing to point at.")
    values = np.array([_case_values(case, layer, priors) for case in cases])
    studies = np.unique([case.study for case in cases], return_inverse=True)[1]
    kinds = np.array([case.kind for case in cases])
    rows = []
    for kind in (*sorted(set(kinds)), "all"):
        chosen = np.full(len(kinds), True) if kind == "all" else kinds == kind
        low, high = _interval(values[chosen, 0], studies[chosen], seed)
        means = values[chosen].mean(axis=0).tolist()
        rows.append(Pointing(kind, int(chosen.sum()), means[0], low, high, *means[1:]))
    return rows


def _case_values(case: Case, layer: int, priors: Mapping[str, int]) -> list[float]:
    """Hit, chance, centre and place of one case."""
    allowed = dilate(case.mask)
    rows, columns = case.mask.shape[1:]
    middle = allowed[0, (rows - 1) // 2 : rows // 2 + 1, (columns - 1) // 2 : columns // 2 + 1]
    prior = priors.get(case.kind)
    place = 0.0 if prior is None else float(allowed.reshape(-1)[prior])
    return [float(hits(case)[layer]), float(allowed.mean()), float(middle.mean()), place]


def _interval(values: np.ndarray, studies: np.ndarray, seed: int) -> tuple[float, float]:
    """Interval of the mean when whole studies are drawn: a study brings all its cases."""
    _, index = np.unique(studies, return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    weights = resample(len(counts), seed=seed)
    return percentiles((weights @ sums) / (weights @ counts))
