"""What a row of an ablation table means: its configuration, its pre-training, the paper's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from transformers import AutoConfig

from ..config import EMRRGConfig, with_values
from ..data.tables import read_table
from ..errors import InputError
from ..evaluation.published import COLUMNS, published
from ..language.llm import NAMED
from ..tuning.policy import apply_policy
from .recipes import STAGE1_TINY, STAGE2_TINY, recipe

FOLDER = Path(__file__).resolve().parents[2] / "data" / "ablations"
FIELDS = ("row", "settings", "stage1", "stage2", "paper_table", "paper_row", "note")
STAGES = {"stage1.": STAGE1_TINY, "stage2.": STAGE2_TINY}  # prefix of a setting of pre-training, a recipe


@dataclass(frozen=True)
class Row:
    """One line of an ablation's CSV.

    Attributes:
        row: its name.
        settings: words KEY=VALUE: settings of config.py, `policy=NAME`, `size=large`, `vit=true`;
            `llm.hybrid_layers` takes none, first, all, every:K or spread:K.
        stage1, stage2: the row's encoder is pre-trained by these stages: empty (not), `default`, or
            words KEY=VALUE for the recipe. With neither, the encoder is the preset's.
        paper_table, paper_row: where the paper has the row, see `paper_values`.
    """

    row: str
    settings: str
    stage1: str
    stage2: str
    paper_table: str
    paper_row: str
    note: str


def names() -> list[str]:
    """The ablations there are."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def read_rows(name: str, only: Sequence[str] = ()) -> list[Row]:
    """The rows of an ablation, or those named. Raises InputError for an unknown name."""
    if name not in names():
        raise InputError(f"there is no ablation '{name}'; there are {', '.join(names())}")
    rows = [Row(**values) for values in read_table(FOLDER / f"{name}.csv", FIELDS).to_dict("records")]
    if unknown := set(only) - {row.row for row in rows}:
        raise InputError(f"{name} has no row '{min(unknown)}'; it has {', '.join(row.row for row in rows)}")
    return [row for row in rows if not only or row.row in only]


def row_config(config: EMRRGConfig, row: Row, values: Sequence[str] = ()) -> EMRRGConfig:
    """The preset with the row's settings, then with `values`; InputError for one that does not exist."""
    for word in row.settings.split():
        key, _, value = word.partition("=")
        if key == "policy":
            config = apply_policy(config, value)
        elif word == "size=large":  # as base to large in the paper: 768 x 12 to 1024 x 24
            sizes = config.encoder
            config = replace(config, encoder=replace(
                sizes, embed_dim=round(sizes.embed_dim * 4 / 3 / 32) * 32, depth=2 * sizes.depth))
        elif word == "vit=true":
            config = replace(config, encoder=replace(config.encoder, kind="hf"))
        elif key == "llm.hybrid_layers":
            config = replace(config, llm=replace(
                config.llm, hybrid_layers=hybrid_layers(value, _layers(config.llm.name))))
        else:
            config = with_values(config, [word])
    return with_values(config, _own(values))


def _own(values: Sequence[str]) -> list[str]:
    """The settings that are config.py's."""
    return [word for word in values if not word.startswith(tuple(STAGES))]


def stage_values(values: Sequence[str], stage: str) -> list[str]:
    """The settings that begin with a key of STAGES, without it."""
    return [word.removeprefix(stage) for word in values if word.startswith(stage)]


def check_values(config: EMRRGConfig, rows: Sequence[Row], values: Sequence[str]) -> None:
    """Raises InputError for a setting that does not exist, or that none of the rows has a use for."""
    with_values(config, _own(values))
    for prefix, base in STAGES.items():
        stage = prefix.rstrip(".")
        if words := stage_values(values, prefix):
            recipe(base, "default", words)
            if not any(getattr(row, stage) for row in rows):
                raise InputError(f"{prefix}{words[0]}: no row here is pre-trained by {stage}; leave it out, "
                                 "or choose a table such as cxpmrg-table4")


def hybrid_layers(choice: str, count: int) -> tuple[int, ...]:
    """Layer indices of a word: none, first, all, every:K (every K-th), spread:K (K layers, evenly)."""
    word, _, number = choice.partition(":")
    steps = {"none": count, "first": count, "all": 1, "every": int(number or 1),
             "spread": max(1, count // int(number or 1))}
    if word not in steps:
        raise InputError(f"hybrid layers '{choice}': say {', '.join(steps)}, with :K after the last two")
    chosen = range(0, 0 if word == "none" else count, steps[word])
    return tuple(chosen[:int(number)] if word == "spread" else chosen)


def _layers(llm: str) -> int:
    if llm in NAMED:
        return NAMED[llm].config().num_hidden_layers
    try:
        return AutoConfig.from_pretrained(llm, trust_remote_code=False).get_text_config().num_hidden_layers
    except (OSError, ValueError) as error:
        raise InputError(f"the language model '{llm}' is not here: download it with `hf download {llm}`"
                         ) from error


def paper_values(row: Row) -> dict[str, dict[str, float]]:
    """Data set → metric → value of the published row that is meant, by system, setting or both."""
    if not row.paper_table:
        return {}
    found = [line for line in published(row.paper_table).to_dict("records") if row.paper_row in (
        line["system"], line["setting"], f"{line['system']} {line['setting']}")]
    if not found:
        raise InputError(f"{row.paper_table} has no row '{row.paper_row}'")
    return {line["dataset"]: {name: line[name] for name in COLUMNS if pd.notna(line.get(name))}
            for line in found}


