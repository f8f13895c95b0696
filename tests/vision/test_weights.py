"""Encoder files: formats and containers, position tables of another size, and everything that is refused."""

import argparse
import dataclasses
import os
import pathlib
import pickle
import re
import sys
import types
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emrrg_lib.files import InputError
from emrrg_lib.vision.weights import (
    infer_config,
    load_vision_encoder,
    read_tensors,
    resize_positions,
    save_vision_encoder,
)


@pytest.fixture
def encoder(make_encoder):
    return make_encoder(embed_dim=32, depth=3, d_state=4, d_conv=3)


def same(one, two):
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def prefixed(tensors):
    return {f"visual_encoder.{k}": v for k, v in tensors.items()}


# ------------------------------------------------------------------------------ what is accepted


def test_round_trip(encoder, tmp_path):
    path = save_vision_encoder(encoder, tmp_path / "new" / "encoder.safetensors")
    again = load_vision_encoder(path)
    assert same(encoder, again) and again.config == encoder.config
    assert os.listdir(path.parent) == ["encoder.safetensors"]
    assert set(load_file(path)) == set(encoder.state_dict())
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(again.eval()(image), encoder(image))
    assert load_vision_encoder(path, drop_path=0.3).layers[2].drop_path.p == pytest.approx(0.15)


@pytest.mark.parametrize(
    "content",
    [
        lambda t: t,
        lambda t: {"model": t, "epoch": 3},
        lambda t: {
            "model": prefixed(t) | {"llama_proj.weight": torch.ones(2)},
            "config": {"a": 1},
            "step": 7,
        },
        lambda t: {"model": t, "optimizer": {"state": {}}, "scaler": {}, "args": argparse.Namespace(lr=1.0)},
    ],
    ids=["plain", "container", "container and prefix", "stage 1 with its command line"],
)
def test_pth_files_in_every_container(encoder, tmp_path, content):
    torch.save(content(encoder.state_dict()), tmp_path / "a.pth")
    assert same(load_vision_encoder(tmp_path / "a.pth"), encoder)


@pytest.mark.parametrize(
    "content",
    [
        lambda t: {"model": prefixed(t)},
        lambda t: {"model": t, "config": {"lr": 1e-4}},
        lambda t: {"state_dict": prefixed(t), "epoch": 3, "hyper_parameters": {}},
        lambda t: {"model": OrderedDict(prefixed(t) | {"llama_proj.weight": torch.ones(2)}), "step": 1},
        lambda t: prefixed(t) | {"step": 3, 7: torch.ones(1)},
    ],
)
def test_a_dict_in_every_container(encoder, content):
    assert same(load_vision_encoder(content(encoder.state_dict())), encoder)


@pytest.mark.parametrize(
    "content", [{}, {"model": {}}, {"model": {"a": 1}}, {"model": None, "state_dict": [1]}]
)
def test_a_dict_without_tensors_is_refused(content):
    with pytest.raises(InputError, match="the given dict holds no tensors"):
        load_vision_encoder(content)


def save_with_foreign(path, monkeypatch, module, name, make):
    """Saves {"model": …, "config": make(class)} where the class is of a module that is gone afterwards."""
    with monkeypatch.context() as patch:
        parts = module.split(".")
        for number in range(len(parts)):
            whole = ".".join(parts[: number + 1])
            patch.setitem(sys.modules, whole, types.ModuleType(whole))
        kind = type(name, (dict,), {"__module__": module, "__getattr__": _attribute})
        setattr(sys.modules[module], name, kind)
        torch.save(make(kind), path)


def _attribute(self, key):
    try:
        return self[key]
    except KeyError as error:
        raise AttributeError(key) from error


