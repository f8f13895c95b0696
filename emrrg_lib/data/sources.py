"""The table of data sets, and the one way in: any layout that the kit reads, as a `Dataset`.

A new reader is a function from the file that describes the data to studies, and a row of `SOURCES`. What
else needs to know data sets takes it from there: `read_dataset`, `emrrg data`, the published tables, costs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emrrg_lib.data.annotation import load_annotation, report_problems
from emrrg_lib.data.chexpert_plus import TABLE, read_chexpert_plus
from emrrg_lib.data.iu_xray import ARCHIVE, PROJECTIONS, REPORTS, UNPACKED, read_kaggle, read_openi
from emrrg_lib.data.mimic_cxr import METADATA, read_mimic_cxr
from emrrg_lib.data.nih_cxr14 import TABLE as NIH_TABLE
from emrrg_lib.data.nih_cxr14 import read_nih_cxr14
from emrrg_lib.data.own_table import TABLE as OWN_TABLE
from emrrg_lib.data.own_table import read_own_table
from emrrg_lib.data.study import Problem, Study, counts, shared_images, split_by_patient
from emrrg_lib.files import InputError

Reader = Callable[[Path, list[Problem]], list[Study]]


@dataclass(frozen=True)
class Layout:
    """One form in which a data set comes.

    Attributes:
        patterns: Names of the file (or folder) that describes the data, as in `Path.match`.
        reader: That file, and a list for what cannot be used -> the studies.
        says: The layout in words, for the message that lists all of them.
    """

    patterns: tuple[str, ...]
    reader: Reader
    says: str


@dataclass(frozen=True)
class Source:
    """One data set of the papers: a row of `SOURCES`.

    Attributes:
        name: As captions have it.
        printed: As the papers' tables print it (`data/published`).
        mentions: Pattern that finds the data set in the caption of a run, in any case.
        command: As `emrrg data fetch` has it.
        presets: Presets that the papers train on it.
        split_by, counts: Whose split the papers use, and its studies in train, val and test (NOTES G).
        image_paths: Pattern that the path of one of its images has.
        cleaning: Rule of `cleaning.RULES` that the papers clean its reports with.
        views: Images of a study, as `emrrg ledger --costs` counts them.
        layouts: The forms in which it comes; each of them may also come as R2Gen's annotation.
        access: Where to apply for it; None if `emrrg data fetch` downloads it. Only then can
            `data prepare` and `data rehearse` make it.
    """

    name: str
    printed: str
    mentions: str
    command: str
    presets: tuple[str, ...]
    split_by: str
    counts: tuple[int, int, int]
    image_paths: str
    cleaning: str
    views: int
    layouts: tuple[Layout, ...]
    access: str | None = None


SOURCES: list[Source] = [
    Source(
        name="IU X-ray",
        printed="IU X-Ray",
        mentions=r"\biu\b|open-?i\b",
        command="iu-xray",
        presets=("iu-xray",),
        split_by="R2Gen",
        counts=(2069, 296, 590),
        image_paths=r"CXR\d+_(?:\d+_)?IM-",
        cleaning="iu_xray",
        views=2,
        layouts=(
            Layout((REPORTS,), read_kaggle, f"{REPORTS} with {PROJECTIONS} (Kaggle)"),
            Layout(
                (ARCHIVE, UNPACKED, "*.xml"),
                read_openi,
                f"{ARCHIVE} or {UNPACKED}/ with images (Open-i)",
            ),
        ),
    ),
    Source(
        name="MIMIC-CXR",
        printed="MIMIC-CXR",
        mentions="mimic",
        command="mimic-cxr",
        presets=("mimic-cxr",),
        split_by="R2Gen",
        counts=(270_790, 2130, 3858),
        image_paths=r"p\d\d/p\d{8}/s\d{8}/",
        cleaning="mimic_cxr",
        views=1,
        layouts=(Layout((f"{METADATA}*",), read_mimic_cxr, f"{METADATA} with files/ (MIMIC-CXR-JPG)"),),
        access="MIMIC-CXR is given to credentialed users only: apply at https://physionet.org/content/"
        "mimic-cxr-jpg/ (training, then the data use agreement), download it there, then run"
        " `emrrg data check DIR`",
    ),
    Source(
        name="CheXpert Plus",
        printed="CheXpert Plus",
        mentions="chexpert",
        command="chexpert-plus",
        presets=("chexpert-plus", "mambaxray-vl-base", "mambaxray-vl-large", "r2gengpt"),
        split_by="R2GenCSR",
        counts=(40_463, 5780, 11_562),
        image_paths=r"patient\d+[/_]study\d+",
        cleaning="mimic_cxr",
        views=1,
        layouts=(Layout((TABLE,), read_chexpert_plus, f"{TABLE} with PNG/ (CheXpert Plus)"),),
        access="CheXpert Plus is given on registration only: apply at https://aimi.stanford.edu/datasets/"
        "chexpert-plus (Stanford AIMI), download it there, then run `emrrg data check DIR`",
    ),
]


def source_named(name: str) -> Source | None:
    """The row of this name; None for data that are not a paper's."""
    return next((source for source in SOURCES if source.name == name), None)


def source_of_preset(preset: str) -> Source | None:
    """The data set that the papers train this preset on; None for a preset that is not a paper's."""
    return next((source for source in SOURCES if preset in source.presets), None)


# -------------------------------------------------------------------------------------- reading


def read_annotation(file: Path, problems: list[Problem]) -> list[Study]:
    """The reader of R2Gen's layout, in which every data set may come; images are not looked at."""
    return load_annotation(file, check_images=False, problems=problems, whole=True)


