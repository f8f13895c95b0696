"""Reads the R2Gen layout (`annotation.json` beside `images/`) and turns image files into arrays.

One reader serves PhantomCXR, IU X-ray and MIMIC-CXR: the phantom only adds `labels`, `truth` and
`findings` to each entry. Image preprocessing follows the released code (NOTES G): straight bicubic
resize of the 8-bit RGB picture without crop, then ImageNet mean and standard deviation.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from emrrg_lib.data.study import VIEWS, Problem, Study
from emrrg_lib.files import InputError

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
MAX_PIXELS = 100_000_000  # a larger picture is no radiograph but a mistake or an attack
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
_BAD_FILE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error)


# ---------------------------------------------------------------------------------- annotations


def load_annotation(
    source: str | Path,
    split: str | None = None,
    check_images: bool = True,
    problems: list[Problem] | None = None,
) -> list[Study]:
    """Reads an R2Gen annotation into studies, in file order.

    Besides id, report and image_path an entry may hold `views` (one of `VIEWS` per image), `patient`
    or `subject_id`, and the phantom's labels, truth and findings.

    Args:
        source: A data folder (holding `annotation.json` and `images/`) or the JSON file itself;
            images and `masks/` are looked for beside the file, see `image_folder`.
        split: One of the file's splits ("train", "val", "test"), or None for all of them.
        check_images: Whether every image file must exist; False for work on reports alone.
        problems: Where to note entries that cannot be used; None refuses the whole file.

    Raises:
        InputError: The file is missing, not JSON, of another shape or empty; and without `problems`,
            naming the entry: a wrong entry, an id that stands twice, a missing image or a path that
            leaves the data folder.
    """
    path = Path(source) / "annotation.json" if Path(source).is_dir() else Path(source)
    splits = _read_splits(path)
    if split is not None and split not in splits:
        raise InputError(f"{path} has no split {split!r}: choose one of {', '.join(splits)}")
    images = image_folder(path.parent, splits)
    studies, seen, found = [], {}, []
    for name, entries in splits.items():
        for position, entry in enumerate(entries):
            where = f"{path}, {name}[{position}]"
            try:
                study = _study(entry, name, path.parent, images, where)
            except InputError as error:
                kind = "blank report" if "'report'" in str(error) else "wrong entry"
                found.append(Problem(kind, f"{name}[{position}]", str(error)))
                continue
            if study.id in seen:
                told = f"{where}: id {study.id!r} stands already at {seen[study.id]}"
                found.append(Problem("duplicate id", study.id, told))
                continue
            seen[study.id] = f"{name}[{position}]"
            if split in (None, name):
                studies.append(study)
    report_problems(found, problems)
    if not studies and problems is None:
        raise InputError(f"{path} holds no study in split {split or 'train, val, test'!r}")
    if check_images:
        _require_images(studies, path)
    return studies


def report_problems(found: list[Problem], problems: list[Problem] | None) -> None:
    """Hands what was found to `problems`; without one, raises InputError for the first unusable item."""
    if problems is not None:
        problems.extend(found)
    elif unusable := [problem for problem in found if problem.unusable]:
        more = f" ({len(unusable) - 1} more: see `emrrg data check`)" if len(unusable) > 1 else ""
        raise InputError(unusable[0].message + more)


def image_folder(folder: Path, splits: dict[str, list]) -> Path:
    """Where an annotation's images lie: the first usual folder that holds its first image.

    R2Gen's is `images`; MIMIC-CXR-JPG's own is `files`, CheXpert Plus comes as `PNG`.
    """
    entry = next(entry for entries in splits.values() for entry in entries)
    names = entry.get("image_path") if isinstance(entry, dict) else None
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    usual = [folder / sub for sub in ("images", "files", "PNG", "PNGs", "PNG/PNG", ".")]
    return next((place for place in usual if name and (place / name).is_file()), folder / "images")


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
            f'{path} is not an R2Gen annotation: expected {{"train": [...], "val": [...], "test": [...]}}'
        )
    if not any(value.values()):
        raise InputError(f"{path} is empty: it lists no study in any split")
    return value


def _study(entry: Any, split: str, folder: Path, images: Path, where: str) -> Study:
    """One entry of the annotation as a `Study`; InputError names `where` it is wrong."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected an object with id, report and image_path")
    name, report, names = entry.get("id"), entry.get("report"), entry.get("image_path")
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        raise InputError(f"{where}: 'id' must be a text or a number, found {name!r}")
    if not isinstance(report, str) or not report.strip():
        raise InputError(f"{where} (id {name}): 'report' must be a text that is not empty")
    if not isinstance(names, list) or not names:
        raise InputError(f"{where} (id {name}): 'image_path' must list at least one image")
    for key, kind in (("labels", dict), ("truth", dict), ("findings", list), ("views", list)):
        if not isinstance(entry.get(key), kind | None):
            raise InputError(f"{where} (id {name}): {key!r} must be a JSON {kind.__name__}")
    views, findings = entry.get("views"), entry.get("findings")
    if views is not None and (len(views) != len(names) or not set(views) <= set(VIEWS)):
        raise InputError(f"{where} (id {name}): 'views' must give one of {', '.join(VIEWS)} per image")
    patient = entry.get("patient", entry.get("subject_id"))
    return Study(
        id=str(name),
        images=tuple(inside(images, image, where) for image in names),
        report=report,
        split=split,
        labels=entry.get("labels"),
        truth=entry.get("truth"),
        findings=None if findings is None else tuple(_finding(f, folder, where) for f in findings),
        views=None if views is None else tuple(views),
        patient=None if patient is None else str(patient),
    )


