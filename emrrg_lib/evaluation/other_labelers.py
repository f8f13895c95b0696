"""The choice of a labeler: the kit's own rules (`labeler.py`), CheXbert, or a CSV of labels made elsewhere.

The same labeler always reads the references and the generated reports, and every score carries its name:
scores made with two labelers cannot be compared (NOTES M3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from emrrg_lib.data.study import OBSERVATIONS, bare_id, is_blank, listed, read_lines
from emrrg_lib.evaluation.labeler import VERSION, label_report
from emrrg_lib.files import InputError
from emrrg_lib.vision.weights import read_tensors

REFERENCES, MODEL = "references", "model (beam search)"
Labels = dict[str, "int | None"]

CHEXBERT_ORDER = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    *OBSERVATIONS[5:],
    "No Finding",
)
"""Order of CheXbert's heads (Smit et al. 2020, its code's `constants.py`), not that of OBSERVATIONS."""
CHEXBERT_VALUES = (None, 1, 0, -1)
"""Its classes: blank, positive, negative, uncertain; No Finding has the first two only."""

_ALIASES = {"airspace opacity": "Lung Opacity"} | {name.lower(): name for name in OBSERVATIONS}
_IDS = ("id", "study_id", "uid")
_TEXTS = ("report impression", "reports", "report", "text")


@dataclass(frozen=True)
class Labeler:
    """A way to label reports.

    Attributes:
        name: printed with every score.
        label: (texts, which) -> one dict of labels for each text, None for a text without labels. `which`
            says whose texts these are: REFERENCES or the name of a system.
    """

    name: str
    label: Callable[[Sequence[str], str], list[Labels | None]]


RULES = Labeler(VERSION, lambda texts, which: [label_report(text) for text in texts])


class _CheXbert(nn.Module):
    """BERT with 14 linear heads on its cls token. Its parameters have the published checkpoint's names."""

    def __init__(self, config) -> None:
        from transformers import BertModel

        super().__init__()
        self.bert = BertModel(config)
        classes = [2 if name == "No Finding" else 4 for name in CHEXBERT_ORDER]
        self.linear_heads = nn.ModuleList(nn.Linear(config.hidden_size, count) for count in classes)

    @torch.no_grad()
    def forward(self, **tokens: torch.Tensor) -> list[list[int]]:
        """Token tensors (B, n) -> the class of every head, B lists of 14."""
        state = self.bert(**tokens).last_hidden_state[:, 0]  # (B, D)
        return torch.stack([head(state).argmax(-1) for head in self.linear_heads], dim=1).tolist()


