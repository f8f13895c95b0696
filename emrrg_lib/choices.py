"""Settings that depend on each other; they are checked before any image or weight is read."""

from __future__ import annotations

from transformers import PreTrainedConfig

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.files import InputError
from emrrg_lib.language.llm import llm_config


def check_choices(config: EMRRGConfig, llm: PreTrainedConfig | None = None) -> None:
    """Raises InputError for choices that do not go together.

    Args:
        llm: the language model's architecture; None looks for it by its name, without its weights.
    """
    if config.llm.from_scratch and (config.llm.hybrid_layers or config.llm.tuning == "lora"):
        raise InputError(f"'{config.llm.name}' trains whole: leave out hybrid_layers and the LLM's LoRA")
    if not config.llm.takes_visual_states and config.llm.visual_in_prompt == "none":
        raise InputError("the image cannot reach the LLM: choose hybrid_layers, or visual_in_prompt all")
    lora, width = config.encoder_tuning == "lora", config.encoder.embed_dim
    if config.encoder.kind == "hf" and lora:
        raise InputError(
            "Partial LoRA acts on Mamba mixers: choose encoder_tuning full or frozen for a "
            "Hugging Face backbone"
        )
    if lora and config.partial_lora.r > width:
        raise InputError(
            f"partial_lora.r must be at most encoder.embed_dim, {width}, not {config.partial_lora.r}: an "
            "update of a matrix cannot have a larger rank than the matrix"
        )
    _check_lengths(config, _positions(config.llm.name) if llm is None else _of(llm))


def _positions(name: str) -> int | None:
    """How many tokens a language model reads at once; None where no file on this machine says it."""
    try:
        return _of(llm_config(name))
    except (OSError, ValueError):  # `load_llm` will say why
        return None


def _of(llm: PreTrainedConfig) -> int | None:
    return getattr(llm.get_text_config(), "max_position_embeddings", None)


def _check_lengths(config: EMRRGConfig, positions: int | None) -> None:
    """A report, after the image in the prompt, must have room in the positions of the language model."""
    shown = config.llm.visual_in_prompt == "all" and config.encoder.kind == "mamba"
    image = shown * (config.data.view_limit or 1) * (config.encoder.num_patches + 1)
    lengths = {
        "data.max_length": config.data.max_length,
        "generation.max_new_tokens": config.generation.max_new_tokens,
    }
    for name, length in lengths.items():
        if positions and image + length > positions:
            raise InputError(
                f"{name} must be at most {max(0, positions - image)}, not {length}: the language model "
                f"'{config.llm.name}' has {positions} positions, and the image takes {image} of them"
            )
