"""Every size and default of the kit in frozen dataclasses; `presets.py` has their named values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from emrrg_lib.files import InputError
from emrrg_lib.settings import Count, NotNegative, Positive, Rate, Settings, Share, Whole, assign

PROMPT = "Generate a comprehensive and detailed diagnosis report for this chest X-ray image."  # §3.5
Cleaning = Literal["iu_xray", "mimic_cxr", "none"]  # data/cleaning.py
Objective = Literal["arg", "eq2", "mae"]  # of stage 1, training/stage1.py
# hold: rise, constant, fall over the last 30 %; cosine: each step, to 0; cosine-epoch: each epoch, to 1 %
Schedule = Literal["hold", "cosine", "cosine-epoch"]
GateInput = Literal["S", "H"]  # S: self-attention output (released); H: normalised hidden state (Fig. 2)
# Eq. 2 | Eq. 2 without α | α alone | X' is added without a gate
Gate = Literal["dynamic+warm-up", "dynamic", "static", "none"]
EncoderTuning = Literal["lora", "full", "frozen"]  # lora: Partial LoRA
DECODERS = ("transformer", "r2gen")  # in place of an LLM, language/classic.py
KVInit = Literal["new", "copied"]  # W_k, W_v of the cross-attention: random, or the layer's own
Pixels = Annotated[int, 1, 2048, "all (image_size / patch_size)² tokens of an image are in memory at once"]
Size = Annotated[int, 1, 16_384, "no encoder is that large"]
Rank = Annotated[int, 1, 1024, "a larger update is not of low rank"]
Tokens = Annotated[int, 1, 32_768, "no language model here has more positions"]
RELEASED_PROMPT = PROMPT.replace("X-ray", "xray")  # NOTES E33


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """VisionMamba. The defaults are the base encoder at the paper's 192 px (NOTES A1).

    With kind "hf" the encoder is a Hugging Face vision model; then only `image_size` counts.
    """

    image_size: Pixels = 192  # pixels; paper §3.2 (released checkpoints: 224)
    patch_size: Pixels = 16
    embed_dim: Size = 768  # d
    depth: Size = 12
    d_state: Size = 16  # N
    d_conv: Size = 4  # K
    drop_path: Rate = 0.1
    kind: Literal["mamba", "hf"] = "mamba"

    @property
    def side(self) -> int:
        """Patches along one edge."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """M; the encoder returns M + 1 tokens."""
        return self.side**2


@dataclass(frozen=True)
class PartialLoRAConfig(Settings):
    """Which matrices or row blocks of the mixer get a low-rank update (paper §3.3)."""

    targets: tuple[str, ...] = ("X", "in_proj")  # LoRA_p(X) and LoRA(in_proj) together
    r: Rank = 32  # paper §4.2
    scale: float = 1.0  # ΔW = scale · B · A; the paper gives none
    dropout: Rate = 0.0


@dataclass(frozen=True)
class LLMConfig(Settings):
    """The language model and its hybrid decoder layers (paper §3.4)."""

    name: str = "tiny"  # a named entry of language/llm.py, a hub id, a folder or a .gguf file
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the frozen weights; what trains is float32
    hybrid_layers: tuple[int, ...] = (0, 1, 2, 3)
    gate_input: GateInput = "S"
    gate: Gate = "dynamic+warm-up"
    kv_init: KVInit = "new"
    visual_in_prompt: Literal["none", "pooled", "all"] = "none"  # pooled: means of 2 × 2 patches
    tuning: Literal["frozen", "lora"] = "frozen"  # lora: peft, on q_proj and v_proj
    lora_r: Rank = 16  # NOTES F: r = 16 on q and v of Llama-2

    @property
    def from_scratch(self) -> bool:
        """Whether it is a decoder of `language/classic.py`, which trains whole and attends to the image."""
        return self.name.removesuffix("-tiny") in DECODERS

    @property
    def takes_visual_states(self) -> bool:
        """Whether its layers attend to the visual states: hybrid layers, or a decoder from scratch."""
        return bool(self.hybrid_layers) or self.from_scratch

    @property
    def image_in_prompt(self) -> bool:
        """Whether the prompt holds visual tokens."""
        return self.visual_in_prompt != "none"


@dataclass(frozen=True)
class DataConfig(Settings):
    """How studies become model input."""

    cleaning: Cleaning = "iu_xray"  # R2Gen's rules
    max_length: Tokens = 100  # report tokens, end symbol not counted
    views: Literal["concat", "mean"] = "concat"
    max_views: Annotated[int, 1, 64, "all views of a study are in memory at once"] = 2
    prompt: str = PROMPT
    augment: bool = True  # training images are shifted by up to 4 px and change their tone a little
    references: Literal["full", "emrrg"] = "full"  # emrrg: cut to max_length before scoring (NOTES E26)

    @property
    def view_limit(self) -> int | None:
        """The most views of a study that the model takes; None: any number (views `mean`)."""
        return None if self.views == "mean" else self.max_views


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Stage 3, supervised fine-tuning.

    LoRA's B starts at zero, so the encoder's output does not change at first: `warm_steps` train projector
    and hybrid layers on tokens computed once. Then `steps` (or `epochs`) train everything together.
    """

    warm_steps: Whole = 1000
    steps: Whole = 30
    epochs: Whole = 0  # above 0: so many passes over the training split, in place of `steps`
    batch_size: Count = 16  # studies of an optimiser step, over all processes
    accumulation: Count = 1  # parts in which the studies of a step are taken: less memory, the same training
    # how often a report with a finding is drawn: beams favour normal ones
    abnormal_factor: Annotated[int, 1, 1000, "no data set is that uneven"] = 2
    # how often a token counts in a sentence that names a finding; 1: all alike, Eq. 3
    finding_weight: Annotated[float, 1, 100, "other sentences would hardly count"] = 1.0
    learning_rate: Positive = 3e-3
    joint_factor: Share = 0.25  # the learning rates of the joint steps are this much smaller
    gate_learning_rate: Positive = 2e-2  # α and gate: at 1e-4 α stays below .05 after 500 steps
    schedule: Schedule = "hold"
    betas: tuple[Rate, Rate] = (0.9, 0.98)  # of AdamW
    weight_decay: NotNegative = 0.01
    warmup_steps: Whole = 20
    clip: NotNegative = 1.0
    gradient_checkpointing: bool = False
    validations: Count = 2  # checkpoints scored on validation in each part; the best of the last part is kept
    validation_studies: Whole = 80  # enough to rank checkpoints, greedy; 0: all
    patience: Whole = 0  # a part ends after so many validations without a better one; 0: never
    save_steps: Count = 250  # steps between checkpoints to resume from
    seed: Annotated[int, 0, 2**32 - 1] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.warm_steps + self.steps + self.epochs:
            raise InputError("nothing would be trained: give train.warm_steps, train.steps or train.epochs")

    def joint_steps(self, studies: int) -> int:
        """Steps of the joint part on a training split of that many studies."""
        return math.ceil(self.epochs * studies / self.batch_size) if self.epochs else self.steps


