"""What generation saves: each saving is left out once, and the reports must stay the same.

Visual keys and values are made once a report, not at every step; an image is encoded once a study, not once a
beam. The system is that of `bench train`, its gates open. FLOPs are counted too: next to a small encoder and
visual sequence the savings are smaller than a busy machine's noise in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from emrrg_lib.bench.timing import compare, interleaved
from emrrg_lib.bench.train import BATCH, LAYERS, batch_of, build
from emrrg_lib.language.hybrid_decoder import hybrid_modules
from emrrg_lib.model import EMRRG

TOKENS, BEAMS = 24, 3


@contextmanager
def keys_values_every_step(model: EMRRG) -> Iterator[None]:
    """Forgets the visual keys and values before every call."""
    hooks = [
        module.register_forward_pre_hook(lambda module, _: setattr(module, "_memory", None))
        for module in hybrid_modules(model.llm).values()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def encoding_every_beam(model: EMRRG, beams: int) -> Iterator[None]:
    """Encodes each study's images once for each beam."""
    own = model.encode

    def repeated(pixel_values: Tensor, view_mask: Tensor) -> tuple[Tensor, Tensor]:
        studies = pixel_values.unflatten(0, view_mask.shape)  # every view exists
        states, mask = own(studies.repeat_interleave(beams, 0), view_mask.repeat_interleave(beams, 0))
        return states[::beams], mask[::beams]

    model.encode = repeated
    try:
        yield
    finally:
        del model.encode


def run(quick: bool = False) -> dict:
    """Seconds and FLOPs (without the scan) of a batch of reports as shipped and without each saving.

    Raises RuntimeError if a saving changed a report.
    """
    layers, studies, tokens = (2, 1, 4) if quick else (LAYERS, BATCH, TOKENS)
    model = build(layers).eval()
    for module in hybrid_modules(model.llm).values():
        torch.nn.init.constant_(module.warm_up, 0.5)
    batch, reports = batch_of(model, studies), {}

    def write(name: str) -> None:
        reports[name] = model.generate(
            batch["pixel_values"],
            batch["view_mask"],
            num_beams=BEAMS,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )

    def every_step() -> None:
        with keys_values_every_step(model):
            write("visual K/V at every step")

    def every_beam() -> None:
        with encoding_every_beam(model, BEAMS):
            write("images encoded for every beam")

    tasks = {
        "as shipped": lambda: write("as shipped"),
        "visual K/V at every step": every_step,
        "images encoded for every beam": every_beam,
    }
    seconds, flops = interleaved(tasks, rounds=1 if quick else 3), {}
    for name, task in tasks.items():
        with FlopCounterMode(display=False) as counter:
            task()
        flops[name] = counter.get_total_flops()
    if changed := [name for name in reports if reports[name] != reports["as shipped"]]:
        raise RuntimeError(f"other reports with {changed[0]}")
    visual = model.prompt_states(*model.encode(batch["pixel_values"], batch["view_mask"]))[0].shape[1]
    return {
        "layers": layers,
        "batch": studies,
        "beams": BEAMS,
        "new_tokens": tokens,
        "visual_tokens": visual,
        **compare(seconds, "as shipped"),
        "flops": flops,
        "times_flops": {k: round(v / flops["as shipped"], 3) for k, v in flops.items()},
    }
