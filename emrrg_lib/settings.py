"""Checked settings: frozen dataclasses whose annotations say which values are allowed.

`Literal["a", "b"]` is a choice, `Annotated[int, 1]` a number of at least 1, `Annotated[float, 0, 1]` one
between 0 and 1. Only choices that depend on each other are checked elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from emrrg_lib.files import InputError, close_name

HUGE = sys.float_info.max
Count = Annotated[int, 1]
Whole = Annotated[int, 0]
Positive = Annotated[float, 1e-12]
NotNegative = Annotated[float, 0]
Share = Annotated[float, 0, 1]
Rate = Annotated[float, 0, 0.9999]  # of dropout or of a moving mean: 1 would leave nothing


class Settings:
    """Base of the dataclasses. Making one raises InputError for a value that is not allowed."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in _hints(kind).items():
            if not dataclasses.is_dataclass(hint):
                read(getattr(self, name), hint, f"{kind.__name__}.{name}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def to_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain JSON values; `from_dict` reads them back to equal ones."""
    return dataclasses.asdict(settings)


def from_dict(values: dict[str, Any], kind: type, where: str) -> Any:
    """Builds settings from JSON values; `where` is their name in a message.

    Raises:
        InputError: a key that `kind` does not have, or a value that is not allowed.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a JSON object, not {type(values).__name__}")
    hints = _hints(kind)
    if unknown := sorted(set(values) - set(hints)):
        hint = close_name(unknown[0], hints)
        raise InputError(f"{where} has no setting '{unknown[0]}'; {hint}it has {', '.join(hints)}")
    return kind(**{key: read(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def assign(settings: Any, assignments: Sequence[str], where: str) -> Any:
    """The settings with values such as "train.batch_size=4"; a value is JSON, or else a plain word.

    Raises:
        InputError: a text without "=", a setting that does not exist, or a value that is not allowed.
    """
    values = to_dict(settings)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"'{assignment}' has no value: write KEY=VALUE, such as train.batch_size=4")
        *parents, last = path.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})  # `from_dict` refuses an unknown one
            if not isinstance(inner, dict):
                raise InputError(f"there is no setting {path}: {parent} is one value")
        try:
            inner[last] = json.loads(text)
        except ValueError:
            inner[last] = text
    return from_dict(values, type(settings), where)


def read(value: Any, hint: Any, where: str) -> Any:
    """The value as its annotation wants it: an object as settings, a list as a tuple, 1 as 1.0.

    Raises:
        InputError: a value of the wrong type or out of range, or one that is not among the choices.
    """
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(value, hint, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where} must be {' or '.join(map(str, arguments))}, not '{value}'")
        return value
    if origin is Annotated:
        return _within(read(value, arguments[0], where), *arguments[1:], where=where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} must be a list, not {value!r}")
        if ... not in arguments and len(value) != len(arguments):
            raise InputError(f"{where} must hold {len(arguments)} values, not {len(value)}")
        return tuple(read(item, arguments[0], where) for item in value)
    allowed = arguments if origin is types.UnionType else (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(t.__name__ for t in allowed)
        raise InputError(f"{where} must be {names}, not {value!r}")
    return value


def _within(value: float, low: float, high: float = HUGE, *, where: str) -> float:
    if low <= value <= high:  # false for NaN
        return value
    wanted = f"between {low} and {high}" if high < HUGE else "above 0" if 0 < low < 1 else f"at least {low}"
    raise InputError(f"{where} must be {'finite' if value > HUGE else wanted}, not {value}")
