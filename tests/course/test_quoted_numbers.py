"""Numbers that a notebook quotes are those of the kit."""

import re

import pytest

pytest.importorskip("jupytext", reason="jupytext is not installed (extra dev)")

from emrrg_lib.config import preset  # noqa: E402
from emrrg_lib.course.build import NOTEBOOKS  # noqa: E402
from emrrg_lib.files import KIT  # noqa: E402


def test_the_numbers_of_the_text_are_those_of_the_preset():
    text = (NOTEBOOKS / "05_training_iu_xray.py").read_text(encoding="utf-8")
    train = preset("iu-xray").train
    assert (train.epochs, train.batch_size, train.joint_steps(2069)) == (30, 20, 3104)
    tiny = preset("tiny").train
    assert round(tiny.learning_rate / train.learning_rate) == 30
    assert round(tiny.gate_learning_rate / train.gate_learning_rate) == 20
    assert "rates 30 and 20 times as high" in text and "are 3,104 steps" in text


def test_the_quoted_controls_are_those_of_the_readme():
    text = (NOTEBOOKS / "06_metrics.py").read_text(encoding="utf-8")
    readme = (KIT / "README.md").read_text(encoding="utf-8")
    for name, quoted in re.findall(r'"((?:constant|most|random)[\w ]+)": \[(\.[\d., ]+)\]', text):
        lines = re.findall(rf"^\| {name} \|(.*)$", readme, re.MULTILINE)
        assert quoted.split(", ") in [re.findall(r"(\.\d{3}) \[", line) for line in lines]


@pytest.mark.parametrize("twin", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem[:2])
def test_the_minutes_of_the_exercises_add_up_to_those_of_the_readme(twin):
    text = twin.read_text(encoding="utf-8")
    minutes = re.findall(r"^# ### Exercise \d.*?(\d+) minutes", text, re.MULTILINE)
    course = re.search(
        rf"notebooks/{twin.stem}\.ipynb\).*\| \d+ \((\d+)\) \|",
        (KIT / "README.md").read_text(encoding="utf-8"),
    )
    assert sum(map(int, minutes)) == int(course[1])
