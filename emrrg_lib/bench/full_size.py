"""The paper's system at its full size: one study through loss, backward and a short generation."""

from __future__ import annotations

import time

import torch

from emrrg_lib.config import preset
from emrrg_lib.language.llm import load_llm
from emrrg_lib.language.prompt import text_batch
from emrrg_lib.model import EMRRG
from emrrg_lib.run_folder import peak_memory_gib

NEW_TOKENS = 5
REPORT = "the heart is normal in size . there is a small left pleural effusion ."


def run(quick: bool, name: str = "iu-xray") -> dict:
    """Builds `iu-xray` with random weights and takes one two-view study through it; `quick` leaves out
    nothing: there is no smaller full size.

    Returns:
        {"preset", "device", "parameters", "trained", seconds of each part, "loss", "peak_memory_gib"}.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, tokenizer = preset(name), load_llm("tiny")[1]  # any tokenizer: the weights are random
    seconds, start = {}, time.perf_counter()

    def lap(part: str) -> None:
        nonlocal start
        if device == "cuda":
            torch.cuda.synchronize()
        seconds[f"{part}_s"], start = round(time.perf_counter() - start, 1), time.perf_counter()

    with torch.device(device):
        model = EMRRG.from_sizes(config, tokenizer).train()
    model.gradient_checkpointing_enable()
    lap("build")
    size = config.encoder.image_size
    pixels = torch.randn(2, 3, size, size, device=device)
    view_mask = torch.ones(1, 2, dtype=torch.bool, device=device)
    text = text_batch(tokenizer, config.data.prompt, [REPORT], config.data.max_length, image=True)
    text = {key: value.to(device) for key, value in vars(text).items()}
    loss = model(pixel_values=pixels, view_mask=view_mask, **text)["loss"]
    lap("forward")
    loss.backward()
    lap("backward")
    lost = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if lost:
        raise RuntimeError(f"{len(lost)} trained tensors got no gradient, first '{lost[0]}'")
    model.zero_grad()
    model.generate(pixels, view_mask, num_beams=1, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    lap("generate")
    parameters = list(model.parameters())
    gpu = {"gpu_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if device == "cuda" else {}
    return {
        "preset": name,
        "device": device,
        "parameters": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
        "new_tokens": NEW_TOKENS,
        **seconds,
        "loss": round(loss.item(), 3),
        "peak_memory_gib": round(peak_memory_gib(), 2),
        **gpu,
    }
