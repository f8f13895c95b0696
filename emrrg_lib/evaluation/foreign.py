"""Folders of reports that no run of this kit wrote: another system's, and the controls of a data set.

They have the files of a run (`predictions.jsonl`, `run.json`), so that scores, comparisons, tables and pages
treat all alike.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.report_files import Entry, join, read_reports
from emrrg_lib.data.sources import Dataset, read_dataset, source_named
from emrrg_lib.data.study import SPLITS, Study
from emrrg_lib.evaluation.baselines import oracles, shuffled, text_controls
from emrrg_lib.evaluation.nlg import meteor_available, score_each
from emrrg_lib.files import InputError, existing_parent, write_json
from emrrg_lib.run_folder import read_json, write_predictions
from emrrg_lib.run_record import run_record

KIND = "reports from a file"  # `what` in run.json
_log = logging.getLogger(__name__)


@contextmanager
def written_whole(out: Path, source: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `out`; what is in it at the end, without an error, moves into `out`.

    Raises:
        InputError: `out` has `source` in it, or files that another command or the user has written.
    """
    made = (out / "run.json").is_file() and read_json(out / "run.json", dict).get("what") == KIND
    names = ("config.json", "run.json", "predictions.jsonl", "metrics.json", "report.html")
    held = [name for name in names if (out / name).exists()]
    if source.resolve().parent == out.resolve() or (held and not made):
        name = held[0] if held else source.name
        raise InputError(f"{out} holds {name}, which is kept: name another folder, --out DIR")
    with TemporaryDirectory(prefix=f".{out.name}.", dir=existing_parent(out.absolute().parent)) as folder:
        yield Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        for file in Path(folder).iterdir():
            os.replace(file, out / file.name)


def cleaning_of(dataset: Dataset) -> str:
    """The rule that the papers clean this data set's reports with; of other data, R2Gen's."""
    source = source_named(dataset.name)
    return source.cleaning if source else "iu_xray"


def write_foreign(
    file: Path,
    out: Path,
    data: Path | None,
    name: str,
    split: str = "test",
    own_references: Path | bool = False,
    cleaning: str | None = None,
    clean_reports: bool = False,
    seed: int = 0,
) -> None:
    """Writes the reports of a file, with every control that needs no model, as a run folder.

    Args:
        file: of the reports, in one of `report_files.FORMATS`. out: the folder. name: of the system.
        data: whose studies they describe; None needs own references.
        own_references: True takes the file's own references, a path those of a second file.
        cleaning: rule for the references; None takes the data set's, or none without data.
        clean_reports: whether the reports are cleaned by the same rule.
        seed: of a seeded split and of the random controls.

    Raises:
        InputError: see `read_reports` and `join`; or references are missing.
    """
    if not (data or own_references):
        raise InputError("say which data the reports describe: --data DATA, or --own-references without data")
    dataset = read_dataset(data, seed) if data else None
    studies, entries = _joined(file, dataset, split, own_references)
    rule = cleaning or (cleaning_of(dataset) if dataset else "none")
    references = [study.report and clean_report(study.report, rule) for study in studies]
    reports = [clean_report(entry.report, rule if clean_reports else "none") for entry in entries]
    _remark(entries, reports, references, rule)
    if not own_references:
        _remark_join(entries, reports, references, rule)
    caption = dataset.caption if dataset else file.name
    caption += ", own references" * bool(own_references)
    systems = {"shuffled images": shuffled(reports, seed)} if len(reports) > 1 else {}
    systems |= _controls(dataset, studies, rule, seed)
    facts = {"dataset": caption, "split": split, "cleaning": rule, "system": name, "seed": seed}
    _write(out, studies, references, reports, systems, facts | ({"data": str(data)} if data else {}))


def _joined(
    file: Path, dataset: Dataset | None, split: str, own_references: Path | bool
) -> tuple[list[Study], list[Entry]]:
    """The studies with the references to score against, and their entries of the file, in one order."""
    every = dataset.studies if dataset else ()
    entries = read_reports(file, [study.id for study in every])
    if dataset:
        studies = dataset.split(split)
        entries = join(entries, dataset.studies, split, file)
    else:
        studies = [Study(entry.id or str(n), (), "", split) for n, entry in enumerate(entries, 1)]
    if not own_references:
        return studies, entries
    if isinstance(own_references, Path):
        every = every or studies
        theirs = read_reports(own_references, [study.id for study in every])
        texts = [entry.report for entry in join(theirs, every, split, own_references)]
    else:
        texts = _own(entries)
    # labels that the data bring belong to its own references
    return [replace(s, report=text, labels=None) for s, text in zip(studies, texts, strict=True)], entries


