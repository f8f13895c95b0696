"""Builds the R2Gen layout of IU X-ray (annotation.json + images/<id>/0.png, 1.png) from a download.

R2Gen's k-th image is taken to be the k-th of the study's Open-i names in sorted order; nobody has
published the pairing, so this is an assumption. A manifest lists which files the folder holds, their
SHA-256 and what each was made from, so that work can stop and go on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image
from pooch import file_hash
from tqdm import tqdm

from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.data.archives import escapes, is_archive, require_space, unpacked
from emrrg_lib.data.images import load_picture
from emrrg_lib.data.iu_xray import ARCHIVE, REPORTS, picture_files, picture_key, read_kaggle, read_openi
from emrrg_lib.data.study import SPLITS, Problem, Study, counts, in_parallel, split_by_patient
from emrrg_lib.files import InputError, atomic_path, write_json

_PNG = b"\x89PNG\r\n\x1a\n"
_UNPACKED = ".unpacked"  # the archives' contents while images are made; inside the folder if that exists


class Manifest:
    """The files of a folder in the making: `manifest.json`, and until `finish` a journal beside it.

    Args:
        folder: New, empty, or begun earlier with the same settings.
        settings: What decides the files' contents: command, size, seed, inputs.

    Raises:
        InputError: The folder holds something else, or was begun with other settings.
    """

    def __init__(self, folder: str | Path, settings: dict):
        self.folder, self.settings = Path(folder), settings
        self.path, self.journal = self.folder / "manifest.json", self.folder / "manifest.jsonl"
        self.files: dict[str, dict] = {}
        if self.path.is_file():
            self._take_up()
        elif self.folder.exists() and {path.name for path in self.folder.iterdir()} - {_UNPACKED}:
            raise InputError(f"{folder} holds something else: choose a new or an empty folder")
        self._write(complete=False)

    def _take_up(self) -> None:
        """Reads what an earlier call has made; a line that a kill has cut off is ignored."""
        try:
            old = json.loads(self.path.read_text(encoding="utf-8"))
            settings, self.files = dict(old["settings"]), dict(old["files"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.path} is damaged: remove the folder and begin again") from error
        other = {key for key in {*settings, *self.settings} if settings.get(key) != self.settings.get(key)}
        if other:
            raise InputError(
                f"{self.folder} was begun with another {', '.join(sorted(other))}: give the same"
                " again, or choose another folder"
            )
        if self.journal.is_file():
            for line in self.journal.read_text(encoding="utf-8").splitlines():
                try:
                    self.files.update(json.loads(line))
                except ValueError:
                    break

    def _write(self, **more) -> None:
        write_json(self.path, {"settings": self.settings, **more, "files": dict(sorted(self.files.items()))})
        self.journal.unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Whether the file is there, byte for byte as it was written; else it is forgotten."""
        entry, path = self.files.get(name), self.folder / name
        same = entry is not None and path.is_file() and file_hash(path) == entry["sha256"]
        if not same:
            self.files.pop(name, None)
        return same

    def add(self, name: str, entry: dict) -> None:
        """Notes a file that was written; `entry` comes from `file_record`."""
        self.files[name] = entry
        with open(self.journal, "a", encoding="utf-8") as file:
            file.write(json.dumps({name: entry}) + "\n")

    def finish(self, **more) -> None:
        """Writes `manifest.json` with all files, and `more` about them."""
        self._write(complete=True, **more)


def file_record(path: str | Path, source: str | None = None) -> dict:
    """{"sha256", "bytes"} of a file, and the name of the file it was made from where there is one."""
    entry = {"sha256": file_hash(path), "bytes": Path(path).stat().st_size}
    return entry if source is None else {**entry, "source": source}