@pytest.mark.parametrize(
    "module",
    [
        "lightning.fabric.utilities.data",
        "lightning_fabric.utilities.data",
        "lightning.pytorch.utilities.parsing",
        "pytorch_lightning.utilities.parsing",
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_files_saved_with_lightnings_hyper_parameters_load_without_lightning(
    encoder, tmp_path, monkeypatch, module, zipped
):
    path = tmp_path / "MambaXrayCLIP-B.pth"
    values = {
        "lr": 1e-4,
        "devices": [0, 1],
        "args": argparse.Namespace(out=pathlib.Path("save")),
        "none": None,
    }

    def make(kind):
        nested = kind(values, inner=kind(a=kind()))
        return {"model": prefixed(encoder.state_dict()), "config": nested, "epoch": 3, "step": 9}

    assert module.split(".")[0] not in sys.modules
    save_with_foreign(path, monkeypatch, module, "AttributeDict", make)
    assert module not in sys.modules
    assert same(load_vision_encoder(path), encoder)
    assert module.split(".")[0] not in sys.modules  # nothing of it was imported


@pytest.mark.parametrize(
    "value",
    [
        pathlib.Path("a/b"),
        pathlib.PureWindowsPath("c:/a"),
        argparse.Namespace(a=[argparse.Namespace()]),
        types.SimpleNamespace(a=1),
        OrderedDict(a=1),
        Counter("abc"),
        {1, 2},
        frozenset({1}),
        np.float64(0.25),
        np.float32(2),
        np.int64(-3),
        np.uint8(200),
        np.bool_(True),
        torch.float16,
        torch.device("cpu"),
        torch.Size([2]),
    ],
)
def test_plain_values_beside_the_tensors_are_read(encoder, tmp_path, value):
    torch.save({"model": encoder.state_dict(), "best": value}, tmp_path / "a.pth")
    assert same(load_vision_encoder(tmp_path / "a.pth"), encoder)


@pytest.mark.parametrize("module", ["evil.lightning.fabric.utilities.data", "lightning.fabric.utilities"])
def test_a_class_of_that_name_from_elsewhere_is_refused(encoder, tmp_path, monkeypatch, module):
    path = tmp_path / "a.pth"
    save_with_foreign(path, monkeypatch, module, "AttributeDict", lambda kind: {"model": {}, "x": kind(a=1)})
    with pytest.raises(InputError, match=f"refused \\(it needs {re.escape(module)}.AttributeDict"):
        read_tensors(path)


class Reduced:
    """Unpickles as a call of `function` with `arguments`, and a state for its result."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


OBJECT = Reduced(np.dtype, "O8", False, True)


@pytest.mark.parametrize(
    "value",
    [
        Reduced(os.system, "touch made"),
        Reduced(eval, "open('made', 'w')"),
        Reduced(getattr, "a", "upper"),
        Reduced(open, "made", "w"),
        Reduced(pathlib.Path.touch, pathlib.Path("made")),
        Reduced(np.load, "made"),
        Reduced(
            np.core.multiarray.scalar if np.__version__ < "2" else np._core.multiarray.scalar,
            OBJECT,
            b"x" * 8,
        ),
        Reduced(np.dtype, "V8", False, True, state=(3, "|", None, ("a",), {"a": (OBJECT, 0)}, 8, 1, 27)),
        np.array([1, 2]),
        np.array([{}], dtype=object),
        Reduced(argparse.FileType, "w"),
    ],
)
def test_nothing_else_is_called_or_made(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"w": torch.zeros(1)}, "x": value}, "bad.pth")
    with pytest.raises(InputError, match="bad.pth"):
        read_tensors("bad.pth")
    assert os.listdir(tmp_path) == ["bad.pth"]


def test_a_dict_and_a_prefixed_safetensors_file(encoder, tmp_path):
    tensors = encoder.state_dict()
    assert same(load_vision_encoder(tensors), encoder)
    assert same(load_vision_encoder(prefixed(tensors)), encoder)
    save_file(prefixed(tensors), tmp_path / "p.safetensors")
    assert same(load_vision_encoder(str(tmp_path / "p.safetensors")), encoder)
    assert tensors.keys() == encoder.state_dict().keys()  # the caller's dict is left alone


def test_a_file_of_arms_imagenet_training_loads_without_its_classes(encoder, tmp_path):
    head = {"head.weight": torch.zeros(1000, 32), "head.bias": torch.zeros(1000)}
    content = {"model": encoder.state_dict() | head, "epoch": 99, "args": argparse.Namespace(model="arm")}
    torch.save(content, tmp_path / "arm.pth")
    assert same(load_vision_encoder(tmp_path / "arm.pth"), encoder)


def test_half_precision_files_are_read_as_float32(encoder):
    half = {k: v.bfloat16() for k, v in encoder.state_dict().items()}
    loaded = load_vision_encoder(half)
    assert loaded.pos_embed.dtype == torch.float32
    assert torch.equal(loaded.pos_embed, half["pos_embed"].float())


def test_sizes_are_read_from_the_shapes(encoder):
    read = infer_config(encoder.state_dict())  # a checkpoint says nothing of drop path
    assert dataclasses.replace(read, drop_path=0.0) == encoder.config
    assert infer_config(encoder.state_dict(), 32).image_size == 32


# ---------------------------------------------------------------- stage 1: one direction, no cls token


def stage1_tensors(encoder):
    """A stage-1 state dict in upstream's names (NOTES A7): encoder of one direction, and its decoder."""
    kept = {
        k: v
        for k, v in encoder.state_dict().items()
        if not re.search(r"(_b|_c)(_log|\.|$)", k)
        and k not in ("cls_token", "pos_embed")
        and not k.startswith("norm_f")
    }
    decoder = (
        "ar_token",
        "ar_norm.weight",
        "ar_pred.bias",
        "norm_1.weight",
        "norm_4.weight",
        "mask",
        "enc2dec.weight",
        "dec_pos_embed",
        "dec_block.0.norm1.weight",
    )
    return kept | {"pos_embed": torch.randn(1, 16, 32)} | {k: torch.randn(3) for k in decoder}


def test_a_stage_1_file_is_expanded_to_four_directions_by_exact_key(encoder, tmp_path, caplog):
    tensors = stage1_tensors(encoder)
    torch.save(
        {
            "model": tensors,
            "optimizer": {"state": {}},
            "epoch": 100,
            "scaler": None,
            "args": argparse.Namespace(lr=None, data_path="images"),
        },
        tmp_path / "Pretrain-B.pth",
    )
    loaded = load_vision_encoder(tmp_path / "Pretrain-B.pth")
    assert loaded.config == encoder.config
    state = loaded.state_dict()
    for name in ("A{}_log", "D{}", "conv1d{}.weight", "conv1d{}.bias", "x_proj{}.weight", "dt_proj{}.bias"):
        for suffix in ("", "_b", "_c", "_c_b"):
            key = f"layers.1.mixer.{name}"
            assert torch.equal(state[key.format(suffix)], tensors[key.format("")]), (name, suffix)
    for key in ("layers.2.mixer.in_proj.weight", "layers.0.mlp.w1.bias", "patch_embed.proj.weight"):
        assert torch.equal(state[key], tensors[key])
    assert torch.equal(state["pos_embed"][:, 8], torch.zeros(1, 32))  # the cls row
    assert torch.equal(state["pos_embed"][:, :8], tensors["pos_embed"][:, :8])
    assert torch.equal(state["pos_embed"][:, 9:], tensors["pos_embed"][:, 8:])
    assert torch.equal(state["norm_f.weight"], torch.ones(32)) and 0 < state["cls_token"].std() < 0.04
    (said,) = caplog.records
    assert said.levelname == "WARNING"
    assert said.getMessage().endswith("new, to be trained: cls_token, norm_f.weight, norm_f.bias")
    larger = load_vision_encoder(tensors, image_size=24).state_dict()["pos_embed"]  # 192 → 224 likewise
    patches = np.delete(larger[0].numpy(), 18, axis=0).reshape(6, 6, 32)
    assert np.abs(patches - bicubic(tensors["pos_embed"].double().numpy().reshape(4, 4, 32), 6)).max() < 1e-5
    assert torch.equal(larger[:, 18], torch.zeros(1, 32))


def test_upstreams_hazards_do_not_exist(encoder):
    """NOTES A8: no junk from a four-direction file, no letters matched anywhere in a key, no silence."""
    tensors = encoder.state_dict() | {"norm_4.weight": torch.ones(3)}  # four directions and a cls token
    with pytest.raises(InputError, match=re.escape("1 unexpected (norm_4.weight)")):
        load_vision_encoder(tensors)
    tensors = stage1_tensors(encoder) | {"layers.0.mixer.Dropout": torch.ones(1), "decA": torch.ones(1)}
    with pytest.raises(InputError, match=re.escape("2 unexpected (decA, layers.0.mixer.Dropout)")):
        load_vision_encoder(tensors)
    tensors = stage1_tensors(encoder)
    del tensors["layers.2.mixer.x_proj.weight"]
    with pytest.raises(InputError, match=r"4 missing \(layers.2.mixer.x_proj.weight, "):
        load_vision_encoder(tensors)


def test_stage_2_and_stage_3_files_as_upstream_saves_them(encoder, tmp_path):
    other = {
        "text_encoder.bert.embeddings.weight": torch.ones(2),
        "vision_proj.weight": torch.ones(2),
        "logit_scale": torch.tensor(2.66),
    }
    stage2 = {
        "model": prefixed(encoder.state_dict()) | other,
        "epoch": 50,
        "step": 1000,
        "config": argparse.Namespace(batch_size=48, lr=1e-4, devices=[0]),
    }
    stage3 = {
        "model": prefixed(encoder.state_dict())
        | {"llama_proj.weight": torch.ones(2), "layer_norm.bias": torch.ones(2)},
        "epoch": 3,
        "step": 7,
        "config": {"freeze_vm": False},
    }
    for name, content in (("clip-B.pth", stage2), ("finetune.pth", stage3)):
        torch.save(content, tmp_path / name)
        first = load_vision_encoder(tmp_path / name)
        again = load_vision_encoder(save_vision_encoder(first, tmp_path / "again.safetensors"))
        assert same(first, encoder) and same(again, encoder)
    frozen = {"model": {"llama_proj.weight": torch.ones(2)}}  # its encoder did not train: nothing to load
    torch.save(frozen, tmp_path / "frozen.pth")
    with pytest.raises(InputError, match="is not a MambaXray-VL encoder: it lacks"):
        load_vision_encoder(tmp_path / "frozen.pth")


# ------------------------------------------------------------------------------- position tables


def bicubic(grid, side):
    """Bicubic resize of (n, n, d), align_corners=False, a = -0.75, edges repeated; plain loops."""

    def kernel(t):
        t, a = abs(t), -0.75
        if t < 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    n = len(grid)
    matrix = np.zeros((side, n))
    for i in range(side):
        x = (i + 0.5) * n / side - 0.5
        for k in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            matrix[i, min(max(k, 0), n - 1)] += kernel(x - k)
    return np.einsum("ia,jb,abd->ijd", matrix, matrix, grid)


@pytest.mark.parametrize("old, new", [(12, 14), (14, 12), (4, 8)])
def test_position_tables_keep_the_cls_row_and_resize_the_patches(old, new):
    table = torch.randn(1, old * old + 1, 5)
    resized = resize_positions(table, new)
    assert resized.shape == (1, new * new + 1, 5)
    old_middle, new_middle = old * old // 2, new * new // 2
    assert torch.equal(resized[:, new_middle], table[:, old_middle])
    patches = np.delete(table[0].double().numpy(), old_middle, axis=0).reshape(old, old, 5)
    got = np.delete(resized[0].numpy(), new_middle, axis=0).reshape(new, new, 5)
    assert np.abs(got - bicubic(patches, new)).max() < 1e-5
    assert torch.equal(resize_positions(table, old), table)


def test_an_encoder_is_loaded_at_another_image_size(encoder):
    larger = load_vision_encoder(encoder.state_dict(), image_size=24)
    assert larger.config.image_size == 24 and larger.pos_embed.shape == (1, 37, 32)
    assert larger.eval()(torch.randn(1, 3, 24, 24)).shape == (1, 37, 32)
    assert torch.equal(larger.pos_embed[:, 18], encoder.pos_embed[:, 8])
    with pytest.raises(InputError, match="image_size 18 is not a multiple of patch_size 4"):
        load_vision_encoder(encoder.state_dict(), image_size=18)


# ------------------------------------------------------------------------------ what is refused


def test_missing_unexpected_and_mis_shaped_keys_are_listed(encoder):
    tensors = encoder.state_dict()
    del tensors["layers.1.mixer.D_c"]
    tensors["heads.weight"] = torch.zeros(3)
    tensors["norm_f.bias"] = torch.zeros(31)
    said = (
        "the given tensors does not fit the encoder: 1 missing (layers.1.mixer.D_c); "
        "1 unexpected (heads.weight); 1 of another shape (norm_f.bias)"
    )
    with pytest.raises(InputError, match=re.escape(said)):
        load_vision_encoder(tensors)
    for i in range(9):
        tensors[f"x{i}"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"10 unexpected \(heads.weight, x0, x1, x2, x3 …\)"):
        load_vision_encoder(tensors)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"pos_embed": None}, "lacks 'pos_embed'"),
        ({"layers.0.mixer.A_log": None}, "lacks 'layers.0.mixer.A_log'"),
        ({"pos_embed": torch.zeros(17, 32)}, "is not a MambaXray-VL encoder"),
        ({"patch_embed.proj.weight": torch.zeros(32, 48)}, "is not a MambaXray-VL encoder"),
        ({"layers.last.bias": torch.zeros(1)}, "is not a MambaXray-VL encoder"),
        ({"pos_embed": torch.zeros(1, 16, 32)}, r"of another shape \(pos_embed\)"),
    ],
)
def test_a_file_of_something_else_is_refused(encoder, change, said):
    tensors = encoder.state_dict() | change
    tensors = {k: v for k, v in tensors.items() if v is not None}
    for size in (None, 24):
        with pytest.raises(InputError, match=said):
            load_vision_encoder(tensors, size)


