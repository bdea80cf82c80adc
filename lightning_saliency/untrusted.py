"""Values from files that anybody may have written, each of the type and range that it has to be.

Each function raises one of :data:`MISFITS` for what is not, which a reader turns into one error
that names the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

SCHEMA = 1  # of all files; raised when a reader of the old ones would misread the new
MISFITS = (KeyError, TypeError, ValueError, RecursionError)

T = TypeVar("T")
Shapes = Mapping[str, tuple[torch.dtype, tuple[str | int, ...]]]


def check_schema(told: Mapping[str, Any]) -> None:
    """Refuse a file of another schema."""
    if told.get("schema") != SCHEMA:
        raise ValueError(
            f"it has schema {shortly(told.get('schema'))}, and this version reads {SCHEMA}; "
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


def text(told: Mapping[str, Any], name: str) -> str:
    """The string ``name``."""
    return of_type(told[name], name, str)


def texts(told: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The strings in the list ``name``."""
    return tuple(of_type(item, name, str) for item in of_type(told[name], name, list))


def integer(value: Any, name: str, *, least: int = 0) -> int:
    """``value`` if it is an integer from ``least`` on that a step or a class can be."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        raise ValueError(f"`{name}` must be an integer from {least} on, got {shortly(value)}")
    return value


def number(value: Any, name: str) -> float:
    """``value`` if it is a finite number."""
    finite = isinstance(value, float) and math.isfinite(value)
    if not finite and (isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**53):
        raise ValueError(f"`{name}` must be a finite number, got {shortly(value)}")
    return float(value)


def numbers(told: Mapping[str, Any], name: str) -> dict[str, float]:
    """The finite numbers in the object ``name``."""
    found = of_type(told[name], name, dict)
    return {key: number(value, f"{name}.{key}") for key, value in found.items()}


def of_type(value: Any, name: str, kind: type[T]) -> T:
    """``value`` if it is of type ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be a {kind.__name__}, got {shortly(value)}")
    return value


def shortly(value: Any) -> str:
    """What a message tells of ``value``."""
    told = repr(value)
    return told if len(told) <= 40 else told[:39] + "…"
