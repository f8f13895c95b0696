"""Report generation: beam search with the KV cache, reports of a whole split, the `Trace` of a report."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import psutil
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm import tqdm

from emrrg_lib.config import GenerationConfig
from emrrg_lib.data.study_set import StudySet, pixels
from emrrg_lib.files import InputError, gather, processes
from emrrg_lib.language.hybrid_decoder import hybrid_modules, recording
from emrrg_lib.language.prompt import position_ids, prompt_ids, report_ids
from emrrg_lib.trace import Trace
from emrrg_lib.vision.mamba import drop_cls

BATCH = 8  # studies generated together on a CPU; on a GPU as many as `batch_size` says


def batch_size(model, beams: int, tokens: int) -> int:
    """The studies generated together: BATCH, and on a GPU up to 64.

    A step of decoding waits for the launches and the weights, so 64 studies cost about what 8 do. Their keys
    and values may take half of the memory beside the weights; tokens: the longest report.
    """
    if model.device.type != "cuda":
        return BATCH
    sizes = model.llm.config.get_text_config()
    head = getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
    views = model.settings.data.view_limit or 1 if model.settings.data.views == "concat" else 1
    length = 100 + views * (math.prod(model.grid) + 1) + tokens  # 100: more than any prompt
    study = beams * length * sizes.num_hidden_layers * 2 * sizes.num_key_value_heads * head * 2  # bytes
    memory = torch.cuda.get_device_properties(model.device).total_memory
    free = memory - sum(p.numel() * p.element_size() for p in model.parameters())
    return next((size for size in (64, 32, 16) if size * study <= free / 2), BATCH)


@torch.no_grad()
def generate(
    model,
    studies: Tensor | Sequence[Any],
    view_mask: Tensor | None = None,
    trace: bool = False,
    **settings,
):
    """Writes one report per study; the method `EMRRG.generate`.

    Args:
        model: the EMRRG.
        studies: a list of studies, see `emrrg_lib.data.study_set.pixels`, of which `batch_size` are
            taken at once; or one batch of images as `EMRRG.encode` takes it, with its view_mask.
        trace: also return a `Trace` of each report.
        settings: override fields of `GenerationConfig`, e.g. num_beams=1 for greedy decoding.

    Returns:
        list[str]; with `trace` the pair (list[str], list[Trace]).
    """
    chosen = replace(model.settings.generation, **settings)
    if isinstance(studies, Tensor):
        pairs = _generate_batch(model, studies, view_mask, trace, chosen)
    else:
        size = batch_size(model, chosen.num_beams, chosen.max_new_tokens)
        batches = (studies[start : start + size] for start in range(0, len(studies), size))
        pairs = [
            pair
            for batch in batches
            for pair in _generate_batch(model, *pixels(batch, model.settings), trace, chosen)
        ]
    texts = [text for text, _ in pairs]
    return (texts, [found for _, found in pairs]) if trace else texts


def _generate_batch(
    model, pixel_values: Tensor, view_mask: Tensor | None, trace: bool, chosen: GenerationConfig
) -> list[tuple[str, Trace | None]]:
    """Report and (where wanted) trace of each study of one batch of images."""
    tokenizer, was_training = model.tokenizer, model.training
    model.eval()
    try:
        states, mask = model.encode(pixel_values, view_mask)
        prompt = _prompt(model, len(states))
        with model.mixed_precision(), free_cores(model.device):
            output = model.llm.generate(
                **model.llm_inputs(prompt, torch.ones_like(prompt), states, mask),
                **asdict(chosen) | {"min_new_tokens": chosen.min_new_tokens or None},
                do_sample=False,
                early_stopping=chosen.num_beams > 1,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
    finally:
        model.train(was_training)
    end = tokenizer.eos_token_id
    rows = [row[: row.index(end)] if end in row else row for row in output.tolist()]
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
    traces = (
        trace_tokens(model, states[i : i + 1], mask[i : i + 1], row) if trace else None
        for i, row in enumerate(rows)
    )
    return list(zip(texts, traces, strict=True))


@contextmanager
def free_cores(device: torch.device) -> Iterator[None]:
    """Within it OpenMP takes no more threads than other programs have left cores since the last look.

    A step of generation is short. A thread that has to wait for its core makes all others wait at each of
    its many small products. The texts do not depend on it; the number that the user has set is kept.
    `torch.set_num_threads` would not do: it changes how MKL divides every later product, and so the bits of
    the training that goes on after a validation.
    """
    busy = _LAST_LOOK[:]
    _LAST_LOOK[:] = _look()
    wall, others = (now - then for now, then in zip(_LAST_LOOK, busy, strict=True))
    free = max(1, round((os.cpu_count() or 1) - others / max(wall, 1e-3)))
    if device.type != "cpu" or free >= torch.get_num_threads() or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    with threadpool_limits(free, "openmp"):
        yield


def _look() -> tuple[float, float]:
    """The time, and the processor seconds that other programs have used, since some start."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    used = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - getattr(machine, "guest", 0.0)
    return time.monotonic(), used - own.user - own.system