def write_controls(data: Path, out: Path, cleaning: str | None = None, seed: int = 0) -> None:
    """Writes the controls that need no image as a run folder; the constant report is its system.

    Args and errors: as in `write_foreign`. The images may be missing.
    """
    dataset = read_dataset(data, seed)
    dataset.require_reports()
    studies, rule = [dataset.split(split) for split in SPLITS][-1], cleaning or cleaning_of(dataset)
    references = [clean_report(study.report, rule) for study in studies]
    systems = _controls(dataset, studies, rule, seed)
    system, reports = next(iter(systems.items()))
    del systems[system]
    facts = {"dataset": dataset.caption, "split": "test", "cleaning": rule, "system": system, "seed": seed}
    _write(out, studies, references, reports, systems, facts | {"data": str(data)})


def _own(entries: Sequence[Entry]) -> list[str]:
    if lacking := [entry.where for entry in entries if entry.reference is None]:
        raise InputError(
            f"{lacking[0]} has no reference of its own: join those of the data with --data, or name the file "
            "of references, --own-references FILE"
        )
    return [entry.reference or "" for entry in entries]


def _remark(entries: Sequence[Entry], reports: Sequence[str], references: Sequence[str], rule: str) -> None:
    """Warns of what lowers the scores of these reports."""
    if empty := [entry.id or entry.where for entry in entries if not entry.report]:
        _log.warning("%d of %d reports are empty, such as that of %r", len(empty), len(entries), empty[0])
    if rule == "none":
        _log.warning(
            "the references are not cleaned: published scores are made with --cleaning iu_xray or mimic_cxr"
        )
    elif any(text != text.lower() for text in reports):
        _log.warning(
            "the references are cleaned by the rule %s, but the reports are not: they hold capitals; "
            "--clean-reports cleans both alike",
            rule,
        )


def _remark_join(
    entries: Sequence[Entry], reports: Sequence[str], references: Sequence[str], rule: str
) -> None:
    """Warns of what may be wrong with whose reports these are."""
    if entries[0].id is None:
        _log.warning("the reports have no ids: they are taken in the order of the %d studies", len(entries))

    def others(texts: Iterable[str]) -> int:
        pairs = zip(texts, references, strict=True)
        return sum(reference not in (text, clean_report(text, rule)) for text, reference in pairs)

    if other := others(entry.reference or text for entry, text in zip(entries, references, strict=True)):
        _log.warning(
            "%d of %d references in the file are not those of the data, which count here: are these the "
            "studies? --own-references takes those of the file",
            other,
            len(entries),
        )
    if not others(reports):
        _log.warning("every report is equal to its reference: is this the file of the references?")


def _controls(
    dataset: Dataset | None, studies: Sequence[Study], rule: str, seed: int
) -> dict[str, list[str]]:
    """The controls that need neither image nor model; none that would need a split which is not there."""
    known = {study.split for study in dataset.studies} if dataset and dataset.has_reports else set()
    if dataset is None or not {"train", "val"} <= known:
        return {}
    train, val = ([clean_report(study.report, rule) for study in dataset.split(s)] for s in SPLITS[:2])
    return text_controls(train, val, len(studies), seed) | oracles(studies, seed, rule)


def _write(
    out: Path,
    studies: Sequence[Study],
    references: Sequence[str],
    reports: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    facts: Mapping[str, str | int],
) -> None:
    every = [report for texts in (reports, *systems.values()) for report in texts]
    meteor = meteor_available([*references] * (1 + len(systems)), every)  # one start of Java for all scores
    scores = score_each(references, reports, meteor)
    rows = (
        {
            "id": study.id,
            "reference": references[i],
            "hypothesis": reports[i],
            "scores": scores[i],
            "labels": study.labels,
            "systems": {name: texts[i] for name, texts in systems.items()},
        }
        for i, study in enumerate(studies)
    )
    write_json(out / "run.json", run_record(KIND, time.time(), **facts))
    write_predictions(out, rows)
