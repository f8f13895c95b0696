"""Encoder weights: files under upstream's key names (NOTES A4–A6), and the encoder of a configuration."""

from __future__ import annotations

import argparse
import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emrrg_lib.config import EMRRGConfig, EncoderConfig
from emrrg_lib.files import TINY_DIR, InputError, atomic_path
from emrrg_lib.vision.hf_backbone import build_hf_backbone, load_hf_backbone, require_hf_backbone
from emrrg_lib.vision.mamba import DIRECTIONS, VisionMamba

PREFIX = "visual_encoder."
# First words of the keys of stage 1 that the encoder does not have (NOTES A7).
STAGE1_ONLY = set("ar_token ar_norm ar_pred norm_1 norm_2 norm_3 norm_4 mask enc2dec".split())
STAGE1_ONLY |= {"dec_block", "dec_pos_embed", "dec_mlp"}
PER_DIRECTION = re.compile(r"(layers\.\d+\.mixer\.(?:A|D|conv1d|x_proj|dt_proj))(|_log|\.weight|\.bias)")
log = logging.getLogger("emrrg_lib.checkpoints")


def save_vision_encoder(encoder: VisionMamba, path: str | Path) -> Path:
    """Writes the encoder's tensors under upstream's names, atomically, as safetensors."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
    return Path(path)


class _NumberType:
    """In place of `numpy.dtype` in a pickle: a number's type, of which nothing but its code is kept."""

    def __init__(self, code: str, *flags: object) -> None:
        if not re.fullmatch(r"[biuf][1248]", code):
            raise ValueError(f"a NumPy value of type {code!r} is not a plain number")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.code = (">" if state[1] == ">" else "<") + self.code


def _number(kind: _NumberType, raw: bytes) -> float | int | bool:
    return np.frombuffer(raw, kind.code, count=1)[0].item()


