"""From image files to tensors: read, resized to bytes, kept on disk, normalised for the encoder.

Preprocessing follows the released code (NOTES G): one straight bicubic resize of the 8-bit picture without
crop, then ImageNet mean and standard deviation.

Decoded images are kept: the pictures of a data set are read and resized once, later runs map them in. A
shard is one `.npy` file of up to `SHARD` resized images, uint8 (n, size, size, 1), or 3 channels if one of
its pictures is in colour. Its name is a hash of the size and of each file's path, inode, length and times
of change, so a changed file makes a new shard. It ends with the SHA-256 of its name, its header (count and
size) and its pixels, which every opening verifies: a damaged or exchanged shard is named and decoded anew.
A shard gets its name when it is complete: nothing half-written is ever read, and a job that was stopped goes
on after the last whole shard.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from emrrg_lib.data.dicom import is_dicom, read_dicom
from emrrg_lib.data.study import VIEWS, Study, in_parallel
from emrrg_lib.files import InputError, atomic_path, cache_folder

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
MAX_PIXELS = 100_000_000  # a larger picture is a mistake or an attack
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
SHARD = 2048  # images; 75 MB of grey at 192 px
_KEPT_DAYS = 30  # a shard that no run has used for so long is removed; an unfinished one after a day
_DIGEST = hashlib.sha256().digest_size
_BAD_FILE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error)
_log = logging.getLogger(__name__)


def load_picture(path: str | Path) -> Image.Image:
    """Opens an image file as an 8-bit picture, not resized: mode "L" if its file is grey, else "RGB".

    Palette, CMYK, 1-bit and transparent files are converted (transparency is dropped). Files of more than
    8 bits are scaled: the ends of their `grey_range` become 0 and 255 (12 bits stored in 16 would be nearly
    black otherwise; upstream's cast wraps around, NOTES E35). The orientation tag of a camera is obeyed.

    Raises:
        InputError: Missing, corrupt, not an image, animated, or above `MAX_PIXELS`; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no image file at {path}: check the path")
    if is_dicom(path):
        return _scaled(read_dicom(path))
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
        known = ", ".join(FORMATS)
        raise InputError(
            f"{path} is not an image this kit reads ({known}); convert it to PNG first"
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
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{path} has values outside 0..65535; save it with 8 or 16 bits")
        return _scaled(values)
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def _scaled(values: np.ndarray) -> Image.Image:
    """Whole numbers (H, W) → mode "L": the ends of their `grey_range` become 0 and 255."""
    low, high = grey_range(values)
    scaled = np.round((values - low) * (255.0 / max(high - low, 1)))
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))


def grey_range(values: np.ndarray) -> tuple[int, int]:
    """The lowest and the highest value of a picture without its outliers, such as hot pixels or a marker.

    The 2nd and the 98th percentile span a range; an outlier lies farther beyond it than the range is wide.
    One such pixel would make the rest black. A picture without outliers keeps its whole range.
    """
    first, last = np.percentile(values, (2, 98))
    reach = last - first or np.inf
    kept = values[(values >= first - reach) & (values <= last + reach)]
    return int(kept.min()), int(kept.max())


def load_mask(path: str | Path, size: int | None = None) -> np.ndarray:
    """Reads a finding's mask: bool (height, width), or (size, size) by nearest neighbour.

    Raises:
        InputError: See `load_picture`.
    """
    mask = load_picture(path).convert("L")
    if size is not None:
        mask = mask.resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(mask) > 127


# --------------------------------------------------------------------------------------- planes


def read_planes(path: str | Path, size: int) -> np.ndarray:
    """One image file as uint8 (size, size, 1), or (size, size, 3) if it is in colour; bicubic resize.

    Grey is resized once instead of three times: upstream resizes the three channels of an RGB picture one
    by one, and they would be equal.
    """
    values = np.asarray(load_picture(path).resize((size, size), Image.Resampling.BICUBIC))
    if values.ndim == 2:
        return values[..., None]
    return values[..., :1] if (values == values[..., :1]).all() else values


