"""A whole configuration of a few thousand parameters; 16 patches, 2 blocks, 2 LLM layers."""

from emrrg_lib.config import (
    DataConfig,
    EMRRGConfig,
    EncoderConfig,
    GenerationConfig,
    LLMConfig,
    PartialLoRAConfig,
)

SMALL_ENCODER = EncoderConfig(image_size=16, patch_size=4, embed_dim=16, depth=2, drop_path=0.0)
SMALL = EMRRGConfig(
    preset="small",
    encoder=SMALL_ENCODER,
    encoder_weights="none",
    partial_lora=PartialLoRAConfig(r=2),
    llm=LLMConfig(name="none", hybrid_layers=(0, 1)),
    data=DataConfig(max_length=12),
    generation=GenerationConfig(max_new_tokens=10),
)