ANNOTATION = Layout(
    ("annotation.json", "*annotation*.json"), read_annotation, "annotation.json with images/ (R2Gen)"
)
OWN = Layout((OWN_TABLE,), read_own_table, f"{OWN_TABLE} with the columns image and report (own data)")
NIH = Layout((NIH_TABLE,), read_nih_cxr14, f"{NIH_TABLE} with images, without reports (NIH ChestX-ray14)")


@dataclass(frozen=True)
class Dataset:
    """Studies with their split, and what to say about them.

    Attributes:
        name: Of a row of `SOURCES`, "PhantomCXR", or the name of the folder.
        studies: Every study, each with its split.
        caption: What every table prints: name, split, and whether that is the published one.
        published_split: Whether train, val and test have the published counts.
        synthetic: Whether this kit drew the images.
        left_out: Studies of the source that are not used, each with the reason.
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

    @property
    def has_reports(self) -> bool:
        """Whether a study has a report; NIH ChestX-ray14 has none."""
        return any(study.report for study in self.studies)

    def require_reports(self) -> None:
        """Raises InputError where no study has a report."""
        if not self.has_reports:
            raise InputError(
                f"{self.caption}: it has no reports; use `emrrg pretrain stage1`, `emrrg generate`, "
                "or `emrrg evaluate --predictions`, which compares labels"
            )

    def require_images(self, *splits: str) -> None:
        """Raises InputError for an image of these splits that is not there, before one is decoded."""
        for path in (path for name in splits for study in self.split(name) for path in study.images):
            if not path.is_file():
                raise InputError(f"no image file at {path}: check the path")


def read_dataset(path: str | Path, seed: int = 0, problems: list[Problem] | None = None) -> Dataset:
    """Reads a data folder, or the one file that describes it, in any layout the kit knows.

    The split is the annotation's where there is one, else MIMIC-CXR's official one, else a seeded 7:1:2
    split by patient. Images are not looked at: `emrrg data check` does that.

    Args:
        path: A folder, an annotation (.json), Open-i's archive or one of the sources' CSV files.
        seed: Seed of the 7:1:2 split.
        problems: Where to note every item that cannot be used or is left out; None refuses data with
            items that cannot be used.

    Raises:
        InputError: The path does not exist, has no known layout, is damaged, or holds no study that can
            be used.
    """
    file, reader = find_layout(Path(path))
    found: list[Problem] = []
    studies = _unique(reader(file, found), found)
    if not studies:
        report_problems(found, problems)
        why = found[0].message if found else "it lists none"
        raise InputError(f"{file} holds no study that can be used: {why}")
    if reader is read_annotation:
        rule = "the annotation's split"
    elif all(study.split for study in studies):
        rule = "the table's own split" if reader is read_own_table else "the official split"
    else:
        studies, rule = split_by_patient(studies, seed), f"seeded 7:1:2 split by patient (seed {seed})"
    found += shared_images(studies)
    report_problems(found, problems)
    kept = {study.id for study in studies}
    return _dataset(
        file.parent, studies, rule, tuple(p for p in found if not p.unusable and p.item not in kept)
    )


def find_layout(path: Path) -> tuple[Path, Reader]:
    """The file that describes the data at `path`, and its reader. Raises InputError if there is none."""
    if not path.exists():
        raise InputError(f"no data at {path}: check the path")
    if path.is_file() and path.suffix == ".json":
        return path, read_annotation
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    # the user's annotation wins, then the last row: patterns of the first, such as *.xml, fit more
    layouts = [ANNOTATION, OWN, NIH, *(layout for source in reversed(SOURCES) for layout in source.layouts)]
    for layout in layouts:
        for pattern in layout.patterns:
            fitting = [file for file in files if file.match(pattern)]
            if len(fitting) > 1 and layout is ANNOTATION:
                raise InputError(f"{path} holds {len(fitting)} annotations: name the one to read")
            if fitting:
                return fitting[0], layout.reader
    if path.is_file() and path.suffix == ".csv":  # of any name; a wrong header is told
        return path, read_own_table
    needs = ", or ".join(layout.says for layout in layouts)
    raise InputError(f"{path} is in no layout this kit reads: it needs {needs}")


def _unique(studies: list[Study], problems: list[Problem]) -> list[Study]:
    """The studies without those whose id is not theirs alone; each such id is noted."""
    times = Counter(study.id for study in studies)
    for name in (name for name, count in times.items() if count > 1):
        problems.append(Problem("duplicate id", name, f"id {name!r} occurs {times[name]} times"))
    return [study for study in studies if times[study.id] == 1]


def _dataset(folder: Path, studies: list[Study], rule: str, left_out: tuple[Problem, ...]) -> Dataset:
    record = folder / "phantom.json"
    phantom = record.is_file()
    first = f"{studies[0].id} {studies[0].images[0]}"
    source = next((s for s in SOURCES if not phantom and re.search(s.image_paths, first)), None)
    name = source.name if source else "PhantomCXR" if phantom else folder.resolve().name
    found = counts(studies)
    numbers = "/".join(map(str, found))
    published = source is not None and found == source.counts
    if published:
        caption = f"{name}, {source.split_by} split {numbers}"
    else:
        caption = f"{name}, {rule} {numbers}"
        if source:
            theirs = "/".join(map(str, source.counts))
            caption += f": not the published split ({source.split_by}'s {theirs})"
    synthetic = phantom or (folder / "synthetic.json").is_file()
    if synthetic:
        caption = f"SYNTHETIC images: {caption}"
    if phantom and (shift := re.search(r'"shift": "([\w-]+)"', record.read_text("utf-8", "replace"))):
        caption += f"; shift {shift[1]}"
    if left_out:
        caption += f"; {len(left_out)} studies left out"
    if not any(study.report for study in studies):
        caption += "; no reports"
    return Dataset(name, tuple(studies), caption, published, synthetic, left_out)