def load_chexbert(weights: Path, bert: Path) -> tuple[Any, _CheXbert]:
    """CheXbert's tokenizer and model.

    Args:
        weights: `chexbert.pth`, a dict with `model_state_dict`, which you have to obtain yourself. It is
            read with `weights_only`, so that the file cannot run code.
        bert: a local folder of `bert-base-uncased`: config.json and vocab.txt.

    Raises:
        InputError: a file is missing, or the two do not fit each other.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(bert, local_files_only=True)
        model = _CheXbert(AutoConfig.from_pretrained(bert, local_files_only=True)).eval()
    except (OSError, ValueError) as error:
        raise InputError(
            f"no BERT in {bert}: put config.json and vocab.txt of bert-base-uncased into a "
            "folder and name it with --bert"
        ) from error
    try:
        state = {
            name.removeprefix("module."): tensor
            for name, tensor in read_tensors(weights).items()
            if not name.endswith("position_ids")
        }  # a buffer that newer BERTs do not save
        model.load_state_dict(state)
    except RuntimeError as error:  # names or shapes
        raise InputError(
            f"{weights} is not a CheXbert checkpoint that fits {bert} ({str(error).splitlines()[0]})"
        ) from error
    return tokenizer, model


def chexbert(weights: Path, bert: Path, batch: int = 16) -> Labeler:
    """The CheXbert labeler, `batch` reports at a time; files and errors as in `load_chexbert`."""
    tokenizer, model = load_chexbert(weights, bert)

    def label(texts: Sequence[str], which: str) -> list[Labels | None]:
        known: dict[str, Labels] = {}
        todo = sorted({" ".join(text.split()) for text in texts}, key=len)
        for start in tqdm(range(0, len(todo), batch), desc=f"CheXbert: {which}", leave=False):
            part = todo[start : start + batch]
            tokens = tokenizer(part, truncation=True, max_length=512, padding=True, return_tensors="pt")
            for text, classes in zip(part, model(**tokens), strict=True):
                row = {name: CHEXBERT_VALUES[c] for name, c in zip(CHEXBERT_ORDER, classes, strict=True)}
                known[text] = {name: row[name] for name in OBSERVATIONS}
        return [known[" ".join(text.split())] for text in texts]

    return Labeler("CheXbert", label)


def from_csv(files: Sequence[Path], ids: Sequence[str]) -> Labeler:
    """Labels made elsewhere, in the layout of the CheXpert labeler and CheXbert.

    A file with a column of the reports' texts (`Report Impression`, `Reports`, `report` or `text`) labels
    these texts wherever they occur. Without this column, the first file labels the references and the second
    file labels the model's reports. Its rows are found by a column `id`, `study_id` or `uid`; without one
    they must have the order of predictions.jsonl.

    Args:
        files: CSV files with one column for each observation: 1, 0, -1 or blank.
        ids: ids of the run's studies, in order.

    Raises:
        InputError: a file is missing or damaged, a column, id or row is missing, an id occurs twice, or a
            text has two rows that differ.
    """
    book: dict[str, Labels] = {}
    given: dict[str, list[Labels | None]] = {}
    for file, side in zip(files, (REFERENCES, MODEL, *[""] * len(files)), strict=False):
        header, rows = _read_csv(file)
        text = next((name for name in _TEXTS if name in header), None)
        if text:
            _add_texts(book, [(" ".join(row[text].split()), _labels(row)) for row in rows], file)
        elif side:
            given[side] = _by_study(file, header, rows, ids)
        else:
            raise InputError(f"{file}: a third file needs a column with the reports' texts (`report`)")

    def label(texts: Sequence[str], which: str) -> list[Labels | None]:
        return given[which] if which in given else [book.get(" ".join(text.split())) for text in texts]

    return Labeler("CSV: " + ", ".join(Path(file).name for file in files), label)


def _add_texts(book: dict[str, Labels], rows: Sequence[tuple[str, Labels]], file: Path) -> None:
    """Adds labelled texts to the book. InputError for a text that has two different rows."""
    for number, (text, labels) in enumerate(rows, start=1):
        before = book.setdefault(text, labels)
        if changed := [name for name in OBSERVATIONS if before[name] != labels[name]]:
            raise InputError(
                f"{file}, row {number}: the text {text[:60]!r} has been labelled otherwise before "
                f"({changed[0]}: {before[changed[0]]}, then {labels[changed[0]]}); leave one row of each text"
            )


def _read_csv(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Lower-case header and rows; the 14 labels of a row are 1, 0, -1 or None under their full names."""
    header, lines = read_lines(Path(file), commas=True)
    header = [name.lower() for name in header]
    keyed = any(
        name in header for name in (*_IDS, *_TEXTS)
    )  # else a line of commas is a study without labels
    known = Counter(_ALIASES.get(name, name) for name in header)
    if missing := [repr(name) for name in OBSERVATIONS if name not in known]:
        raise InputError(f"{file} has no column {listed(missing)}: all 14 observations are needed")
    if twice := [repr(name) for name, times in known.items() if times > 1 and name]:
        raise InputError(f"{file} has two columns for {listed(twice)}; remove one")
    rows, bad = [], []
    for number, cells in lines.items():
        if keyed and not any(map(str.strip, cells)):
            continue
        row: dict = dict(zip(header, cells, strict=True))
        for column in _ALIASES.keys() & row.keys():
            try:
                row[_ALIASES[column]] = _label(row[column])
            except ValueError:
                bad.append(f"line {number}: {_ALIASES[column]} is {row[column]!r:.40}")
        rows.append(row)
    if bad:
        raise InputError(f"{file}, {listed(bad)}; labels are 1, 0, -1 or blank")
    return header, rows


def _label(text: str) -> int | None:
    """1, 0 or -1, however the number is written; None for a blank cell; ValueError for anything else."""
    if not text.strip() or (text.strip()[0].isalpha() and is_blank(text)):
        return None
    if (value := float(text)) not in (1, 0, -1):
        raise ValueError
    return int(value)


def _labels(row: dict) -> Labels:
    return {name: row[name] for name in OBSERVATIONS}


def _by_study(
    file: Path, header: Sequence[str], rows: Sequence[dict], ids: Sequence[str]
) -> list[Labels | None]:
    column = next((name for name in _IDS if name in header), None)
    if column is None:
        if len(rows) != len(ids):
            raise InputError(f"{file} has {len(rows)} rows for {len(ids)} studies and no column `id`")
        return [_labels(row) for row in rows]
    table: dict[str, dict] = {}
    for row in rows:
        if table.setdefault(bare_id(row[column]), row) is not row:
            raise InputError(f"{file}: the id {row[column]!r} occurs twice; keep one of its rows")
    if absent := [study for study in ids if bare_id(study) not in table]:
        raise InputError(f"{file} lacks {len(absent)} of {len(ids)} studies, the first is {absent[0]!r}")
    return [_labels(table[bare_id(study)]) for study in ids]
