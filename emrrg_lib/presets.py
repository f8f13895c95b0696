"""The named systems: tiny, laptop, and those of the papers; and the release's settings of each."""

from __future__ import annotations

from dataclasses import replace

from emrrg_lib.config import (
    LARGE,
    RELEASED_PROMPT,
    TINY_ENCODER,
    DataConfig,
    EMRRGConfig,
    EncoderConfig,
    GenerationConfig,
    LLMConfig,
    PartialLoRAConfig,
    TrainConfig,
)
from emrrg_lib.files import InputError, close_name

TINY = EMRRGConfig(
    encoder=TINY_ENCODER,
    partial_lora=PartialLoRAConfig(r=8),
    train=TrainConfig(weight_decay=0.2),  # with .01 the model learns the demo's studies by heart
)

# Stage 3 of the paper (§4.2). The paper gives epochs, batch, rank, max_length and the times of validation.
# What it leaves open is the release's (NOTES B3): AdamW with torch's betas, rate 1e-4, decay .01, a cosine by
# epochs, no warm-up, no clipping (0), images as they are. LoRA's scale (1) and the gate's rate are given
# nowhere. Adam moves α by at most the rate in a step: 3,100 steps of a falling 1e-3 let it reach 1.6, and at
# 1e-4 the gate stays closed.
PAPER_TRAIN = TrainConfig(
    warm_steps=0,
    epochs=30,
    batch_size=20,
    abnormal_factor=1,
    learning_rate=1e-4,
    joint_factor=1.0,
    gate_learning_rate=1e-3,
    schedule="cosine-epoch",
    betas=(0.9, 0.999),
    warmup_steps=0,
    clip=0.0,
    gradient_checkpointing=True,
    validations=30,
    validation_studies=0,
)  # every epoch, on the whole split
IU_XRAY = EMRRGConfig(
    preset="iu-xray",
    encoder_weights="mambaxray-vl-base",
    llm=LLMConfig(
        name="qwen1.5-1.8b",
        dtype="bfloat16",  # §4.2: Qwen1.5-1.8B; the release: Llama-2-chat
        hybrid_layers=(0, 6, 12, 18),  # the paper's (0, 8, 16, 24) does not fit 24 layers
        visual_in_prompt="all",
    ),  # §3.4: all hidden states self-attend, text cross-attends
    data=DataConfig(max_length=60, views="mean", augment=False),  # views averaged as released (NOTES E40)
    train=PAPER_TRAIN,
    generation=GenerationConfig(max_new_tokens=100),
)  # beams: the paper gives none; R2GenGPT's 3
MIMIC_CXR = replace(
    IU_XRAY,
    preset="mimic-cxr",
    llm=replace(IU_XRAY.llm, name="llama2-7b", hybrid_layers=(0, 8, 16, 24)),
    data=replace(IU_XRAY.data, cleaning="mimic_cxr", max_length=100),
    train=replace(PAPER_TRAIN, epochs=6, batch_size=18, validations=12),  # every half epoch
    generation=GenerationConfig(max_new_tokens=120),
)
# The seeds' other systems (CXPMRG-Bench, R2GenGPT): encoder tuned whole, LLM frozen, visual tokens in the
# prompt, no hybrid layers; settings of their scripts for CheXpert Plus and for IU X-ray (NOTES B3).
MAMBAXRAY_VL = replace(
    MIMIC_CXR,
    preset="mambaxray-vl-base",
    encoder=EncoderConfig(image_size=224),
    encoder_tuning="full",
    llm=LLMConfig(name="llama2-7b-chat", dtype="bfloat16", hybrid_layers=(), visual_in_prompt="all"),
    train=replace(MIMIC_CXR.train, epochs=11, batch_size=6, validations=22),
    generation=GenerationConfig(3, 120, 80, 2.0, 2.0),
)
MAMBAXRAY_VL_IU = replace(
    MAMBAXRAY_VL,
    preset="mambaxray-vl-base-iu",
    llm=replace(MAMBAXRAY_VL.llm, name="qwen1.5-1.8b-chat"),
    data=IU_XRAY.data,
    train=replace(MAMBAXRAY_VL.train, epochs=31, validations=31),
    generation=GenerationConfig(5, 100, 40, 2.0, 2.0),
)
LARGE_ENCODER = EncoderConfig(image_size=224, **LARGE)
SWIN = EncoderConfig(kind="hf", image_size=224)

