"""What `emrrg data check` finds: every item of a data set that cannot be used or should be known about."""

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
from emrrg_lib.data.annotation import load_picture
from emrrg_lib.data.cache import in_parallel
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.sources import Dataset, read_dataset
from emrrg_lib.data.study import PUBLISHED, SPLITS, Problem, Study, counts
from emrrg_lib.files import InputError, atomic_path, write_json

NEAR_BLANK = 8  # words; a shorter report says next to nothing
ODD_SHAPE = 2.0  # longer side / shorter side; the resize makes every picture square
TokenCounter = Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True)
class Check:
    """The result: what was read, every item found, and the summary in lines of text."""

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
        path: as in `read_dataset`.
        config: gives cleaning rule, max_length, number of views and image size.
        count_tokens: cleaned reports → their lengths in tokens; None leaves lengths out.
        seed: of the split, where the source has none.

    Raises:
        InputError: as in `read_dataset`, except for single items: these are in the result.
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
        writer.writerows([int(p.unusable), p.kind, p.item, p.message] for p in problems)
    return path


# -------------------------------------------------------------------------------------- reports


def _reports(dataset: Dataset) -> Iterator[Problem]:
    """Reports that say nearly nothing, and those that stand in train word for word."""
    texts = {study.id: " ".join(study.report.split()) for study in dataset.studies}
    train = {texts[study.id] for study in dataset.studies if study.split == "train"}
    for study in dataset.studies:
        words = [word for word in re.findall(r"[^\W\d_]+", study.report) if word != "XXXX"]
        if len(words) < NEAR_BLANK:
            yield Problem(
                "near-blank report",
                study.id,
                f"the report has {len(words)} words: {study.report!r}",
                unusable=False,
            )
        if study.split != "train" and texts[study.id] in train:
            yield Problem(
                f"{study.split} report also in train",
                study.id,
                f"the same report stands in train: {texts[study.id]!r:.80}",
                unusable=False,
            )


def _lengths(dataset: Dataset, config: EMRRGConfig, count_tokens: TokenCounter | None) -> np.ndarray | None:
    if count_tokens is None:
        return None
    return np.asarray(count_tokens([clean_report(s.report, config.data.cleaning) for s in dataset.studies]))


def _long_reports(dataset: Dataset, lengths: np.ndarray | None, limit: int) -> Iterator[Problem]:
    for i in np.flatnonzero(lengths > limit) if lengths is not None else ():
        yield Problem(
            "report above max_length",
            dataset.studies[i].id,
            f"{lengths[i]} tokens: training sees the first {limit}",
            unusable=False,
        )


# ------------------------------------------------------------------------------ studies, images


def _studies(dataset: Dataset, config: EMRRGConfig) -> Iterator[Problem]:
    """Patients in two splits, and studies with more views than the model takes."""
    splits: dict[str, set[str]] = {}
    for study in dataset.studies:
        splits.setdefault(study.patient or study.id, set()).add(study.split)
        if config.data.views != "mean" and len(study.images) > config.data.max_views:
            yield Problem(
                "more views than used",
                study.id,
                f"{len(study.images)} views: the model takes {config.data.max_views}",
                unusable=False,
            )
    for patient, names in splits.items():
        if len(names) > 1:
            yield Problem("patient in two splits", patient, f"in {', '.join(sorted(names))}", unusable=False)


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
    if mode.startswith("I"):
        yield Problem("16-bit image", study.id, f"{path}: its range is scaled to 8 bits", unusable=False)
    elif mode not in ("L", "RGB"):
        yield Problem("image of odd mode", study.id, f"{path}: mode {mode} is converted", unusable=False)
    if min(width, height) < size or max(width, height) > ODD_SHAPE * min(width, height):
        yield Problem(
            "image of odd size",
            study.id,
            f"{path}: {width} x {height} is resized to {size} x {size}",
            unusable=False,
        )
    if np.ptp(np.asarray(picture)) == 0:
        yield Problem("blank image", study.id, f"{path}: every pixel has the same value", unusable=False)


# -------------------------------------------------------------------------------------- summary


def _summary(
    dataset: Dataset, config: EMRRGConfig, lengths: np.ndarray | None, problems: Sequence[Problem]
) -> list[str]:
    studies, found = dataset.studies, counts(dataset.studies)
    lines = [
        dataset.caption,
        _row(
            "studies",
            f"{len(studies):,}: "
            + ", ".join(f"{name} {count:,}" for name, count in zip(SPLITS, found, strict=True)),
        ),
    ]
    if dataset.name in PUBLISHED:
        whose, published = PUBLISHED[dataset.name]
        verdict = "the same" if found == published else "NOT the same"
        lines.append(_row("published", f"{' / '.join(f'{n:,}' for n in published)} ({whose}): {verdict}"))
    views = Counter(len(study.images) for study in studies)
    kinds = Counter(view for study in studies for view in study.views or ())
    shown = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()) or "not said which is which"
    lines.append(
        _row(
            "views",
            ", ".join(f"{n} in {count:,} studies" for n, count in sorted(views.items())) + f"; {shown}",
        )
    )
    lines.append(_row("words", _spread([len(study.report.split()) for study in studies])))
    if lengths is not None:
        above = f"{(lengths > config.data.max_length).sum():,} above max_length {config.data.max_length}"
        lines.append(_row("tokens", f"{_spread(lengths)}; {above}"))
    for title, unusable in (("UNUSABLE", True), ("remark", False)):
        for kind, count in Counter(p.kind for p in problems if p.unusable is unusable).items():
            lines.append(_row(title, f"{count:,} x {kind}"))
    return lines


def _row(title: str, text: str) -> str:
    return f"  {title:<10}{text}"


def _spread(lengths: Sequence[int] | np.ndarray) -> str:
    low, median, high, longest = np.percentile(lengths, [0, 50, 95, 100])
    return f"shortest {low:.0f}, median {median:.0f}, 95 % up to {high:.0f}, longest {longest:.0f}"
