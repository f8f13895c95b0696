"""One phantom study from (seed, index), and whole data sets in the R2Gen layout."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from emrrg_lib.data.study import OBSERVATIONS, SHARES, SPLITS
from emrrg_lib.files import InputError, atomic_path, close_name, end_with_parent, write_json
from emrrg_lib.phantom.anatomy import build
from emrrg_lib.phantom.catalogue import KINDS, draw_findings, draw_one
from emrrg_lib.phantom.film import expose, project
from emrrg_lib.phantom.shapes import draw_habitus, views
from emrrg_lib.phantom.shifts import SHIFTS, shifted_arrays
from emrrg_lib.phantom.wording import compose

VERSION = 1
MIN_SIZE, MAX_SIZE = 16, 4096  # pixels a side


@dataclass(frozen=True)
class PhantomStudy:
    """One drawn study.

    Attributes:
        images: uint8 (2, size, size): PA, lateral.
        report: Text in natural case.
        labels: Observation -> 1 / 0 / -1 / None, as worded.
        truth: Observation -> 1 / 0, as drawn.
        findings: Dicts with kind, label, side, place, severity, uncertain and masks, bool
            (2, size, size).
    """

    images: np.ndarray
    report: str
    labels: dict[str, int | None]
    truth: dict[str, int]
    findings: tuple[dict, ...]


def stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    """The random numbers of one purpose for study (seed, index)."""
    return np.random.default_rng(np.random.SeedSequence([seed, index, purpose]))


def truth_of(findings) -> dict[str, int]:
    """Observation -> 1 / 0; No Finding is 1 when nothing but devices is in the image."""
    drawn = {f["label"] for f in findings}
    truth = {name: int(name in drawn) for name in OBSERVATIONS}
    truth["No Finding"] = int(all(f["kind"] == "device" for f in findings))
    return truth


def render(seed: int, index: int, findings, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Films patient (seed, index) with the given findings.

    Patient, vessels, noise and every kind of finding have random streams of their own, so
    leaving one finding out changes nothing else: the difference of two films is the finding,
    and what the automatic exposure makes of it.

    Returns:
        uint8 (2, size, size) and one bool mask (2, size, size) a finding.
    """
    habitus = draw_habitus(stream(seed, index, 2))
    lots = [stream(seed, index, 10 + list(KINDS).index(f["kind"])) for f in findings]
    for f, rng in zip(findings, lots, strict=True):
        if KINDS[f["kind"]].prepare:
            KINDS[f["kind"]].prepare(habitus, f, rng)
    scene = build(habitus, stream(seed, index, 3))
    for tag, (f, rng) in enumerate(zip(findings, lots, strict=True)):
        if KINDS[f["kind"]].add:
            KINDS[f["kind"]].add(scene, habitus, f, rng, tag)
    noise = stream(seed, index, 4)
    images, lengths = [], []
    for view in views(habitus):
        integral, own = project(scene, view, size, len(findings))
        images.append(expose(integral, noise, view.extent[1] / size))
        lengths.append(own)
    limits = [KINDS[f["kind"]].threshold for f in findings]
    masks = [np.stack([own[k] > limit for own in lengths]) for k, limit in enumerate(limits)]
    return np.stack(images), masks


def draw_study(seed: int, index: int, size: int = 96) -> PhantomStudy:
    """Draws study `index` of the data set `seed`.

    Findings, text and anatomy depend on (seed, index) only and are sampled at `size` pixels a
    side; the noise, and with it the lateral film's exposure, are drawn anew for every size.

    Raises:
        ValueError: for a negative seed or index.
    """
    findings = draw_findings(stream(seed, index, 0))
    report, labels = compose(findings, stream(seed, index, 1))
    images, masks = render(seed, index, findings, size)
    findings = tuple({**f, "masks": mask} for f, mask in zip(findings, masks, strict=True))
    return PhantomStudy(images, report, labels, truth_of(findings), findings)


def shifted(study: PhantomStudy, shift: str, index: int) -> PhantomStudy:
    """The study under one of `shifts.SHIFTS`; report, labels and truth stay, masks move with the images."""
    masks = [finding["masks"] for finding in study.findings]
    images, masks = shifted_arrays(study.images, masks, shift, index)
    findings = tuple({**f, "masks": mask} for f, mask in zip(study.findings, masks, strict=True))
    return replace(study, images=images, findings=findings)


