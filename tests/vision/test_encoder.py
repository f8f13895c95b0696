"""VisionMamba: exact sizes and key names of the released encoders, token layout, drop path, bad input."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from emrrg_lib.config import EncoderConfig
from emrrg_lib.files import InputError
from emrrg_lib.vision.mamba import DropPath, VisionMamba
from emrrg_lib.vision.weights import load_encoder, save_vision_encoder

LARGE = dict(embed_dim=1024, depth=24)


def on_meta(**sizes):
    """The encoder without memory or arithmetic: shapes only."""
    with torch.device("meta"):
        return VisionMamba(EncoderConfig(**sizes))


def noted_shapes(d, depth, tokens, hidden):
    """Key → shape, typed from NOTES A4."""
    rank, n = d // 16, 16
    shapes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, tokens, d),
        "patch_embed.proj.weight": (d, 3, 16, 16),
        "patch_embed.proj.bias": (d,),
        "norm_f.weight": (d,),
        "norm_f.bias": (d,),
    }
    block = {"mixer.in_proj.weight": (2 * d, d), "mixer.out_proj.weight": (d, d)}
    for s in ("", "_b", "_c", "_c_b"):
        block |= {
            f"mixer.A{s}_log": (d, n),
            f"mixer.D{s}": (d,),
            f"mixer.conv1d{s}.weight": (d, 1, 4),
            f"mixer.conv1d{s}.bias": (d,),
            f"mixer.x_proj{s}.weight": (rank + 2 * n, d),
            f"mixer.dt_proj{s}.weight": (d, rank),
            f"mixer.dt_proj{s}.bias": (d,),
        }
    for w, shape in (("w1", (hidden, d)), ("w2", (hidden, d)), ("w3", (d, hidden))):
        block |= {f"mlp.{w}.weight": shape, f"mlp.{w}.bias": shape[:1]}
    for norm in ("norm1", "norm2"):
        block |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    return shapes | {f"layers.{i}.{k}": v for i in range(depth) for k, v in block.items()}


@pytest.mark.parametrize(
    "sizes, total, keys, hidden",
    [
        (dict(image_size=224), 84_262_656, 486, 2048),
        (dict(image_size=192), 84_222_720, 486, 2048),
        (dict(image_size=224, **LARGE), 296_010_720, 966, 2730),
    ],
)
def test_parameters_and_keys_of_the_released_encoders(sizes, total, keys, hidden):
    encoder = on_meta(**sizes)
    assert sum(p.numel() for p in encoder.parameters()) == total
    state = {k: tuple(v.shape) for k, v in encoder.state_dict().items()}
    assert len(state) == keys
    config = encoder.config
    assert state == noted_shapes(config.embed_dim, config.depth, config.num_patches + 1, hidden)


def test_parameters_of_each_group():
    groups = {"mixer": 0, "mlp": 0, "norm": 0, "patch_embed": 0, "pos_embed": 0}
    for name, parameter in on_meta(image_size=224).named_parameters():
        for group in groups:
            if group in name and not name.startswith("norm_f"):
                groups[group] += parameter.numel()
    assert groups == {
        "mixer": 26_800_128,
        "mlp": 56_681_472,
        "norm": 36_864,
        "patch_embed": 590_592,
        "pos_embed": 151_296,
    }
    # the published 57.31 M: what a forward-hook counter sees
    assert 84_262_656 - 26_800_128 - 151_296 - 768 == 57_310_464


def test_the_drop_path_schedule():
    base = [layer.drop_path.p for layer in on_meta().layers]
    assert base == pytest.approx([0, *(0.1 * i / 11 for i in range(11))])
    large = [layer.drop_path.p for layer in on_meta(**LARGE).layers]
    assert large == pytest.approx([0, *(0.1 * i / 23 for i in range(23))])
    assert [layer.drop_path.p for layer in on_meta(depth=1).layers] == [0]


# --------------------------------------------------------------------------------------- the forward


def test_tokens_are_row_major_patches_with_the_cls_token_in_the_middle(make_encoder):
    encoder, image = make_encoder(), torch.randn(2, 3, 16, 16)
    tokens = encoder.embed(image)
    assert tokens.shape == (2, 17, 16)
    tokens = tokens - encoder.pos_embed
    assert torch.allclose(tokens[:, 8], encoder.cls_token[0, 0].expand(2, -1), atol=1e-6)
    weight, bias = encoder.patch_embed.proj.weight.flatten(1), encoder.patch_embed.proj.bias
    for index in range(16):
        row, column = divmod(index, 4)
        patch = image[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        where = index if index < 8 else index + 1
        assert torch.allclose(tokens[:, where], patch @ weight.T + bias, atol=1e-5)


def layer_norm(x, layer):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def test_the_forward_is_two_residual_branches_a_block_and_a_last_norm(make_encoder):
    encoder, image = make_encoder(), torch.randn(2, 3, 16, 16)
    h = encoder.embed(image)
    for layer in encoder.layers:
        h = h + layer.mixer(layer_norm(h, layer.norm1))
        h = h + layer.mlp(layer_norm(h, layer.norm2))
    wanted = layer_norm(h, encoder.norm_f)
    assert encoder(image).shape == (2, 17, 16)
    assert torch.allclose(encoder(image), wanted, atol=1e-5)


def test_every_block_runs_its_own_mixer(make_encoder):
    """Upstream's blocks all run the last one (NOTES E1)."""
    encoder, image = make_encoder(depth=3), torch.randn(1, 3, 16, 16)
    before = encoder(image)
    for layer in encoder.layers:
        kept = layer.mixer.out_proj.weight.detach().clone()
        layer.mixer.out_proj.weight.data.mul_(2)
        assert (encoder(image) - before).abs().max() > 1e-4
        layer.mixer.out_proj.weight.data.copy_(kept)
    encoder(image).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


