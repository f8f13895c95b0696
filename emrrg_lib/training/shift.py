"""A trained model meets a shifted domain, and one Partial LoRA target alone is tuned for it (notebook 03).

The shift is inverted contrast: bright becomes dark, as where a file of the kind MONOCHROME1 is read as
MONOCHROME2. The model of a run is kept as it is, its own adapters merged; only the new pairs train, on the
loss of the reports. `compare` tunes every target for the same steps at nearly the same parameter count;
`compare_ranks` asks harder shifts which rank they need.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrrg_lib.config import PartialLoRAConfig
from emrrg_lib.evaluation.intervals import percentiles, resample
from emrrg_lib.files import KIT, TINY_DIR, write_text
from emrrg_lib.model import EMRRG
from emrrg_lib.phantom import PhantomStudy, draw_study, shifted
from emrrg_lib.training.batches import batch_of, study_losses
from emrrg_lib.tuning.partial_lora import apply_partial_lora

RANKS = {"X": 9, "Z": 9, "in_proj": 6, "dt": 4, "B": 4, "C": 4}  # 9,216 numbers in the tiny encoder; dt 8,704
RESULTS = KIT / "data" / "results" / "shift" / "losses.json"
RANK_RESULTS = RESULTS.with_name("ranks.json")
RANK_RUNS = (  # shift, target, steps, ranks
    ("scrambled", "X", 40, (1, 4, 16)),
    ("mixed", "in_proj", 40, (1, 4, 16)),
    ("mixed", "in_proj", 160, (1, 16)),
)
SEED, TRAIN, TEST = 7, range(1000, 1160), range(2000, 2064)  # phantoms that no training of the kit draws


def model_for(targets: Iterable[str], r: int, seed: int = 0, run: Path = TINY_DIR / "run") -> EMRRG:
    """The model of a run, its own adapters merged, with fresh pairs on `targets`, which alone train."""
    model = EMRRG.from_run(run)
    torch.manual_seed(seed)
    lora = PartialLoRAConfig(tuple(targets), r)
    model.requires_grad_(False)
    model.encoder = apply_partial_lora(model.encoder.merge_and_unload(), lora)
    model.settings = replace(model.settings, partial_lora=lora)
    return model.eval()  # eval: nothing is drawn by chance; gradients flow as always


def draw(numbers: Iterable[int], inverted: bool = True, size: int = 96) -> list[PhantomStudy]:
    """The phantoms of these numbers, two views each, their contrast inverted or as trained."""
    drawn = [draw_study(SEED, number, size) for number in numbers]
    return _shifted(drawn, "inverted") if inverted else drawn


def _shifted(studies: Sequence[PhantomStudy], shift: str) -> list[PhantomStudy]:
    return [shifted(study, shift, place) for place, study in enumerate(studies)]


def tune(
    model: EMRRG, studies: Sequence[PhantomStudy], steps: int, rate: float, seed: int = 0, size: int = 8
) -> list[float]:
    """Trains what of the model is not frozen; the loss of each step, nats per token.

    Args:
        studies: to learn from. steps, rate: of Adam. size: studies of a batch.
        seed: chooses the batches; two targets of one seed see the same ones in the same order.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, choose, losses = torch.optim.Adam(trained, lr=rate), np.random.default_rng(seed), []
    for _ in range(steps):
        numbers = choose.choice(len(studies), size, replace=False)
        loss = model(**batch_of(model, [studies[n] for n in numbers]))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def tuned(
    targets: Iterable[str] = ("X",), r: int = 16, steps: int = 40, rate: float = 1e-2, seed: int = 0
) -> tuple[EMRRG, list[float]]:
    """The shipped model with pairs on `targets`, tuned on inverted studies, and the loss of each step."""
    model = model_for(targets, r, seed)
    return model, tune(model, draw(TRAIN), steps, rate, seed)


