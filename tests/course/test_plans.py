"""The plans for teaching add up; the files for other hosts parse and say what they need."""

import json
import re

import pytest

from emrrg_lib.files import KIT

README = (KIT / "notebooks" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "total"), [("three hours", 180), ("one day", 480)])
def test_a_plan_adds_up_and_has_pauses(name, total):
    table = README.split(f"| {name} |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (\d+):(\d\d) \| (\d+) \| (.*) \|$", table, re.MULTILINE)
    starts = [60 * int(hour) + int(minute) for hour, minute, _, _ in rows]
    lengths = [int(length) for _, _, length, _ in rows]
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    assert starts[1:] == ends[:-1] and ends[-1] - starts[0] == sum(lengths) == total
    worked, longest, pauses = 0, 0, 0
    for (*_, what), length in zip(rows, lengths, strict=True):
        pause = re.match("pause|lunch", what)
        worked, pauses = (0, pauses + 1) if pause else (worked + length, pauses)
        longest = max(longest, worked)
    assert longest <= 105 and pauses >= 2


def test_binder_and_containers_get_the_kit():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    environment = yaml.safe_load((KIT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (each["pip"] for each in environment["dependencies"] if isinstance(each, dict))
    assert not any((KIT / name).exists() for name in ("binder", ".binder"))  # they would hide the file
    assert (
        environment["channels"] == ["conda-forge", "nodefaults"]
        and "python=3.11" in environment["dependencies"]
    )
    assert pip == ["-e ."]  # repo2docker copies the whole kit before it installs a local package
    container = json.loads((KIT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert (KIT / container["postCreateCommand"].split()[1]).is_file()
    python = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python.endswith("/.venv/bin/python")
