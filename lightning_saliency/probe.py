"""The fixed images that are explained, validated once and the same in every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_saliency.datasets import (
    choose_items,
    collate_items,
    images_and_labels,
    told_by,
)
from lightning_saliency.files import write_whole
from lightning_saliency.isolation import random_streams_kept

SEED = 0  # of random transforms: the probe is the same in every run with the same data


@dataclass(frozen=True, eq=False)
class ProbeBatch:
    """Images to explain again and again, with what is known of them.

    Frozen, and a copy of what it is given: whatever happens to the arguments later, the probe
    stays.

    Attributes:
        images: ``(N, C, H, W)``, floating point, as the model expects them.
        labels: ``(N,)`` int64, the true classes; or float ``(N, num_classes)`` for images that
            have several; or ``None``.
        class_names: The name of each class, in order.
        names: A unique name for each image; made of its number and label where not given.
        masks: By name of a region (``"object"``), bool ``(N, H, W)``.
        mean: Per channel, with ``std``: how the images were normalised, to show them as a person
            knows them. Without it they are shown from their lowest to their highest value.
        std: Per channel; see ``mean``.

    Raises:
        TypeError: A wrong type or dtype.
        ValueError: Shapes that do not agree, values out of range, names that are not unique.

    Example:
        >>> probe = ProbeBatch(torch.zeros(2, 1, 8, 8), torch.tensor([3, 0]))
        >>> probe.names
        ('image 0 · class 3', 'image 1 · class 0')
    """

    images: Tensor
    labels: Tensor | None = None
    _: KW_ONLY
    class_names: Sequence[str] | None = None
    names: Sequence[str] | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self._put("images", _checked_images(self.images))
        if self.class_names is not None:
            self._put("class_names", _strings(self, "class_names"))
        if self.labels is not None:
            self._put("labels", _checked_labels(self, self.labels))
        self._put("names", _checked_names(self))
        self._put("masks", _checked_masks(self))
        if self.mean is not None or self.std is not None:
            mean, std = _checked_normalisation(self)
            self._put("mean", mean)
            self._put("std", std)

    def _put(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the way to fill a frozen dataclass

    def __len__(self) -> int:
        return len(self.images)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several true classes."""
        return self.labels is not None and self.labels.ndim == 2

    @property
    def fingerprint(self) -> str:
        """SHA-256 of images, labels and masks, as 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(_tensors(self).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def image_name(self, image: int) -> str:
        """What image number ``image`` is called."""
        return self.names[image] if self.names is not None else _default_name(self, image)

    def class_name(self, index: int) -> str:
        """What to call class ``index``: its name where it has one, else its number."""
        if self.class_names is not None and index < len(self.class_names):
            return self.class_names[index]
        return str(index)

    def true_classes(self, image: int) -> set[int]:
        """The classes that image number ``image`` is labelled with."""
        if self.labels is None:
            return set()
        if self.multi_label:
            return set(self.labels[image].gt(0.5).nonzero().flatten().tolist())
        return {int(self.labels[image])}

    def first_labels(self) -> Tensor | None:
        """``(N,)``, the label of each image, the first of several; ``None`` if one has none."""
        if self.labels is None or not self.multi_label:
            return self.labels
        positive = self.labels > 0.5
        return positive.int().argmax(dim=1) if bool(positive.any(dim=1).all()) else None

    def displayed(self) -> Tensor:
        """The images as a person knows them, ``(N, C, H, W)`` float32 in [0, 1]."""
        images = self.images.float()
        if self.mean is not None and self.std is not None:
            shape = (1, -1, 1, 1)
            images = images * torch.tensor(self.std).view(shape)
            return (images + torch.tensor(self.mean).view(shape)).clamp(0, 1)
        low = images.amin(dim=(1, 2, 3), keepdim=True)
        high = images.amax(dim=(1, 2, 3), keepdim=True)
        if low.min() >= 0 and high.max() <= 1:
            return images
        return (images - low) / (high - low).clamp(min=1e-12)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset[Any],
        *,
        per_class: int = 1,
        count: int | None = None,
        indices: Sequence[int] | None = None,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        **known: Any,
    ) -> ProbeBatch:
        """Take images of a map-style dataset of ``(image, label, …)`` items or dicts.

        Args:
            dataset: Its ``targets`` or ``labels``, or its first 256 items, tell the classes.
                Random transforms are drawn from a fixed seed, and no random stream is moved.
            per_class: Images of each class, the first ones.
            count: At most so many images in all, spread over the classes.
            indices: The items to take, in place of the choice by class.
            collate_fn: Makes a batch of items; that of the training's loader where it has its own.
            **known: ``class_names``, ``names``, ``mean``, … as for the class itself; class names
                and normalisation are otherwise looked for in the dataset and its transforms.

        Raises:
            TypeError: The dataset is iterable only.
            SaliencyError: Its items hold no image.
        """
        with random_streams_kept(SEED):
            if indices is None:
                indices = choose_items(dataset, per_class, count)
            return cls.from_batch(collate_items(dataset, indices, collate_fn), dataset, **known)

    @classmethod
    def from_dataloader(cls, loader: DataLoader[Any], count: int = 8, **known: Any) -> ProbeBatch:
        """Take ``count`` images of a loader's dataset, spread over its classes.

        The loader itself is never iterated: its dataset is read and its ``collate_fn`` used.
        Arguments and errors are those of :meth:`from_dataset`.
        """
        known.setdefault("collate_fn", loader.collate_fn)
        return cls.from_dataset(loader.dataset, per_class=count, count=count, **known)

    @classmethod
    def from_batch(cls, batch: Any, dataset: Any = None, **known: Any) -> ProbeBatch:
        """Take the images and labels of a collated batch: a tuple, a list or a dict.

        Args:
            batch: Its first floating-point tensor of four dimensions is the images; the next
                integer tensor ``(N,)``, or float tensor ``(N, num_classes)``, the labels.
            dataset: Where class names and the normalisation are looked for.
            **known: As for the class itself; what is given is not looked for.

        Raises:
            SaliencyError: No images in the batch.
        """
        images, labels = images_and_labels(batch)
        if dataset is not None:
            known = {**told_by(dataset, images.shape[1]), **known}
        return cls(images, labels, **known)

    def save(self, path: str | Path) -> None:
        """Write the probe to one safetensors file, whole or not at all."""
        data = safetensors.torch.save(_tensors(self), {"probe": json.dumps(_told(self))})
        write_whole(Path(path), data)

    @classmethod
    def load(cls, path: str | Path) -> ProbeBatch:
        """Read what :meth:`save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a probe, or a damaged one.
        """
        try:
            with safetensors.safe_open(Path(path), "pt") as file:
                told = json.loads((file.metadata() or {})["probe"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls.from_state({"tensors": tensors, **told})
        except (safetensors.SafetensorError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a probe written by `ProbeBatch.save`, or it is damaged: {error}"
            ) from error

    def state(self) -> dict[str, Any]:
        """Tensors and primitives only, for a checkpoint that is read with ``weights_only``."""
        return {"tensors": _tensors(self), **_told(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ProbeBatch:
        """The probe that :meth:`state` described."""
        tensors = dict(state["tensors"])
        images, labels = tensors.pop("images"), tensors.pop("labels", None)
        masks = {name.removeprefix("mask:"): mask.bool() for name, mask in tensors.items()}
        told = {key: state[key] for key in _TOLD}
        return cls(images, labels, masks=masks, **told)


def _tensors(probe: ProbeBatch) -> dict[str, Tensor]:
    tensors = {"images": probe.images}
    if probe.labels is not None:
        tensors["labels"] = probe.labels
    return tensors | {f"mask:{name}": mask for name, mask in probe.masks.items()}


_TOLD = ("class_names", "names", "mean", "std")


def _told(probe: ProbeBatch) -> dict[str, list[Any] | None]:
    values = {key: getattr(probe, key) for key in _TOLD}
    return {key: None if value is None else list(value) for key, value in values.items()}


def _checked_images(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"`images` must be a tensor, got {type(images).__name__}.")
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"`images` must have shape (N, C, H, W) and not be empty, got {tuple(images.shape)}. "
            "Add a batch axis with `images[None]` to probe one image."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"`images` must be floating point, as the model expects them, got {images.dtype}. "
            "Scale and normalise them as in training, for example `images / 255`."
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError("`images` must be finite, got NaN or infinite values.")
    return images.detach().to("cpu", copy=True).contiguous()


def _checked_labels(probe: ProbeBatch, labels: Tensor) -> Tensor:
    count = len(probe.images)
    if not isinstance(labels, Tensor) or labels.dtype == torch.bool:
        raise TypeError(
            f"`labels` must be a tensor of classes, got {getattr(labels, 'dtype', type(labels))}."
        )
    shape = "(N, num_classes)" if labels.is_floating_point() else "(N,)"
    if labels.ndim != (2 if labels.is_floating_point() else 1) or len(labels) != count:
        raise ValueError(
            f"`labels` of dtype {labels.dtype} must have shape {shape} with N = {count}, got "
            f"{tuple(labels.shape)}."
        )
    labels = labels.detach().to("cpu", copy=True)
    if labels.is_floating_point():
        return labels.float()
    known = len(probe.class_names) if probe.class_names is not None else None
    if int(labels.min()) < 0 or (known is not None and int(labels.max()) >= known):
        raise ValueError(
            f"`labels` must be classes from 0 to {'…' if known is None else known - 1}, got "
            f"{int(labels.min())} to {int(labels.max())}."
        )
    return labels.long()


def _checked_names(probe: ProbeBatch) -> tuple[str, ...]:
    count = len(probe.images)
    if probe.names is None:
        return tuple(_default_name(probe, i) for i in range(count))
    names = _strings(probe, "names")
    if len(names) != count:
        raise ValueError(f"`names` must name each of {count} images, got {len(names)}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise ValueError(f"`names` must be unique and not empty, got {(twice or [''])[0]!r} twice.")
    return names


def _default_name(probe: ProbeBatch, image: int) -> str:
    word = "" if probe.class_names else "class "
    classes = [word + probe.class_name(c) for c in sorted(probe.true_classes(image))]
    return " · ".join([f"image {image}", *classes])


def _strings(probe: ProbeBatch, name: str) -> tuple[str, ...]:
    value = getattr(probe, name)
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"`{name}` must be a list of strings, got {value!r}.")
    return tuple(value)


def _checked_masks(probe: ProbeBatch) -> dict[str, Tensor]:
    count, _, height, width = probe.images.shape
    for name, mask in probe.masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(
                f"`masks[{name!r}]` must be a bool tensor, got "
                f"{getattr(mask, 'dtype', type(mask).__name__)}. Use `mask > 0`."
            )
        if tuple(mask.shape) != (count, height, width):
            raise ValueError(
                f"`masks[{name!r}]` must have shape {(count, height, width)}, as the images have, "
                f"got {tuple(mask.shape)}."
            )
    return {name: mask.detach().to("cpu", copy=True) for name, mask in probe.masks.items()}


def _checked_normalisation(probe: ProbeBatch) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if probe.mean is None or probe.std is None:
        raise ValueError("`mean` and `std` must be given together: one alone shows nothing right.")
    mean, std = tuple(float(m) for m in probe.mean), tuple(float(s) for s in probe.std)
    channels = probe.images.shape[1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(
            f"`mean` and `std` must have a value for each of {channels} channel(s), `std` above 0, "
            f"got {mean} and {std}."
        )
    return mean, std
