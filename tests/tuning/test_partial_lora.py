"""Partial LoRA: every target alone and all together; identity, reach, rows, files, merging, counts."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from emrrg_lib.config import EncoderConfig, PartialLoRAConfig
from emrrg_lib.files import KIT, InputError
from emrrg_lib.tuning.partial_lora import TARGETS, adapter_name, apply_partial_lora, load_partial_lora
from emrrg_lib.vision.mamba import DIRECTIONS, VisionMamba
from emrrg_lib.vision.weights import save_vision_encoder

ALL = tuple(TARGETS)
CHOICES = [(t,) for t in ALL] + [("X", "in_proj"), ALL]
ids = "+".join
D, R, N = 16, 1, 16  # of the small encoder
ROWS = {"X": (0, D), "Z": (D, 2 * D), "dt": (0, R), "B": (R, R + N), "C": (R + N, R + 2 * N)}


def image():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))


def with_values(model, seed=4):
    """Random numbers in every B, which starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def adapter_weight_names(model):
    return [name for name, _ in model.named_parameters() if ".lora_A." in name or ".lora_B." in name]


def touched(target):
    """Weight names inside the encoder that a target updates, and the rows it may change."""
    per_direction = {"dt": "x_proj", "B": "x_proj", "C": "x_proj", "x_proj": "x_proj", "dt_proj": "dt_proj"}
    shared = {"X": "in_proj", "Z": "in_proj", "in_proj": "in_proj", "out_proj": "out_proj"}
    if target == "embedding":
        return ["patch_embed.proj.weight"]
    names = [shared[target]] if target in shared else [per_direction[target] + s for s in DIRECTIONS]
    return [f"layers.{i}.mixer.{n}.weight" for i in range(2) for n in names]


def updates(model, targets, scale):
    """ΔW of every touched weight, from the pairs A, B themselves: scale · B · A in the target's rows."""
    state, total = model.state_dict(), {}
    base = {k: v for k, v in state.items() if ".base_layer." in k}
    for target in targets:
        for name in touched(target):
            module = name.removesuffix(".weight")
            key = f"base_model.model.{module}.lora_{{}}.{adapter_name(target)}.weight"
            a, b = state[key.format("A")], state[key.format("B")]
            delta = scale * (b.flatten(1) @ a.flatten(1))
            whole = torch.zeros_like(base[f"base_model.model.{module}.base_layer.weight"])
            start, stop = ROWS.get(target, (0, len(whole)))
            whole[start:stop] = delta.reshape(whole[start:stop].shape)
            total[name] = total.get(name, 0) + whole
    return total


@pytest.mark.parametrize("targets", CHOICES, ids=ids)
def test_fresh_adapters_change_no_bit(make_encoder, targets):
    model = apply_partial_lora(make_encoder(), PartialLoRAConfig(targets, r=3)).eval()
    assert torch.equal(model(image()), make_encoder()(image()))
    assert set(model.base_model.active_adapters) == {adapter_name(t) for t in targets}


