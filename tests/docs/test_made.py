"""`data/results/made.csv` says how each committed result was made, and each command is one of the kit."""

import csv
import json
import re
import shlex
from datetime import date

import pytest

from emrrg_lib.cli import _parser
from emrrg_lib.files import KIT

DATA = KIT / "data"
with open(DATA / "results" / "made.csv", encoding="utf-8") as file:
    MADE = list(csv.DictReader(file))


def results():
    """Each folder of results and of weights; of `bench` and `shift` each file, for it is a run of its own."""
    folders = [path for room in ("results", "tiny") for path in (DATA / room).iterdir() if path.is_dir()]
    for folder in folders:
        for path in folder.glob("*.json") if folder.name in ("bench", "shift") else [folder]:
            yield path.relative_to(DATA).as_posix()


def test_each_result_has_one_row():
    assert [row["result"] for row in MADE] == sorted(results())


@pytest.mark.parametrize("row", MADE, ids=lambda row: row["result"])
def test_command_commit_and_date_are_those_of_the_result(row):
    assert re.fullmatch("[0-9a-f]{12}", row["commit"])
    assert date(2026, 11, 1) <= date.fromisoformat(row["date"]) <= date.today()
    words = shlex.split(row["command"])
    if words[0] == "emrrg":
        _parser().parse_args(words[1:])  # leaves with exit code 2 where a word is not the kit's
    path = DATA / row["result"]
    record = path if path.is_file() else path / "run.json"
    made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
    if isinstance(made, dict):
        assert (made.get("commit") or row["commit"]).startswith(row["commit"])
        assert made.get("date", row["date"]) == row["date"]
        assert set(made.get("values", ())) <= set(words), "the settings of an ablation"
