"""What hybrid layers cost in generation: 8 layers of the shape of Qwen1.5-1.8B, every second one hybrid."""

from __future__ import annotations

import time

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from emrrg_lib.language.hybrid_decoder import NAME, hybrid_modules, install_hybrid_layers
from emrrg_lib.language.llm import NAMED

LAYERS, HYBRID, VOCABULARY = 8, (0, 2, 4, 6), 1024
PROMPT, VISUAL = 26, 145  # text tokens of the paper's prompt; 144 patches and the cls token
TOKENS = 24  # new ones; a real report has some 60


def build(dtype: torch.dtype) -> PreTrainedModel:
    """Eight of its layers with random weights and open gates; the vocabulary is small."""
    config = NAMED["qwen1.5-1.8b"].config()
    config.num_hidden_layers, config.vocab_size, config.eos_token_id = LAYERS, VOCABULARY, None
    config.layer_types = config.layer_types[:LAYERS]
    torch.manual_seed(0)
    llm = install_hybrid_layers(AutoModelForCausalLM.from_config(config, dtype=dtype).eval(), HYBRID)
    for module in hybrid_modules(llm).values():
        torch.nn.init.constant_(module.warm_up, 0.5)
    return llm


@torch.no_grad()
def seconds(llm: PreTrainedModel, hybrid: bool, beams: int, tokens: int) -> float:
    """Processor seconds of one report; without hybrid layers the same weights run plain sdpa attention.

    Processor time, because on a busy machine the wall clock says nothing about a few per cent.
    """
    llm.set_attn_implementation(NAME if hybrid else "sdpa")
    ids = torch.arange(PROMPT)[None]
    visual = {
        "visual_states": torch.ones(1, VISUAL, llm.config.hidden_size, dtype=llm.dtype),
        "visual_mask": torch.ones(1, VISUAL, dtype=torch.bool),
        "text_mask": torch.ones(1, PROMPT, dtype=torch.bool),
    }
    start = time.process_time()
    llm.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        num_beams=beams,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        **(visual if hybrid else {}),
    )
    return time.process_time() - start


def run(quick: bool) -> dict:
    """Best of interleaved runs with and without, in the faster of float32 and bfloat16, on the CPU.

    The share of the hybrid layers falls with the length: their keys and values are made once a report.

    Returns:
        {"goal", "dtype", "threads", "prompt", "visual_tokens", "new_tokens",
        "rows": [{"beams", "plain_s", "hybrid_s", "ratio"}]}; a ratio above the goal is too dear.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other would be counted as work
    try:
        dtype = min((torch.float32, torch.bfloat16), key=lambda kind: seconds(build(kind), False, 1, 4))
        llm = build(dtype)
        rows = [_row(llm, beams) for beams in ((1,) if quick else (1, 3))]
    finally:
        torch.set_num_threads(threads)
    return {
        "goal": 1.15,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": 1,
        "prompt": PROMPT,
        "visual_tokens": VISUAL,
        "new_tokens": TOKENS,
        "rows": rows,
    }


def _row(llm: PreTrainedModel, beams: int) -> dict:
    for hybrid in (False, True):
        seconds(llm, hybrid, beams, 2)  # the first call of each kind is slower
    pairs = [(seconds(llm, False, beams, TOKENS), seconds(llm, True, beams, TOKENS)) for _ in range(3)]
    plain, hybrid = (min(times) for times in zip(*pairs, strict=True))
    return {
        "beams": beams,
        "plain_s": round(plain, 3),
        "hybrid_s": round(hybrid, 3),
        "ratio": round(hybrid / plain, 3),
    }
