"""The self-checks of the exercises: one module a notebook (`nb00` … `nb10`), one function an exercise.

A check goes through stages, and each stage isolates one mistake. The first stage that fails names the
learner's value, the expected value and the likely cause. The truth is never the code of the solution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch


class Mistake(Exception):
    """An answer is wrong; the message names the likely cause."""


class NotTried(Exception):
    """The stub is unchanged."""


def exercise(number: int) -> Callable:
    """Makes a check of a function `stages(answer, ...)`, which returns a closing remark or None.

    The check prints `Exercise N: ` and `right`, `not tried yet` or the mistake; `check.verdict(...)`
    returns the text after the number.
    """

    def decorate(stages: Callable[..., str | None]) -> Callable:
        def verdict(answer: Any, *given: Any, **named: Any) -> str:
            try:
                if answer is None or answer is ...:
                    raise NotTried
                remark = stages(answer, *given, **named)
            except NotTried:
                return "not tried yet"
            except Mistake as mistake:
                return f"not yet. {mistake}"
            return f"right. {remark}" if remark else "right"

        @functools.wraps(stages)
        def check(answer: Any, *given: Any, **named: Any) -> None:
            print(f"Exercise {number}: {verdict(answer, *given, **named)}")

        check.verdict = verdict
        return check

    return decorate


def call(answer: Callable, *arguments: Any, **named: Any) -> Any:
    """Calls the learner's function: NotTried if the stub is unchanged, Mistake if the function raises."""
    try:
        result = answer(*arguments, **named)
    except NotImplementedError as error:
        raise NotTried from error
    except Exception as error:
        raise Mistake(f"Your code raised {type(error).__name__}: {error}") from error
    if result is None or result is ...:
        raise NotTried
    return result


def expect(condition: bool, cause: str) -> None:
    """Raises Mistake with `cause` unless the condition holds."""
    if not condition:
        raise Mistake(cause)


def expect_shape(yours: Any, shape: tuple[int, ...], cause: str) -> None:
    """The answer is an array or tensor of this shape."""
    found = tuple(yours.shape) if hasattr(yours, "shape") else f"a {type(yours).__name__}"
    expect(found == tuple(shape), f"Shape: yours {found}, expected {tuple(shape)}: {cause}")


def expect_pair(yours: Any, cause: str) -> tuple[Any, Any]:
    """The answer is a tuple or list of two, and is returned as a tuple."""
    expect(isinstance(yours, tuple | list) and len(yours) == 2, cause)
    return tuple(yours)


def expect_value(
    yours: Any,
    expected: Any,
    cause: str,
    slips: Mapping[Any, str] | Iterable[tuple[Any, str]] = (),
    where: str = "",
    tolerance: float = 1e-4,
) -> None:
    """The answer equals the expected value.

    Numbers, arrays, tensors and sequences of numbers are compared as float64 arrays, anything else by `==`.

    Args:
        cause: the likely cause of a wrong value that is not a known slip.
        slips: known wrong values, each with its cause; the first that equals the answer counts.
        where: the case of the check; it begins the message.
        tolerance: of floats, as a part of the largest expected number (or of 1 where all are 0); where
            whole numbers are expected they must be met exactly.
    """
    if _equal(yours, expected, tolerance):
        return
    pairs = slips.items() if isinstance(slips, Mapping) else slips
    cause = next((told for value, told in pairs if _equal(yours, value, tolerance)), cause)
    raise Mistake(f"{where or 'Value'}: yours {_short(yours)}, expected {_short(expected)}: {cause}")


def _numbers(value: Any) -> np.ndarray | None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    if isinstance(value, str):  # "3" is text
        return None
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _equal(yours: Any, other: Any, tolerance: float) -> bool:
    mine, truth = _numbers(yours), _numbers(other)
    if mine is None or truth is None:
        return bool(np.all(yours == other)) if type(yours) is type(other) else False
    whole = np.asarray(other).dtype.kind in "biu"
    largest = 0.0 if whole else np.abs(truth).max(initial=0.0) or 1.0
    return mine.shape == truth.shape and np.allclose(mine, truth, rtol=0, atol=tolerance * largest)


def _short(value: Any) -> str:
    """An integer with separators, a float of six digits, the first four numbers of an array, a cut repr."""
    numbers = _numbers(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if numbers is None:
        return f"{value!r:.60}"
    if numbers.ndim == 0:
        return f"{float(numbers):.6g}"
    head = ", ".join(f"{v:.4g}" for v in numbers.ravel()[:4])
    return f"[{head}{', …' if numbers.size > 4 else ''}]"