def test_backends_agree_on_the_whole_encoder(make_encoder):
    image = torch.randn(2, 3, 24, 24)
    sizes = dict(image_size=24, embed_dim=32, depth=3)
    reference, cpu = (make_encoder(0, backend, **sizes) for backend in ("reference", "cpu"))
    out = reference(image)
    assert torch.allclose(cpu(image), out, atol=2e-5)
    out.square().mean().backward()
    cpu(image).square().mean().backward()
    for (name, a), b in zip(reference.named_parameters(), cpu.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=2e-4 * a.grad.abs().max() + 1e-8), name


def test_batch_equals_single(make_encoder):
    encoder, images = make_encoder(), torch.randn(3, 3, 16, 16)
    single = torch.cat([encoder(image[None]) for image in images])
    assert torch.allclose(encoder(images), single, atol=1e-5)


def independent_encoder(encoder, image):
    """(M + 1, d) of one image in float64, from the formulas of NOTES A1–A3 and the raw tensors alone."""
    from test_mixer import mixer_loop, silu

    p = {k: v.detach().double().numpy() for k, v in encoder.state_dict().items()}
    config = encoder.config
    P, side, d = config.patch_size, config.side, config.embed_dim
    patches = image.double().numpy().reshape(3, side, P, side, P).transpose(1, 3, 0, 2, 4)
    tokens = patches.reshape(side**2, -1) @ p["patch_embed.proj.weight"].reshape(d, -1).T
    tokens = tokens + p["patch_embed.proj.bias"]
    h = np.insert(tokens, side**2 // 2, p["cls_token"][0, 0], axis=0) + p["pos_embed"][0]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    for i, layer in enumerate(encoder.layers):
        h = h + mixer_loop(layer.mixer, torch.from_numpy(norm(h, f"layers.{i}.norm1")))
        x = norm(h, f"layers.{i}.norm2")
        a, b = (x @ p[f"layers.{i}.mlp.{w}.weight"].T + p[f"layers.{i}.mlp.{w}.bias"] for w in ("w1", "w2"))
        h = h + (silu(a) * b) @ p[f"layers.{i}.mlp.w3.weight"].T + p[f"layers.{i}.mlp.w3.bias"]
    return norm(h, "norm_f")


@pytest.mark.parametrize(
    "sizes",
    [
        dict(image_size=192, patch_size=16, embed_dim=768, depth=12, d_state=16, d_conv=4),
        pytest.param(
            dict(image_size=224, patch_size=16, d_state=16, d_conv=4, **LARGE), marks=pytest.mark.slow
        ),
    ],
    ids=["base", "large"],
)
def test_the_full_size_forward_equals_an_independent_one(sizes):
    torch.manual_seed(0)
    encoder = VisionMamba(EncoderConfig(**sizes, drop_path=0.0)).eval()
    image = torch.randn(3, sizes["image_size"], sizes["image_size"])
    with torch.no_grad():
        got = encoder(image[None])[0].double().numpy()
    assert np.abs(got - independent_encoder(encoder, image)).max() < 2e-5


def test_the_encoder_follows_the_protocol_of_backbones(make_encoder):
    encoder = make_encoder()
    assert (encoder.embed_dim, encoder.grid, encoder.cls_index, encoder.image_size) == (16, (4, 4), 8, 16)


# ---------------------------------------------------------------------------------------- drop path


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop, x = DropPath(0.25).train(), torch.ones(4000, 2, 3)
    out = drop(x)
    kept = out[:, 0, 0] > 0
    assert torch.equal(out[kept], torch.full_like(out[kept], 1 / 0.75))
    assert torch.equal(out[~kept], torch.zeros_like(out[~kept]))
    assert abs(float(kept.float().mean()) - 0.75) < 0.03


def test_drop_path_is_off_in_eval(make_encoder):
    image = torch.randn(8, 3, 16, 16)
    encoder = make_encoder(depth=4, drop_path=0.9)
    still = make_encoder(depth=4)
    assert torch.equal(encoder(image), still(image))
    encoder.train()
    assert not torch.equal(encoder(image), encoder(image))


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("shape", [(1, 3, 16, 8), (1, 3, 20, 20), (1, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_size_are_refused(make_encoder, shape):
    with pytest.raises(InputError, match=r"images must be \(B, 3, 16, 16\), got"):
        make_encoder()(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_refused(make_encoder, value):
    image = torch.zeros(2, 3, 16, 16)
    image[1, 0, 5, 5] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        make_encoder()(image)


def test_a_grid_that_does_not_fit_is_refused(make_encoder):
    with pytest.raises(InputError, match="5×5 patches has no middle"):
        make_encoder(image_size=20)
    with pytest.raises(InputError, match="image_size 18 is not a multiple of patch_size 4"):
        make_encoder(image_size=18)


def test_the_same_seed_makes_the_same_encoder(make_encoder):
    one, two, other = make_encoder(1), make_encoder(1), make_encoder(2)
    image = torch.zeros(1, 3, 16, 16)
    assert torch.equal(one(image), two(image))
    assert not np.allclose(one(image).detach(), other(image).detach())


def test_compiled_blocks_compute_the_same_under_the_same_names(
    make_encoder, small_config, images, tmp_path, monkeypatch
):
    compiled_by = nn.Module.compile  # a backend that needs no C++ compiler and takes seconds
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled_by(module, backend="aot_eager"))
    plain, compiled = make_encoder(scan_backend="cpu"), make_encoder(scan_backend="cpu", compile=True)
    assert all(layer._compiled_call_impl for layer in compiled.layers)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    found = []
    for encoder in (plain, compiled, copy.deepcopy(compiled)):
        out = encoder(images(2)[:, 0])
        found.append([out, *torch.autograd.grad(out.square().sum(), list(encoder.parameters()))])
    for wanted, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, wanted, atol=1e-5, rtol=1e-4)
    file = save_vision_encoder(compiled, tmp_path / "encoder.safetensors")
    config = replace(small_config, encoder=compiled.config, encoder_weights=str(file))
    for encoder in (load_encoder(config), load_encoder(replace(config, encoder=plain.config))):
        assert encoder.config.compile is (encoder.layers[0]._compiled_call_impl is not None)
        torch.testing.assert_close(encoder.eval()(images(2)[:, 0]), found[0][0])