def compare(
    out: str | Path, steps: int = 40, rates: Sequence[float] = (3e-3, 1e-2), seeds: Sequence[int] = (0, 1)
) -> Path:
    """Tunes each target of RANKS at each rate and seed; writes the losses as JSON to `out` and returns it.

    It takes about 10 minutes on one core. `before` holds the test loss without any tuning of the upright and
    the inverted studies; a run holds its losses of the training steps and those of the test studies.
    """
    train, test = draw(TRAIN), draw(TEST)
    plain = model_for(["X"], RANKS["X"])  # fresh pairs change no bit
    before = {"as trained": study_losses(plain, draw(TEST, inverted=False))}
    before["inverted"] = study_losses(plain, test)
    runs = []
    for target, r in RANKS.items():
        for rate, seed in itertools.product(rates, seeds):
            model = model_for([target], r, seed)
            losses = tune(model, train, steps, rate, seed)
            numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
            row = {"target": target, "r": r, "parameters": numbers, "rate": rate, "seed": seed}
            told = {"training": losses, "test": study_losses(model, test)}
            runs.append(row | {name: np.round(values, 5).tolist() for name, values in told.items()})
    found = {"before": {name: np.round(values, 5).tolist() for name, values in before.items()}, "runs": runs}
    return write_text(Path(out), json.dumps(found) + "\n")


def summary(path: str | Path = RESULTS) -> list[dict[str, Any]]:
    """The file of `compare`, one row a target, at the rate that has the lower training loss at the end.

    `test` is the mean over studies and seeds, `seeds` the mean of each seed; `worse` is `test` minus X's,
    with its 95 % bootstrap interval over studies, `curve` the mean training loss over the seeds.
    """
    runs = json.loads(Path(path).read_text(encoding="utf-8"))["runs"]
    rows: dict[str, dict[str, Any]] = {}
    for target in RANKS:
        tried = {run["rate"]: [] for run in runs if run["target"] == target}
        for run in (run for run in runs if run["target"] == target):
            tried[run["rate"]].append(run)
        rate = min(tried, key=lambda r: np.mean([run["training"][-15:] for run in tried[r]]))
        best = tried[rate]
        test = np.array([run["test"] for run in best])
        rows[target] = {
            "target": target,
            "r": best[0]["r"],
            "parameters": best[0]["parameters"],
            "rate": rate,
        }
        rows[target] |= {"studies": test.mean(axis=0), "seeds": test.mean(axis=1)}
        rows[target]["curve"] = np.mean([run["training"] for run in best], axis=0)
    weights = resample(len(rows["X"]["studies"]))
    for row in rows.values():
        worse = row["studies"] - rows["X"]["studies"]
        row |= {"test": row["studies"].mean(), "worse": worse.mean()}
        row["low"], row["high"] = percentiles(weights @ worse / len(worse))
    return list(rows.values())


def levels(path: str | Path = RESULTS) -> dict[str, float]:
    """The mean test loss before any tuning: `as_trained` of upright studies, `untuned` of inverted ones."""
    before = json.loads(Path(path).read_text(encoding="utf-8"))["before"]
    return {"as_trained": np.mean(before["as trained"]), "untuned": np.mean(before["inverted"])}


def compare_ranks(out: str | Path, runs: Sequence[tuple] = RANK_RUNS, rate: float = 1e-2) -> Path:
    """Tunes one target with several ranks for each of `runs`; writes the test losses as JSON to `out`.

    It takes about 6 minutes on one core. `untuned` is the mean loss before, `losses` has all studies by rank.
    """
    found = []
    for shift, target, steps, ranks in runs:
        train, test = (_shifted(draw(numbers, inverted=False), shift) for numbers in (TRAIN, TEST))
        untuned, losses = study_losses(model_for([target], 1), test).mean(), {}
        for r in ranks:
            model = model_for([target], r)
            tune(model, train, steps, rate)
            losses[f"rank {r}"] = np.round(study_losses(model, test), 5).tolist()
        row = {"shift": shift, "target": target, "steps": steps, "rate": rate}
        found.append(row | {"untuned": round(float(untuned), 5), "losses": losses})
    return write_text(Path(out), json.dumps(found) + "\n")


def rank_summary(path: str | Path = RANK_RESULTS) -> list[dict[str, Any]]:
    """The file of `compare_ranks`, one row a run: the mean losses, and how much worse rank 1 is than rank 16.

    `worse`, `low` and `high`: the difference of the two ranks with its 95 % bootstrap interval over studies.
    """
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
    for row in rows:
        losses = {name: np.array(each) for name, each in row.pop("losses").items()}
        worse = losses["rank 1"] - losses["rank 16"]
        row |= {name: each.mean() for name, each in losses.items()} | {"worse": worse.mean()}
        row["low"], row["high"] = percentiles(resample(len(worse)) @ worse / len(worse))
    return rows


if __name__ == "__main__":
    made: dict[str, Callable[[str], Path]] = {"targets": compare, "ranks": compare_ranks}
    made[sys.argv[1]](sys.argv[2])