PRESETS: dict[str, EMRRGConfig] = {
    "tiny": TINY,
    # a real pre-trained small LLM; its own words are English prose, the phantom's reports are learnt
    "laptop": replace(
        TINY,
        preset="laptop",
        data=DataConfig(max_length=72),
        llm=LLMConfig(name="smollm2-135m", dtype="bfloat16", hybrid_layers=(0, 8, 16, 24)),
        train=TrainConfig(warm_steps=1200, steps=60, batch_size=4),
    ),
    "iu-xray": IU_XRAY,
    "mimic-cxr": MIMIC_CXR,
    "chexpert-plus": replace(MIMIC_CXR, preset="chexpert-plus"),  # cleaned by MIMIC's rule (NOTES E35)
    "mambaxray-vl-base": MAMBAXRAY_VL,
    "mambaxray-vl-base-iu": MAMBAXRAY_VL_IU,
    **{
        f"{name}{place}": replace(system, preset=f"{name}{place}", encoder=encoder, encoder_weights=weights)
        for name, encoder, weights in (
            ("mambaxray-vl-large", LARGE_ENCODER, "mambaxray-vl-large"),
            ("r2gengpt", SWIN, "swin-base"),
        )
        for place, system in (("", MAMBAXRAY_VL), ("-iu", MAMBAXRAY_VL_IU))
    },
}


def large_encoder(config: EMRRGConfig) -> EMRRGConfig:
    """The same system with the large encoder (`--encoder large`)."""
    return replace(config, encoder=replace(config.encoder, **LARGE), encoder_weights="mambaxray-vl-large")


def classic_decoder(config: EMRRGConfig, name: str) -> EMRRGConfig:
    """The same system with a decoder from scratch in the LLM's place (`--decoder`); `name` is of DECODERS."""
    size = "" if config.encoder.patch_size == 16 else "-tiny"
    return replace(config, llm=LLMConfig(name=name + size, hybrid_layers=()))


def released_code(config: EMRRGConfig) -> EMRRGConfig:
    """The settings of the release's script in place of the paper's (`--released-code`; NOTES B3, E).

    A preset of EMRRG takes those of its data set: 224 px, rank 16, Llama-2-chat in the prompt's way with no
    hybrid layer, references cut to `max_length`. On IU the whole encoder is frozen, elsewhere it trains
    whole. The presets of the other systems have such settings already. The release's bugs (adapters on the
    wrong tensor, one mixer for all blocks) are not made again.
    """
    data = replace(config.data, views="mean", references="emrrg", prompt=RELEASED_PROMPT, augment=False)
    if not config.llm.hybrid_layers:
        return replace(config, data=data, train=replace(config.train, seed=42))
    iu = config.data.cleaning == "iu_xray"
    epochs, batch, validations = (
        (21, 4, 21) if iu else (11, 12, 11) if "plus" in config.preset else (5, 6, 10)
    )
    return replace(
        config,
        encoder=replace(config.encoder, image_size=224),
        encoder_tuning="frozen" if iu else "full",
        partial_lora=replace(config.partial_lora, r=16),
        llm=MAMBAXRAY_VL.llm,
        data=data,
        train=replace(PAPER_TRAIN, epochs=epochs, batch_size=batch, validations=validations, seed=42),
        generation=MAMBAXRAY_VL_IU.generation if iu else MAMBAXRAY_VL.generation,
    )


def preset(name: str) -> EMRRGConfig:
    """Returns the named preset. Raises InputError for an unknown name, with the close ones."""
    if name not in PRESETS:
        raise InputError(
            f"unknown preset '{name}': {close_name(name, PRESETS)}there are {', '.join(PRESETS)}"
        )
    return PRESETS[name]