@dataclass(frozen=True)
class GenerationConfig(Settings):
    """Beam search. `length_penalty` as in transformers: score = sum of log p / length ** penalty."""

    num_beams: Annotated[int, 1, 64, "every beam keeps keys and values of all its tokens"] = 3
    max_new_tokens: Tokens = 100
    min_new_tokens: Whole = 0
    length_penalty: Annotated[float, -10, 10] = 1.0
    repetition_penalty: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"generation.min_new_tokens, {self.min_new_tokens}, must not exceed "
                f"generation.max_new_tokens, {self.max_new_tokens}"
            )


@dataclass(frozen=True)
class EMRRGConfig(Settings):
    """The whole system."""

    preset: str = "tiny"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    encoder_weights: str = "tiny"  # an entry of vision/weights.py, or a path; kind "hf": a name, id or folder
    encoder_tuning: EncoderTuning = "lora"
    partial_lora: PartialLoRAConfig = field(default_factory=PartialLoRAConfig)
    llm: LLMConfig = field(default_factory=LLMConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)


TINY_ENCODER = EncoderConfig(image_size=96, patch_size=8, embed_dim=128, depth=4, drop_path=0.0)
LARGE: dict[str, Any] = {"embed_dim": 1024, "depth": 24}  # NOTES A1
ENCODERS = {"tiny": TINY_ENCODER, "base": EncoderConfig(), "large": EncoderConfig(**LARGE)}


def with_values(config: EMRRGConfig, assignments: Sequence[str]) -> EMRRGConfig:
    """The config with settings such as "train.batch_size=4"; see `assign`."""
    return assign(config, assignments, "config")
