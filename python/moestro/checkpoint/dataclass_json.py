"""Frozen dataclasses <-> JSON values, strictly: every field must be there, nothing else may be, types must match.

Understood field types: bool, int, float, str, None, tuple[X, ...], Mapping[str, Any] (kept as it is), dataclasses and
unions of these; of several dataclasses in a union the one with the same field names is meant. A field made by `later`
may be missing: files written before it existed go on meaning what they meant.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from moestro.errors import CheckpointError

T = TypeVar("T")


def later(default: Any) -> Any:
    """A field that was added after files with its dataclass had been written; they mean `default`."""
    return dataclasses.field(default=default, metadata={"later": True})


def to_json(value: Any) -> Any:
    """Plain dicts, lists and scalars that json.dumps takes."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def from_json(kind: type[T], value: Any, where: str) -> T:
    """The dataclass `kind` that `value` describes. Raises CheckpointError naming the place, below `where`."""
    result: T = _read(kind, value, where)
    return result


def _read(kind: Any, value: Any, where: str) -> Any:
    if _is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(kind), value, where)
    if origin is tuple:
        return _read_tuple(get_args(kind)[0], value, where)
    if origin is Mapping:
        return _expect(isinstance(value, dict), value, value, "an object", where)
    if kind is float:
        return _expect(_is_finite(value), value, float(value) if _is_finite(value) else 0.0, "a finite number", where)
    return _expect(type(value) is kind, value, value, kind.__name__, where)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    hints = _hints(kind)
    if not isinstance(value, dict) or not _fits(kind, value):
        got = sorted(value) if isinstance(value, dict) else value
        raise CheckpointError(f"{where}: expected an object with {', '.join(hints)}; got {_short(got)}")
    return kind(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in value})


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    rest = [kind for kind in kinds if kind is not types.NoneType]
    for kind in rest[:-1]:
        if isinstance(value, dict) and _is_dataclass(kind) and _fits(kind, value):
            return _read(kind, value, where)
    return _read(rest[-1], value, where)


def _read_tuple(item: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise CheckpointError(f"{where}: expected a list, got {_short(value)}")
    if item in (int, str) and all(type(element) is item for element in value):
        return tuple(value)  # the long lists: an entry per expert
    return tuple(_read(item, element, f"{where}[{index}]") for index, element in enumerate(value))


def _expect(ok: bool, value: Any, result: Any, expected: str, where: str) -> Any:
    if not ok:
        raise CheckpointError(f"{where}: expected {expected}, got {_short(value)}")
    return result


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def _is_dataclass(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _fits(kind: Any, value: Mapping[str, Any]) -> bool:
    """Whether the object has the dataclass's fields, and no others."""
    names = {field.name for field in dataclasses.fields(kind)}
    needed = {field.name for field in dataclasses.fields(kind) if "later" not in field.metadata}
    return needed <= value.keys() <= names


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
