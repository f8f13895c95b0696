"""The gates of a trained model closed again, and opened before one's eyes (notebook 04)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from emrrg_lib.files import TINY_DIR
from emrrg_lib.language.hybrid_decoder import hybrid_modules, recording
from emrrg_lib.model import EMRRG
from emrrg_lib.phantom import PhantomStudy
from emrrg_lib.training.batches import batch_of
from emrrg_lib.training.shift import draw

TRAIN, TEST = range(3000, 3064), range(3100, 3124)  # phantoms that no training of the kit draws
RATE, BATCH = 0.02, 8


def open_gates(closed: bool = True, price: float = 0.0, steps: int = 45, every: int = 5) -> list[dict]:
    """Trains gate_proj and α of the shipped model alone; one row every so many steps.

    Args:
        closed: begin at α = 0. price: added to the loss for each layer, times its mean |gate|.

    Returns:
        Rows with step, α (one number a layer), loss with the own image and with another patient's, in nats
        per token, the mean |gate| and the share of gates below .1 over layers and positions.
    """
    model = EMRRG.from_run(TINY_DIR / "run").eval().requires_grad_(False)
    modules = list(hybrid_modules(model.llm).values())
    for module in modules:
        if closed:
            module.warm_up.data.zero_()
        for parameter in (*module.gate_proj.parameters(), module.warm_up):
            parameter.requires_grad_(True)
    gates = [p for p in model.parameters() if p.requires_grad]
    optimizer, choose = torch.optim.Adam(gates, lr=RATE), np.random.default_rng(0)
    train, test = (_Stored(model, draw(numbers, inverted=False)) for numbers in (TRAIN, TEST))
    rows = []
    for step in range(steps + 1):
        if step % every == 0:
            rows.append({"step": step} | _look(model, test))
        if step == steps:
            break
        dynamic: list[Tensor] = []
        hooks = [m.gate_proj.register_forward_hook(lambda *a, d=dynamic: d.append(a[2])) for m in modules]
        loss = model(**train.batch(choose.choice(len(TRAIN), BATCH, replace=False)))["loss"]
        for hook in hooks:
            hook.remove()
        sizes = [(d.tanh() * m.opening).abs().mean() for d, m in zip(dynamic, modules, strict=True)]
        optimizer.zero_grad()
        (loss + price * torch.stack(sizes).sum()).backward()
        optimizer.step()
    return rows


class _Stored:
    """Studies whose frozen encoder has run already, two views each."""

    def __init__(self, model: EMRRG, studies: Sequence[PhantomStudy]) -> None:
        given = batch_of(model, studies)
        with torch.no_grad():
            self.tokens = model.encoder(given.pop("pixel_values")).unflatten(0, (len(studies), -1))
        self.rest = given

    def batch(self, numbers: Sequence[int], other: bool = False) -> dict[str, Tensor]:
        """What the model's forward takes; with `other`, each report meets the next patient's image."""
        index = torch.as_tensor(numbers)
        tokens = self.tokens[index.roll(1) if other else index].flatten(0, 1)
        return {"tokens": tokens} | {name: value[index] for name, value in self.rest.items()}


@torch.no_grad()
def _look(model: EMRRG, test: _Stored) -> dict:
    everything = range(len(test.tokens))
    with recording(model.llm) as calls:
        own = float(model(**test.batch(everything))["loss"])
    other = float(model(**test.batch(everything, other=True))["loss"])
    gates = torch.cat([made[0][0] for made in calls.values()]).abs()
    alphas = [float(module.warm_up.detach()) for module in hybrid_modules(model.llm).values()]
    told = {"mean |gate|": float(gates.mean()), "below .1": float((gates < 0.1).float().mean())}
    return {"α": alphas, "own image": own, "other image": other} | told
