"""Every size and default of the kit, in frozen dataclasses and named presets; the only place for them."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import InputError

PROMPT = "Generate a comprehensive and detailed diagnosis report for this chest X-ray image."  # §3.5
RELEASED_PROMPT = PROMPT.replace("X-ray", "xray")  # audit E33


@dataclass(frozen=True)
class EncoderConfig:
    """VisionMamba. The defaults are the base encoder at the paper's 192 px (upstream_audit A1).

    With kind "hf" a Hugging Face vision model stands in its place; then only `image_size` counts.
    """

    image_size: int = 192  # pixels; paper §3.2 (released checkpoints: 224)
    patch_size: int = 16
    embed_dim: int = 768  # d
    depth: int = 12
    d_state: int = 16  # N
    d_conv: int = 4  # K
    drop_path: float = 0.1
    kind: str = "mamba"  # mamba | hf

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

    name: str = "tiny"  # a named entry of language/llm.py, a hub id, a folder or a .gguf file
    dtype: str = "float32"  # of the frozen weights: float32 | bfloat16; what trains is float32
    hybrid_layers: tuple[int, ...] = (0, 1, 2, 3)
    gate_input: str = "S"  # "S": self-attention output (released layer); "H": normalised hidden (Fig. 2)
    gate: str = "dynamic+warm-up"  # Eq. 2 | dynamic (no α) | static (α alone) | none (X' added plainly)
    kv_init: str = "new"  # W_k, W_v of the cross-attention: new | copied from the layer's own
    visual_in_prompt: str = "none"  # none | pooled (2 × 2 patches) | all
    tuning: str = "frozen"  # frozen | lora (peft, on q_proj and v_proj)
    lora_r: int = 16  # audit F: r = 16 on q and v of Llama-2


@dataclass(frozen=True)
class DataConfig:
    """How studies become model input."""

    cleaning: str = "iu_xray"  # R2Gen's rule
    max_length: int = 100  # report tokens, end symbol not counted
    views: str = "concat"  # concat | mean
    max_views: int = 2
    prompt: str = PROMPT
    references: str = "full"  # full | emrrg: cut to max_length tokens before scoring (audit E26)


@dataclass(frozen=True)
class TrainConfig:
    """Stage 3, supervised fine-tuning.

    While LoRA's B is zero the encoder's output does not change, so `warm_steps` train projector and
    hybrid layers on tokens computed once; then `steps` (or `epochs`) train everything together.
    """

    warm_steps: int = 1000
    steps: int = 30
    epochs: int = 0  # where given, these many passes over the training split instead of `steps`
    batch_size: int = 16  # studies of an optimiser step, over all processes
    accumulation: int = 1  # the step's studies are taken in this many parts: less memory, the same training
    abnormal_factor: int = 2  # a report with a finding is drawn this often: beam search favours normal ones
    learning_rate: float = 3e-3
    joint_factor: float = 0.25  # the learning rates of the joint steps are this much smaller
    gate_learning_rate: float = 2e-2  # α and gate: at 1e-4 α stays below .05 after 500 steps
    schedule: str = "hold"  # hold (rise, constant, fall over the last 30 %) | cosine
    weight_decay: float = 0.01
    warmup_steps: int = 20
    clip: float = 1.0
    gradient_checkpointing: bool = False
    validations: int = 2  # checkpoints tried on validation in each part; the last part's best is kept
    validation_studies: int = 80  # enough to rank checkpoints, greedy; 0: all
    patience: int = 0  # a part ends after so many validations without a better one; 0: never
    save_steps: int = 250  # steps between checkpoints to resume from
    seed: int = 0

    def joint_steps(self, studies: int) -> int:
        """Steps of the joint part on a training split of that many studies."""
        return math.ceil(self.epochs * studies / self.batch_size) if self.epochs else self.steps


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
    encoder_weights: str = "tiny"  # an entry of vision.named, a path; kind "hf": id, folder or name
    encoder_tuning: str = "lora"  # full | frozen | lora (Partial LoRA)
    partial_lora: PartialLoRAConfig = field(default_factory=PartialLoRAConfig)
    llm: LLMConfig = field(default_factory=LLMConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)


TINY_ENCODER = EncoderConfig(image_size=96, patch_size=8, embed_dim=128, depth=4, drop_path=0.0)
LARGE = {"embed_dim": 1024, "depth": 24}  # audit A1
TINY = EMRRGConfig(encoder=TINY_ENCODER, partial_lora=PartialLoRAConfig(r=8))

# Stage 3 of the paper (§4.2). It gives epochs, batch, rank, max_length and how often is validated. Open,
# hence as released (audit B3): AdamW 1e-4, decay .01, cosine, no warm-up, no clipping (0 = off); open
# there too: LoRA's scale (1) and the gate's rate (Adam moves α by at most the rate a step, and 3,100
# steps of a falling 1e-3 let it reach 1.5; at 1e-4 it stays closed).
PAPER_TRAIN = TrainConfig(
    warm_steps=0, epochs=30, batch_size=20, abnormal_factor=1, learning_rate=1e-4, joint_factor=1.0,
    gate_learning_rate=1e-3, schedule="cosine", warmup_steps=0, clip=0.0, gradient_checkpointing=True,
    validations=30, validation_studies=0)  # every epoch, on the whole split
IU_XRAY = EMRRGConfig(
    preset="iu-xray", encoder_weights="mambaxray-vl-base",
    llm=LLMConfig(name="qwen1.5-1.8b", dtype="bfloat16",  # §4.2: Qwen1.5-1.8B; the release: Llama-2-chat
                  hybrid_layers=(0, 6, 12, 18),  # the paper's (0, 8, 16, 24) does not fit 24 layers
                  visual_in_prompt="all"),  # §3.4: all hidden states self-attend, text cross-attends
    data=DataConfig(max_length=60, views="mean"),  # views averaged as released (audit E40)
    train=PAPER_TRAIN,
    generation=GenerationConfig(max_new_tokens=100))  # beams: the paper gives none; R2GenGPT's 3
MIMIC_CXR = replace(
    IU_XRAY, preset="mimic-cxr",
    llm=replace(IU_XRAY.llm, name="llama2-7b", hybrid_layers=(0, 8, 16, 24)),
    data=DataConfig(cleaning="mimic_cxr", max_length=100, views="mean"),
    train=replace(PAPER_TRAIN, epochs=6, batch_size=18, validations=12),  # every half epoch
    generation=GenerationConfig(max_new_tokens=120))
# The seeds' other systems (CXPMRG-Bench, R2GenGPT): encoder tuned whole, LLM frozen, visual tokens in the
# prompt, no hybrid layers; settings of their CheXpert Plus script (audit B3).
MAMBAXRAY_VL = replace(
    MIMIC_CXR, preset="mambaxray-vl-base", encoder=EncoderConfig(image_size=224), encoder_tuning="full",
    llm=LLMConfig(name="llama2-7b-chat", dtype="bfloat16", hybrid_layers=(), visual_in_prompt="all"),
    train=replace(MIMIC_CXR.train, epochs=11, batch_size=6, validations=22),
    generation=GenerationConfig(3, 120, 80, 2.0, 2.0))

PRESETS: dict[str, EMRRGConfig] = {
    "tiny": TINY,
    # a real pre-trained small LLM; its own words are English prose, the phantom's reports are learnt
    "laptop": replace(
        TINY, preset="laptop", data=DataConfig(max_length=72),
        llm=LLMConfig(name="smollm2-135m", dtype="bfloat16", hybrid_layers=(0, 8, 16, 24)),
        train=replace(TINY.train, warm_steps=1200, steps=60, batch_size=4)),
    "iu-xray": IU_XRAY,
    "mimic-cxr": MIMIC_CXR,
    "chexpert-plus": replace(MIMIC_CXR, preset="chexpert-plus"),  # cleaned by MIMIC's rule (audit E35)
    "mambaxray-vl-base": MAMBAXRAY_VL,
    "mambaxray-vl-large": replace(
        MAMBAXRAY_VL, preset="mambaxray-vl-large", encoder_weights="mambaxray-vl-large",
        encoder=replace(MAMBAXRAY_VL.encoder, **LARGE)),
    "r2gengpt": replace(
        MAMBAXRAY_VL, preset="r2gengpt", encoder=EncoderConfig(kind="hf", image_size=224),
        encoder_weights="swin-base"),
}


def large_encoder(config: EMRRGConfig) -> EMRRGConfig:
    """The same system with the large encoder (`--encoder large`)."""
    return replace(config, encoder=replace(config.encoder, **LARGE), encoder_weights="mambaxray-vl-large")


def released_code(config: EMRRGConfig) -> EMRRGConfig:
    """The release's settings in place of the paper's (`--released-code`; audit B3, E).

    224 px, rank 16, Llama-2-chat in the prompt's way with no hybrid layer, IU: beam 5 and 40–100 new
    tokens, MIMIC and CheXpert: beam 3 and 80–120, both penalties 2, references cut to `max_length`.
    Its bugs (adapters on the wrong tensor, frozen; one mixer for all blocks) are not re-made.
    """
    iu = config.data.cleaning == "iu_xray"
    return replace(
        config, encoder=replace(config.encoder, image_size=224),
        partial_lora=replace(config.partial_lora, r=16), llm=MAMBAXRAY_VL.llm,
        data=replace(config.data, views="mean", references="emrrg", prompt=RELEASED_PROMPT),
        train=replace(config.train, epochs=21 if iu else 5, batch_size=4 if iu else 6),
        generation=GenerationConfig(5, 100, 40, 2.0, 2.0) if iu else GenerationConfig(3, 120, 80, 2.0, 2.0))


def preset(name: str) -> EMRRGConfig:
    """Returns the named preset. Raises InputError for an unknown name, with the close ones."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.3)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise InputError(f"unknown preset '{name}': {hint}there are {', '.join(PRESETS)}")
    return PRESETS[name]


def with_values(config: EMRRGConfig, assignments: Sequence[str]) -> EMRRGConfig:
    """The config with settings such as "train.batch_size=4"; values are JSON, or words as they stand.

    Raises:
        InputError: no such setting, or a value of the wrong type.
    """
    values = to_dict(config)
    for assignment in assignments:
        path, _, text = assignment.partition("=")
        *parents, last = path.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})  # an unknown one is refused by from_dict
            if not isinstance(inner, dict):
                raise InputError(f"{path} is no setting: {parent} has none of its own")
        try:
            inner[last] = json.loads(text)
        except ValueError:
            inner[last] = text
    return from_dict(values)


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
