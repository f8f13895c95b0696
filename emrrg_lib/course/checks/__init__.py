"""The self-checks of the exercises: one module a notebook (`nb00` … `nb11`), one function an exercise.

A check goes through stages, and each stage isolates one mistake. The first stage that fails names the
learner's value, the expected value and the likely cause. The truth is never the code of the solution.

What an answer *is* decides, not its container: a list, a tuple, an array and a tensor of the same numbers
are the same answer (`array`, `tensor`, `pair`, `whole`, `texts` read them), and the tolerance follows the
answer's precision. Whatever goes wrong in a check is one sentence about the answer and never a traceback.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, ValuesView
from numbers import Number
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
                return f"not yet. {' '.join(str(mistake).split())}"
            except Exception as error:  # the answer is of a kind that no stage foresaw
                told = str(error).strip().split("\n")[0]
                return (
                    f"not yet. The check cannot read this answer ({_kind(answer)}): "
                    f"{type(error).__name__}: {told:.120}. Compare its type and shape with the task."
                )
            return f"right. {remark}" if remark else "right"

        @functools.wraps(stages)
        def check(answer: Any, *given: Any, **named: Any) -> None:
            print(f"Exercise {number}: {verdict(answer, *given, **named)}")

        check.verdict = verdict
        return check

    return decorate


def call(answer: Callable, *arguments: Any, **named: Any) -> Any:
    """Calls the learner's function: NotTried if the stub is unchanged, Mistake if the function raises."""
    if not callable(answer):
        raise Mistake(f"A function is expected, yours is {_kind(answer)}.")
    try:
        result = answer(*arguments, **named)
        if isinstance(result, Iterator | ValuesView):  # read once: a generator's numbers are its answer
            result = list(itertools.islice(result, 100_000))
    except NotImplementedError as error:
        raise NotTried from error
    except (Exception, SystemExit) as error:
        told = str(error).strip().split("\n")[0]
        raise Mistake(f"Your code raised {type(error).__name__}: {told}") from error
    if result is None or result is ...:
        if _is_stub(answer):
            raise NotTried
        raise Mistake("Nothing is returned (None): end the function with `return`; to print is not enough.")
    return result


def _is_stub(answer: Callable) -> bool:
    """Whether a function that returned None is the notebook's: `return None` is two or three instructions."""
    code = getattr(answer, "__code__", None)
    return code is None or len(code.co_code) <= 6


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Within it a mistake begins with the stage's name: `Stage “decay”: …`."""
    try:
        yield
    except Mistake as mistake:
        raise Mistake(f"Stage “{name}”: {mistake}") from mistake.__cause__


def expect(condition: bool, cause: str) -> None:
    """Raises Mistake with `cause` unless the condition holds."""
    if not condition:
        raise Mistake(cause)


def array(yours: Any, shape: tuple[int, ...] | None = None, cause: str = "") -> np.ndarray:
    """The answer as a float64 array: of a tensor, array, number, or lists of them; its shape is checked."""
    numbers = _numbers(yours)
    expect(numbers is not None, f"Numbers are expected, yours is {_kind(yours)}: {cause}".rstrip(": "))
    found = tuple(numbers.shape)
    if shape is not None and found != tuple(shape):
        raise Mistake(f"Shape: yours {found}, expected {tuple(shape)}: {cause}".rstrip(": "))
    return numbers


def tensor(yours: Any, shape: tuple[int, ...] | None = None, cause: str = "") -> torch.Tensor:
    """The same as `array`, as a float64 tensor without a gradient."""
    return torch.from_numpy(np.array(array(yours, shape, cause)))


def pair(yours: Any, cause: str) -> tuple[Any, Any]:
    """The answer's two parts: of a tuple or list, or of an array or tensor whose first axis is 2."""
    parts = yours if isinstance(yours, tuple | list | np.ndarray | torch.Tensor) else ()
    expect(getattr(parts, "ndim", 1) > 0 and len(parts) == 2, f"{cause} Yours is {_kind(yours)}.")
    return parts[0], parts[1]


def whole(yours: Any, cause: str = "count, do not measure") -> int:
    """The answer as a whole number: an int, a NumPy integer, a tensor of one number, 3.0."""
    number = _numbers(yours)
    good = number is not None and number.size == 1 and not isinstance(yours, bool)
    expect(
        good and float(number.item()).is_integer(),
        f"A whole number is expected, yours is {_told(yours)}: {cause}.",
    )
    return int(number.item())


def texts(yours: Any, cause: str = "give a list of texts") -> list[str]:
    """The answer as a list of texts: a list, a tuple, an array or another series of them, but no set."""
    good = isinstance(yours, Iterable) and not isinstance(yours, str | bytes | set | Mapping)
    found = list(yours) if good else []
    expect(good and all(isinstance(text, str) for text in found), f"Yours is {_told(yours)}: {cause}.")
    return [str(text) for text in found]


def expect_value(
    yours: Any,
    expected: Any,
    cause: str,
    slips: Mapping[Any, str] | Iterable[tuple[Any, str]] = (),
    where: str = "",
    tolerance: float = 1e-4,
) -> None:
    """The answer equals the expected value; the message tells where the two differ.

    Numbers, arrays, tensors and sequences of numbers are compared as float64 arrays, sequences of texts place
    by place, anything else by `==`.

    Args:
        cause: the likely cause of a wrong value that is not a known slip.
        slips: known wrong values, each with its cause; the first that equals the answer counts.
        where: the case of the check; it begins the message.
        tolerance: of floats, as a part of the largest expected number (or of 1 where all are 0); an answer
            of less precision gets that of its dtype. Where whole numbers are expected they must be met
            exactly.
    """
    if _equal(yours, expected, tolerance):
        return
    pairs = slips.items() if isinstance(slips, Mapping) else slips
    cause = next((told for value, told in pairs if _equal(yours, value, tolerance)), cause)
    raise Mistake(f"{where or 'Value'}: {_difference(yours, expected, tolerance)}: {cause}")