@pytest.mark.parametrize("targets", CHOICES, ids=ids)
def test_the_output_is_that_of_the_summed_weights(make_encoder, targets):
    """Acting as modules, merged by PEFT and summed by hand are the same encoder."""
    config = PartialLoRAConfig(targets, r=3, scale=0.7)
    model = with_values(apply_partial_lora(make_encoder(), config)).eval()
    plain, by_hand = make_encoder(), make_encoder()
    deltas = updates(model, targets, 0.7)
    weights = dict(by_hand.named_parameters())
    with torch.no_grad():
        for name, delta in deltas.items():
            weights[name] += delta
    out = model(image())
    assert (out - plain(image())).abs().max() > 1e-3
    assert torch.allclose(out, by_hand(image()), atol=1e-5)
    with model.disable_adapter():
        assert torch.equal(model(image()), plain(image()))
    assert torch.equal(model(image()), out)

    model.merge_adapter()
    assert torch.allclose(model(image()), out, atol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(model(image()), out, atol=1e-5)
    merged = model.merge_and_unload()
    assert isinstance(merged, VisionMamba)
    assert torch.allclose(merged(image()), out, atol=1e-5)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    for name, weight in plain.state_dict().items():  # rows without an update keep every bit
        change = merged.state_dict()[name] - weight
        assert torch.allclose(change, deltas.get(name, torch.zeros(())), atol=1e-6), name
        still = deltas[name].flatten(1).abs().amax(1) == 0 if name in deltas else slice(None)
        assert torch.equal(merged.state_dict()[name][still], weight[still]), name


@pytest.mark.parametrize("target", list(ROWS))
def test_outputs_of_the_other_rows_keep_every_bit(make_encoder, target):
    model = with_values(apply_partial_lora(make_encoder(), PartialLoRAConfig((target,), r=3))).eval()
    mixer, plain = model.base_model.model.layers[1].mixer, make_encoder().layers[1].mixer
    names = ["in_proj"] if target in ("X", "Z") else [f"x_proj{s}" for s in DIRECTIONS]
    start, stop = ROWS[target]
    x = torch.randn(2, 5, D)
    for name in names:
        ours, theirs = getattr(mixer, name)(x), getattr(plain, name)(x)
        other = [r for r in range(ours.shape[-1]) if not start <= r < stop]
        assert torch.equal(ours[..., other], theirs[..., other])
        assert (ours - theirs)[..., start:stop].abs().amax((0, 1)).min() > 0


@pytest.mark.parametrize("targets", CHOICES, ids=ids)
def test_every_adapter_gets_a_gradient_in_every_block_and_direction(make_encoder, targets):
    """Upstream's adapters get none: the mixer reads `.weight` there (NOTES 0.3)."""
    model = with_values(apply_partial_lora(make_encoder(), PartialLoRAConfig(targets, r=3)))
    model(image()).square().mean().backward()
    names = adapter_weight_names(model)
    assert len(names) == sum(2 * len(touched(t)) for t in targets)
    for name, parameter in model.named_parameters():
        if name in names:
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_saved_adapters_give_the_same_output_in_a_new_process(make_encoder, tmp_path):
    save_vision_encoder(make_encoder(), tmp_path / "encoder.safetensors")
    for index, targets in enumerate(CHOICES):
        config = PartialLoRAConfig(targets, r=3, scale=0.5)
        model = with_values(apply_partial_lora(make_encoder(), config)).eval()
        model.save_pretrained(tmp_path / str(index))
        torch.save((list(targets), image(), model(image()).detach()), tmp_path / f"{index}.pth")
    script = """
import sys, torch
from pathlib import Path
from emrrg_lib.tuning.partial_lora import adapter_name, load_partial_lora
from emrrg_lib.vision.weights import load_vision_encoder
folder = Path(sys.argv[1])
for file in sorted(folder.glob("*.pth")):
    targets, image, wanted = torch.load(file)
    encoder = load_vision_encoder(folder / "encoder.safetensors")
    model = load_partial_lora(encoder, folder / file.stem).eval()
    assert {adapter_name(t) for t in targets} == set(model.active_adapters)
    assert (model(image) - wanted).abs().max() < 1e-6, targets
    assert (model(image) - encoder(image)).abs().max() < 1e-6  # the adapters sit inside the encoder
    assert all(p.requires_grad == (".lora_" in n) for n, p in model.named_parameters()), targets
    with model.disable_adapter():
        assert (model(image) - wanted).abs().max() > 1e-3, targets
print("all equal")
"""
    env = os.environ | {"PYTHONPATH": str(KIT)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and "all equal" in done.stdout, done.stderr


@pytest.mark.parametrize("target", ["X", "in_proj", "dt_proj", "embedding"])
def test_dropout_acts_in_training_only(make_encoder, target):
    config = PartialLoRAConfig((target,), r=3, dropout=0.5)
    model = with_values(apply_partial_lora(make_encoder(), config)).eval()
    without = with_values(apply_partial_lora(make_encoder(), PartialLoRAConfig((target,), r=3))).eval()
    assert torch.equal(model(image()), without(image()))
    model.train()
    assert not torch.equal(model(image()), model(image()))


def test_the_initial_values_are_loras(make_encoder):
    model = apply_partial_lora(make_encoder(embed_dim=64), PartialLoRAConfig(("X", "embedding"), r=8))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            assert not parameter.any()
        if ".lora_A." in name:  # kaiming uniform with a = √5: U(-1/√in, 1/√in)
            bound = parameter[0].numel() ** -0.5
            assert 0.8 * bound < parameter.abs().max() <= bound


COUNTS = {  # NOTES F, r = 32
    "X": 589_824,
    "Z": 589_824,
    "in_proj": 884_736,
    "x_proj": 1_302_528,
    "dt_proj": 1_253_376,
    "dt": 1_253_376,
    "B": 1_204_224,
    "C": 1_204_224,
    "out_proj": 589_824,
    "embedding": 49_152,
}


def count(targets, r=32, **sizes):
    with torch.device("meta"):
        model = apply_partial_lora(VisionMamba(EncoderConfig(**sizes)), PartialLoRAConfig(targets, r=r))
    names = adapter_weight_names(model)
    return sum(p.numel() for name, p in model.named_parameters() if name in names)


def test_parameter_counts_of_the_base_encoder():
    with torch.device("meta"):
        model = apply_partial_lora(VisionMamba(EncoderConfig()), PartialLoRAConfig(tuple(COUNTS), r=32))
    found = dict.fromkeys(COUNTS, 0)
    for target in COUNTS:
        names = [n for n in adapter_weight_names(model) if f".{adapter_name(target)}." in n]
        found[target] = sum(model.get_parameter(name).numel() for name in names)
    assert found == COUNTS
    assert count(("X", "in_proj")) == 589_824 + 884_736 == 1_474_560  # the method as the paper writes it
    assert count(("X",), r=16) == 294_912


def test_parameter_counts_of_the_large_encoder():
    assert count(("X", "in_proj"), embed_dim=1024, depth=24) == 1_572_864 + 2_359_296


def test_no_adapter_is_named_like_a_module_of_peft(make_encoder):
    """PEFT cuts `.<adapter>` out of the keys it saves: an adapter `lora_B` would empty all the others."""
    model = apply_partial_lora(make_encoder(), PartialLoRAConfig(ALL, r=2))
    names = [adapter_name(t) for t in ALL]
    modules = {part for name, _ in model.named_modules() for part in name.split(".")}
    adapters = {name.split(".")[-2] for name in adapter_weight_names(model)}
    assert adapters == set(names) and len(adapters) == len(ALL)
    assert not (modules - adapters) & adapters and not adapters & {"lora_A", "lora_B"}
    assert names[:2] == ["lora_X", "lora_Z"] and adapter_name("in_proj") == "lora_in_proj"


@pytest.mark.parametrize(
    "config, said",
    [
        (PartialLoRAConfig(("Y",)), "unknown Partial LoRA target 'Y'; choose from X, Z, dt, B, C, in_proj"),
        (PartialLoRAConfig(("X", "X")), "distinct targets"),
        (PartialLoRAConfig(()), "distinct targets, got"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(make_encoder, config, said):
    with pytest.raises(InputError, match=said):
        apply_partial_lora(make_encoder(), config)


def test_a_file_that_lacks_matrices_is_refused(make_encoder, tmp_path):
    apply_partial_lora(make_encoder(), PartialLoRAConfig(("X",), r=4)).save_pretrained(tmp_path)
    file = tmp_path / "lora_X" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(dict(list(tensors.items())[1:]), file)
    with pytest.raises(InputError, match="lora_X lacks 1 matrices, first 'base_model.model.layers.0.mixer"):
        load_partial_lora(make_encoder(), tmp_path)


def test_rank_and_scale_are_read_from_the_file(make_encoder, tmp_path):
    apply_partial_lora(make_encoder(), PartialLoRAConfig(("Z",), r=4, scale=2.0)).save_pretrained(tmp_path)
    layer = load_partial_lora(make_encoder(), tmp_path).base_model.model.layers[0].mixer.in_proj
    assert layer.r == {"lora_Z": 4} and layer.scaling == {"lora_Z": 2.0}


def test_a_folder_without_adapters_is_refused(make_encoder, tmp_path):
    with pytest.raises(InputError, match="holds no Partial LoRA adapter; give the folder of save_pretrained"):
        load_partial_lora(make_encoder(), tmp_path)


def test_a_new_target_is_one_row_of_the_table(make_encoder, monkeypatch):
    """Here: LoRA on the first matrix of SwiGLU. Nothing else has to know it."""
    monkeypatch.setitem(TARGETS, "mlp", r"layers\.\d+\.mlp\.w1")
    model = with_values(apply_partial_lora(make_encoder(), PartialLoRAConfig(("X", "mlp"), r=2)))
    trained = adapter_weight_names(model)
    assert sum(".mlp.w1.lora_A.lora_mlp." in name for name in trained) == 2
    model(image()).square().mean().backward()
    assert all(p.grad.any() for name, p in model.named_parameters() if name in trained)


def test_the_embedding_adapter_is_the_same_patch_convolution(make_encoder):
    """A is a convolution with the patch as kernel and stride, B is 1 × 1: low rank on the patches."""
    model = with_values(apply_partial_lora(make_encoder(), PartialLoRAConfig(("embedding",), r=3))).eval()
    layer = model.base_model.model.patch_embed.proj
    a, b = layer.lora_A["lora_embedding"].weight, layer.lora_B["lora_embedding"].weight
    patches = F.unfold(image(), 4, stride=4)  # (B, 48, 16)
    wanted = b.flatten(1) @ a.flatten(1) @ patches
    got = layer(image()) - layer.base_layer(image())
    assert torch.allclose(got.flatten(2), wanted, atol=1e-5)
