"""Benchmarks of the whole system: a training step, beam search, one study at full size.

The small system of `train` and `generate` has the paper's form: Partial LoRA, visual tokens in the prompt,
half of the LLM's layers hybrid, SmolLM2's vocabulary; its weights are random. Each saving is left out once,
while everything else stays.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from emrrg_lib.bench import compare, interleaved
from emrrg_lib.language.hybrid_decoder import hybrid_modules
from emrrg_lib.language.llm import load_llm
from emrrg_lib.language.named import NAMED
from emrrg_lib.language.prompt import IGNORE, position_ids, text_batch
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset
from emrrg_lib.run_record import peak_memory_gib
from emrrg_lib.vision.weights import build_encoder

REPORT = (
    "the heart is normal in size . the lungs are clear . there is a small left pleural effusion . no "
    "pneumothorax is seen . the mediastinum is unremarkable ."
)
LAYERS, BATCH, TOKENS, BEAMS = 4, 2, 24, 3


def build(layers: int = LAYERS, trained: bool = False) -> EMRRG:
    """The small system; `trained`: every weight of encoder and LLM trains."""
    config, tokenizer = preset("tiny"), load_llm("tiny")[1]
    llm = replace(config.llm, hybrid_layers=tuple(range(0, layers, 2)), visual_in_prompt="all")
    config = replace(config, llm=llm, data=replace(config.data, views="mean"))
    sizes = NAMED["smollm2-135m"].config()
    sizes.num_hidden_layers = layers
    torch.manual_seed(0)
    model = EMRRG(config, build_encoder(config), AutoModelForCausalLM.from_config(sizes), tokenizer).train()
    for parameter in model.parameters() if trained else ():
        parameter.requires_grad_(True)
    return model


def random_weights(name: str, device: str) -> EMRRG:
    """A preset with random weights, for which any tokenizer serves."""
    gc.collect()
    with torch.device(device):
        return EMRRG.from_sizes(preset(name), load_llm("tiny")[1])


def batch_of(model: EMRRG, studies: int, report: str = REPORT, views: int = 2) -> dict[str, Tensor]:
    """Random images of so many views and the same report for each study."""
    size, data = model.settings.encoder.image_size, model.settings.data
    text = text_batch(model.tokenizer, data.prompt, [report] * studies, data.max_length, image=True)
    return {
        "pixel_values": torch.randn(views * studies, 3, size, size),
        "view_mask": torch.ones(studies, views, dtype=torch.bool),
        **text,
    }


def loss_everywhere(
    model: EMRRG,
    pixel_values: Tensor,
    view_mask: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
) -> Tensor:
    """The model's loss, but lm_head runs on prompt and visual tokens too."""
    states, mask = model.encode(pixel_values, view_mask)
    inputs = model.llm_inputs(input_ids, attention_mask, states, mask)
    places = position_ids(inputs["attention_mask"])
    logits = model.llm(**inputs, position_ids=places, use_cache=False).logits
    wanted = F.pad(labels, (logits.shape[1] - labels.shape[1], 0), value=IGNORE)[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten(), ignore_index=IGNORE)


def _trained(model: EMRRG) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def train(quick: bool = False) -> dict:
    """Seconds of a step (forward and backward) as shipped and without each saving, and their ratios."""
    layers, studies = (2, 1) if quick else (LAYERS, BATCH)
    model, whole = build(layers), build(layers, trained=True)
    batch = batch_of(model, studies)
    with torch.no_grad():
        tokens = model.encoder(batch["pixel_values"])
    warm = {key: value for key, value in batch.items() if key != "pixel_values"} | {"tokens": tokens}

    def step(system: EMRRG, loss: Tensor) -> None:
        loss.backward()
        system.zero_grad(set_to_none=True)

    tasks = {
        "as shipped": lambda: step(model, model(**batch)["loss"]),
        "all weights get gradients": lambda: step(whole, whole(**batch)["loss"]),
        "lm_head on every position": lambda: step(model, loss_everywhere(model, **batch)),
        "warm part, from encoder tokens": lambda: step(model, model(**warm)["loss"]),
    }
    seconds = interleaved(tasks, rounds=1 if quick else 3)
    return {
        "layers": layers,
        "batch": studies,
        "positions": studies * (batch["input_ids"].shape[1] + tokens.shape[1]),
        "report_positions": (batch["labels"] != IGNORE).sum().item(),
        "trained": {"as shipped": _trained(model), "all weights get gradients": _trained(whole)},
        **compare(seconds, "as shipped"),
    }