def _numbers(value: Any) -> np.ndarray | None:
    """float64 of anything that holds numbers alone, None of texts and the rest."""
    if isinstance(value, str | bytes):  # "3" is text
        return None
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    elif isinstance(value, list | tuple) and any(
        isinstance(part, torch.Tensor | list | tuple) for part in value
    ):
        value = [_numbers(part) for part in value]
    try:
        found = np.asarray(value)
        if found.dtype == object and found.size and all(isinstance(part, Number) for part in found.ravel()):
            found = found.astype(np.float64)  # fractions, decimals
        return found.astype(np.float64) if found.dtype.kind in "biuf" else None
    except (TypeError, ValueError):
        return None


def _epsilon(value: Any) -> float:
    """The step of the numbers of an answer: 2⁻¹⁰ of float16, about 1e-7 of float32, 0 of what has none."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, torch.Tensor):
        return torch.finfo(value.dtype).eps if value.dtype.is_floating_point else 0.0
    kind = getattr(value, "dtype", None)
    return float(np.finfo(kind).eps) if kind is not None and kind.kind == "f" else 0.0


def _close(yours: np.ndarray, truth: np.ndarray, exact: bool, atol: float) -> np.ndarray:
    """Where two arrays of one shape agree; `atol` is a part of the largest number of the truth."""
    largest = 0.0 if exact else np.abs(truth[np.isfinite(truth)]).max(initial=0.0) or 1.0
    return np.isclose(yours, truth, rtol=0, atol=atol * largest, equal_nan=True)


def _is_whole(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.dtype.is_floating_point
    return np.asarray(value).dtype.kind in "biu"


def _equal(yours: Any, other: Any, tolerance: float) -> bool:
    mine, truth = _numbers(yours), _numbers(other)
    if mine is not None and truth is not None:
        same = mine.shape == truth.shape
        return same and bool(
            _close(mine, truth, _is_whole(other), max(tolerance, 32 * _epsilon(yours))).all()
        )
    if isinstance(other, list | tuple) and not isinstance(yours, str | set | Mapping):
        parts = list(yours) if isinstance(yours, Iterable) else []
        together = zip(parts, other, strict=False)
        return len(parts) == len(other) and all(_equal(a, b, tolerance) for a, b in together)
    try:
        return type(yours) is type(other) and bool(np.all(yours == other))
    except (TypeError, ValueError, RuntimeError):
        return False


def _difference(yours: Any, expected: Any, tolerance: float) -> str:
    """In words where an answer and the expected value differ."""
    mine, truth = _numbers(yours), _numbers(expected)
    if mine is not None and truth is not None:
        if mine.shape != truth.shape and truth.ndim:
            return f"yours has the shape {mine.shape}, expected {truth.shape}"
        if mine.ndim and not truth.ndim:
            return f"yours {_told(yours)} ({_kind(yours)}), expected {_short(expected)}"
        if not mine.ndim:
            return f"yours {_short(mine, truth)}, expected {_short(truth, mine)}"
        atol = max(tolerance, 32 * _epsilon(yours))
        wrong = ~_close(mine, truth, _is_whole(expected), atol)
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        found = f"at {list(at)} yours {_short(mine[at], truth[at])}, expected {_short(truth[at], mine[at])}"
        if wrong.size > 6:
            return f"{int(wrong.sum()):,} of {wrong.size:,} numbers differ; {found}"
        return f"yours {_short(mine)}, expected {_short(truth)}; {found}"
    if isinstance(expected, str) and isinstance(yours, str):
        pairs = enumerate(zip(yours, expected, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(yours), len(expected)))
        part = slice(max(0, at - 20), at + 30)
        return f"from letter {at + 1} on yours reads {yours[part]!r}, expected {expected[part]!r}"
    if isinstance(expected, list | tuple) and isinstance(yours, list | tuple):
        if len(yours) != len(expected):
            return f"yours has {len(yours)} entries, {yours!r:.60}, expected {len(expected)}"
        at = next(i for i in range(len(expected)) if not _equal(yours[i], expected[i], tolerance))
        return f"entry {at}: yours {_told(yours[at])}, expected {_told(expected[at])}"
    return f"yours {_told(yours)}, expected {_told(expected)}"


def _kind(value: Any) -> str:
    """The type of a value with its article: “a tuple of 3”, “an ndarray of shape (2, 3)”."""
    name = type(value).__name__
    size = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    size = f" of {len(value)}" if isinstance(value, list | tuple | dict | set) else size
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}{size}"


def _told(value: Any) -> str:
    """A value in the words of a message; a text shows its quotes and says that it is one."""
    if isinstance(value, str):
        return f"the text {value!r:.60}"
    return _short(value) if _numbers(value) is not None else f"{value!r:.60} ({_kind(value)})"


def _short(value: Any, beside: Any = None) -> str:
    """An integer with separators, the first numbers of an array, a float that reads unlike `beside`."""
    numbers = _numbers(value)
    if numbers is None:
        return f"{value!r:.60}"
    if numbers.ndim:
        head = ", ".join(f"{v:.4g}" for v in numbers.ravel()[:6])
        return f"[{head}{', …' if numbers.size > 6 else ''}]"
    number, other = float(numbers), _numbers(beside)
    if number.is_integer() and abs(number) < 1e15:
        return f"{int(number):,}"
    for digits in range(6, 17):
        if other is None or other.ndim or f"{number:.{digits}g}" != f"{float(other):.{digits}g}":
            break
    return f"{number:.{digits}g}"
