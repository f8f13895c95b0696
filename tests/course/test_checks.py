"""Every check knows right from wrong: the folded solution passes, in every container and precision; other
right answers of `answers_nbNN.py` pass too; the stub of the notebook is not tried; each wrong answer is told
in words of its own, and an answer of any wrong type is one sentence.
"""

import ast
import functools
import importlib
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("jupytext", reason="jupytext is not installed (extra dev)")

from emrrg_lib.course.build import TWINS, checks, read_twin, solutions  # noqa: E402

ANSWERS = {
    path.stem.removeprefix("answers_nb"): importlib.import_module(path.stem)
    for path in sorted(Path(__file__).parent.glob("answers_nb*.py"))
}
LESSONS = {number: read_twin(next(TWINS.glob(f"{number}_*.py"))) for number in ANSWERS}
EXERCISES = [(number, k) for number, lesson in LESSONS.items() for k in checks(lesson)]
RIGHT = [
    (number, *answer) for number, module in ANSWERS.items() for answer in getattr(module, "ALSO_RIGHT", [])
]
WRONG = [(number, *mistake) for number, module in ANSWERS.items() for mistake in module.WRONG]


def verdict(number, exercise, code, name=None, change=lambda answer: answer):
    """What the check says of what `code` calls `name`, by default as in the notebook."""
    scope = dict(ANSWERS[number].SCOPE)
    cell = LESSONS[number].cells[checks(LESSONS[number])[exercise]].source
    own, *given = re.search(rf"^check_{exercise}\((.*)\)$", cell, re.MULTILINE)[1].split(", ")
    check = getattr(importlib.import_module(f"emrrg_lib.course.checks.nb{number}"), f"check_{exercise}")
    name = name or own
    for statement in ast.parse(code).body:
        exec(compile(ast.Module([statement], []), "answer", "exec"), scope)
        if name in scope:  # what follows in a solution only shows it at work
            break
    return check.verdict(change(scope[name]), *(scope[word] for word in given))


@pytest.mark.parametrize("number, exercise", EXERCISES)
def test_the_solution_is_right_and_the_stub_is_not_tried(number, exercise):
    lesson = LESSONS[number]
    stub = lesson.cells[checks(lesson)[exercise] - 1].source
    assert verdict(number, exercise, solutions(lesson)[exercise]).startswith("right")
    assert verdict(number, exercise, stub) == "not tried yet"


def _as_list(value):
    if isinstance(value, tuple | list):
        return [_as_list(part) for part in value]
    return value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value


def _as_numpy(value):
    if isinstance(value, tuple | list):
        return type(value)(_as_numpy(part) for part in value)
    if isinstance(value, bool | str) or not isinstance(value, int | float | torch.Tensor):
        return value
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)[()]


def _as_tensor(value):
    if isinstance(value, tuple | list):
        return type(value)(_as_tensor(part) for part in value)
    if isinstance(value, bool | str) or not isinstance(value, int | float | np.ndarray | np.number):
        return value
    return torch.as_tensor(value)


def _with_gradient(value):
    if isinstance(value, tuple | list):
        return type(value)(_with_gradient(part) for part in value)
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.detach().clone().requires_grad_() if floats else value


@pytest.mark.parametrize("container", [_as_list, _as_numpy, _as_tensor, _with_gradient])
@pytest.mark.parametrize("number, exercise", EXERCISES)
def test_the_solution_is_right_in_every_container(number, exercise, container):
    """Lists for tuples, tensors and arrays, NumPy for torch and Python, torch for NumPy, with a gradient."""
    if exercise in getattr(ANSWERS[number], "AS_THEY_ARE", ()):
        pytest.skip("this exercise asks for an object of its own kind, not for numbers or texts")

    def change(answer):
        return (
            functools.wraps(answer)(lambda *a, **k: container(answer(*a, **k))) if _plain(answer) else answer
        )

    code = solutions(LESSONS[number])[exercise]
    told = verdict(number, exercise, code, change=lambda a: change(a) if callable(a) else container(a))
    assert told.startswith("right"), told


def _plain(answer):
    return isinstance(answer, types.FunctionType)  # a class or a module is its own container


@pytest.mark.parametrize("number, exercise, code", RIGHT)
def test_another_right_answer_is_right(number, exercise, code):
    told = verdict(number, exercise, code, "answer")
    assert told.startswith("right"), told


WRONG_TYPES = [
    "a text",
    10**9,
    -3.25,
    (),
    [],
    {},
    {1, 2},
    object(),
    float("nan"),
    np.zeros((0, 3)),
    b"x",
    True,
]


@pytest.mark.parametrize("number, exercise", EXERCISES)
def test_an_answer_of_a_wrong_type_is_one_sentence(number, exercise):
    code = solutions(LESSONS[number])[exercise]
    for wrong in [*WRONG_TYPES, lambda *a, **k: 1 / 0, lambda: 0, int]:
        for change in (lambda a, w=wrong: w, lambda a, w=wrong: lambda *args, **named: w):
            told = verdict(number, exercise, code, change=change)
            assert told.startswith("not yet. ") and "\n" not in told, (wrong, told)


@pytest.mark.parametrize("number, exercise, code, cause", WRONG)
def test_a_mistake_is_told(number, exercise, code, cause):
    told = verdict(number, exercise, code, "answer")
    assert told.startswith("not yet.") and cause in told


@pytest.mark.parametrize("number", ANSWERS)
def test_each_mistake_has_its_own_words_and_each_exercise_four(number):
    told = [
        (exercise, verdict(number, exercise, code, "answer")) for exercise, code, _ in ANSWERS[number].WRONG
    ]
    assert len(set(told)) == len(told)
    assert all(sum(k == exercise for k, _ in told) >= 4 for exercise in checks(LESSONS[number]))


@pytest.mark.parametrize("number", ANSWERS)
def test_each_exercise_has_two_right_answers_beside_its_solution(number):
    own = [exercise for lesson, exercise, _ in RIGHT if lesson == number]
    assert all(own.count(exercise) >= 2 for exercise in checks(LESSONS[number]))


def test_code_that_raises_is_told_as_such():
    told = verdict("01", 1, "def answer(size, patch):\n    return 1 // 0", "answer")
    assert "Your code raised ZeroDivisionError" in told
