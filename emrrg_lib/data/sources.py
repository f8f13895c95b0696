"""The one way in: any layout that the kit reads, as a `Dataset` with a caption that every table prints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emrrg_lib.data.annotation import load_annotation, report_problems
from emrrg_lib.data.chexpert_plus import TABLE, read_chexpert_plus
from emrrg_lib.data.iu_xray import ARCHIVE, REPORTS, UNPACKED, read_kaggle, read_openi
from emrrg_lib.data.mimic_cxr import METADATA, read_mimic_cxr
from emrrg_lib.data.study import PUBLISHED, Problem, Study, counts, split_by_patient
from emrrg_lib.files import InputError

_NAMES = (  # data set -> how the path of one of its images looks
    ("IU X-ray", r"CXR\d+_(?:\d+_)?IM-"),
    ("MIMIC-CXR", r"p\d\d/p\d{8}/s\d{8}/"),
    ("CheXpert Plus", r"patient\d+[/_]study\d+"),
)
_LAYOUTS = (
    "annotation.json with images/ (R2Gen), NLMCXR_reports.tgz or ecgen-radiology/ with images "
    "(Open-i), indiana_reports.csv with indiana_projections.csv (Kaggle), "
    "mimic-cxr-2.0.0-metadata.csv with files/ (MIMIC-CXR-JPG), or df_chexpert_plus_*.csv with PNG/ "
    "(CheXpert Plus)"
)


def _read_annotation(file: Path, problems: list[Problem]) -> list[Study]:
    return load_annotation(file, check_images=False, problems=problems)


Reader = Callable[[Path, list[Problem]], list[Study]]
_READERS: tuple[tuple[str, Reader], ...] = (  # in the order tried: the user's annotation wins
    ("annotation.json", _read_annotation),
    ("*annotation*.json", _read_annotation),
    (TABLE, read_chexpert_plus),
    (f"{METADATA}*", read_mimic_cxr),
    (REPORTS, read_kaggle),
    (ARCHIVE, read_openi),
    (UNPACKED, read_openi),
    ("*.xml", read_openi),
)


@dataclass(frozen=True)
class Dataset:
    """Studies with their split, and what to say about them.

    Attributes:
        name: "IU X-ray", "MIMIC-CXR", "CheXpert Plus", "PhantomCXR" or the folder's name.
        studies: every study, each with its split.
        caption: what every table prints: name, split, and whether that is the published one.
        published_split: whether train, val and test have the published counts.
        synthetic: whether the images were drawn by this kit.
        left_out: studies of the source that are not used, each with the reason.
    """

    name: str
    studies: tuple[Study, ...]
    caption: str
    published_split: bool
    synthetic: bool
    left_out: tuple[Problem, ...] = ()

    def split(self, name: str) -> list[Study]:
        """The studies of "train", "val" or "test". Raises InputError if there is none."""
        found = [study for study in self.studies if study.split == name]
        if not found:
            known = ", ".join(sorted({study.split for study in self.studies}))
            raise InputError(f"{self.caption}: there is no study in split {name!r}, only in {known}")
        return found


def read_dataset(path: str | Path, seed: int = 0, problems: list[Problem] | None = None) -> Dataset:
    """Reads a data folder, or the one file that describes it, in any layout the kit knows.

    The split is the annotation's where there is one, else MIMIC-CXR's official one, else a seeded 7:1:2
    split by patient. Images are not looked at: `emrrg data check` does that.

    Args:
        path: a folder, an annotation (.json), Open-i's archive or one of the sources' CSV files.
        seed: of the 7:1:2 split.
        problems: where to note every item that cannot be used or is left out; None refuses data with
            items that cannot be used.

    Raises:
        InputError: no such path, no known layout, a damaged file, no study that can be used.
    """
    file, reader = _find(Path(path))
    found: list[Problem] = []
    studies = _unique(reader(file, found), found)
    report_problems(found, problems)
    if not studies:
        why = found[0].message if found else "it lists none"
        raise InputError(f"{file} holds no study that can be used: {why}")
    if reader is _read_annotation:
        rule = "the annotation's split"
    elif all(study.split for study in studies):
        rule = "the official split"
    else:
        studies, rule = split_by_patient(studies, seed), f"seeded 7:1:2 split by patient (seed {seed})"
    return _dataset(file.parent, studies, rule, tuple(p for p in found if not p.unusable))


def _find(path: Path) -> tuple[Path, Reader]:
    """The file that describes the data at `path`, and its reader."""
    if not path.exists():
        raise InputError(f"no data at {path}: check the path")
    if path.is_file() and path.suffix == ".json":
        return path, _read_annotation
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for pattern, reader in _READERS:
        fitting = [file for file in files if file.match(pattern)]
        if len(fitting) > 1 and reader is _read_annotation:
            raise InputError(f"{path} holds {len(fitting)} annotations: name the one to read")
        if fitting:
            return fitting[0], reader
    raise InputError(f"{path} is in no layout this kit reads: it needs {_LAYOUTS}")


def _unique(studies: list[Study], problems: list[Problem]) -> list[Study]:
    """The studies without those whose id stands twice; each of these is noted."""
    times = Counter(study.id for study in studies)
    for name in (name for name, count in times.items() if count > 1):
        problems.append(Problem("duplicate id", name, f"id {name!r} stands {times[name]} times"))
    return [study for study in studies if times[study.id] == 1]


def _dataset(folder: Path, studies: list[Study], rule: str, left_out: tuple[Problem, ...]) -> Dataset:
    phantom = (folder / "phantom.json").is_file()
    first = f"{studies[0].id} {studies[0].images[0]}"
    name = (
        "PhantomCXR"
        if phantom
        else next((name for name, pattern in _NAMES if re.search(pattern, first)), folder.resolve().name)
    )
    whose, published = PUBLISHED.get(name, (rule, None))
    found = counts(studies)
    numbers = "/".join(map(str, found))
    if found == published:
        caption = f"{name}, {whose} split {numbers}"
    else:
        caption = f"{name}, {rule} {numbers}"
        if published:
            caption += f": not the published split ({whose}'s {'/'.join(map(str, published))})"
    synthetic = phantom or (folder / "synthetic.json").is_file()
    if synthetic:
        caption = f"SYNTHETIC images: {caption}"
    if left_out:
        caption += f"; {len(left_out)} studies left out"
    return Dataset(name, tuple(studies), caption, found == published, synthetic, left_out)
