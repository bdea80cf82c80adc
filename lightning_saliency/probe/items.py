"""Which fields of a batch are the images and the labels.

Names decide first, then what a tensor looks like. For labels, what the dataset lists as its targets
decides before either. Whatever stays ambiguous is an error that names the candidates: a wrong field
would give wrong names, frames and measurements, and nobody would notice.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.errors import SaliencyError, SaliencyWarning
from lightning_saliency.functional.arguments import (
    FLOAT_REMEDY,
    SIGNAL_REMEDY,
    as_plain_tensor,
    frames_first_remedy,
    looks_frames_first,
)
from lightning_saliency.probe.fields import (
    Field,
    describe_batch,
    describe_value,
    join_fields,
    list_fields,
)
from lightning_saliency.probe.labels import read_labels

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "imgs", "x", "input", "inputs")
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class")
_MASK_WORDS = ("mask", "seg", "label", "target", "depth", "heatmap", "truth")
_LABEL_WORDS = ("label", "target", "class", "categor", "truth", "cls", "gt")
_INDEX_KEYS = ("id", "ids", "uid", "idx", "idxs", "index", "indices", "item", "key")
_INDEX_ENDINGS = ("_id", "_ids", "_idx", "_index", "_indices")
_REMEDY = "Pass `probe=ProbeBatch(images, labels)` with the images to explain."


@dataclass(frozen=True, slots=True)
class FoundLabels:
    """The labels of some images.

    Attributes:
        labels: As :func:`labels.read_labels` returns them; ``None`` if there are none.
        where: Where they were found, for messages; empty if there are none, or they were passed.
        relabelled: Whether the labels differ from those that the dataset lists, so that the class
            names of the dataset may not belong to them.
    """

    labels: Any = None
    where: str = ""
    relabelled: bool = False


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A field that can be the labels; the one of the lowest ``rank`` is the likeliest."""

    path: str
    name: str
    value: Any
    labels: Tensor
    rank: int


def find_images(batches: Sequence[Any]) -> list[Field]:
    """Find the field that holds the images, the same one in all batches.

    They are ``(N, C, H, W)`` or volumes ``(N, C, D, H, W)``.

    Args:
        batches: Each a tuple, list, dict, dataclass or other object, at any reasonable depth. The
            images may have another size in each.

    Returns:
        The field of each batch.

    Raises:
        SaliencyError: There is none.
    """
    listed = [list_fields(batch) for batch in batches]
    by_path: defaultdict[str, list[Field]] = defaultdict(list)
    for field in chain(*listed):
        if isinstance(field.value, Tensor) and field.value.ndim in (4, 5):
            by_path[field.path].append(field)
    tensors = [fields for fields in by_path.values() if len(fields) == len(batches)]
    ranks = [_rank_as_images(fields) for fields in tensors]
    best = min(range(len(ranks)), key=ranks.__getitem__, default=None)
    # What is called a mask and looks like one is never the images, even if nothing else is there.
    if best is None or ranks[best][:2] == (3, True):
        raise SaliencyError(
            f"no images (N, C, H, W) in a batch that is {describe_batch(batches[0])}. "
            f"{_remedy_without_images(listed[0])}"
        )
    for field in tensors[best]:
        _check_images(field)
    return tensors[best]


def _check_images(field: Field) -> None:
    """Check that a field holds images that can be explained as they are."""
    images, kind = field.value, f"`{field.path}` is {describe_value(field.value)}"
    if looks_frames_first(images.shape):
        raise SaliencyError(
            f"no images (N, C, H, W) in a batch: {kind}, which looks like clips (N, T, C, H, W). "
            f"{_REMEDY} {frames_first_remedy()}"
        )
    if not images.is_floating_point():
        raise SaliencyError(
            f"no floating-point images (N, C, H, W) in a batch: {kind}. "
            f"Pass `probe=ProbeBatch(images, labels)` with floats. {FLOAT_REMEDY}"
        )


def _rank_as_images(fields: Sequence[Field]) -> tuple[int, bool, int, bool, bool]:
    """Order tensors by how likely they are to be the images, the likeliest first.

    Args:
        fields: The same field of each batch.
    """
    name, images = fields[0].name, fields[0].value
    named = 1 if not name else 2
    if name in IMAGE_KEYS:
        named = 0
    elif any(word in name for word in _MASK_WORDS):
        named = 3
    # A single image may be all black, so a field is masks only if it is in every batch.
    mask = all(_looks_like_masks(field.value) for field in fields)
    return named, mask, images.ndim, not images.is_floating_point(), images.shape[1] == 1


