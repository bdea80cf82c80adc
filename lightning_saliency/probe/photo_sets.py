"""Read photos and their masks from files, as the arguments of a probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lightning_saliency.probe.labels import read_labels
from lightning_saliency.probe.photos import find_mask, list_photos, read_mask, read_photo
from lightning_saliency.probe.transforms import (
    find_normalisation,
    mask_to_tensor,
    normalisation,
    to_tensor,
)

Size = int | tuple[int, int]
Channels = str | Sequence[float] | None


def read_photos(
    paths: Sequence[str | Path],
    size: Size,
    *,
    mean: Channels,
    std: Channels,
    transform: Callable[[Any], Any] | None,
    labels: Sequence[int] | Tensor | None,
    names: Sequence[str] | None,
    masks: Mapping[str, Sequence[str | Path]] | None,
) -> dict[str, Any]:
    """Read photos as ``ProbeBatch.from_files`` does, which explains the arguments and the errors.

    Returns:
        The arguments of ``ProbeBatch`` except ``class_names``.
    """
    if isinstance(paths, str | Path):
        raise TypeError(f"`paths` must be a list of files, got {paths!r}; pass [{paths!r}].")
    photos = [read_photo(path) for path in paths]
    if not photos:
        raise ValueError(
            "`paths` must name at least one photo, got an empty list. Does the pattern match?"
        )
    prepare = partial(to_tensor, size=size, transform=transform, mean=mean, std=std)
    known = normalisation(mean, std) if transform is None else find_normalisation(transform)
    stems = [Path(path).stem for path in paths]
    return {
        "images": _stack([prepare(photo) for photo in photos]),
        "labels": None if labels is None else read_labels(labels, len(photos)),
        "names": names or (stems if len(set(stems)) == len(stems) else None),
        "masks": _read_masks(masks or {}, photos, size, transform),
        "mean": None if known is None else known[0],
        "std": None if known is None else known[1],
    }


def choose_photos(
    root: str | Path, per_class: int | None, masks: str | Path | None, region: str
) -> dict[str, Any]:
    """Choose photos in a folder as ``ProbeBatch.from_folder`` does, which explains the arguments.

    Returns:
        The arguments of ``ProbeBatch.from_files`` that the folder decides.
    """
    paths, labels, class_names = list_photos(root)
    taken: Counter[int] = Counter()
    chosen = []
    for path, label in zip(paths, labels, strict=True):
        taken[label] += 1
        if per_class is None or taken[label] <= per_class:
            chosen.append((path, label))
    found = None if masks is None else [find_mask(path, root, masks) for path, _ in chosen]
    return {
        "paths": [path for path, _ in chosen],
        "labels": [label for _, label in chosen],
        "class_names": class_names,
        "names": [f"{path.parent.name} {path.stem}" for path, _ in chosen],
        "masks": None if found is None else {region: found},
    }


def _stack(photos: Sequence[Tensor]) -> Tensor:
    """Stack photos, which must all have the same shape, into one batch."""
    shapes = sorted({tuple(photo.shape) for photo in photos})
    if len(shapes) > 1:
        raise ValueError(
            f"`transform` must bring all photos to one size, got {shapes[0]} and {shapes[-1]}. "
            "End the transform with a crop, such as `transforms.CenterCrop(224)`."
        )
    return torch.stack(list(photos))


def _read_masks(
    masks: Mapping[str, Sequence[str | Path]],
    photos: Sequence[Image.Image],
    size: Size,
    transform: Callable[[Any], Any] | None,
) -> dict[str, Tensor]:
    """Read the mask files of each region, resized and cropped like their photos."""
    regions = {}
    for region, paths in masks.items():
        if len(paths) != len(photos):
            raise ValueError(
                f"`masks[{region!r}]` must name one file for each of {len(photos)} photos, in the "
                f"same order, got {len(paths)}."
            )
        read = [read_mask(path, photo) for path, photo in zip(paths, photos, strict=True)]
        regions[region] = torch.stack([mask_to_tensor(m, size, transform=transform) for m in read])
    return regions
