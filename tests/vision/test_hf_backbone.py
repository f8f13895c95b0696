"""Hugging Face vision models in the encoder's place: protocol, tokens, sizes, and what is refused."""

import pytest
import torch
from transformers import (
    AutoModel,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from emrrg_lib.files import InputError
from emrrg_lib.vision.hf_backbone import NAMED, HFBackbone, build_hf_backbone, load_hf_backbone

SMALL = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    patch_size=8,
    image_size=32,
)
SWIN = dict(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, patch_size=2, image_size=32)
MODELS = {
    "vit": ViTConfig(**SMALL),
    "deit": DeiTConfig(**SMALL),
    "dinov2": Dinov2Config(**SMALL),
    "registers": Dinov2WithRegistersConfig(**SMALL),
    "swin": SwinConfig(**SWIN),
}


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_token_model_follows_the_protocol(name, size):
    model = AutoModel.from_config(MODELS[name]).eval()
    encoder, images = HFBackbone(model, size), torch.randn(2, 3, size, size)
    patch = 4 if name == "swin" else 8  # Swin merges 2 × 2 patches once
    assert encoder.grid == (size // patch, size // patch) and encoder.image_size == size
    assert encoder.cls_index == (None if name == "swin" else 0)
    tokens = encoder(images)
    assert tokens.shape == (2, (size // patch) ** 2 + (encoder.cls_index is not None), encoder.embed_dim)
    raw = model(pixel_values=images, **encoder.options).last_hidden_state
    assert torch.equal(tokens[:, -1], raw[:, -1]) and torch.equal(tokens[:, 0], raw[:, 0])
    assert raw.shape[1] - tokens.shape[1] == {"deit": 1, "registers": 4}.get(name, 0)


def test_the_named_entries_have_the_published_sizes_and_no_pooling_layer():
    with torch.device("meta"):
        vit, swin = (build_hf_backbone(name, 224) for name in ("vit-base", "swin-base"))
    assert set(NAMED) == {"vit-base", "swin-base"}
    # the published 86,389,248 of ViT-B/16 hold a pooling layer of 768 × 769; Swin-B: 86,743,224
    assert sum(p.numel() for p in vit.parameters()) == 86_389_248 - 768 * 769
    assert sum(p.numel() for p in swin.parameters()) == 86_743_224
    assert (vit.embed_dim, vit.grid, vit.cls_index) == (768, (14, 14), 0)
    assert (swin.embed_dim, swin.grid, swin.cls_index) == (1024, (7, 7), None)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_local_folder_is_loaded_without_its_pooling_layer(name, tmp_path):
    model = AutoModel.from_config(MODELS[name]).eval()
    model.save_pretrained(tmp_path)
    encoder, images = load_hf_backbone(str(tmp_path), 32), torch.randn(1, 3, 32, 32)
    assert torch.allclose(encoder(images), model(pixel_values=images).last_hidden_state, atol=1e-6)
    assert not any("pool" in key for key in encoder.state_dict())
    encoder(images).sum().backward()
    assert all(p.grad is not None for key, p in encoder.named_parameters() if "mask_token" not in key)
    fresh = build_hf_backbone(str(tmp_path), 32)
    assert fresh.grid == encoder.grid and not torch.allclose(fresh(images), encoder(images), atol=1e-3)


def test_models_without_tokens_wrong_images_and_missing_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("EMRRG_CACHE", str(tmp_path))
    resnet = AutoModel.from_config(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]))
    with pytest.raises(InputError, match="ResNetModel returns .1, 8, 4, 4., not tokens"):
        HFBackbone(resnet, 32)
    vit = HFBackbone(AutoModel.from_config(MODELS["vit"]), 32)
    with pytest.raises(InputError, match=r"images must be \(B, 3, 32, 32\), got \(1, 1, 32, 32\)"):
        vit(torch.zeros(1, 1, 32, 32))
    with pytest.raises(
        InputError,
        match=f"'swin-base' .*hf download microsoft/swin-base-patch4-window7-224 --local-dir {tmp_path}",
    ):
        load_hf_backbone("swin-base", 224)
    with pytest.raises(InputError, match="hf download nobody/nothing --local-dir models/nothing"):
        load_hf_backbone("nobody/nothing", 224)
    with pytest.raises(InputError, match="has to hold config.json and the weights"):
        load_hf_backbone(str(tmp_path / "empty"), 224)
