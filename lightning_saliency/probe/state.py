"""A probe as tensors and primitives, as files and checkpoints hold it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.probe.compact import (
    compact_images,
    compact_mask,
    restore_images,
    restore_mask,
)
from lightning_saliency.storage.files import (
    MAX_JSON,
    MAX_TENSORS,
    UNREADABLE,
    read_tensors,
    summarise,
    tensor_bytes,
    write_whole,
)
from lightning_saliency.storage.places import find_place

_METADATA = ("class_names", "names", "mean", "std")
# These stand before the names of masks and extras, so that they differ from all other names.
_MASK, _EXTRA = "mask:", "extra:"
_DEPTH = ("depth", "depth_axis")  # only of volumes, so that other probes are stored as ever


def pack(probe: Any) -> dict[str, Any]:
    """Return the fields of a probe as tensors and primitives.

    Returns:
        ``tensors``, by name; and each field without tensors, as a list or ``None``.
    """
    tensors = {"images": probe.images}
    if probe.labels is not None:
        tensors["labels"] = probe.labels
    tensors |= {_MASK + name: mask for name, mask in probe.masks.items()}
    tensors |= {_EXTRA + name: rows for name, rows in probe.extras.items()}
    fields = {key: getattr(probe, key) for key in _METADATA}
    metadata = {key: None if value is None else list(value) for key, value in fields.items()}
    depth = {} if probe.depth is None else {key: getattr(probe, key) for key in _DEPTH}
    return {"tensors": tensors, **metadata, **depth}


def unpack(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that make a probe of what :func:`pack` returned."""
    tensors = dict(state["tensors"])
    images, labels = tensors.pop("images"), tensors.pop("labels", None)
    extras = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_EXTRA)}
    return {
        "images": images,
        "labels": labels,
        "masks": {name.removeprefix(_MASK): mask.bool() for name, mask in tensors.items()},
        "extras": {name.removeprefix(_EXTRA): rows for name, rows in extras.items()},
        **{key: state[key] for key in _METADATA},
        **{key: state[key] for key in _DEPTH if key in state},
    }


def pack_compactly(probe: Any) -> dict[str, Any]:
    """Return the same as :func:`pack`, for a checkpoint: small, and with the fingerprint."""
    state = pack(probe)
    tensors = dict(state["tensors"])
    images = compact_images(tensors.pop("images"))
    masks = {name: compact_mask(tensors.pop(_MASK + name)) for name in probe.masks}
    compact = {"images": images, "masks": masks, "fingerprint": probe.fingerprint}
    return {**state, "tensors": tensors, "compact": compact}


def unpack_compactly(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :func:`unpack` takes, given the result of :func:`pack_compactly`.

    Raises:
        ValueError: The tensors are not those of the fingerprint.
    """
    compact = state["compact"]
    tensors = {"images": restore_images(compact["images"]), **state["tensors"]}
    tensors |= {_MASK + name: restore_mask(mask) for name, mask in compact["masks"].items()}
    restored = {**state, "tensors": tensors}
    if fingerprint(restored) != compact["fingerprint"]:
        raise ValueError("its images are not those of its fingerprint")
    return restored


def fingerprint(state: Mapping[str, Any]) -> str:
    """Compute the fingerprint of what :func:`pack` returned, as 64 hexadecimal digits.

    The axis that volumes are looked along belongs to it, because profiles depend on it.
    """
    axis = state.get("depth_axis")
    further = {} if axis is None else {"depth_axis": torch.tensor(axis)}
    return hash_tensors({**state["tensors"], **further})


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of named tensors on the CPU, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write what :func:`pack` returned to a safetensors file, whole or not at all.

    Raises:
        ValueError: The tensors are larger than what :func:`read_state` reads.
    """
    metadata = dict(state)
    tensors: dict[str, Tensor] = metadata.pop("tensors")
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MAX_TENSORS - MAX_JSON:
        raise ValueError(
            f"a probe of {size:,} bytes is larger than the {MAX_TENSORS:,} bytes that `load` "
            "reads. Take fewer images, or smaller ones."
        )
    write_whole(find_place(path), tensor_bytes({"probe": metadata}, tensors))


def read_state(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_state` wrote; see :func:`unreadable_explained` for the errors."""
    metadata, tensors = read_tensors(find_place(path))
    return {"tensors": tensors, **metadata["probe"]}


@contextmanager
def unreadable_explained(path: str | Path) -> Iterator[None]:
    """Turn the errors of reading ``path``, and of what was in it, into ones that name the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or is not a probe.
    """
    try:
        yield
    except UNREADABLE as error:
        if not find_place(path).exists():
            raise FileNotFoundError(f"no probe at {path}. `ProbeBatch.save` writes one.") from error
        why = summarise(error.__cause__ or error).rstrip(".")
        raise ValueError(
            f"{path} is not a probe written by `ProbeBatch.save`, or it is damaged: {why}. "
            "Save the probe again."
        ) from error
