"""Numbers that a notebook quotes are those of the kit."""

import pytest

pytest.importorskip("jupytext", reason="jupytext is not installed (extra dev)")

from emrrg_lib.course.build import TWINS  # noqa: E402
from emrrg_lib.presets import preset  # noqa: E402


def test_the_numbers_of_the_text_are_those_of_the_preset():
    text = (TWINS / "05_training_iu_xray.py").read_text(encoding="utf-8")
    train = preset("iu-xray").train
    assert (train.epochs, train.batch_size, train.joint_steps(2069)) == (30, 20, 3104)
    tiny = preset("tiny").train
    assert round(tiny.learning_rate / train.learning_rate) == 30
    assert round(tiny.gate_learning_rate / train.gate_learning_rate) == 20
    assert "rates 30 and 20 times as high" in text and "are 3,104 steps" in text