def _looks_like_masks(values: Tensor) -> bool:
    # Masks are zeros and ones; integers other than bytes are maps of classes.
    integers = not values.is_floating_point() and values.dtype != torch.uint8
    return integers or bool(((values == 0) | (values == 1)).all())


def _remedy_without_images(fields: Sequence[Field]) -> str:
    """Say what to pass, also for grey images without an axis for their channel, and signals."""
    listed = [f for f in fields if f.path.endswith("[0]") and _is_one_image(f.value)]
    if listed and any(f.path == f"{listed[0].path[:-3]}[1]" for f in fields):
        return (
            f"`{listed[0].path[:-3]}` is a list of images, as detectors take them: pass "
            "`probe=ProbeBatch(torch.stack(images))` with images of one size, and "
            "`forward=lambda model, images: …` that calls the detector and returns one logit per "
            "class."
        )
    for field in fields:
        value = field.value
        if isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] <= 4:
            return f"{_REMEDY} {SIGNAL_REMEDY}"
        if isinstance(value, Tensor) and value.ndim == 3 and min(value.shape[1:]) > 4:
            return (
                f"{_REMEDY} If `{field.path}` holds grey images (N, H, W), pass them as "
                "`images[:, None]`, with `forward=lambda model, images: model(images[:, 0])`. "
                f"{SIGNAL_REMEDY}"
            )
    return _REMEDY


def _is_one_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3 and len(value) in (1, 3)


def find_labels(
    batches: Sequence[Any],
    images: Sequence[Field],
    targets: Any = None,
    positions: Sequence[list[int]] = (),
    *,
    renumbered: bool = False,
) -> FoundLabels:
    """Find the labels of batches whose images are known, if they have any.

    Args:
        batches: All have the same fields, which are joined.
        images: The images of each batch, as :func:`find_images` returns them.
        targets: What the dataset lists as the target of each item; ``None`` if it lists nothing.
        positions: The positions of the items in their dataset, and in each that it is a subset of.
            A field that holds them is not taken for labels.
        renumbered: Whether the dataset is known to change the targets that it lists.

    Raises:
        SaliencyError: Several fields can be the labels.

    Warns:
        SaliencyWarning: A field seems to hold labels, but they are not classes.
    """
    count = sum(len(field.value) for field in images)
    # Another view of the images is no label of theirs.
    others = [field for field in join_fields(batches) if field.path != images[0].path]
    candidates = [c for f in others if (c := _as_candidate(f, count)) is not None]
    listed = None if targets is None else _try_to_read(targets, count)
    if listed is not None and not bool((listed < 0).all()):
        # A `target_transform` or a hook may renumber the classes, and the model learns the new
        # ones. Another number, such as an index, differs between items of the same class.
        changed = [
            c
            for c in candidates
            if not _are_positions(c, positions) and _is_renumbered(listed, c.labels, renumbered)
        ]
        return _choose_by_targets(candidates, listed, changed)
    chosen = _choose(_without_positions(candidates, positions))
    if chosen is None:
        _warn_of_unreadable(others, count)
        return FoundLabels()
    return FoundLabels(chosen.labels, f"`{chosen.path}`")


def _as_candidate(field: Field, count: int) -> _Candidate | None:
    """Read a field as labels of ``count`` images; ``None`` if it cannot hold them."""
    labels = _try_to_read(field.value, count)
    if labels is None or bool((labels < 0).all()):
        return None
    if field.name in LABEL_KEYS:
        rank = 0
    elif any(word in field.name for word in _LABEL_WORDS):
        rank = 1
    elif field.name in _INDEX_KEYS or field.name.endswith(_INDEX_ENDINGS):
        return None
    else:
        # Fractions may also be boxes or other measurements, so whole numbers come before them.
        values = as_plain_tensor(field.value)
        rank = 3 if values.is_floating_point() and bool((values != values.round()).any()) else 2
    return _Candidate(field.path, field.name, field.value, labels, rank)


def _try_to_read(value: Any, count: int) -> Tensor | None:
    if not isinstance(value, Tensor | np.ndarray | list | tuple):
        return None
    # Do not copy images to the CPU to find out that they are no labels.
    if isinstance(value, Tensor | np.ndarray) and value.ndim > 2 and math.prod(value.shape[1:]) > 1:
        return None
    try:
        return read_labels(value, count, from_data=True)
    except (TypeError, ValueError):
        return None