def colour(planes: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 1 or 3) → a copy of (H, W, 3)."""
    return np.repeat(np.asarray(planes), 3 // planes.shape[-1], axis=-1)


def read_view(path: str | Path, size: int) -> np.ndarray:
    """One image file as uint8 (size, size, 3), see `read_planes`."""
    return colour(read_planes(path, size))


# ---------------------------------------------------------------------------------------- cache


def open_views(paths: Sequence[Path], size: int, shard: int = SHARD) -> list[np.ndarray]:
    """The images as shards of `shard` each, in order; read from the cache, or decoded into it.

    Raises:
        InputError: An image is missing or damaged; the file is named.
    """
    folder = cache_folder("images")
    with tqdm(total=len(paths), desc="reading images", unit="image") as bar:
        starts = range(0, len(paths), shard)
        return [_open_shard(paths[start : start + shard], size, folder, bar) for start in starts]


def _open_shard(paths: Sequence[Path], size: int, folder: Path, bar: tqdm) -> np.ndarray:
    file = folder / f"{_key(paths, size)}.npy"
    try:
        content = np.memmap(file, mode="r")
        if content[-_DIGEST:].tobytes() != _digest(file, content[:-_DIGEST]):
            raise ValueError("its checksum is wrong")
        views = np.load(file, mmap_mode="r")
        os.utime(file)
        bar.update(len(paths))
        return views
    except (ValueError, EOFError) as error:
        what = "%s does not hold the decoded images that were kept there (%s): they are decoded anew"
        _log.warning(what, file, error)
    except OSError:  # not there
        pass
    views = _decode(paths, size, bar)
    try:
        with atomic_path(file) as temporary, temporary.open("wb+") as stream:
            np.save(stream, views)
            stream.flush()
            stream.write(_digest(file, np.memmap(temporary, mode="r")))
        for other in folder.iterdir():
            kept = _KEPT_DAYS if other.suffix == ".npy" else 1
            if time.time() - other.stat().st_mtime > kept * 86_400:
                other.unlink(missing_ok=True)
        return np.load(file, mmap_mode="r")
    except OSError as error:
        why = error.strerror or error
        advice = "they stay in memory; EMRRG_CACHE names another folder"
        _log.warning("cannot keep decoded images in %s (%s): %s", folder, why, advice)
        return views


def _digest(file: Path, content: np.ndarray) -> bytes:
    """SHA-256 of a shard's name and content, so that no shard passes for another one."""
    digest = hashlib.sha256(file.stem.encode())
    digest.update(content)
    return digest.digest()


def _decode(paths: Sequence[Path], size: int, bar: tqdm) -> np.ndarray:
    views = []
    for planes in in_parallel(lambda path: read_planes(path, size), paths):
        views.append(planes)
        bar.update()
    channels = max(planes.shape[-1] for planes in views)
    return np.stack([np.repeat(planes, channels // planes.shape[-1], axis=-1) for planes in views])


def _key(paths: Sequence[Path], size: int) -> str:
    digest = hashlib.sha256(f"2 {size}".encode())  # 2: version of the decoding
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            raise InputError(f"no image file at {path}: check the path") from None
        times = f"{state.st_mtime_ns} {state.st_ctime_ns}"
        text = f"\n{os.path.abspath(path)} {state.st_size} {times} {state.st_ino}"
        digest.update(text.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


# ------------------------------------------------------------------------------ studies, tensors


def chosen_views(study: Study, max_views: int | None) -> list[Path]:
    """The images of a study that are used: frontal first, then lateral; at most `max_views`.

    Where the source does not say which view an image is, the images keep the order of the file.
    """
    views = study.views or [VIEWS[0]] * len(study.images)
    order = sorted(range(len(study.images)), key=lambda i: VIEWS.index(views[i]))
    return [study.images[i] for i in order[:max_views]]


class ImageBank:
    """Every view of every study as uint8 (H, W, 3), decoded once and kept on disk.

    Args:
        studies: The studies, in order.
        size: Pixels; images are resized to (size, size) as in `read_view`.
        max_views: At most this many views of a study are kept (`chosen_views`); None keeps all.
    """

    def __init__(self, studies: Sequence[Study], size: int, max_views: int | None = 2) -> None:
        chosen = [chosen_views(study, max_views) for study in studies]
        self.starts = np.cumsum([0] + [len(paths) for paths in chosen])
        self.shards = open_views([path for paths in chosen for path in paths], size)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> list[np.ndarray]:
        places = range(self.starts[index], self.starts[index + 1])
        return [colour(self.shards[i // SHARD][i % SHARD]) for i in places]


def normalise(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 images (H, W, 3) → (I, 3, H, W) float32 with ImageNet mean and deviation."""
    import torch  # imported late: preparing and checking data need only the pictures

    views, levels = np.stack(images), np.arange(256, dtype=np.float32)[:, None] / 255.0
    table = (levels - IMAGENET_MEAN) / IMAGENET_STD
    out = np.empty((len(views), 3, *views.shape[1:3]), np.float32)
    for channel in range(3):  # each value once, then looked up: less than half the time
        np.take(table[:, channel], views[..., channel], out=out[:, channel], mode="clip")
    return torch.from_numpy(out)


def jitter(
    images: Sequence[np.ndarray], rng: np.random.Generator, shift: int = 4, tone: float = 0.1
) -> list[np.ndarray]:
    """Shifts each image by up to `shift` pixels (edges repeated) and changes its contrast a little.

    Images are never mirrored: left and right are words of the report.
    """
    out = []
    for image in images:
        (dy, dx), (height, width) = rng.integers(0, 2 * shift + 1, size=2), image.shape[:2]
        padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
        gain, offset = 1 + rng.uniform(-tone, tone), 255 * rng.uniform(-tone, tone) / 2
        moved = padded[dy : dy + height, dx : dx + width].astype(np.float32) * gain + offset
        out.append(moved.clip(0, 255).astype(np.uint8))
    return out
