"""What the notebooks share, as one call each: the profile opened, a scratch folder, the glossary.

The glossary (paper letter ↔ name in the code ↔ shape ↔ file) is `glossary.csv`, one table for every
notebook; tests/course/test_glossary.py compares it with the tiny model.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import io
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from IPython.display import HTML
from transformers import PretrainedConfig
from transformers.utils import logging

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.evaluation.ablation_tables import RESULTS
from emrrg_lib.files import KIT, TINY_DIR, InputError
from emrrg_lib.interpret.model_picture import ModelPicture, model_picture
from emrrg_lib.interpret.style import html_image
from emrrg_lib.model import EMRRG

SHIPPED_RUN = TINY_DIR / "run"


def run_of(profile: str = "tiny") -> Path:
    """The finished run of a profile: $EMRRG_RUN or the shipped run for "tiny", else runs/PROFILE."""
    if profile != "tiny":
        return KIT / "runs" / profile
    return Path(os.environ.get("EMRRG_RUN") or SHIPPED_RUN)


def own_run() -> Path:
    """The first finished run of: $EMRRG_RUN, the run of `make demo`, the shipped run.

    Raises:
        InputError: none of them has a metrics.json.
    """
    places = [os.environ.get("EMRRG_RUN"), KIT / "runs" / "demo", SHIPPED_RUN]
    for place in (Path(place) for place in places if place):
        if (place / "metrics.json").is_file():
            return place
    raise InputError("there is no finished run: type `make demo` in the kit's folder (10 minutes)")


def open_profile(
    profile: str | Path = "tiny", lit: str | Collection[str] | None = None
) -> tuple[EMRRG, EMRRGConfig, ModelPicture]:
    """Loads the trained model of a profile, on the GPU unless the profile is "tiny".

    Args:
        profile: "tiny", a preset of which runs/PROFILE holds a finished run, or a run folder.
        lit: parts of the picture that are shown in full colour; None shows everything so.

    Returns:
        The model, its settings, and the picture of the model with its sizes, which Jupyter shows.
    """
    logging.disable_progress_bar()
    run = profile if isinstance(profile, Path) else run_of(profile)
    model = EMRRG.from_run(run)
    model = model if isinstance(profile, Path) or profile == "tiny" else model.to("cuda")
    return model, model.settings, picture_of(model.settings, lit, model.llm.config)


def picture_of(
    settings: EMRRGConfig,
    lit: str | Collection[str] | None = None,
    llm: PretrainedConfig | None = None,
) -> ModelPicture:
    """The picture of the model with the sizes of `settings`; no weights are read."""
    if llm is None:
        with torch.device("meta"):  # shapes without memory
            llm = EMRRG.from_sizes(settings).llm.config
    return model_picture(settings, llm.hidden_size, llm.num_hidden_layers, lit)


def scratch_folder() -> tempfile.TemporaryDirectory:
    """A folder for everything that a notebook writes, the cache of resized images included.

    `cleanup()` of the result removes it; so does the end of the kernel.
    """
    logging.disable_progress_bar()
    folder = tempfile.TemporaryDirectory()
    os.environ["EMRRG_CACHE"] = str(Path(folder.name) / "cache")
    return folder


def contact_sheet() -> HTML:
    """The picture of fifteen phantom studies, data/phantom_contact_sheet.png, with its sentence."""
    alt = (
        "Contact sheet of fifteen synthetic studies, each a frontal and a lateral view: normal, large heart, "
        "wide mediastinum, nodule, opacity, edema, consolidation, atelectasis, pneumothorax, effusion, "
        "pleural thickening, fracture, pacemaker, hyperinflation, and three findings together."
    )
    return HTML(html_image((KIT / "data" / "phantom_contact_sheet.png").read_bytes(), alt, 900))


def stored_figures(*names: str, fold: bool = False) -> HTML:
    """The figures of these tables of data/results with their sentences; folded, a click shows each."""
    shown = []
    for folder in (RESULTS / name for name in names):
        alt = (folder / "figure.txt").read_text(encoding="utf-8").strip()
        image = html_image((folder / "figure.png").read_bytes(), alt, 720 if fold else 900)
        shown.append(f"<details><summary>{folder.name}</summary>{image}</details>" if fold else image)
    return HTML("\n".join(shown))


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Keeps printed text and progress bars off the page; pictures are still shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def dashed(frame: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """The table as texts: floats with so many digits, a dash where a value is missing."""

    def text(value: Any) -> str:
        missing, real = pd.isna(value), isinstance(value, float)
        return "–" if missing else f"{value:.{digits}f}" if real else str(value)

    return frame.map(text)


class Row(NamedTuple):
    """One letter. `shape` is "number" for a size; a letter with two meanings has two rows."""

    letter: str
    code: str
    shape: str
    where: str  # file inside emrrg_lib
    meaning: str


class Table(str):
    """Markdown that Jupyter renders as a table and that is readable as plain text too."""

    _repr_markdown_ = str.__str__
    __repr__ = str.__str__


with Path(__file__).with_name("glossary.csv").open(encoding="utf-8", newline="") as _file:
    ROWS = [Row(**row) for row in csv.DictReader(_file)]


def glossary(*letters: str) -> Table:
    """The rows of these letters in this order as a Markdown table; without arguments, all rows.

    Args:
        letters: of the paper, such as "α"; one text may hold several, parted by ", ".

    Raises:
        InputError: a letter is not in the glossary.
    """
    by_letter = {row.letter: row for row in ROWS}
    letters = tuple(letter for text in letters for letter in text.split(", "))
    for letter in letters:
        if letter not in by_letter:
            close = [known for known in by_letter if known.split(" ")[0] == letter.split(" ")[0]]
            close = close or difflib.get_close_matches(letter, by_letter, cutoff=0.1)
            raise InputError(f"the glossary has no '{letter}'; is it one of {', '.join(close or by_letter)}?")
    lines = ["| paper | name in the code | shape | file | meaning |", "|---|---|---|---|---|"]
    for row in (by_letter[letter] for letter in letters or by_letter):
        shape = row.shape.replace("*", "·")
        lines.append(f"| {row.letter} | `{row.code}` | {shape} | `{row.where}` | {row.meaning} |")
    return Table("\n".join(lines))
