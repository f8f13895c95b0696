"""Reads the R2Gen layout: `annotation.json` beside `images/`.

One reader serves PhantomCXR, IU X-ray and MIMIC-CXR. The phantom only adds `labels`, `truth` and
`findings` to each entry.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emrrg_lib.data.study import SPLITS, VIEWS, Problem, Study, is_blank, listed
from emrrg_lib.files import InputError


def load_annotation(
    source: str | Path,
    split: str | None = None,
    check_images: bool = True,
    problems: list[Problem] | None = None,
    whole: bool = False,
) -> list[Study]:
    """Reads an R2Gen annotation into studies, in file order.

    An entry may also hold `views` (one of `VIEWS` per image), `patient` or `subject_id`, and the phantom's
    labels, truth and findings.

    Args:
        source: A data folder or its JSON file; images and masks lie beside the file, see `image_folder`.
        split: One of the file's splits ("train", "val", "test"), or None for all of them.
        check_images: Whether every image file must exist; False for work on reports alone.
        problems: Where to note entries that cannot be used; None refuses the whole file.
        whole: Whether train, val and test must all be there.

    Raises:
        InputError: The file is missing, not JSON, of another shape or empty. Without `problems` also for
            a wrong entry, id, image or split.
    """
    path = Path(source) / "annotation.json" if Path(source).is_dir() else Path(source)
    splits = _read_splits(path)
    if split is not None and split not in splits:
        raise InputError(f"{path} has no split {split!r}: choose one of {', '.join(splits)}")
    images = image_folder(path.parent, splits)
    studies, seen, found = [], {}, list(_wrong_splits(path, splits, whole))
    for name in SPLITS:
        for position, entry in enumerate(splits.get(name, [])):
            where = f"{path}, {name}[{position}]"
            try:
                study = _study(entry, name, path.parent, images, where)
            except InputError as error:
                kind = "blank report" if "'report'" in str(error) else "wrong entry"
                found.append(Problem(kind, f"{name}[{position}]", str(error)))
                continue
            first = seen.setdefault(study.id, f"{name}[{position}]")
            if first != f"{name}[{position}]":
                message = f"{where}: id {study.id!r} is already the id of {first}"
                found.append(Problem("duplicate id", study.id, message))
            elif split in (None, name):
                studies.append(study)
    report_problems(found, problems)
    if not studies and problems is None:
        raise InputError(f"{path} holds no study in split {split or 'train, val, test'!r}")
    if check_images:
        _require_images(studies, path)
    return studies


def report_problems(found: list[Problem], problems: list[Problem] | None) -> None:
    """Adds what was found to `problems`; if that is None, raises InputError for the first unusable item."""
    if problems is not None:
        problems.extend(found)
    elif unusable := [problem for problem in found if problem.unusable]:
        more = f" ({len(unusable) - 1} more: see `emrrg data check`)" if len(unusable) > 1 else ""
        raise InputError(unusable[0].message + more)


def image_folder(folder: Path, splits: dict[str, list]) -> Path:
    """The folder of an annotation's images: the first usual one that holds its first image.

    R2Gen has `images`, MIMIC-CXR-JPG `files`, CheXpert Plus `PNG`.
    """
    entry = next(entry for entries in splits.values() for entry in entries)
    names = entry.get("image_path") if isinstance(entry, dict) else None
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    usual = [folder / sub for sub in ("images", "files", "PNG", "PNGs", "PNG/PNG", ".")]
    name = name.replace("\\", "/")
    return next((place for place in usual if name and (place / name).is_file()), folder / "images")


def _read_splits(path: Path) -> dict[str, list]:
    """Returns {split: entries} of an annotation file whose outer shape is right."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
    except FileNotFoundError:
        raise InputError(
            f"no annotation at {path}: give a folder in the R2Gen layout (annotation.json +"
            " images/); `emrrg data phantom` writes one"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # not JSON, not UTF-8, or a key twice
        raise InputError(f"{path} is not a JSON file: {error}; mend it or fetch it again") from error
    except RecursionError:
        raise InputError(f"{path} is not an R2Gen annotation: its lists are nested too deeply") from None
    expected = 'expected {"train": [...], "val": [...], "test": [...]}'
    if not isinstance(value, dict):
        raise InputError(f"{path} is not an R2Gen annotation: {expected}")
    if wrong := [repr(name) for name, entries in value.items() if not isinstance(entries, list)]:
        raise InputError(f"{path} is not an R2Gen annotation: {listed(wrong)} holds no list; {expected}")
    if not any(value.values()):
        raise InputError(f"{path} is empty: it lists no study in any split")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError if one of its keys is there twice: Python would take the last in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [repr(key) for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        raise ValueError(f"one object has the key {listed(twice)} more than once")
    return found


def _wrong_splits(path: Path, splits: dict[str, list], whole: bool) -> Iterator[Problem]:
    """The splits that nobody would read, and where all are asked for the missing ones."""
    for name in (name for name in splits if name not in SPLITS):
        message = (
            f"{path} has a split {name!r} of {len(splits[name])} studies: rename it to train, val or test"
        )
        yield Problem("unknown split", repr(name), message)
    for name in SPLITS:
        if whole and name not in splits:
            yield Problem("missing split", name, f'{path} has no split {name!r}: add it, or "{name}": []')


def _require_characters(entry: Any, where: str) -> None:
    """Raises InputError for half of a surrogate pair, which no file and no screen can hold."""
    try:
        json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InputError(f"{where}: holds {half!r}, which is only half a character; write it anew") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply; an entry is a flat object") from None


def _study(entry: Any, split: str, folder: Path, images: Path, where: str) -> Study:
    """One entry of the annotation as a `Study`; InputError names `where` it is wrong."""
    _require_characters(entry, where)
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected an object with id, report and image_path")
    name, report, names = entry.get("id"), entry.get("report"), entry.get("image_path")
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        raise InputError(f"{where}: 'id' must be a text or a whole number, found {name!r:.60}")
    if not isinstance(report, str) or is_blank(report):
        raise InputError(f"{where} (id {name}): 'report' must be a text that is not empty")
    if not isinstance(names, list) or not names:
        raise InputError(f"{where} (id {name}): 'image_path' must list at least one image")
    for key, kind in (("labels", dict), ("truth", dict), ("findings", list), ("views", list)):
        if not isinstance(entry.get(key), kind | None):
            raise InputError(f"{where} (id {name}): {key!r} must be a JSON {kind.__name__}")
    views, findings = entry.get("views"), entry.get("findings")
    if views is not None and (len(views) != len(names) or not all(view in VIEWS for view in views)):
        raise InputError(f"{where} (id {name}): 'views' must give one of {', '.join(VIEWS)} per image")
    for key in ("labels", "truth"):
        if not all(mark in (None, 1, 0, -1) for mark in (entry.get(key) or {}).values()):
            raise InputError(f"{where} (id {name}): {key!r} must give 1, 0, -1 or null for an observation")
    patient = entry.get("patient", entry.get("subject_id"))
    if not isinstance(patient, str | int | float | None):
        raise InputError(f"{where} (id {name}): 'patient' must be a text or a number")
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
    masks = [None if mask is None else inside(folder, mask, where) for mask in finding.get("masks", [])]
    return {**finding, "masks": masks}


# absolute, a drive, climbing, or a NUL; a pattern, because pathlib takes 9 s for MIMIC-CXR's 270,000 names
_LEAVES = re.compile(r"[/\\]|[A-Za-z]:|(?:.*[/\\])?\.\.(?:[/\\]|$)|.*\0", re.S)


def inside(folder: Path, name: Any, where: str) -> Path:
    """`folder/name`, also as Windows writes it; refused when it is absolute or climbs out of the folder."""
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: an image path must be a text, found {name!r:.60}")
    if _LEAVES.match(name):
        raise InputError(f"{where}: the path {name!r} leaves the data folder; make it relative")
    return folder / name.replace("\\", "/")


def _require_images(studies: list[Study], path: Path) -> None:
    """Raises InputError naming the first image that does not exist, and how many do not."""
    missing = [(s.id, image) for s in studies for image in s.images if not image.is_file()]
    if missing:
        name, image = missing[0]
        raise InputError(
            f"{path}: {len(missing)} image(s) missing, first {image} of study {name}: put the"
            f" images into {path.parent / 'images'}"
        )
