"""Checked settings and files: annotations say which values are allowed.

`Literal["a", "b"]` is a choice, `Annotated[int, 1]` a number of at least 1, `Annotated[float, 0, 1]` one
between 0 and 1; a text after the bounds says why they are there. Every float must be finite. Settings are
frozen dataclasses. The shape of an object in a JSON file is a dict from key to annotation: a key that ends
with "?" may be missing or null, and the file may hold more keys. Only choices that depend on each other are
checked elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import reprlib
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from emrrg_lib.files import InputError, close_name

MOST, _WHY = 10**9, "no machine counts so far"  # of a number that has no tighter bound
Count = Annotated[int, 1, MOST, _WHY]
Whole = Annotated[int, 0, MOST, _WHY]
Seed = Annotated[int, 0, 2**32 - 1]
Positive = Annotated[float, 1e-12]
NotNegative = Annotated[float, 0]
Share = Annotated[float, 0, 1]
Rate = Annotated[float, 0, 0.9999]  # of dropout or of a moving mean: 1 would leave nothing
_SHORT = reprlib.Repr()  # a value in a message: a file may hold megabytes or a thousand nested lists
_SHORT.maxstring = _SHORT.maxother = 80


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
        except (ValueError, RecursionError):
            inner[last] = text
    return from_dict(values, type(settings), where)


def read(value: Any, hint: Any, where: str) -> Any:
    """The value as its annotation wants it: an object as settings, a list as a tuple, 1 as 1.0.

    Raises:
        InputError: a value of the wrong type or out of range, one that is not among the choices, or an
            object that lacks a key.
    """
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(value, hint, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where} must be {' or '.join(map(str, arguments))}, not {_SHORT.repr(value)}")
        return value
    if origin is Annotated:
        return _within(read(value, arguments[0], where), *arguments[1:], where=where)
    if origin in (tuple, list):
        return _list(value, origin, arguments, where)
    if origin is dict or isinstance(hint, dict):
        return _object(value, hint, where)
    return _plain(value, arguments if origin is types.UnionType else (hint,), where)


def _list(value: Any, kind: type, arguments: Sequence[Any], where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise InputError(f"{where} must be a list, not {_SHORT.repr(value)}")
    if kind is tuple and ... not in arguments and len(value) != len(arguments):
        raise InputError(f"{where} must hold {len(arguments)} values, not {len(value)}")
    return kind(read(item, arguments[0], where) for item in value)


def _object(value: Any, hint: Any, where: str) -> dict[str, Any]:
    """A JSON object; `hint` is `dict[str, …]` or a shape."""
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a JSON object, not {type(value).__name__}")
    shape = hint if isinstance(hint, dict) else dict.fromkeys(value, typing.get_args(hint)[-1])
    read_values = dict(value)
    for key, kind in shape.items():
        name = key.removesuffix("?") if shape is hint else key
        if value.get(name) is None and name != key:
            continue
        if name not in value:
            raise InputError(f"{where} lacks '{name}'")
        read_values[name] = read(value[name], kind, f"{where}.{name}")
    return read_values


def _plain(value: Any, allowed: Sequence[Any], where: str) -> Any:
    if Any in allowed:
        return value
    fits = isinstance(value, int | float) and float in allowed or isinstance(value, tuple(allowed))
    if not fits or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(t.__name__ for t in allowed)
        raise InputError(f"{where} must be {names}, not {_SHORT.repr(value)}")
    try:
        value = float(value) if float in allowed and isinstance(value, int) else value
    except OverflowError:
        value = math.inf
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} must be finite, not {value}")
    return value


def _within(value: float, low: float, high: float = math.inf, why: str = "", *, where: str) -> float:
    if low <= value <= high:
        return value
    wanted, reason = f"between {low} and {high}", ""
    if why or high == math.inf:
        wanted = f"at most {high}" if value > high else "above 0" if 0 < low < 1 else f"at least {low}"
        reason = f" ({why})" if value > high else ""
    raise InputError(f"{where} must be {wanted}{reason}, not {_SHORT.repr(value)}")


def differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """`key: old -> new` of every value that differs, nested keys joined by dots."""
    lines = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key, "(not set)"), now.get(key, "(not set)")
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{path}{key}.")
        elif old != new:
            lines.append(f"{path}{key}: {_SHORT.repr(old)} -> {_SHORT.repr(new)}")
    return lines