def _choose_by_targets(
    candidates: Sequence[_Candidate], listed: Tensor, changed: Sequence[_Candidate]
) -> FoundLabels:
    """Choose the field that holds the listed targets, or else what they are ``changed`` to."""
    same = next((c for c in candidates if _equal(c.labels, listed)), None)
    if same is not None:
        return FoundLabels(listed, f"`{same.path}`")
    chosen = _choose(changed)
    if chosen is None:
        return FoundLabels(listed, "what the dataset lists as its targets")
    return FoundLabels(chosen.labels, f"`{chosen.path}`", relabelled=True)


def _is_renumbered(listed: Tensor, labels: Tensor, known: bool) -> bool:
    """Return whether ``labels`` may be the listed ones under other numbers.

    Args:
        listed: What the dataset lists.
        labels: What a field holds.
        known: Whether the dataset is known to renumber.
    """
    if listed.ndim != 1 or labels.ndim != 1:
        return False
    before, after = set(listed.tolist()), set(labels.tolist())
    pairs = set(zip(listed.tolist(), labels.tolist(), strict=True))
    if len(pairs) != len(before) or len(after) < min(2, len(before)):
        return False
    # If every item has a class of its own, any field passes so far; then no two classes may merge.
    return known or len(before) < len(listed) or len(after) == len(before)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a == b).all())


def _are_positions(candidate: _Candidate, positions: Sequence[list[int]]) -> bool:
    """Return whether a field without a name holds the positions of the items in their dataset."""
    return not candidate.name and candidate.labels.tolist() in positions


def _without_positions(
    candidates: Sequence[_Candidate], positions: Sequence[list[int]]
) -> list[_Candidate]:
    """Leave out the positions of the items in their dataset, if that is what a field holds."""
    # The classes of the first items may be 0, 1, 2, … as well, so these positions prove nothing.
    telling = [p for p in positions if p != list(range(len(p)))]
    rest = [c for c in candidates if not _are_positions(c, telling)]
    return rest or list(candidates)


def _choose(candidates: Sequence[_Candidate]) -> _Candidate | None:
    """Choose the only candidate of the lowest rank.

    Raises:
        SaliencyError: There are several, with different labels.
    """
    if not candidates:
        return None
    best = min(c.rank for c in candidates)
    # Nothing in the values of two such fields says which of them the model learns.
    rivals = [c for c in candidates if c.rank == best]
    if all(_equal(c.labels, rivals[0].labels) for c in rivals):
        return rivals[0]
    shown = " or ".join(f"`{c.path}` ({_summarise(c.value)})" for c in rivals)
    raise SaliencyError(
        f"several fields of the data can be the labels: {shown}. List the class of each item in an "
        "attribute `targets` of the dataset, which then decides, or pass "
        f"`probe=ProbeBatch.from_batch(batch, labels={rivals[-1].path})` with the right one."
    )


def _summarise(value: Any) -> str:
    values = as_plain_tensor(value)
    if values.ndim > 1 and values[0].numel() > 1:
        return describe_value(values)
    first = ", ".join(f"{v:g}" for v in values.flatten()[:4].tolist())
    return f"{describe_value(values)}: {first}{', …' if len(values) > 4 else ''}"


def _warn_of_unreadable(fields: Sequence[Field], count: int) -> None:
    """Warn if a field that seems to hold labels was not read as such."""
    for field in fields:
        named = field.name in LABEL_KEYS or any(word in field.name for word in _LABEL_WORDS)
        second = not field.name and field.path == "batch[1]"
        value = field.value
        if not (named or second) or not isinstance(value, Tensor | np.ndarray | list | tuple):
            continue
        strings = isinstance(value, list | tuple) and any(isinstance(v, str) for v in value)
        # Maps of classes belong to other tasks than classification.
        if len(value) != count or (not isinstance(value, list | tuple) and value.ndim > 2):
            continue
        # A field that can be read and was not chosen marks every image as unlabelled.
        if _try_to_read(value, count) is not None:
            continue
        what = "a list of strings" if strings else _summarise(value)
        warnings.warn(
            f"`{field.path}` of the data ({what}) is not read as labels, because it holds no "
            "classes: the images are explained without labels. If it does, pass "
            "`probe=ProbeBatch(images, labels)` with integers.",
            SaliencyWarning,
            stacklevel=7,  # the call of `ProbeBatch.from_dataset`
        )
        return
