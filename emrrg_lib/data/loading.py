"""Reads the R2Gen layout (`annotation.json` beside `images/`) and turns image files into arrays.

One reader serves PhantomCXR, IU X-ray and MIMIC-CXR: the phantom only adds `labels`, `truth` and
`findings` to each entry. Image preprocessing follows the released code (audit G): straight bicubic
resize of the 8-bit RGB picture without crop, then ImageNet mean and standard deviation.
"""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from emrrg_lib.data.study import Study
from emrrg_lib.errors import InputError

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
MAX_PIXELS = 100_000_000  # a larger picture is no radiograph but a mistake or an attack
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
_BAD_FILE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error)


# ---------------------------------------------------------------------------------- annotations


def load_annotation(
    source: str | Path, split: str | None = None, check_images: bool = True
) -> list[Study]:
    """Reads an R2Gen annotation into studies, in file order.

    Args:
        source: A data folder (holding `annotation.json` and `images/`) or the JSON file itself;
            `images/` and `masks/` are looked for beside the file.
        split: One of the file's splits ("train", "val", "test"), or None for all of them.
        check_images: Whether every image file must exist; False for work on reports alone.

    Raises:
        InputError: The file is missing, not JSON, of another shape (the entry is named) or empty;
            an id stands twice; an image is missing or its path leaves the data folder.
    """
    path = Path(source)
    if path.is_dir():
        path = path / "annotation.json"
    splits = _read_splits(path)
    if split is not None and split not in splits:
        known = ", ".join(splits)
        raise InputError(f"{path} has no split {split!r}: choose one of {known}")
    studies, seen = [], {}
    for name, entries in splits.items():
        for position, entry in enumerate(entries):
            where = f"{path}, {name}[{position}]"
            study = _study(entry, name, path.parent, where)
            if study.id in seen:
                raise InputError(f"{where}: id {study.id!r} stands already at {seen[study.id]}")
            seen[study.id] = f"{name}[{position}]"
            if split in (None, name):
                studies.append(study)
    if not studies:
        raise InputError(f"{path} holds no study in split {split or 'train, val, test'!r}")
    if check_images:
        _require_images(studies, path)
    return studies


def _read_splits(path: Path) -> dict[str, list]:
    """Returns {split: entries} of an annotation file whose outer shape is right."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(
            f"no annotation at {path}: give a folder in the R2Gen layout (annotation.json +"
            " images/); `emrrg data phantom` writes one"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise InputError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(v, list) for v in value.values()):
        raise InputError(
            f'{path} is not an R2Gen annotation: expected {{"train": [...], "val": [...],'
            ' "test": [...]}'
        )
    if not any(value.values()):
        raise InputError(f"{path} is empty: it lists no study in any split")
    return value


def _study(entry: Any, split: str, folder: Path, where: str) -> Study:
    """One entry of the annotation as a `Study`; InputError names `where` it is wrong."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected an object with id, report and image_path")
    name, report, images = entry.get("id"), entry.get("report"), entry.get("image_path")
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        raise InputError(f"{where}: 'id' must be a text or a number, found {name!r}")
    if not isinstance(report, str) or not report.strip():
        raise InputError(f"{where} (id {name}): 'report' must be a text that is not empty")
    if not isinstance(images, list) or not images:
        raise InputError(f"{where} (id {name}): 'image_path' must list at least one image")
    for key, kind in (("labels", dict), ("truth", dict), ("findings", list)):
        if not isinstance(entry.get(key), kind | None):
            raise InputError(f"{where} (id {name}): {key!r} must be a JSON {kind.__name__}")
    findings = entry.get("findings")
    return Study(
        id=str(name),
        images=tuple(_inside(folder / "images", image, where) for image in images),
        report=report,
        split=split,
        labels=entry.get("labels"),
        truth=entry.get("truth"),
        findings=None if findings is None else tuple(_finding(f, folder, where) for f in findings),
    )


