"""Report generation: beam search with the KV cache, and the `Trace` of a finished report."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from emrrg_lib.files import InputError
from emrrg_lib.language.hybrid_decoder import hybrid_modules, recording
from emrrg_lib.language.prompt import prompt_ids, report_ids
from emrrg_lib.trace import Trace
from emrrg_lib.vision.mamba import drop_cls


@torch.no_grad()
def generate_reports(
    model, pixel_values: Tensor, view_mask: Tensor | None = None, trace: bool = False, **settings
):
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
        view_mask = torch.ones(pixel_values.shape[:2], dtype=torch.bool)
    tokenizer, prompt = model.tokenizer, _prompt(model, len(view_mask))
    was_training = model.training
    model.eval()
    try:
        states, mask = model.encode(pixel_values, view_mask)
        with model.mixed_precision():
            output = model.llm.generate(
                **model.llm_inputs(prompt, torch.ones_like(prompt), states, mask),
                do_sample=False,
                num_beams=chosen.num_beams,
                max_new_tokens=chosen.max_new_tokens,
                min_new_tokens=chosen.min_new_tokens or None,
                length_penalty=chosen.length_penalty,
                repetition_penalty=chosen.repetition_penalty,
                early_stopping=chosen.num_beams > 1,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
    finally:
        model.train(was_training)
    rows = [_until_end(row, tokenizer.eos_token_id) for row in output.tolist()]
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
    traces = (
        [trace_tokens(model, states[i : i + 1], mask[i : i + 1], row) for i, row in enumerate(rows)]
        if trace
        else None
    )
    return (texts, traces) if trace else texts


def _prompt(model, studies: int) -> Tensor:
    """The prompt's token ids, one row a study, (B, n)."""
    settings = model.settings
    ids = prompt_ids(model.tokenizer, settings.data.prompt, settings.llm.visual_in_prompt != "none")
    return torch.tensor([ids] * studies, device=model.device)


def _until_end(row: list[int], end: int) -> list[int]:
    return row[: row.index(end)] if end in row else row


@torch.no_grad()
def trace_report(
    model, pixel_values: Tensor, view_mask: Tensor, report: str, position: str = "predicts"
) -> Trace:
    """Teacher-forced trace of a given report for one study: (1, V, 3, H, W), (1, V); see `trace_tokens`."""
    states, mask = model.encode(pixel_values, view_mask)
    row = report_ids(model.tokenizer, report, model.settings.data.max_length)[:-1]
    return trace_tokens(model, states, mask, row, position)


@torch.no_grad()
def trace_tokens(model, states: Tensor, mask: Tensor, row: list[int], position: str = "predicts") -> Trace:
    """Runs prompt + tokens once with explicit attention weights.

    Args:
        position: whose gate and attention stand for a token: "predicts", the position before it, which
            looked at the image when it chose the word; or "own", the position that reads the word.

    Raises:
        InputError: the model has no hybrid layers, so there is nothing to trace.
    """
    modules = hybrid_modules(model.llm)
    if not modules:
        raise InputError("this model has no hybrid layers: there is no gate and no attention to trace")
    head = _prompt(model, 1)
    ids = torch.cat([head, head.new_tensor([row])], dim=1)
    inputs = model.llm_inputs(ids, torch.ones_like(ids), states, mask)
    places = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with recording(model.llm) as calls, model.mixed_precision():
        model.llm(**inputs, position_ids=places, use_cache=False, logits_to_keep=1)
        records = {index: call[0] for index, call in calls.items()}
    start = inputs["inputs_embeds"].shape[1] - len(row) - (position == "predicts")
    where = slice(start, start + len(row))
    gate = np.stack([g[0, where].float().cpu().numpy() for g, _ in records.values()])
    weights = torch.stack([w[0][:, where] for _, w in records.values()])  # (layer, head, T, V·(M + 1))
    return Trace(
        tokens=tuple(_pieces(model.tokenizer, row)),
        gate=gate.astype(np.float32),
        attention=_per_view(weights, model).float().cpu().numpy().astype(np.float32),
        grid=model.grid,
        layer_ids=tuple(records),
        warm_up=np.array([float(torch.tanh(m.warm_up)) for m in modules.values()], dtype=np.float32),
    )


def _per_view(weights: Tensor, model) -> Tensor:
    """(…, V·(M + 1)) → (…, V, M): the cls token of each view is dropped, where there is one."""
    tokens = math.prod(model.grid) + (model.cls_index is not None)
    return drop_cls(weights.unflatten(-1, (-1, tokens)), model.cls_index)


def _pieces(tokenizer, row: list[int]) -> list[str]:
    """The text piece of each token, leading space kept; the pieces join to the decoded text."""
    texts = [tokenizer.decode(row[:i], clean_up_tokenization_spaces=False) for i in range(len(row) + 1)]
    return [after[len(before) :] for before, after in zip(texts, texts[1:], strict=False)]