# What training scripts put beside the tensors (NOTES A5): (what is made, full name in the pickle). Nothing of
# the named libraries is imported or run; torch fills plain dicts only, so Lightning's becomes one.
_PLAIN: list[Any] = [
    argparse.Namespace,
    SimpleNamespace,
    (frozenset, "builtins.frozenset"),
    *(
        (dict, f"{module}.AttributeDict")
        for package in ("lightning.fabric", "lightning_fabric", "lightning.pytorch", "pytorch_lightning")
        for module in (f"{package}.utilities.data", f"{package}.utilities.parsing")
    ),
    *(
        (PureWindowsPath if "Windows" in name else PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")  # the second: Python 3.13
        for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ),
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """Reads a `.safetensors` or a `.pth` file (`weights_only=True`: nothing in it is run).

    Raises:
        InputError: a file that is missing or damaged, or a pickle with more than tensors and plain values.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}: check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_PLAIN):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needs = re.search(r"GLOBAL (\S+)", str(error))
        if needs is None:
            raise InputError(f"{path} is not a PyTorch checkpoint; name a .pth or .safetensors") from error
        raise InputError(
            f"{path} would run code when loaded and is refused (it needs {needs[1]}); "
            "save its tensors as safetensors first"
        ) from error
    except Exception as error:  # a damaged pickle fails in any way
        raise InputError(f"{path} is not a readable checkpoint ({error}); fetch it again") from error
    return _tensors(loaded, path)


def _tensors(loaded: Any, source: object) -> dict[str, Tensor]:
    """The tensors under names; upstream's `model`, Lightning's and CheXbert's containers are opened."""
    inner = loaded if isinstance(loaded, Mapping) else {}
    names = ("model", "state_dict", "model_state_dict")
    inner = next((inner[k] for k in names if isinstance(inner.get(k), Mapping)), inner)
    if tensors := {k: v for k, v in inner.items() if isinstance(k, str) and isinstance(v, Tensor)}:
        return tensors
    raise InputError(f"{source} holds no tensors under names; give an encoder checkpoint")


def resize_positions(table: Tensor, side: int) -> Tensor:
    """Resizes a position table (1, n² + 1, d), cls row in the middle, to a `side` × `side` grid.

    The patch rows are interpolated (bicubic, align_corners=False); the cls row is kept.
    """
    patches, middle = table.shape[1] - 1, (table.shape[1] - 1) // 2
    old = round(patches**0.5)
    if old == side or old * old != patches:  # the check of shapes refuses what is not a grid
        return table
    grid = torch.cat([table[:, :middle], table[:, middle + 1 :]], dim=1)
    grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid.float(), size=(side, side), mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).reshape(1, side * side, -1).to(table.dtype)
    new_middle = side * side // 2
    return torch.cat([grid[:, :new_middle], table[:, middle : middle + 1], grid[:, new_middle:]], dim=1)


def expand_stage1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A stage-1 file under the encoder's names: its one direction is copied to all four, by exact key.

    The fixed table (1, n², d) gets a zero row for the cls token in its middle, and the decoder is left out
    (NOTES A6–A8). The file has no cls_token and norm_f: the encoder keeps its random ones.
    """
    expanded = {}
    for key, value in tensors.items():
        if match := PER_DIRECTION.fullmatch(key):
            expanded |= {f"{match[1]}{suffix}{match[2]}": value for suffix in DIRECTIONS}
        elif key.split(".")[0] not in STAGE1_ONLY:
            expanded[key] = value
    table = tensors["pos_embed"]
    middle = table.shape[1] // 2
    cls = torch.zeros_like(table[:, :1])
    return expanded | {"pos_embed": torch.cat([table[:, :middle], cls, table[:, middle:]], dim=1)}


def infer_config(tensors: Mapping[str, Tensor], image_size: int | None = None) -> EncoderConfig:
    """Encoder sizes from the shapes of its tensors."""
    try:
        d, _, patch, _ = tensors["patch_embed.proj.weight"].shape
        _, rows, _ = tensors["pos_embed"].shape
        _, d_state = tensors["layers.0.mixer.A_log"].shape
        _, _, d_conv = tensors["layers.0.mixer.conv1d.weight"].shape
        depth = 1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("layers."))
    except KeyError as error:
        raise InputError(f"the checkpoint is not a MambaXray-VL encoder: it lacks {error}") from error
    except ValueError as error:
        raise InputError(f"the checkpoint is not a MambaXray-VL encoder: {error}") from error
    size = round((rows - rows % 2) ** 0.5) * patch  # rows = M + 1 with M even; stage 1: M
    return EncoderConfig(image_size or size, patch, d, depth, d_state, d_conv)


def load_vision_encoder(
    source: str | Path | Mapping[str, Tensor],
    image_size: int | None = None,
    drop_path: float = 0.0,
    compile: bool = False,
) -> VisionMamba:
    """Builds the encoder that a checkpoint holds.

    Args:
        source: a file or a dict of tensors in upstream's names, with or without a container (`model` or
            `state_dict`) and the `visual_encoder.` prefix. A stage-1 file (one direction, no cls token) is
            expanded, see `expand_stage1`; a warning lists the new tensors.
        image_size: resize the position table to this image size; None keeps the size of the file.
        drop_path, compile: of the new encoder.

    Raises:
        InputError: a file that cannot be read, or keys that are missing, unexpected or of another shape;
            the sentence lists them.
    """
    given = isinstance(source, Mapping)
    tensors = _tensors(source, "the given dict") if given else read_tensors(source)
    if any(k.startswith(PREFIX) for k in tensors):
        tensors = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    tensors = {k: v for k, v in tensors.items() if not k.startswith("head.")}  # ARM's ImageNet classes
    config = infer_config(tensors, image_size)
    encoder = VisionMamba(EncoderConfig(**{**config.__dict__, "drop_path": drop_path, "compile": compile}))
    if "norm_4.weight" in tensors and "cls_token" not in tensors:
        new = {k: encoder.state_dict()[k] for k in ("cls_token", "norm_f.weight", "norm_f.bias")}
        tensors = expand_stage1(tensors) | new
        log.warning(
            "a stage-1 file: its one scan direction was copied to all four; new, to be trained: %s",
            ", ".join(new),
        )
    tensors["pos_embed"] = resize_positions(tensors["pos_embed"], config.side)
    _check_keys(encoder.state_dict(), tensors, source)
    encoder.load_state_dict(tensors)
    return encoder


def _check_keys(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source) -> None:
    shapes = [k for k in wanted if k in given and wanted[k].shape != given[k].shape]
    parts = [
        f"{len(keys)} {word} ({', '.join(sorted(keys)[:5])}{' …' if len(keys) > 5 else ''})"
        for word, keys in (
            ("missing", wanted.keys() - given.keys()),
            ("unexpected", given.keys() - wanted.keys()),
            ("of another shape", shapes),
        )
        if keys
    ]
    if parts:
        name = source if isinstance(source, str | Path) else "the given tensors"
        raise InputError(f"{name} does not fit the encoder: {'; '.join(parts)}")


_MAMBAXRAY = (
    "download {file} from the link in the README of Event-AHU/Medical_Image_Analysis "
    "(CXPMRG_Bench_MambaXray_VL) to {path}"
)
_ARM = "put a checkpoint of {file} on ImageNet, made by the code of OliverRensu/ARM, at {path}"
ENCODER_FILES = {  # entries of `encoder_weights`; the user gets all but the first
    "tiny": TINY_DIR / "encoder" / "encoder.safetensors",
    "mambaxray-vl-base": Path("models/MambaXrayCLIP-B.pth"),
    "mambaxray-vl-large": Path("models/MambaXrayCLIP-L.pth"),
    "arm-base": Path("models/arm_base_pz16.pth"),
    "arm-large": Path("models/arm_large_pz16.pth"),
}


def build_encoder(config: EMRRGConfig) -> nn.Module:
    """The encoder of a configuration with random weights."""
    if config.encoder.kind == "hf":
        return build_hf_backbone(config.encoder_weights, config.encoder.image_size)
    return VisionMamba(config.encoder)


def require_encoder(config: EMRRGConfig) -> None:
    """Raises InputError unless the pre-trained encoder is on this machine; reads none of its weights."""
    if config.encoder.kind == "hf":
        require_hf_backbone(config.encoder_weights)
    else:
        _encoder_file(config)


def _encoder_file(config: EMRRGConfig) -> Path:
    source = Path(ENCODER_FILES.get(config.encoder_weights, config.encoder_weights))
    if source.is_file():
        return source
    if config.encoder_weights in ENCODER_FILES:
        advice = _ARM if config.encoder_weights.startswith("arm") else _MAMBAXRAY
        advice = advice.format(file=source.stem if advice is _ARM else source.name, path=source)
        raise InputError(
            f"the encoder weights '{config.encoder_weights}' are not here: {advice}, or name a file by "
            "--encoder-weights FILE or --set encoder_weights=FILE"
        )
    raise InputError(f"no checkpoint at {source}: check the path")


def load_encoder(config: EMRRGConfig) -> nn.Module:
    """The encoder of a configuration with its pre-trained weights.

    Raises:
        InputError: weights that are missing, damaged or of another size; the sentence says where to get them.
    """
    if config.encoder.kind == "hf":
        return load_hf_backbone(config.encoder_weights, config.encoder.image_size)
    source = _encoder_file(config)
    encoder = load_vision_encoder(
        source, config.encoder.image_size, config.encoder.drop_path, config.encoder.compile
    )
    if encoder.config != config.encoder:
        raise InputError(
            f"the encoder in {source} is {encoder.config}, but the preset asks for "
            f"{config.encoder}; choose weights of that size"
        )
    return encoder
