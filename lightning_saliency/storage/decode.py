"""Values from files that anybody may have written: each of the type and range it must have.

:func:`decode` builds a dataclass from JSON by its type hints, so a new field of a file is one line
in its dataclass. The ``check_…`` functions do the same for tensors. All raise one of
:data:`MISFITS`, which a reader turns into one error that names the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from lightning_saliency.functional.arguments import is_integer
from lightning_saliency.functional.text import shorten

SCHEMA = 1  # of all files; raised when a reader of the old ones would misread the new
MISFITS = (KeyError, TypeError, ValueError, RecursionError)

_LARGEST = 2**53  # above it, JSON readers that use floats no longer tell integers apart

T = TypeVar("T")
Shapes = Mapping[str, tuple[torch.dtype, tuple[str | int, ...]]]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """In ``Annotated[int, AtLeast(-1)]``: the smallest value of an integer, 0 where not given."""

    least: int


def decode(kind: type[T], told: Any, name: str = "it") -> T:
    """Build a dataclass from a JSON object, every field checked against its type hint.

    Understood are str, bool, int, float, ``None``, ``tuple[X, ...]``, ``Mapping[str, X]``,
    dataclasses of these, and ``Any``. A field with a default may be missing; keys that the class
    does not have are ignored, so that files of later versions stay readable.

    Raises:
        TypeError, ValueError: A value is missing or of another type; the message names it.

    Example:
        >>> @dataclass
        ... class Point:
        ...     x: int
        ...     label: str | None = None
        >>> decode(Point, {"x": 3})
        Point(x=3, label=None)
        >>> decode(Point, {"x": -0.5})
        Traceback (most recent call last):
        ValueError: `x` must be an integer of at least 0, got -0.5
    """
    found = _instance(told, name, dict)
    hints = _hints(cast(Any, kind))
    values = {}
    for field in fields(cast(Any, kind)):
        if field.name in found:
            values[field.name] = _value(hints[field.name], found[field.name], field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"`{field.name}` is missing")
    return kind(**values)


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _value(hint: Any, value: Any, name: str) -> Any:
    arguments = get_args(hint)
    match get_origin(hint):
        case None:
            return _single(hint, value, name)
        case origin if origin is Annotated:
            return _integer(value, name, arguments[1].least)
        case origin if origin in (Union, UnionType):
            (kind,) = (argument for argument in arguments if argument is not NoneType)
            return None if value is None else _value(kind, value, name)
        case origin if origin is tuple:
            items = _instance(value, name, list)
            return tuple(_value(arguments[0], item, name) for item in items)
        case _:
            entries = _instance(value, name, dict)
            return {k: _value(arguments[1], v, f"{name}.{k}") for k, v in entries.items()}


def _single(kind: Any, value: Any, name: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return decode(cast("type[Any]", kind), value, name)
    if kind is int:
        return _integer(value, name, 0)
    return _number(value, name) if kind is float else _instance(value, name, kind)


def _integer(value: Any, name: str, least: int) -> int:
    if not is_integer(value) or not least <= value < _LARGEST:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {_shown(value)}")
    return value


def _number(value: Any, name: str) -> float:
    finite = isinstance(value, float) and math.isfinite(value)
    if not finite and not (is_integer(value) and abs(value) <= _LARGEST):
        raise ValueError(f"`{name}` must be a finite number, got {_shown(value)}")
    return float(value)


def _instance(value: Any, name: str, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be a {kind.__name__}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return shorten(repr(value), 40)


def check_schema(told: Mapping[str, Any]) -> None:
    """Refuse a file of another schema."""
    if told.get("schema") != SCHEMA:
        raise ValueError(
            f"it has schema {_shown(told.get('schema'))}, and this version reads {SCHEMA}; "
            "install the version of lightning-saliency that wrote it"
        )


def check_shapes(tensors: Mapping[str, Tensor], expected: Shapes) -> None:
    """Refuse tensors of other types and shapes than expected; equal letters are equal sizes."""
    sizes: dict[str, int] = {}
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if tensor.dtype != dtype or tensor.ndim != len(shape):
            raise ValueError(f"`{name}` is {tensor.dtype} {tuple(tensor.shape)}")
        for letter, size in zip(shape, tensor.shape, strict=True):
            wanted = letter if isinstance(letter, int) else sizes.setdefault(letter, size)
            if size != wanted or size == 0:
                raise ValueError(f"`{name}` has the shape {tuple(tensor.shape)}")


def check_parts(tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Refuse what is no part of a whole: in [0, 1], or NaN for what could not be measured."""
    for name in names:
        tensor = tensors[name]
        if not bool(((tensor >= 0) & (tensor <= 1 + 1e-9) | tensor.isnan()).all()):
            raise ValueError(f"`{name}` has values outside of 0 to 1")


def check_wholes(tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse profiles whose parts are no whole: of sum 1, or all NaN."""
    profiles = tensors[name].flatten(-2)
    whole = (profiles.sum(dim=-1) - 1).abs() < 1e-6
    if not bool((whole | profiles.isnan().all(dim=-1)).all()):
        raise ValueError(f"`{name}` has a profile whose sum is not 1")