@dataclass
class Prepared:
    """The result of `prepare_iu_xray`.

    Attributes:
        studies: The studies whose images are all there, as `annotation.json` lists them.
        missing: Study -> why it is left out: its missing or damaged images, or no findings.
    """

    studies: list[Study]
    missing: dict[str, list[str]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """Counts, and the first studies left out by name."""
        lines = [f"{len(self.studies)} studies, train/val/test {'/'.join(map(str, counts(self.studies)))}"]
        if self.missing:
            lines.append(f"{len(self.missing)} studies left out, all of them named in manifest.json:")
            lines += [f"  {name}: {'; '.join(why)}" for name, why in list(self.missing.items())[:10]]
        return "\n".join(lines)


def prepare_iu_xray(
    source: str | Path,
    folder: str | Path,
    annotation: str | Path | None = None,
    size: int | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> Prepared:
    """Builds the R2Gen layout in `folder`; called again, it makes only the files that are missing.

    Args:
        source: Folder with Open-i's archives or their contents, or with Kaggle's CSV files and images.
        folder: New, empty, or begun earlier with the same options. `annotation.json` comes last.
        annotation: R2Gen's annotation.json, whose ids, texts, splits and numbers of images are kept. None:
            all images, and a seeded 7:1:2 split by patient.
        size: Shorter side of the images in pixels, never enlarged; None keeps PNG files byte for byte.
        seed: Seed of the split.
        workers: Threads; None takes one a core.

    Raises:
        InputError: A missing source, a damaged or harmful archive, a small disk, a `folder` in other use.
    """
    source, folder, found = Path(source), Path(folder), []
    studies, pictures, missing = _plan(_listed(source, found), annotation, seed)
    named = [problem for problem in found if not annotation or problem.kind == "broken report"]
    missing |= {problem.item: [problem.message] for problem in named}
    settings = {
        "command": "emrrg data prepare iu-xray",
        "size": size,
        "seed": None if annotation else seed,
        "annotation": file_hash(annotation) if annotation else None,
    }
    archives = sorted(path for path in source.iterdir() if is_archive(path) and path.name != ARCHIVE)
    beside = folder.with_name(f".{folder.name}{_UNPACKED}")
    shutil.rmtree(beside, ignore_errors=True)  # of a call that was killed before the folder was there
    place = folder / _UNPACKED if folder.is_dir() else beside
    with unpacked(archives, place):
        files = picture_files(place) | picture_files(source)
        if files.keys().isdisjoint(pictures.values()):
            lack = f"none of the {len(pictures):,} images wanted is in {source}"
            raise InputError(f"{lack}: put them, or their archive, into that folder")
        manifest = Manifest(folder, settings)
        failed = _make(pictures, files, manifest, size, workers)
    names = {study.id: [image.as_posix() for image in study.images] for study in studies}
    missing |= {study: why for study in names if (why := [failed[n] for n in names[study] if n in failed])}
    kept = [study for study in studies if study.id not in missing]
    entries = {split: [_entry(study) for study in kept if study.split == split] for split in SPLITS}
    write_json(folder / "annotation.json", entries)
    manifest.finish(missing=missing)
    return Prepared(kept, missing)


def _listed(source: Path, problems: list[Problem]) -> list[Study]:
    """The source's studies, each with its image names in sorted order; Open-i's list is the fuller one."""
    if not source.is_dir():
        raise InputError(f"no folder {source}: give the folder of the download")
    if (source / ARCHIVE).is_file():
        return read_openi(source / ARCHIVE, problems)
    if next(source.rglob("*.xml"), None):
        return read_openi(source, problems)
    if (source / REPORTS).is_file():
        return read_kaggle(source, problems)
    raise InputError(f"{source} holds no {ARCHIVE}, no XML files and no {REPORTS}: see `emrrg data fetch`")


def _plan(
    listed: list[Study], annotation: str | Path | None, seed: int
) -> tuple[list[Study], dict[str, str], dict[str, list[str]]]:
    """Studies with target names as images, {target: image's key in the source}, {study: why not}."""
    known = {study.id: study for study in listed}
    chosen = (
        load_annotation(annotation, check_images=False)
        if annotation
        else split_by_patient(list(known.values()), seed)
    )
    studies, pictures, missing = [], {}, {}
    for study in chosen:
        names = [f"images/{study.id}/{k}.png" for k in range(len(study.images))]
        images = known[study.id].images if study.id in known else ()
        if len(images) < len(names):
            missing[study.id] = [f"the source lists {len(images)} of its {len(names)} images"]
            continue
        if bad := [name for name in names if escapes(name)]:
            raise InputError(f"study {study.id}: the path {bad[0]!r} leaves the folder")
        pictures |= {name: picture_key(path.name) for name, path in zip(names, images, strict=False)}
        studies.append(replace(study, images=tuple(map(Path, names))))
    return studies, pictures, missing


def _entry(study: Study) -> dict:
    """One study as R2Gen's annotation has it."""
    entry = {
        "id": study.id,
        "report": study.report,
        "split": study.split,
        "image_path": [image.relative_to("images").as_posix() for image in study.images],
    }
    known = {"views": study.views and list(study.views), "patient": study.patient}
    return entry | {key: value for key, value in known.items() if value}


def _make(
    keys: dict[str, str], files: dict[str, Path], manifest: Manifest, size: int | None, workers: int | None
) -> dict[str, str]:
    """Makes the {target: key of its file} that are not there yet; returns {target: why it could not}."""
    wanted = {name: key for name, key in keys.items() if not manifest.has(name)}
    failed = {name: f"{key} is not in the source" for name, key in wanted.items() if key not in files}
    tasks = {name: files[key] for name, key in wanted.items() if key in files}
    require_space(manifest.folder, sum(file.stat().st_size for file in tasks.values()))

    def make(task: tuple[str, Path]) -> dict | str:
        try:
            return _write_picture(task[1], manifest.folder / task[0], size)
        except InputError as error:
            return str(error).replace(str(task[1]), task[1].name)

    results = tqdm(in_parallel(make, tasks.items(), workers), "preparing", len(tasks), unit="image")
    for name, result in zip(tasks, results, strict=True):
        if isinstance(result, str):
            failed[name] = result
        else:
            manifest.add(name, result)
    return failed


def _write_picture(source: Path, target: Path, size: int | None) -> dict:
    """Writes one image as PNG, whole or not at all; a radiograph that must be coded again becomes grey."""
    picture = load_picture(source)
    with source.open("rb") as stream:
        is_png = stream.read(len(_PNG)) == _PNG
    with atomic_path(target) as temporary:
        if is_png and size is None:
            shutil.copyfile(source, temporary)
        else:
            shrink = min(1.0, size / min(picture.size)) if size else 1.0
            width, height = (round(side * shrink) for side in picture.size)
            picture = picture.convert("L").resize((width, height), Image.Resampling.BICUBIC)
            picture.save(temporary, format="PNG")
    return file_record(target, source.name)
