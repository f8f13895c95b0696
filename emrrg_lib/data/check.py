"""`emrrg data check`: finds every item of a data set that cannot be used or that a user should know about."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.images import grey_range, load_picture
from emrrg_lib.data.sources import Dataset, read_dataset, source_named
from emrrg_lib.data.study import SPLITS, Problem, Study, counts, in_parallel
from emrrg_lib.files import InputError, atomic_path, plain_cell, write_json

NEAR_BLANK = 8  # words; a shorter report says next to nothing
ODD_SHAPE = 2.0  # longer side / shorter side; the resize makes every picture square
TokenCounter = Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True)
class Check:
    """The data set as read, every item found, and the summary in lines of text."""

    dataset: Dataset
    problems: list[Problem]
    lines: list[str]

    @property
    def usable(self) -> bool:
        """Whether every item can be used."""
        return not any(problem.unusable for problem in self.problems)


def check_data(
    path: str | Path, config: EMRRGConfig, count_tokens: TokenCounter | None = None, seed: int = 0
) -> Check:
    """Reads every report and decodes every image of a data set.

    Args:
        path: As in `read_dataset`.
        config: Gives cleaning rule, max_length, number of views and image size.
        count_tokens: Cleaned reports → their lengths in tokens; None leaves lengths out.
        seed: Seed of the split, where the source has none.

    Raises:
        InputError: As in `read_dataset`, except for single items: these are in the result.
    """
    problems: list[Problem] = []
    dataset = read_dataset(path, seed, problems)
    lengths = _lengths(dataset, config, count_tokens)
    problems += _reports(dataset)
    problems += _long_reports(dataset, lengths, config.data.max_length)
    problems += _studies(dataset, config)
    problems += _images(dataset, config.encoder.image_size)
    problems.sort(key=lambda problem: (not problem.unusable, problem.kind))
    return Check(dataset, problems, _summary(dataset, config, lengths, problems))


def write_list(path: Path, problems: Sequence[Problem]) -> Path:
    """Writes every item as CSV, or as JSON if the name ends in `.json`."""
    if path.suffix == ".json":
        return write_json(path, [asdict(problem) for problem in problems])
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["unusable", "kind", "item", "message"])
        writer.writerows([int(p.unusable), *map(plain_cell, (p.kind, p.item, p.message))] for p in problems)
    return path


def _remark(kind: str, item: str, message: str) -> Problem:
    return Problem(kind, item, message, unusable=False)


# -------------------------------------------------------------------------------------- reports


def _reports(dataset: Dataset) -> Iterator[Problem]:
    """Reports that say nearly nothing, and reports of val or test that are also in train, word for word."""
    if not dataset.has_reports:
        return
    texts = {study.id: " ".join(study.report.split()) for study in dataset.studies}
    train = {texts[study.id] for study in dataset.studies if study.split == "train"}
    for study in dataset.studies:
        words = [word for word in re.findall(r"[^\W\d_]+", study.report) if word != "XXXX"]
        if len(words) < NEAR_BLANK:
            message = f"the report has {len(words)} words: {study.report!r}"
            yield _remark("near-blank report", study.id, message)
        if study.split != "train" and texts[study.id] in train:
            message = f"train has the same report: {texts[study.id]!r:.80}"
            yield _remark(f"{study.split} report also in train", study.id, message)


def _lengths(dataset: Dataset, config: EMRRGConfig, count_tokens: TokenCounter | None) -> np.ndarray | None:
    if count_tokens is None:
        return None
    return np.asarray(count_tokens([clean_report(s.report, config.data.cleaning) for s in dataset.studies]))


def _long_reports(dataset: Dataset, lengths: np.ndarray | None, limit: int) -> Iterator[Problem]:
    for i in np.flatnonzero(lengths > limit) if lengths is not None else ():
        message = f"{lengths[i]} tokens: training sees the first {limit}"
        yield _remark("report above max_length", dataset.studies[i].id, message)


# ------------------------------------------------------------------------------ studies, images


def _studies(dataset: Dataset, config: EMRRGConfig) -> Iterator[Problem]:
    """Patients in two splits, and studies with more views than the model takes."""
    splits: dict[str, set[str]] = {}
    for name in (name for name, count in zip(SPLITS, counts(dataset.studies), strict=True) if not count):
        yield _remark("empty split", name, f"{name} has no study: what needs this split will stop")
    for study in dataset.studies:
        splits.setdefault(study.patient or study.id, set()).add(study.split)
        if config.data.views != "mean" and len(study.images) > config.data.max_views:
            message = f"{len(study.images)} views: the model takes {config.data.max_views}"
            yield _remark("more views than used", study.id, message)
    for patient, names in splits.items():
        if len(names) > 1:
            yield _remark("patient in two splits", patient, f"in {', '.join(sorted(names))}")


def _images(dataset: Dataset, size: int) -> Iterator[Problem]:
    views = [(study, image) for study in dataset.studies for image in study.images]
    found = in_parallel(lambda view: list(inspect_image(*view, size)), views)
    for problems in tqdm(found, total=len(views), desc="checking images", unit="image"):
        yield from problems


def inspect_image(study: Study, path: Path, size: int) -> Iterator[Problem]:
    """Decodes one image and yields what is wrong or odd about it."""
    try:
        picture = load_picture(path)
    except InputError as error:
        yield Problem("image unreadable" if path.is_file() else "image missing", study.id, str(error))
        return
    with Image.open(path) as header:
        mode, (width, height) = header.mode, header.size
        values = np.asarray(header) if mode.startswith("I") else None
    if values is not None:
        low, high = grey_range(values)
        beyond = np.count_nonzero((values < low) | (values > high))
        message = f"{path}: its values {low} to {high} become 0 to 255, {beyond:,} pixels beyond are clipped"
        yield _remark("16-bit image", study.id, message)
    elif mode not in ("L", "RGB"):
        yield _remark("image of odd mode", study.id, f"{path}: mode {mode} is converted")
    if min(width, height) < size or max(width, height) > ODD_SHAPE * min(width, height):
        message = f"{path}: {width} x {height} is resized to {size} x {size}"
        yield _remark("image of odd size", study.id, message)
    if np.ptp(np.asarray(picture)) == 0:
        yield _remark("blank image", study.id, f"{path}: every pixel has the same value")


# -------------------------------------------------------------------------------------- summary


def _summary(
    dataset: Dataset, config: EMRRGConfig, lengths: np.ndarray | None, problems: Sequence[Problem]
) -> list[str]:
    studies, found, limit = dataset.studies, counts(dataset.studies), config.data.max_length
    splits = ", ".join(f"{name} {count:,}" for name, count in zip(SPLITS, found, strict=True))
    rows = [("studies", f"{len(studies):,}: {splits}")]
    if source := source_named(dataset.name):
        verdict = "the same" if found == source.counts else "NOT the same"
        numbers = " / ".join(f"{n:,}" for n in source.counts)
        rows.append(("published", f"{numbers} ({source.split_by}): {verdict}"))
    views = sorted(Counter(len(study.images) for study in studies).items())
    kinds = Counter(view for study in studies for view in study.views or ()).most_common()
    shown = ", ".join(f"{kind} {count:,}" for kind, count in kinds) or "not said which is which"
    rows.append(("views", ", ".join(f"{n} in {count:,} studies" for n, count in views) + f"; {shown}"))
    rows.append(("words", _spread([len(study.report.split()) for study in studies])))
    if lengths is not None:
        rows.append(("tokens", f"{_spread(lengths)}; {(lengths > limit).sum():,} above max_length {limit}"))
    for title, unusable in (("UNUSABLE", True), ("remark", False)):
        for kind, count in Counter(p.kind for p in problems if p.unusable is unusable).items():
            rows.append((title, f"{count:,} x {kind}"))
    return [dataset.caption, *(f"  {title:<10}{text}" for title, text in rows)]


def _spread(lengths: Sequence[int] | np.ndarray) -> str:
    low, median, high, longest = np.percentile(lengths, [0, 50, 95, 100])
    return f"shortest {low:.0f}, median {median:.0f}, 95 % up to {high:.0f}, longest {longest:.0f}"
