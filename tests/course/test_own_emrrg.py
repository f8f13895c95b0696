"""Notebook 11: the parts of one's own and what puts them in are fewer than 200 lines."""

import pytest

pytest.importorskip("jupytext", reason="jupytext is not installed (extra dev)")

from emrrg_lib.course.build import TWINS, read_twin, solutions  # noqa: E402

MOST = 200


def test_a_model_of_ones_own_is_short():
    lesson = read_twin(TWINS / "11_your_own_emrrg.py")
    own = [code for number, code in solutions(lesson).items() if number < 6]
    surgery = [
        cell.source
        for cell in lesson.cells
        if cell.cell_type == "code"
        and any(f"def {name}(" in cell.source for name in ("forward", "put_in", "own_lora"))
    ]
    lines = [line for code in own + surgery for line in code.splitlines() if line.strip()]
    assert len(own) == 5 and 100 < len(lines) < MOST