@contextmanager
def keys_values_every_step(model: EMRRG) -> Iterator[None]:
    """Forgets the visual keys and values before every call; they are else made once a report."""
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
    """Encodes each study's images once for each beam; they are else encoded once a study."""
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


def generate(quick: bool = False) -> dict:
    """Seconds and FLOPs (without the scan) of a batch of reports as shipped and without each saving.

    FLOPs are counted too: next to a small encoder and visual sequence the savings are smaller than the
    noise of a busy machine in seconds. Raises RuntimeError if a saving changed a report.
    """
    layers, studies, tokens = (2, 1, 4) if quick else (LAYERS, BATCH, TOKENS)
    model = build(layers).eval()
    for module in hybrid_modules(model.llm).values():
        torch.nn.init.constant_(module.warm_up, 0.5)
    batch, reports, flops = batch_of(model, studies), {}, {}
    images = batch["pixel_values"], batch["view_mask"]
    without = {
        "as shipped": nullcontext,
        "visual K/V at every step": partial(keys_values_every_step, model),
        "images encoded for every beam": partial(encoding_every_beam, model, BEAMS),
    }

    def write(name: str) -> None:
        with without[name]():
            reports[name] = model.generate(
                *images, num_beams=BEAMS, min_new_tokens=tokens, max_new_tokens=tokens
            )

    tasks = {name: partial(write, name) for name in without}
    seconds = interleaved(tasks, rounds=1 if quick else 3)
    for name, task in tasks.items():
        with FlopCounterMode(display=False) as counter:
            task()
        flops[name] = counter.get_total_flops()
    if changed := [name for name in reports if reports[name] != reports["as shipped"]]:
        raise RuntimeError(f"other reports with {changed[0]}")
    return {
        "layers": layers,
        "batch": studies,
        "beams": BEAMS,
        "new_tokens": tokens,
        "visual_tokens": model.prompt_states(*model.encode(*images))[0].shape[1],
        **compare(seconds, "as shipped"),
        "flops": flops,
        "times_flops": {k: round(v / flops["as shipped"], 3) for k, v in flops.items()},
    }


def full_size(quick: bool = False) -> dict:
    """Takes one study of two views through `iu-xray` with random weights: loss, backward, a few tokens.

    `quick` changes nothing: there is no smaller full size.

    Returns:
        {"preset", "device", "parameters", "trained", seconds of each part, "loss", "peak_memory_gib"}.
    """
    device, seconds, start = "cuda" if torch.cuda.is_available() else "cpu", {}, time.perf_counter()

    def lap(part: str) -> None:
        nonlocal start
        if device == "cuda":
            torch.cuda.synchronize()
        seconds[f"{part}_s"], start = round(time.perf_counter() - start, 1), time.perf_counter()

    model = random_weights("iu-xray", device).train()
    model.gradient_checkpointing_enable()
    lap("build")
    report = "the heart is normal in size . there is a small left pleural effusion ."
    batch = {key: value.to(device) for key, value in batch_of(model, 1, report).items()}
    loss = model(**batch)["loss"]
    lap("forward")
    loss.backward()
    lap("backward")
    lost = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if lost:
        raise RuntimeError(f"{len(lost)} trained tensors got no gradient, first '{lost[0]}'")
    model.zero_grad()
    images, length = (batch["pixel_values"], batch["view_mask"]), {"max_new_tokens": 5, "min_new_tokens": 5}
    model.generate(*images, num_beams=1, **length)
    lap("generate")
    gpu = {"gpu_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if device == "cuda" else {}
    return {
        "preset": "iu-xray",
        "device": device,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": _trained(model),
        "new_tokens": length["max_new_tokens"],
        **seconds,
        "loss": round(loss.item(), 3),
        "peak_memory_gib": round(peak_memory_gib(), 2),
        **gpu,
    }
