"""A trained model meets a shifted domain, and one Partial LoRA target alone is tuned for it (notebook 03).

The shift is inverted contrast: bright becomes dark, as where a file of the kind MONOCHROME1 is read as
MONOCHROME2. The model of a run is kept as it is, its own adapters merged; only the new pairs train, on the
loss of the reports. `compare` tunes every target for the same steps at nearly the same parameter count.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emrrg_lib.config import PartialLoRAConfig
from emrrg_lib.data import study_set
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.files import TINY_DIR, write_text
from emrrg_lib.language.prompt import text_batch
from emrrg_lib.model import EMRRG
from emrrg_lib.phantom import PhantomStudy, draw_study
from emrrg_lib.tuning.partial_lora import apply_partial_lora

RANKS = {"X": 9, "Z": 9, "in_proj": 6, "dt": 4, "B": 4, "C": 4}  # 9,216 numbers in the tiny encoder; dt 8,704
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


def draw(numbers: Iterable[int], size: int = 96) -> list[PhantomStudy]:
    """The phantoms of these numbers, two views each."""
    return [draw_study(SEED, number, size) for number in numbers]


def batch_of(model: EMRRG, chosen: Sequence[PhantomStudy], inverted: bool = True) -> dict[str, Tensor]:
    """What the model's forward takes of these studies, their contrast inverted."""
    config = model.settings
    views = [255 - study.images if inverted else study.images for study in chosen]
    pixels, view_mask = study_set.pixels(views, config)
    reports = [clean_report(study.report, config.data.cleaning) for study in chosen]
    prompt, most, image = config.data.prompt, config.data.max_length, config.llm.image_in_prompt
    text = text_batch(model.tokenizer, prompt, reports, most, image)
    return {"pixel_values": pixels, "view_mask": view_mask, **text}


def tune(
    model: EMRRG, drawn: Sequence[PhantomStudy], steps: int, rate: float, seed: int = 0, size: int = 8
) -> list[float]:
    """Trains what of the model is not frozen on inverted studies; the loss of each step, nats per token.

    Args:
        drawn: the studies to learn from. steps, rate: of Adam. size: studies of a batch.
        seed: chooses the batches; two targets of one seed see the same ones in the same order.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, choose, losses = torch.optim.Adam(trained, lr=rate), np.random.default_rng(seed), []
    for _ in range(steps):
        numbers = choose.choice(len(drawn), size, replace=False)
        loss = model(**batch_of(model, [drawn[n] for n in numbers]))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def study_losses(model: EMRRG, drawn: Sequence[PhantomStudy], inverted: bool = True) -> list[float]:
    """The loss of each study, nats per token of its report."""
    return [float(model(**batch_of(model, [study], inverted))["loss"]) for study in drawn]


def tuned(
    targets: Iterable[str] = ("X",), r: int = 16, steps: int = 40, rate: float = 1e-2, seed: int = 0
) -> tuple[EMRRG, list[float]]:
    """The shipped model with pairs on `targets`, tuned on inverted studies, and the loss of each step."""
    model = model_for(targets, r, seed)
    return model, tune(model, draw(TRAIN), steps, rate, seed)


def cut_rank(model: EMRRG, r: int) -> None:
    """Replaces each pair on `in_proj` by the best pair of rank r, in place; its shape stays."""
    for layer in model.encoder.base_model.model.layers:
        adapters = layer.mixer.in_proj
        for name in adapters.active_adapters:
            up, down = adapters.lora_B[name].weight, adapters.lora_A[name].weight
            U, values, Vh = torch.linalg.svd(up.detach() @ down.detach(), full_matrices=False)
            values[r:] = 0
            most = down.shape[0]
            up.data.copy_(U[:, :most] * values[:most])
            down.data.copy_(Vh[:most])


def compare(
    out: str | Path, steps: int = 60, rates: Sequence[float] = (3e-3, 1e-2), seeds: Sequence[int] = (0, 1, 2)
) -> Path:
    """Tunes each target of RANKS at each rate and seed; writes the losses as JSON to `out` and returns it.

    It takes about 20 minutes on one core. `before` holds the test loss without any tuning of the upright and
    the inverted studies; a run holds its losses of the training steps and those of the test studies.
    """
    train, test = draw(TRAIN), draw(TEST)
    plain = model_for(["X"], RANKS["X"])  # fresh pairs change no bit
    before = {name: study_losses(plain, test, name == "inverted") for name in ("as trained", "inverted")}
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