def _finding(finding: Any, folder: Path, where: str) -> dict:
    """A phantom finding with its mask names resolved to paths (None where a view shows nothing)."""
    if not isinstance(finding, dict) or not isinstance(finding.get("masks", []), list):
        raise InputError(f"{where}: every finding must be an object whose 'masks' is a list")
    masks = [mask and inside(folder, mask, where) for mask in finding.get("masks", [])]
    return {**finding, "masks": masks}


# absolute, a drive, climbing, or a NUL; a pattern, because pathlib takes 9 s for MIMIC-CXR's 270,000 names
_LEAVES = re.compile(r"[/\\]|[A-Za-z]:|(?:.*[/\\])?\.\.(?:[/\\]|$)|.*\0", re.S)


def inside(folder: Path, name: Any, where: str) -> Path:
    """`folder/name`, refused when `name` is absolute or climbs out of the folder."""
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: an image path must be a text, found {name!r}")
    if _LEAVES.match(name):
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


def load_picture(path: str | Path) -> Image.Image:
    """Opens an image file as an 8-bit picture of its own size: mode "L" if its file is grey, else "RGB".

    Palette, CMYK, 1-bit and transparent files are converted (transparency is dropped); in files of
    more than 8 bits the range present, lowest to highest value, is scaled to 0..255 (12 bits stored
    in 16 would be nearly black otherwise; upstream's cast wraps around, NOTES E35); the orientation
    tag of a camera is obeyed.

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
                return _to_8_bits(ImageOps.exif_transpose(image), path)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{path} is too large: more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{path} is not an image this kit reads ({', '.join(FORMATS)}); convert DICOM to PNG first"
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


def _to_8_bits(image: Image.Image, path: Path) -> Image.Image:
    """Mode "L" or "RGB" of any still picture; integer files wider than 8 bits are scaled."""
    if image.mode == "F":
        raise InputError(f"{path} holds floating-point values; save it with 8 or 16 bits a pixel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        low, high = values.min(), values.max()
        if low < 0 or high > 65535:
            raise InputError(f"{path} has values outside 0..65535; save it with 8 or 16 bits")
        return Image.fromarray(np.round((values - low) * (255.0 / max(high - low, 1))).astype(np.uint8))
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def load_rgb(path: str | Path) -> Image.Image:
    """`load_picture` in mode "RGB", grey repeated over the channels."""
    return load_picture(path).convert("RGB")


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
