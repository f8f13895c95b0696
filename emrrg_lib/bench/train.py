"""What stage 3 saves in a training step: each saving is left out once, everything else stays.

The system has the shape of the paper's in small: Partial LoRA, visual tokens in the prompt, half of the LLM's
layers hybrid, SmolLM2's vocabulary; random weights.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from emrrg_lib.bench.timing import compare, interleaved
from emrrg_lib.config import EMRRGConfig, preset
from emrrg_lib.language.llm import NAMED, load_llm
from emrrg_lib.language.prompt import IGNORE, position_ids, text_batch
from emrrg_lib.model import EMRRG
from emrrg_lib.vision.weights import build_encoder

REPORT = (
    "the heart is normal in size . the lungs are clear . there is a small left pleural effusion . no "
    "pneumothorax is seen . the mediastinum is unremarkable ."
)
LAYERS, BATCH = 4, 2


def build(layers: int = LAYERS, trained: bool = False) -> EMRRG:
    """The small system; `trained`: every weight of encoder and LLM trains."""
    config, tokenizer = preset("tiny"), load_llm("tiny")[1]
    llm = replace(config.llm, hybrid_layers=tuple(range(0, layers, 2)), visual_in_prompt="all")
    config: EMRRGConfig = replace(config, llm=llm, data=replace(config.data, views="mean"))
    sizes = NAMED["smollm2-135m"].config()
    sizes.num_hidden_layers = layers
    torch.manual_seed(0)
    model = EMRRG(config, build_encoder(config), AutoModelForCausalLM.from_config(sizes), tokenizer).train()
    for parameter in model.parameters() if trained else ():
        parameter.requires_grad_(True)
    return model


def batch_of(model: EMRRG, studies: int) -> dict[str, Tensor]:
    """Random images of two views and the same report for each study."""
    size, data = model.settings.encoder.image_size, model.settings.data
    text = text_batch(model.tokenizer, data.prompt, [REPORT] * studies, data.max_length, image=True)
    return {
        "pixel_values": torch.randn(2 * studies, 3, size, size),
        "view_mask": torch.ones(studies, 2, dtype=torch.bool),
        **vars(text),
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


def run(quick: bool = False) -> dict:
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

    seconds = interleaved(
        {
            "as shipped": lambda: step(model, model(**batch)["loss"]),
            "all weights get gradients": lambda: step(whole, whole(**batch)["loss"]),
            "lm_head on every position": lambda: step(model, loss_everywhere(model, **batch)),
            "warm part, from encoder tokens": lambda: step(model, model(**warm)["loss"]),
        },
        rounds=1 if quick else 3,
    )
    counts = {
        name: sum(p.numel() for p in system.parameters() if p.requires_grad)
        for name, system in (("as shipped", model), ("all weights get gradients", whole))
    }
    rows, report = batch["input_ids"].shape[1] + tokens.shape[1], (batch["labels"] != IGNORE).sum().item()
    return {
        "layers": layers,
        "batch": studies,
        "positions": studies * rows,
        "report_positions": report,
        "trained": counts,
        **compare(seconds, "as shipped"),
    }
