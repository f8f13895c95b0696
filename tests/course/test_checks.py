"""Every check knows right from wrong: the folded solution passes, the stub as it stands in the notebook is
not tried, and each mistake of `mistakes_nbNN.py` is told in words of its own.
"""

import ast
import importlib
import re
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="jupytext is not installed (extra dev)")

from emrrg_lib.course.build import NOTEBOOKS, checks, read_twin, solutions  # noqa: E402

MISTAKES = {
    path.stem.removeprefix("mistakes_nb"): importlib.import_module(path.stem)
    for path in sorted(Path(__file__).parent.glob("mistakes_nb*.py"))
}
LESSONS = {number: read_twin(next(NOTEBOOKS.glob(f"{number}_*.py"))) for number in MISTAKES}
EXERCISES = [(number, k) for number, lesson in LESSONS.items() for k in checks(lesson)]
WRONG = [(number, *mistake) for number, module in MISTAKES.items() for mistake in module.WRONG]


def verdict(number, exercise, code, name=None):
    """What the check says of what `code` calls `name`, by default as in the notebook."""
    scope = dict(MISTAKES[number].SCOPE)
    cell = LESSONS[number].cells[checks(LESSONS[number])[exercise]].source
    own, *given = re.search(rf"^check_{exercise}\((.*)\)$", cell, re.MULTILINE)[1].split(", ")
    check = getattr(importlib.import_module(f"emrrg_lib.course.checks.nb{number}"), f"check_{exercise}")
    name = name or own
    for statement in ast.parse(code).body:
        exec(compile(ast.Module([statement], []), "answer", "exec"), scope)
        if name in scope:  # what follows in a solution only shows it at work
            break
    return check.verdict(scope[name], *(scope[word] for word in given))


@pytest.mark.parametrize("number, exercise", EXERCISES)
def test_the_solution_is_right_and_the_stub_is_not_tried(number, exercise):
    lesson = LESSONS[number]
    stub = lesson.cells[checks(lesson)[exercise] - 1].source
    assert verdict(number, exercise, solutions(lesson)[exercise]).startswith("right")
    assert verdict(number, exercise, stub) == "not tried yet"


@pytest.mark.parametrize("number, exercise, code, cause", WRONG)
def test_a_mistake_is_told(number, exercise, code, cause):
    told = verdict(number, exercise, code, "answer")
    assert told.startswith("not yet.") and cause in told


@pytest.mark.parametrize("number", MISTAKES)
def test_each_mistake_has_its_own_words(number):
    told = [
        (exercise, verdict(number, exercise, code, "answer")) for exercise, code, _ in MISTAKES[number].WRONG
    ]
    assert len(set(told)) == len(told)
    assert all(sum(k == exercise for k, _ in told) >= 3 for exercise in checks(LESSONS[number]))


def test_code_that_raises_is_told_as_such():
    told = verdict("01", 1, "def answer(size, patch):\n    return 1 // 0", "answer")
    assert "Your code raised ZeroDivisionError" in told
