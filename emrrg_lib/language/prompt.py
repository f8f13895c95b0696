"""The prompt around the report and the token sequences of training (paper §3.5; upstream_audit G)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

IGNORE = -100  # label of a position that is not learnt


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Token ids of `Human: {prompt}\\nAssistant:`, after BOS where the tokenizer has one."""
    ids = tokenizer(f"Human: {prompt}\nAssistant:", add_special_tokens=False).input_ids
    return ids if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids]


def report_ids(tokenizer: PreTrainedTokenizerFast, report: str, max_length: int) -> list[int]:
    """Token ids of the report, cut to `max_length`, then the end symbol (never cut away)."""
    ids = tokenizer(" " + report.strip(), add_special_tokens=False).input_ids[:max_length]
    return [*ids, tokenizer.eos_token_id]


@dataclass(frozen=True)
class TextBatch:
    """Right-padded training text. input_ids, attention_mask, labels: (B, n)."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def text_batch(tokenizer: PreTrainedTokenizerFast, prompt: str, reports: list[str],
               max_length: int) -> TextBatch:
    """Prompt + report + end symbol per row; only report and end symbol carry labels."""
    head = prompt_ids(tokenizer, prompt)
    rows = [report_ids(tokenizer, report, max_length) for report in reports]
    width = len(head) + max(len(row) for row in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for i, row in enumerate(rows):
        end = len(head) + len(row)
        ids[i, :end] = torch.tensor(head + row)
        mask[i, :end] = 1
        labels[i, len(head):end] = torch.tensor(row)
    return TextBatch(ids, mask, labels)
