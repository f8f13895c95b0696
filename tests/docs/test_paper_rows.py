"""The table "Rows of the papers' tables" of emrrg_lib/README.md covers every published row."""

import re
import shlex

import pytest

from emrrg_lib.cli import _parser
from emrrg_lib.cli.parsing import chosen_system
from emrrg_lib.config import with_values
from emrrg_lib.evaluation.published import FOLDER, published
from emrrg_lib.files import KIT
from emrrg_lib.presets import preset
from emrrg_lib.training.ablation_rows import check_values, read_rows

TEXT = (KIT / "emrrg_lib" / "README.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## Rows of the papers' tables")[2].partition("\n## ")[0]
CAN, CANNOT = SECTION.split("| rows that the kit cannot run | why |")
LINES = [
    line.split(" | ") for line in CAN.splitlines() if line.startswith("| `") or line.startswith("| five")
]
COMMANDS = [
    word
    for *_, cell in LINES
    for word in re.findall(r"`([^`]*)`", cell)
    if word.startswith("train --") or word.startswith("ablate cx") or word.startswith("ablate table5 ")
]
TABLES = sorted(path.stem for path in FOLDER.glob("*.csv"))


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_a_command_or_a_reason(table):
    words = " ".join(row for tables, row, _ in LINES if table in tables or tables == "| five tables")
    if table in ("emrrg_table5", "emrrg_table6"):
        assert words.startswith(("EMRRG #01 to EMRRG #06", "all eleven"))
        return
    cannot = [name.strip() for line in CANNOT.splitlines() for name in line.split("|")[1:2]]
    cannot = {name.strip() for cell in cannot for name in cell.split(",")}
    for system in {*published(table)["system"]} - cannot:
        number = system.removeprefix("MambaXray-VL ")  # "#05" stands in a list
        assert re.search(rf"(?<![\w-]){re.escape(number)}(?![\w#])", words), (table, system)


def test_no_row_is_in_both_lists():
    can = " ".join(row for _, row, _ in LINES)
    names = {name.strip() for line in CANNOT.splitlines()[2:] for name in line.split("|")[1:2]}
    for name in {name.strip() for cell in names for name in cell.split(",")} - {""}:
        assert not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", can), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command):
    options = _parser().parse_args(shlex.split(command))
    if command.startswith("train"):
        with_values(chosen_system(options), options.values)
    else:
        check_values(preset(options.preset), read_rows(options.name, options.rows), options.values)
