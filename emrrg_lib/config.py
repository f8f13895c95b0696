"""Every size and default of the kit, in frozen dataclasses and named presets; the only place for them."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import InputError

PROMPT = "Generate a comprehensive and detailed diagnosis report for this chest X-ray image."  # §3.5


@dataclass(frozen=True)
class EncoderConfig:
    """VisionMamba. The defaults are the base encoder at the paper's 192 px (upstream_audit A1)."""

    image_size: int = 192  # pixels; paper §3.2 (released checkpoints: 224)
    patch_size: int = 16
    embed_dim: int = 768  # d
    depth: int = 12
    d_state: int = 16  # N
    d_conv: int = 4  # K
    drop_path: float = 0.1

    @property
    def side(self) -> int:
        """Patches along one edge."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """M; the encoder returns M + 1 tokens."""
        return self.side**2


@dataclass(frozen=True)
class PartialLoRAConfig:
    """Which matrices or row blocks of the mixer get a low-rank update (paper §3.3)."""

    targets: tuple[str, ...] = ("X", "in_proj")  # LoRA_p(X) and LoRA(in_proj) together
    r: int = 32  # paper §4.2
    scale: float = 1.0  # ΔW = scale · B · A; the paper gives none
    dropout: float = 0.0


@dataclass(frozen=True)
class LLMConfig:
    """The language model and its hybrid decoder layers (paper §3.4)."""

    name: str = "tiny"  # a named entry of language/llm.py, a hub id or a folder
    hybrid_layers: tuple[int, ...] = (0, 1, 2, 3)
    gate_input: str = "S"  # "S": self-attention output (released layer); "H": normalised hidden (Fig. 2)
    visual_in_prompt: str = "none"  # none | pooled | all


@dataclass(frozen=True)
class DataConfig:
    """How studies become model input."""

    cleaning: str = "iu_xray"  # R2Gen's rule
    max_length: int = 100  # report tokens, end symbol not counted
    views: str = "concat"  # concat | mean
    max_views: int = 2
    prompt: str = PROMPT


@dataclass(frozen=True)
class TrainConfig:
    """Stage 3, supervised fine-tuning.

    While LoRA's B is zero the encoder's output does not change, so `warm_steps` train projector and
    hybrid layers on tokens computed once; then `steps` train everything together.
    """

    warm_steps: int = 1150
    steps: int = 30
    batch_size: int = 16
    abnormal_factor: int = 2  # a report with a finding is drawn this often: beam search favours normal ones
    learning_rate: float = 3e-3
    joint_factor: float = 0.25  # the learning rates of the joint steps are this much smaller
    gate_learning_rate: float = 2e-2  # α and gate: at 1e-4 α stays below .05 after 500 steps
    weight_decay: float = 0.01
    warmup_steps: int = 20
    clip: float = 1.0
    validations: int = 2  # checkpoints tried on validation in each part; the best is kept
    seed: int = 0


@dataclass(frozen=True)
class GenerationConfig:
    """Beam search. `length_penalty` as in transformers: score = sum of log p / length ** penalty."""

    num_beams: int = 3
    max_new_tokens: int = 100
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class EMRRGConfig:
    """The whole system."""

    preset: str = "tiny"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    encoder_weights: str = "tiny"  # "tiny": the shipped file; else a path
    partial_lora: PartialLoRAConfig = field(default_factory=PartialLoRAConfig)
    llm: LLMConfig = field(default_factory=LLMConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)


TINY_ENCODER = EncoderConfig(image_size=96, patch_size=8, embed_dim=128, depth=4, drop_path=0.0)

PRESETS: dict[str, EMRRGConfig] = {
    "tiny": EMRRGConfig(encoder=TINY_ENCODER, partial_lora=PartialLoRAConfig(r=8)),
}


def preset(name: str) -> EMRRGConfig:
    """Returns the named preset. Raises InputError for an unknown name, with the close ones."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.3)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise InputError(f"unknown preset '{name}': {hint}there are {', '.join(PRESETS)}")
    return PRESETS[name]


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values; `from_dict` reads it back to an equal config."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any], kind: type = EMRRGConfig, where: str = "config") -> Any:
    """Builds a config dataclass from JSON values.

    Raises:
        InputError: a key that the dataclass does not have, or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a JSON object, not {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(values) - set(hints)):
        raise InputError(f"{where} has no setting '{unknown[0]}'; it has {', '.join(hints)}")
    read = {key: _read(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    return kind(**read)


def _read(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(value, hint, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} must be a list, not {value!r}")
        return tuple(_read(v, item, where) for v in value)
    allowed = typing.get_args(hint) if origin is types.UnionType else (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(t.__name__ for t in allowed)
        raise InputError(f"{where} must be {names}, not {value!r}")
    return value


__all__ = ["EMRRGConfig", "EncoderConfig", "PartialLoRAConfig", "LLMConfig", "DataConfig",
           "TrainConfig", "GenerationConfig", "PRESETS", "PROMPT", "preset", "to_dict",
           "from_dict", "replace"]
