"""The fields of a batch, whatever holds them: tuples, dicts, dataclasses and other objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.functional.arguments import plain_tensor

_DEPTH = 4  # levels of containers that are looked into
_SHOWN = 12  # fields that a message describes at most


class Field(NamedTuple):
    """A value somewhere in a batch, and the way to it."""

    path: str  # as code: "batch[1]['label']"
    name: str  # the last name on the way, in lower case; empty in tuples of tuples
    value: Any


def list_fields(batch: Any) -> list[Field]:
    """List what a batch holds, in its order, at any reasonable depth.

    Tuples, lists, dicts, dataclasses, named tuples, attrs classes and plain objects are looked
    into. A list of numbers or of strings is one field. Tensors come without their subclass.
    """
    return list(_walk(batch, "batch", "", _DEPTH))


def join_fields(batches: Sequence[Any]) -> list[Field]:
    """List the fields that several batches have in common, as if they were one batch."""
    first, *others = (list_fields(batch) for batch in batches)
    by_path = [{field.path: field.value for field in fields} for fields in others]
    joined = []
    for path, name, value in first:
        values = [value, *(found[path] for found in by_path if path in found)]
        whole = _join_values(values) if len(values) == len(batches) else None
        if whole is not None:
            joined.append(Field(path, name, whole))
    return joined


def _join_values(values: Sequence[Any]) -> Any:
    """Join values along their first axis; ``None`` if they have none, or differ in the others."""
    if len(values) == 1:
        return values[0]
    if all(isinstance(value, list | tuple) for value in values):
        return [item for value in values for item in value]
    if not all(isinstance(value, Tensor) and value.ndim > 0 for value in values):
        return None
    shapes = {tuple(value.shape[1:]) for value in values}
    return torch.cat(list(values)) if len(shapes) == 1 else None


def _walk(value: Any, path: str, name: str, depth: int) -> Iterator[Field]:
    inner = None if depth == 0 else _look_into(value)
    if inner is None:
        value = plain_tensor(value) if isinstance(value, Tensor) else value
        yield Field(path, name, value)
        return
    for step, key, item in inner:
        yield from _walk(item, path + step, name if key is None else key.lower(), depth - 1)


def _look_into(value: Any) -> list[tuple[str, str | None, Any]] | None:
    """Return the step, the name and the value of each part of a container; else ``None``."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", str(key), item) for key, item in value.items()]
    names = _attribute_names(value)
    if names is not None:
        return [(f".{name}", name, getattr(value, name, None)) for name in names]
    if isinstance(value, tuple | list) and not _is_one_field(value):
        return [(f"[{index}]", None, item) for index, item in enumerate(value)]
    return None


def _is_one_field(values: tuple[Any, ...] | list[Any]) -> bool:
    """Return whether a list holds only numbers or strings, such as labels or file names."""
    return bool(values) and all(
        isinstance(v, str | bytes | int | float | np.generic)
        or (isinstance(v, Tensor | np.ndarray) and v.ndim == 0)
        for v in values
    )


def _attribute_names(value: Any) -> list[str] | None:
    """Return the names of the attributes that hold the fields of an object; else ``None``."""
    if isinstance(value, type | Tensor | np.ndarray) or callable(value):
        return None
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(value._fields)
    if hasattr(value, "__attrs_attrs__"):
        return [attribute.name for attribute in value.__attrs_attrs__]
    # A class may be written to hold a batch; then at least one of its attributes is a tensor.
    attributes = getattr(value, "__dict__", {})
    found = [name for name in attributes if not name.startswith("_")]
    held = any(isinstance(attributes[name], Tensor | np.ndarray) for name in found)
    return found if held else None


def describe_batch(batch: Any) -> str:
    """Describe the fields of a batch in words, with their dtypes and shapes."""
    if isinstance(batch, Tensor | np.ndarray):
        return f"a single {describe_value(batch)}"
    fields = list_fields(batch)
    if len(fields) == 1 and fields[0].path == "batch":
        return f"a {type(batch).__name__}"
    parts = [f"{_describe_path(f)}{describe_value(f.value)}" for f in fields[:_SHOWN]]
    more = ", …" if len(fields) > _SHOWN else ""
    return f"a {type(batch).__name__} of {', '.join(parts)}{more}"


def _describe_path(field: Field) -> str:
    """Describe the way to a field, as briefly as possible; empty for the item of a tuple."""
    path = field.path.removeprefix("batch").removeprefix(".")
    if not field.name and path.count("[") == 1:
        return ""
    if path.count("[") > 1:
        return f"`{path}` "
    # The only key of a dict is shown without its brackets.
    return (path[1:-1] if path.startswith("['") else path) + " "


def describe_value(value: Any) -> str:
    """Describe a value by its dtype and shape, or by its type.

    Example:
        >>> describe_value(np.zeros((2, 3))), describe_value("cat")
        ('float64 (2, 3)', 'str')
    """
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
