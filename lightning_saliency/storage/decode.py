"""Check the types and ranges of values from files, which anybody may have written.

:func:`decode` builds a dataclass from JSON, guided by its type hints, so that a new field of a file
is one line in its dataclass. The ``check_…`` functions check tensors. All of them raise one of
:data:`MISFITS`, which the caller turns into an error that names the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from lightning_saliency.functional.text import shorten

if TYPE_CHECKING:  # Programs that only look at files, such as TensorBoard, do without torch.
    import torch
    from torch import Tensor

# The schema of a file is raised when older versions would misread newer files.
SCHEMA = 1
OBSERVATION_SCHEMA = 2  # Maps are int8. In schema 1 they are float16.
MISFITS = (KeyError, TypeError, ValueError, RecursionError)

_LARGEST = 2**53  # JSON readers that use floats cannot tell integers above this apart

T = TypeVar("T")
Shapes: TypeAlias = "Mapping[str, tuple[torch.dtype, tuple[str | int, ...]]]"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The smallest value of an integer field, as in ``Annotated[int, AtLeast(-1)]``.

    The smallest value of a plain ``int`` is 0.
    """

    least: int


def decode(kind: type[T], data: Any, name: str = "it") -> T:
    """Build a dataclass from a JSON object, with every value checked against its type hint.

    The hints may be ``str``, ``bool``, ``int``, ``float``, ``X | None``, ``tuple[X, ...]``,
    ``Mapping[str, X]``, dataclasses of these, and ``Any``. Keys that are not fields of the class
    are ignored, so that files of later versions stay readable.

    Args:
        kind: The dataclass to build.
        data: The parsed JSON. Fields with a default may be missing.
        name: What to call ``data`` in an error.

    Raises:
        TypeError: A value has the wrong type; the message names its field.
        ValueError: A number is out of range, or a field is missing; the message names it.
        RecursionError: Dataclasses are nested too deeply.

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
    data = _instance(data, name, dict)
    hints = _hints(cast(Any, kind))
    values = {}
    for field in fields(cast(Any, kind)):
        if field.name in data:
            values[field.name] = _value(hints[field.name], data[field.name], field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"`{field.name}` is missing")
    return kind(**values)


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _value(hint: Any, value: Any, name: str) -> Any:
    """Check ``value`` against ``hint``, and convert JSON's lists and objects."""
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
    # The type itself is compared because JSON's true and false are integers to `isinstance`.
    if type(value) is not int or not least <= value < _LARGEST:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {_shown(value)}")
    return value


def _number(value: Any, name: str) -> float:
    finite = isinstance(value, float) and math.isfinite(value)
    if not finite and not (type(value) is int and abs(value) <= _LARGEST):
        raise ValueError(f"`{name}` must be a finite number, got {_shown(value)}")
    return float(value)


def _instance(value: Any, name: str, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be a {kind.__name__}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return shorten(repr(value), 40)


def check_schema(metadata: Mapping[str, Any], newest: int = SCHEMA) -> int:
    """Refuse a file of another schema.

    Args:
        metadata: What the file says of itself.
        newest: The schema in which such files are written now; older ones are read as well.

    Returns:
        The schema of the file.

    Raises:
        ValueError: The schema is missing, or newer than ``newest``.
    """
    schema = metadata.get("schema")
    if type(schema) is not int or not 1 <= schema <= newest:
        read = " and ".join(map(str, range(1, newest + 1)))
        raise ValueError(
            f"it has schema {_shown(schema)}, and this version reads {read}; install the version "
            "of lightning-saliency that wrote it"
        )
    return schema


def check_shapes(tensors: Mapping[str, Tensor], expected: Shapes) -> None:
    """Refuse tensors whose types or shapes are not as expected.

    Args:
        tensors: The tensors of a file by name.
        expected: The dtype and shape of each tensor that must be there. A letter in a shape stands
            for any size above 0, and the same letter stands for the same size everywhere.

    Raises:
        KeyError: A tensor is missing.
        ValueError: A tensor has another dtype or shape.
    """
    sizes: dict[str, int] = {}
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if tensor.dtype != dtype or tensor.ndim != len(shape):
            raise ValueError(
                f"`{name}` is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} with {len(shape)} "
                "dimension(s)"
            )
        for letter, size in zip(shape, tensor.shape, strict=True):
            wanted = letter if isinstance(letter, int) else sizes.setdefault(letter, size)
            if size != wanted or size == 0:
                raise ValueError(
                    f"`{name}` has the shape {tuple(tensor.shape)}, which does not fit"
                )


def check_parts(tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Refuse fractions outside [0, 1]; NaN, for what could not be measured, is allowed.

    Raises:
        ValueError: A tensor has such values; the message names it.
    """
    for name in names:
        tensor = tensors[name]
        if not bool(((tensor >= 0) & (tensor <= 1 + 1e-9) | tensor.isnan()).all()):
            raise ValueError(f"`{name}` has values outside of 0 to 1")


def check_wholes(tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse profiles that do not sum to 1, unless all their values are NaN.

    Raises:
        ValueError: A profile has another sum.
    """
    profiles = tensors[name].flatten(-2)
    whole = (profiles.sum(dim=-1) - 1).abs() < 1e-6
    if not bool((whole | profiles.isnan().all(dim=-1)).all()):
        raise ValueError(f"`{name}` has a profile whose sum is not 1")