class Harmful:
    """Unpickling this would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, zipped):
    made, path = tmp_path / "made", tmp_path / "bad.pth"
    torch.save(
        {"model": {"w": torch.zeros(1)}, "x": Harmful(made)}, path, _use_new_zipfile_serialization=zipped
    )
    said = "would run code when loaded and is refused (it needs posix.mkdir)"
    with pytest.raises(InputError, match=re.escape(said)):
        load_vision_encoder(path)
    assert not made.exists()
    path.write_bytes(pickle.dumps(Harmful(made)))
    with pytest.raises(InputError):
        load_vision_encoder(path)
    assert not made.exists()


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.pth", b"hello, this is text"),
        ("a.pth", b"<!DOCTYPE html><html>"),
        ("a.pth", b""),
        ("a.pth", b"\x80\x02}q\x00."),
        ("a.safetensors", b""),
        ("a.safetensors", b"\x08\0\0\0\0\0\0\0{broken}"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))) as refusal:
        read_tensors(tmp_path / name)
    assert "would run code" not in str(refusal.value)


def test_a_truncated_file_a_list_and_a_missing_file_are_refused(encoder, tmp_path):
    path = tmp_path / "a.pth"
    torch.save(encoder.state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="is not a readable checkpoint"):
        read_tensors(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(InputError, match="holds no tensors under names"):
        read_tensors(path)
    with pytest.raises(InputError, match="no checkpoint at .*nothing.pth"):
        read_tensors(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="no checkpoint at"):
        read_tensors(tmp_path)
