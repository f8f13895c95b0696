"""Self-checks of the exercises: one module a notebook (`nb01` … `nb10`), one function an exercise.

A check goes through stages, each of which isolates one mistake; the first that fails is told with
yours, the expected value and the likely cause. The truth is never the solution's own code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class Mistake(Exception):
    """What is wrong, and its likely cause."""


class NotTried(Exception):
    """The stub is as it was."""


def exercise(number: int) -> Callable:
    """Makes a check of a function `stages(answer, ...)`, which returns a closing remark or None.

    The check prints `Exercise N: right`, `not tried yet` or the mistake; `check.verdict(...)` returns
    that text without the number.
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
    """The learner's function called: NotTried for an untouched stub, Mistake if it raises."""
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
    found = tuple(getattr(yours, "shape", ())) if hasattr(yours, "shape") else None
    if found != tuple(shape):
        got = f"a {type(yours).__name__}" if found is None else str(found)
        raise Mistake(f"Shape: yours {got}, expected {tuple(shape)}: {cause}")


def expect_close(yours: Any, expected: Any, cause: str, tolerance: float = 1e-4) -> None:
    """The answer equals the expected numbers to `tolerance` (absolute and relative)."""
    mine, truth = (
        np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, dtype=np.float64)
        for x in (yours, expected)
    )
    if mine.shape != truth.shape or not np.allclose(mine, truth, rtol=tolerance, atol=tolerance):
        raise Mistake(f"Value: yours {_short(mine)}, expected {_short(truth)}: {cause}")


def _short(array: np.ndarray) -> str:
    if array.ndim == 0:
        return f"{float(array):.6g}"
    head = ", ".join(f"{v:.4g}" for v in array.ravel()[:4])
    return f"[{head}{', …' if array.size > 4 else ''}]"