_LAST_LOOK = list(_look())


def write_reports(
    model,
    studies: StudySet,
    indices: Sequence[int] | None = None,
    describe: str = "writing reports",
    **settings,
) -> list[str]:
    """One generated report per study of a split, in order, with a progress bar.

    Several processes share the batches; each returns all reports.

    Args:
        model: an EMRRG. studies: the split. indices: the numbers of the studies, None for all.
        describe: label of the progress bar. settings: fields of `GenerationConfig` to override.
    """
    state = processes()
    indices = list(range(len(studies)) if indices is None else indices)
    chosen = replace(model.settings.generation, **settings)
    size, mine = batch_size(model, chosen.num_beams, chosen.max_new_tokens), []
    starts = range(0, len(indices), size)
    own = list(starts[state.process_index :: state.num_processes])
    if model.sharded and len(own) * state.num_processes < len(starts):
        own.append(0)  # written twice: every process has to make as many calls
    with tqdm(
        total=len(indices), desc=describe, unit="report", leave=False, disable=not state.is_main_process
    ) as bar:
        for start in own:
            mine.append((start, model.generate(*studies.images(indices[start : start + size]), **settings)))
            bar.update(min(size * state.num_processes, len(indices) - bar.n))
    return [text for _, texts in sorted(dict(gather(mine)).items()) for text in texts]


def _prompt(model, studies: int) -> Tensor:
    """The prompt's token ids, one row a study, (B, n)."""
    settings = model.settings
    ids = prompt_ids(model.tokenizer, settings.data.prompt, settings.llm.image_in_prompt)
    return torch.tensor([ids] * studies, device=model.device)


@torch.no_grad()
def trace_report(
    model, pixel_values: Tensor, view_mask: Tensor, report: str, position: str = "predicts"
) -> Trace:
    """Teacher-forced trace of a given report for one study, its images as in `EMRRG.encode`."""
    states, mask = model.encode(pixel_values, view_mask)
    row = report_ids(model.tokenizer, report, model.settings.data.max_length)[:-1]
    return trace_tokens(model, states, mask, row, position)


@torch.no_grad()
def trace_tokens(model, states: Tensor, mask: Tensor, row: list[int], position: str = "predicts") -> Trace:
    """Runs prompt + tokens once with explicit attention weights.

    Args:
        states, mask: of one study, see `EMRRG.encode`. row: token ids of the report.
        position: which position gives a token its gate and attention: "predicts", the position before the
            token, which looked at the image when it chose it; or "own", the position that reads it.

    Raises:
        InputError: the model has no hybrid layers, so there is nothing to trace.
    """
    modules = hybrid_modules(model.llm)
    if not modules:
        raise InputError("this model has no hybrid layers: there is no gate and no attention to trace")
    head = _prompt(model, 1)
    ids = torch.cat([head, head.new_tensor([row])], dim=1)
    inputs = model.llm_inputs(ids, torch.ones_like(ids), states, mask)
    places = position_ids(inputs["attention_mask"])
    with recording(model.llm) as calls, model.mixed_precision():
        model.llm(**inputs, position_ids=places, use_cache=False, logits_to_keep=1)
        records = {index: call[0] for index, call in calls.items()}
    start = inputs["inputs_embeds"].shape[1] - len(row) - (position == "predicts")
    where = slice(start, start + len(row))
    gate = np.stack([g[0, where].float().cpu().numpy() for g, _ in records.values()])
    weights = torch.stack([w[0][:, where] for _, w in records.values()])  # (layer, head, T, views·(M + 1))
    tokens = math.prod(model.grid) + (model.cls_index is not None)  # of one view
    attention = drop_cls(weights.unflatten(-1, (-1, tokens)), model.cls_index)  # (layer, head, T, V, M)
    return Trace(
        tokens=tuple(_pieces(model.tokenizer, row)),
        gate=gate.astype(np.float32),
        attention=attention.float().cpu().numpy(),
        grid=model.grid,
        layer_ids=tuple(records),
        warm_up=np.array([float(m.opening) for m in modules.values()], dtype=np.float32),
    )


def _pieces(tokenizer, row: list[int]) -> list[str]:
    """The text piece of each token, leading space kept; the pieces join to the decoded text."""
    texts = [tokenizer.decode(row[:i], clean_up_tokenization_spaces=False) for i in range(len(row) + 1)]
    return [after[len(before) :] for before, after in zip(texts, texts[1:], strict=False)]
