"""Which files a folder holds, their SHA-256 and what each was made from; so work can stop and go on.

Builds the R2Gen layout of IU X-ray (annotation.json + images/<id>/0.png, 1.png) from a download.

R2Gen's k-th image is taken to be the k-th of the study's Open-i names in sorted order; nobody has
published the pairing, so this is an assumption.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from emrrg_lib.data.annotation import load_annotation, load_rgb
from emrrg_lib.data.archives import check_archive, escapes, is_archive, members
from emrrg_lib.data.iu_xray import ARCHIVE, REPORTS, picture_files, picture_key, read_kaggle, read_openi
from emrrg_lib.data.study import SPLITS, Problem, Study, counts, split_by_patient
from emrrg_lib.files import InputError, atomic_path, write_json


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
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"{folder} holds something else: choose a new or an empty folder")
        self._write(complete=False)

    def _take_up(self) -> None:
        """Reads what an earlier call has made; a line cut off by a kill counts for nothing."""
        try:
            old = json.loads(self.path.read_text(encoding="utf-8"))
            settings, self.files = old["settings"], dict(old["files"])
        except (ValueError, KeyError, TypeError) as error:
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
        """Whether the file is there and is, byte for byte, the one that was written; else it is forgotten."""
        entry, path = self.files.get(name), self.folder / name
        same = entry is not None and path.is_file() and describe(path)["sha256"] == entry["sha256"]
        if not same:
            self.files.pop(name, None)
        return same

    def add(self, name: str, entry: dict) -> None:
        """Notes a file that was written; `entry` comes from `describe`."""
        self.files[name] = entry
        with open(self.journal, "a", encoding="utf-8") as file:
            file.write(json.dumps({name: entry}) + "\n")

    def finish(self, **more) -> None:
        """Writes `manifest.json` with all files, and `more` about them."""
        self._write(complete=True, **more)


def describe(path: str | Path, source: str | None = None) -> dict:
    """{"sha256", "bytes"} of a file, and the name of what it was made from."""
    import pooch

    path = Path(path)
    entry = {"sha256": pooch.file_hash(str(path), alg="sha256"), "bytes": path.stat().st_size}
    return entry if source is None else {**entry, "source": source}


_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Prepared:
    """What `prepare_iu_xray` made.

    Attributes:
        studies: Those whose images are all there, as `annotation.json` lists them.
        missing: Study -> why it is not among them: the images missing or damaged, or no findings.
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
    """Builds the R2Gen layout in `folder`; called again, it makes only what is not there yet.

    Args:
        source: Folder with Open-i's archives or what they unpack to, or Kaggle's CSV files and images.
        folder: New, empty, or begun earlier with the same options. `annotation.json` comes last.
        annotation: R2Gen's annotation.json: its ids, texts and splits are kept and each study gets as many
            images as it lists there. None: all images, and a seeded 7:1:2 split by patient.
        size: Shorter side of the images in pixels, never enlarged; None keeps PNG files byte for byte.
        seed: Of the split.
        workers: Threads; None takes one a core.

    Raises:
        InputError: no such source, an archive that is damaged or means harm, too little disk space, or
            a folder that holds something else.
    """
    source, folder, found = Path(source), Path(folder), []
    listed = _listed(source, found)
    studies, pictures, missing = _plan(listed, annotation, seed)
    missing |= {} if annotation else {p.item: [p.message] for p in found}
    origins = _origins(source)
    if not any(key in origins for key in pictures.values()):
        raise InputError(
            f"none of the {len(pictures):,} images wanted is in {source}: put them, or their"
            " archive, into that folder"
        )
    settings = {
        "command": "emrrg data prepare iu-xray",
        "size": size,
        "seed": None if annotation else seed,
        "annotation": describe(annotation)["sha256"] if annotation else None,
    }
    manifest = Manifest(folder, settings)
    wanted = {key: name for name, key in pictures.items() if not manifest.has(name)}
    _require_space(folder, sum(origins[key][1] for key in wanted if key in origins))
    failed = _make(origins, wanted, manifest, size, workers or os.cpu_count() or 1)
    kept = []
    for study in studies:
        names = [image.as_posix() for image in study.images]
        why = [
            failed.get(name, f"{pictures[name]} is not in the source")
            for name in names
            if name not in manifest.files
        ]
        missing |= {study.id: why} if why else {}
        kept += [] if why else [study]
    write_json(
        folder / "annotation.json", {name: [_entry(s) for s in kept if s.split == name] for name in SPLITS}
    )
    manifest.finish(missing=missing)
    return Prepared(kept, missing)


# ----------------------------------------------------------------------------------------- plan


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


def _origins(source: Path) -> dict[str, tuple[Path, int, str | None]]:
    """Key of an image -> its file or archive, its bytes, and its name in the archive.

    Reads every archive to its end, so that a bad one is refused before anything is written.
    """
    origins: dict[str, tuple[Path, int, str | None]] = {
        key: (path, path.stat().st_size, None) for key, path in picture_files(source).items()
    }
    for path in sorted(filter(is_archive, source.iterdir())):
        for name, length in check_archive(path).items():
            if name.lower().endswith((".png", ".jpg", ".jpeg")):
                origins.setdefault(picture_key(name), (path, length, name))
    return origins


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder} needs about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free:"
            " free some space or choose another folder"
        )


# ----------------------------------------------------------------------------------------- make


def _make(
    origins: dict, wanted: dict[str, str], manifest: Manifest, size: int | None, workers: int
) -> dict[str, str]:
    """Writes the wanted images; returns {target: what is wrong with its image}."""
    failed: dict[str, str] = {}
    total = sum(key in origins for key in wanted)
    with ThreadPoolExecutor(workers) as pool, tqdm(total=total, desc="preparing", unit="image") as bar:
        running: deque[tuple[str, Future]] = deque()

        def settle() -> None:
            name, future = running.popleft()
            try:
                manifest.add(name, future.result())
            except InputError as error:
                failed[name] = str(error)
            bar.update()

        for key, label, data in _read(origins, wanted):
            name = wanted[key]
            running.append((name, pool.submit(_write_picture, data, label, manifest.folder / name, size)))
            if len(running) > 4 * workers:
                settle()
        while running:
            settle()
    return failed


def _read(origins: dict, wanted: dict[str, str]) -> Iterator[tuple[str, str, bytes]]:
    """(key, name, bytes) of the wanted images, each archive in one pass."""
    here = {key: origins[key] for key in wanted if key in origins}
    for key, (path, _, name) in here.items():
        if name is None:
            yield key, path.name, path.read_bytes()
    for archive in sorted({path for path, _, name in here.values() if name is not None}):
        keys = {name: key for key, (path, _, name) in here.items() if path == archive}
        read: Callable[[], bytes]
        for name, read in members(archive):
            if name in keys:
                yield keys.pop(name), name, read()
            if not keys:
                break


def _write_picture(data: bytes, source: str, target: Path, size: int | None) -> dict:
    """Writes one image as PNG, whole or not at all; radiographs that must be re-coded become grey."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
        try:
            picture = load_rgb(temporary)
        except InputError as error:
            raise InputError(str(error).replace(str(temporary), source)) from error
        if size is not None or not data.startswith(_PNG):
            shrink = min(1.0, size / min(picture.size)) if size else 1.0
            width, height = (round(side * shrink) for side in picture.size)
            picture = picture.convert("L").resize((width, height), Image.Resampling.BICUBIC)
            picture.save(temporary, format="PNG")
    return describe(target, source)
