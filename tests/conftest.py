"""Shared set-up: one thread, fixed seeds, no network, and tiny random models that need no shipped weights."""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when transformers is imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import dataclasses

import numpy as np
import pytest
import torch
from small_config import SMALL, SMALL_ENCODER

from emrrg_lib.files import cache_folder

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores Ctrl-C

SENTENCES = (
    "the heart is normal in size . the lungs are clear .",
    "no pleural effusion or pneumothorax is seen .",
    "there is a small left pleural effusion . the heart is enlarged .",
    "a nodule is seen in the right upper lobe . no acute disease .",
    "the mediastinum is unremarkable . degenerative changes of the spine .",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What a test caches goes into a folder of this run, never into the user's; converted LLMs are shared."""
    if "EMRRG_CACHE" not in os.environ:
        kept, folder = cache_folder("smollm2-135m"), tmp_path_factory.getbasetemp() / "cache"
        if kept.is_dir() and not (folder / kept.name).exists():
            folder.mkdir(exist_ok=True)
            (folder / kept.name).symlink_to(kept)
        monkeypatch.setenv("EMRRG_CACHE", str(folder))


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def small_config():
    """A whole configuration of a few thousand parameters; 16 patches, 2 blocks, 2 LLM layers."""
    return SMALL


@pytest.fixture
def make_encoder():
    """`make_encoder(seed=0, scan_backend="auto", **sizes)` → VisionMamba in eval mode.

    Every parameter is moved away from its initial value, so that every part acts visibly.
    """
    from emrrg_lib.vision.mamba import VisionMamba

    def make(seed=0, scan_backend="auto", **sizes):
        torch.manual_seed(seed)
        encoder = VisionMamba(dataclasses.replace(SMALL_ENCODER, **sizes), scan_backend).eval()
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.2)
        return encoder

    return make


@pytest.fixture(scope="session")
def sentences():
    """The report texts on which the small tokenizer was trained."""
    return SENTENCES


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer of 320 tokens, trained on five sentences."""
    from emrrg_lib.language.llm import prepare_tokenizer, train_tokenizer

    return prepare_tokenizer(train_tokenizer(SENTENCES, vocab_size=320))


@pytest.fixture
def make_llm(tokenizer):
    """`make_llm(seed=0, hidden=32, layers=2)` → a random Qwen2 LM in eval mode."""
    from emrrg_lib.language.llm import tiny_lm

    def make(seed=0, hidden=32, layers=2):
        torch.manual_seed(seed)
        return tiny_lm(tokenizer, hidden, layers).eval()

    return make


@pytest.fixture
def make_model(make_encoder, make_llm, tokenizer):
    """`make_model(config=SMALL, awake=True, seed=0)` → EMRRG without shipped weights, eval mode.

    `awake` gives every part that starts at zero (α, LoRA's B) a value, so that it acts.
    """
    from emrrg_lib.model import EMRRG

    def make(config=SMALL, awake=True, seed=0):
        encoder = make_encoder(seed, **dataclasses.asdict(config.encoder))
        llm = make_llm(seed)
        torch.manual_seed(seed + 1)
        model = EMRRG(config, encoder, llm, tokenizer).eval()
        return wake(model) if awake else model

    return make


def wake(model):
    """Gives α, the gate and LoRA's B values far from zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("warm_up"):
                parameter.fill_(1.5)
            elif ".lora_B." in name or "gate_proj" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            elif ".cross_attention." in name:
                parameter.mul_(8.0)
    return model


@pytest.fixture
def images():
    """`images(batch, views=2, size=16)` → normalised random images (B, V, 3, H, W)."""

    def draw(batch, views=2, size=16):
        return torch.randn(batch, views, 3, size, size, generator=torch.Generator().manual_seed(3))

    return draw


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory):
    """A phantom data folder of 12 studies at 32 pixels: 8 train, 2 val, 2 test."""
    from emrrg_lib.phantom import write_phantom

    return write_phantom(tmp_path_factory.mktemp("data") / "phantom", 12, seed=5, size=32, workers=1)