def film_findings(
    seed: int, index: int, wanted: list[tuple[str, dict]], size: int
) -> tuple[np.ndarray, list[dict]]:
    """Films patient (seed, index) with given findings, such as those that a real report names.

    Args:
        seed, index: The patient; the same pair gives the same films.
        wanted: (kind, {side, place, severity}); what a dict leaves out is drawn.
        size: Pixels per side.

    Returns:
        uint8 (2, size, size), PA and lateral, and the findings as drawn.
    """
    rng = stream(seed, index, 0)
    findings = [draw_one(rng, kind, **given) for kind, given in wanted]
    return render(seed, index, findings, size)[0], findings


def _write_study(index: int, root: Path, seed: int, size: int, shift: str | None) -> dict:
    study = draw_study(seed, index, size)
    if shift:
        study = shifted(study, shift, index)
    name = f"phantom_{seed}_{index:06d}"
    (root / "images" / name).mkdir(parents=True)
    for view, image in enumerate(study.images):
        Image.fromarray(image).save(root / "images" / name / f"{view}.png")
    findings = []
    for k, f in enumerate(study.findings):
        paths: list[str | None] = []
        for view, mask in enumerate(f["masks"]):
            path = f"masks/{name}/{k}_{view}.png" if mask.any() else None
            if path:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / path)
            paths.append(path)
        findings.append({**f, "masks": paths})
    return {
        "id": name,
        "report": study.report,
        "image_path": [f"{name}/{view}.png" for view in range(len(study.images))],
        "labels": study.labels,
        "truth": study.truth,
        "findings": findings,
    }


def require_size(size: int) -> None:
    """Raises InputError for a film of so many pixels a side that it cannot be drawn."""
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(
            f"Phantom images have {MIN_SIZE} to {MAX_SIZE} pixels a side, not {size}: a film is drawn whole "
            "in memory."
        )


def _require_sound(out: Path, studies: int, seed: int, size: int, splits, shift: str | None) -> None:
    if studies < 1:
        raise InputError(f"A phantom data set needs at least 1 study, not {studies}.")
    require_size(size)
    if seed < 0:
        raise InputError(f"The seed must not be negative, but is {seed}.")
    if len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1) > 1e-6:
        raise InputError(f"The three split fractions must sum to 1, but are {tuple(splits)}.")
    if shift is not None and shift not in SHIFTS:
        raise InputError(f"unknown shift '{shift}': {close_name(shift, SHIFTS)}there are {', '.join(SHIFTS)}")
    if out.exists() and not (out / "phantom.json").is_file():
        if not out.is_dir() or any(out.iterdir()):
            raise InputError(f"{out} exists and is not a phantom data set; choose another folder.")


def _draw_all(
    folder: Path, studies: int, seed: int, size: int, workers: int, shift: str | None
) -> list[dict]:
    draw = partial(_write_study, root=folder, seed=seed, size=size, shift=shift)
    bar = partial(tqdm, total=studies, desc="drawing phantoms", unit="study")
    if workers <= 1:
        return list(bar(map(draw, range(studies))))
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        try:
            return list(bar(pool.map(draw, range(studies), chunksize=8)))
        finally:
            pool.shutdown(cancel_futures=True)


def write_phantom(
    out: Path,
    studies: int,
    seed: int,
    size: int = 96,
    workers: int = 2,
    splits: tuple[float, float, float] = SHARES,
    shift: str | None = None,
) -> Path:
    """Writes a data set in the R2Gen layout, whole or not at all.

    Args:
        out: Folder to create, or an earlier phantom data set to replace: annotation.json,
            images/, masks/, phantom.json.
        studies: Number of studies; the first go to train, then val, then test.
        seed: Data sets of different seeds share no study.
        size: Pixels per side.
        workers: Processes; the result does not depend on it.
        splits: Fractions of train, val and test; they must sum to 1.
        shift: One of `shifts.SHIFTS`, for all images.

    Returns:
        `out`.

    Raises:
        InputError: for counts or fractions that make no data set, and for a folder that
            holds something else.
        OSError: when the folder cannot be written.
    """
    out = Path(out)
    _require_sound(out, studies, seed, size, splits, shift)
    with atomic_path(out) as folder:
        folder.mkdir(parents=True)
        entries = _draw_all(folder, studies, seed, size, workers, shift)
        ends = np.rint(np.cumsum(splits) * studies).astype(int)
        starts = [0, *ends[:-1]]
        annotation = {name: entries[a:b] for name, a, b in zip(SPLITS, starts, ends, strict=True)}
        record = {"seed": seed, "size": size, "studies": studies, "version": VERSION}
        record |= {"shift": shift} if shift else {}
        write_json(folder / "annotation.json", annotation)
        write_json(folder / "phantom.json", record)
    return out
