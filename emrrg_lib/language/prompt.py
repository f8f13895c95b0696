"""The prompt around the report and the token sequences of training (paper §3.5; NOTES G)."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerFast

IGNORE = -100  # label of a position that is not learnt
BEFORE_IMAGE = "Human: <Img>"


def text_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of text as text: no BOS, and nothing in it is read as a special symbol."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def framed(prompt: str) -> str:
    """The prompt in its frame, as text."""
    return f"Human: {prompt}\nAssistant:"


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str, image: bool = False) -> list[int]:
    """Token ids of `Human: {prompt}\\nAssistant:`, after BOS where the tokenizer has one.

    With `image` they are those of `Human: <Img></Img> {prompt} \\nAssistant:`, R2GenGPT's frame; the
    visual tokens are put in at `image_slot`.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    if image:
        return bos + text_ids(tokenizer, BEFORE_IMAGE) + text_ids(tokenizer, f"</Img> {prompt} \nAssistant:")
    return bos + text_ids(tokenizer, framed(prompt))


def image_slot(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many tokens of a prompt with an image come before the visual tokens."""
    return len(text_ids(tokenizer, BEFORE_IMAGE)) + (tokenizer.bos_token_id is not None)


def report_ids(tokenizer: PreTrainedTokenizerFast, report: str, max_length: int) -> list[int]:
    """Token ids of the report, cut to `max_length`, then the end symbol (never cut away).

    They are the ids that the report has after "Assistant:"; alone, SentencePiece would add a space.
    """
    before = text_ids(tokenizer, ":")
    ids = text_ids(tokenizer, ": " + report.strip())[len(before) :][:max_length]
    return [*ids, tokenizer.eos_token_id]


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions of the attended tokens, (B, n) → (B, n), counted as transformers' `generate` does."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def text_batch(
    tokenizer: PreTrainedTokenizerFast, prompt: str, reports: list[str], max_length: int, image: bool = False
) -> BatchEncoding:
    """Prompt + report + end symbol per row, padded on the right: input_ids, attention_mask, labels (B, n).

    Only report and end symbol carry labels.
    """
    head = prompt_ids(tokenizer, prompt, image)
    rows = [report_ids(tokenizer, report, max_length) for report in reports]
    width = len(head) + max(len(row) for row in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for i, row in enumerate(rows):
        end = len(head) + len(row)
        ids[i, :end] = torch.tensor(head + row)
        mask[i, :end] = 1
        labels[i, len(head) : end] = torch.tensor(row)
    return BatchEncoding({"input_ids": ids, "attention_mask": mask, "labels": labels})


def first_report_position(labels: Tensor) -> int:
    """The first column of labels (B, n) that holds a report token, but at least 1: nothing predicts 0."""
    return max(1, int((labels != IGNORE).any(dim=0).int().argmax()))