def _finding(finding: Any, folder: Path, where: str) -> dict:
    """A phantom finding with its mask names resolved to paths (None where a view shows nothing)."""
    if not isinstance(finding, dict) or not isinstance(finding.get("masks", []), list):
        raise InputError(f"{where}: every finding must be an object whose 'masks' is a list")
    masks = [mask and _inside(folder, mask, where) for mask in finding.get("masks", [])]
    return {**finding, "masks": masks}


def _inside(folder: Path, name: Any, where: str) -> Path:
    """`folder/name`, refused when `name` is absolute or climbs out of the folder."""
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: an image path must be a text, found {name!r}")
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or path.drive or ".." in path.parts:
            raise InputError(f"{where}: the path {name!r} leaves the data folder; make it relative")
    return folder / name


def _require_images(studies: list[Study], path: Path) -> None:
    """Raises InputError naming the first image that does not exist, and how many do not."""
    missing = [(s.id, image) for s in studies for image in s.images if not image.is_file()]
    if missing:
        name, image = missing[0]
        raise InputError(
            f"{path}: {len(missing)} image(s) missing, first {image} of study {name}: put the"
            f" images into {path.parent / 'images'}"
        )


# --------------------------------------------------------------------------------------- images


def load_rgb(path: str | Path) -> Image.Image:
    """Opens an image file as an 8-bit RGB picture of its own size.

    Grey, palette, 1-bit and transparent files are converted (transparency is dropped); 16-bit files
    are scaled so that 65535 becomes 255, where a plain conversion would clip; the orientation tag
    of a camera is obeyed.

    Raises:
        InputError: Missing, corrupt, not an image, animated, or above `MAX_PIXELS`; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no image file at {path}: check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # judged by MAX_PIXELS
            with Image.open(path, formats=FORMATS) as image:
                _require_one_picture(image, path)
                return _to_rgb(ImageOps.exif_transpose(image), path)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{path} is too large: more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{path} is not an image this kit reads ({', '.join(FORMATS)}); convert DICOM to PNG"
            " first"
        ) from None
    except _BAD_FILE as error:
        raise InputError(f"{path} is a damaged image file ({error}); fetch it again") from error


def _require_one_picture(image: Image.Image, path: Path) -> None:
    """Raises InputError for a file that is too large or holds several pictures."""
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise InputError(f"{path} is too large: {size}, more than {MAX_PIXELS:,} pixels")
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{path} holds {image.n_frames} pictures; save the one to read by itself")


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """8-bit RGB of any still picture; integer files wider than 8 bits are scaled, never wrapped."""
    if image.mode == "F":
        raise InputError(f"{path} holds floating-point values; save it with 8 or 16 bits a pixel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{path} has values outside 0..65535; save it with 8 or 16 bits")
        image = Image.fromarray(np.round(values / 257.0).astype(np.uint8))
    return image.convert("RGB")


def load_image(path: str | Path, size: int) -> np.ndarray:
    """Reads one X-ray as the encoder sees it.

    Args:
        path: An image file; see `load_rgb` for what is accepted.
        size: Side of the square result in pixels.

    Returns:
        float32 (3, size, size): bicubic resize on 8 bits, divided by 255, ImageNet-normalised.

    Raises:
        InputError: See `load_rgb`.
    """
    picture = load_rgb(path).resize((size, size), Image.Resampling.BICUBIC)
    values = np.asarray(picture, dtype=np.float32) / 255.0  # (size, size, 3)
    return np.ascontiguousarray(((values - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1))


def load_mask(path: str | Path, size: int | None = None) -> np.ndarray:
    """Reads a finding's mask: bool (height, width), or (size, size) by nearest neighbour.

    Raises:
        InputError: See `load_rgb`.
    """
    mask = load_rgb(path).convert("L")
    if size is not None:
        mask = mask.resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(mask) > 127
