"""Report generation: beam search with the KV cache, and the `Trace` of a finished report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .interpret.trace import Trace
from .language.hybrid_decoder import hybrid_modules, recording
from .language.prompt import prompt_ids, report_ids


@torch.no_grad()
def generate_reports(model, pixel_values: Tensor, view_mask: Tensor | None = None,
                     trace: bool = False, **settings):
    """Writes one report per study.

    Args:
        model: an EMRRG. pixel_values: (B, V, 3, H, W). view_mask: (B, V) bool; None: all views.
        trace: also return a `Trace` of each report.
        settings: override fields of `GenerationConfig`, e.g. num_beams=1 for greedy decoding.

    Returns:
        list[str]; with `trace` the pair (list[str], list[Trace]).
    """
    chosen = replace(model.settings.generation, **settings)
    if view_mask is None:
        view_mask = torch.ones(pixel_values.shape[:2], dtype=torch.bool, device=pixel_values.device)
    tokenizer, device = model.tokenizer, pixel_values.device
    prompt = torch.tensor([prompt_ids(tokenizer, model.settings.data.prompt)] * len(view_mask), device=device)
    was_training = model.training
    model.eval()
    try:
        states, mask = model.encode(pixel_values, view_mask)
        output = model.llm.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), visual_states=states,
            visual_mask=mask, text_mask=torch.ones_like(prompt, dtype=torch.bool), do_sample=False,
            num_beams=chosen.num_beams, max_new_tokens=chosen.max_new_tokens,
            min_new_tokens=chosen.min_new_tokens or None, length_penalty=chosen.length_penalty,
            repetition_penalty=chosen.repetition_penalty, early_stopping=chosen.num_beams > 1,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    finally:
        model.train(was_training)
    rows = [_until_end(row, tokenizer.eos_token_id) for row in output[:, prompt.shape[1]:].tolist()]
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
    traces = [trace_tokens(model, states[i:i + 1], mask[i:i + 1], view_mask[i], row)
              for i, row in enumerate(rows)] if trace else None
    return (texts, traces) if trace else texts


def _until_end(row: list[int], end: int) -> list[int]:
    return row[:row.index(end)] if end in row else row


@torch.no_grad()
def trace_report(model, pixel_values: Tensor, view_mask: Tensor, report: str) -> Trace:
    """Teacher-forced trace of a given report for one study: (1, V, 3, H, W), (1, V)."""
    states, mask = model.encode(pixel_values, view_mask)
    row = report_ids(model.tokenizer, report, model.settings.data.max_length)[:-1]
    return trace_tokens(model, states, mask, view_mask[0], row)


@torch.no_grad()
def trace_tokens(model, states: Tensor, mask: Tensor, view_mask: Tensor, row: list[int]) -> Trace:
    """Runs prompt + tokens once with explicit attention weights.

    The gate and the attention of a token are those of the position that predicts it: what the model
    looked at when it chose the word.
    """
    head = prompt_ids(model.tokenizer, model.settings.data.prompt)
    ids = torch.tensor([head + row], device=states.device)
    with recording(model.llm) as calls:
        model.llm(input_ids=ids, attention_mask=torch.ones_like(ids), visual_states=states,
                  visual_mask=mask, text_mask=torch.ones_like(ids, dtype=torch.bool), use_cache=False,
                  logits_to_keep=1)
        records = {index: call[0] for index, call in calls.items()}
    where = slice(len(head) - 1, len(head) - 1 + len(row))
    gate = np.stack([g[0, where].float().cpu().numpy() for g, _ in records.values()])
    weights = torch.stack([w[0][:, where] for _, w in records.values()])  # (layer, head, T, V·(M + 1))
    modules = hybrid_modules(model.llm)
    return Trace(
        tokens=tuple(_pieces(model.tokenizer, row)), gate=gate.astype(np.float32),
        attention=_per_view(weights, model).float().cpu().numpy().astype(np.float32),
        grid=(model.settings.encoder.side,) * 2, layer_ids=tuple(records),
        warm_up=np.array([float(torch.tanh(m.warm_up)) for m in modules.values()], dtype=np.float32))


def _per_view(weights: Tensor, model) -> Tensor:
    """(…, V·(M + 1)) → (…, V, M): the cls token of each view is dropped."""
    patches = model.settings.encoder.num_patches
    split = weights.unflatten(-1, (-1, patches + 1))
    middle = patches // 2
    return torch.cat([split[..., :middle], split[..., middle + 1:]], dim=-1)


def _pieces(tokenizer, row: list[int]) -> list[str]:
    """The text piece of each token, leading space kept; the pieces join to the decoded text."""
    texts = [tokenizer.decode(row[:i], clean_up_tokenization_spaces=False) for i in range(len(row) + 1)]
    return [after[len(before):] for before, after in zip(texts, texts[1:], strict=False)]
