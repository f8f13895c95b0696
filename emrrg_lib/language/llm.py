"""Loading language models and their tokenizers, and the tokenizer rules that hold for all of them.

Rules (upstream_audit §E 25–27 shows what breaks without them): BOS only where the tokenizer has one;
the pad token is never a token of ordinary text; the end symbol is learnt and stopped at; a report is
cut to `max_length` before the end symbol is added.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ..errors import InputError

TINY_DIR = Path(__file__).resolve().parents[2] / "data" / "tiny"
NAMED = {"tiny": TINY_DIR / "report_lm"}
END, PAD = "<|endoftext|>", "<|pad|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Byte-level BPE on report text (Qwen's kind: no BOS), with an end symbol and a pad of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def tiny_lm(tokenizer: PreTrainedTokenizerFast, hidden: int = 128, layers: int = 4) -> Qwen2ForCausalLM:
    """A small language model of Qwen2's architecture, grouped-query attention, random weights."""
    return Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=3 * hidden,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))


def load_llm(name: str, dtype: torch.dtype = torch.float32
             ) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Loads a causal LM and its tokenizer.

    Args:
        name: `tiny`, a folder in the Hugging Face layout, or a hub id.
        dtype: of the weights.

    Raises:
        InputError: the model is missing, gated or cannot be reached: what to download and where to.
    """
    source = NAMED.get(name, name)
    if name in NAMED and not (Path(source) / "config.json").is_file():
        raise InputError(f"the language model '{name}' is not in {source}; run `emrrg pretrain tiny` "
                         "to make it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        llm = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"cannot load the language model '{name}' ({first}); download it with "
            f"`hf download {name} --local-dir models/{Path(name).name}` and name that folder") from error
    return llm, prepare_tokenizer(tokenizer)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Sets left padding and a pad token that ordinary text never contains. Needs an end symbol."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end symbol (eos_token); choose another language model")
    if tokenizer.pad_token_id is None or tokenizer.pad_token not in tokenizer.all_special_tokens:
        tokenizer.pad_token = tokenizer.eos_token  # labels of pads are masked by position, not by id
    tokenizer.padding_side = "left"
    return tokenizer
