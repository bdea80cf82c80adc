"""The fixed images that are explained, validated once and the same in every run."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_saliency.isolation.rng import own_streams_kept, random_streams_kept
from lightning_saliency.probe.datasets import (
    choose_items,
    collate_items,
    describe_dataset,
    images_and_labels,
)
from lightning_saliency.probe.photos import list_photos, mask_of, read_mask, read_photo
from lightning_saliency.probe.transforms import (
    mask_to_tensor,
    normalisation,
    normalisation_of,
    to_tensor,
)
from lightning_saliency.probe.validation import (
    as_labels,
    checked_images,
    checked_labels,
    checked_masks,
    checked_names,
    checked_normalisation,
    checked_strings,
    stacked,
)
from lightning_saliency.storage.files import (
    MAX_JSON,
    MAX_TENSORS,
    UNREADABLE,
    in_a_line,
    read_tensors,
    tensor_bytes,
    write_whole,
)

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
        self._put("images", checked_images(self.images))
        if self.class_names is not None:
            self._put("class_names", checked_strings("class_names", self.class_names))
        if self.labels is not None:
            num_classes = None if self.class_names is None else len(self.class_names)
            self._put("labels", checked_labels(self.labels, len(self), num_classes))
        names = self._default_names() if self.names is None else self.names
        self._put("names", checked_names(names, len(self)))
        self._put("masks", checked_masks(self.masks, self.images))
        if self.mean is not None or self.std is not None:
            mean, std = checked_normalisation(self.mean, self.std, self.images.shape[1])
            self._put("mean", mean)
            self._put("std", std)

    def _put(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the way to fill a frozen dataclass

    def _default_names(self) -> list[str]:
        """What images are called by their number and label."""
        word = "" if self.class_names else "class "
        return [
            " · ".join([f"image {image}", *(word + self.class_name(c) for c in classes)])
            for image, classes in enumerate(self.all_true_classes())
        ]

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
        return (self.names or self._default_names())[image]

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

    def all_true_classes(self) -> list[list[int]]:
        """The classes of each image in order; empty lists without labels."""
        return [sorted(self.true_classes(image)) for image in range(len(self))]

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
        dataset: Dataset,  # type: ignore[type-arg]  # as LightningCLI reads it from a file
        *,
        per_class: int = 1,
        count: int | None = None,
        indices: Sequence[int] | None = None,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        **known: Any,
    ) -> ProbeBatch:
        """Take images of a map-style dataset of ``(image, label, …)`` items or dicts.

        Args:
            dataset: Its ``targets`` or ``labels``, or 256 items spread evenly over it, tell the
                classes. Random transforms are drawn from a fixed seed, and no random stream is
                moved; of generators that a dataset owns, those that
                :func:`rng.own_streams_kept` finds.
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
        with random_streams_kept(SEED), own_streams_kept(dataset, collate_fn):
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
            known = {**describe_dataset(dataset, images.shape[1]), **known}
        return cls(images, labels, **known)

    @classmethod
    def from_files(
        cls,
        paths: Sequence[str | Path],
        size: int | tuple[int, int] = 224,
        *,
        mean: str | Sequence[float] | None = "imagenet",
        std: str | Sequence[float] | None = "imagenet",
        transform: Callable[[Any], Any] | None = None,
        labels: Sequence[int] | Tensor | None = None,
        class_names: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        masks: Mapping[str, Sequence[str | Path]] | None = None,
    ) -> ProbeBatch:
        """Read photos: JPEG, PNG and whatever else Pillow reads, upright, in RGB.

        Args:
            paths: A file a photo.
            size: Pixels a side of the square cut from the middle, or two, to resize and to crop to;
                see :func:`photos.to_tensor`.
            mean: Per channel, with ``std``; ``"imagenet"``; ``None`` leaves values in [0, 1].
            std: See ``mean``.
            transform: In place of ``size``, ``mean`` and ``std``: what the model's weights come
                with, for example ``ResNet18_Weights.DEFAULT.transforms()``.
            labels: A class a photo.
            class_names: The name of each class.
            names: A unique name a photo; the file names without suffix where they are unique.
            masks: By region, a file a photo, as large as the photo.

        Raises:
            FileNotFoundError: A file that is not there.
            ValueError: A file that is no readable image, or masks that do not fit.
        """
        if isinstance(paths, str | Path):
            raise TypeError(f"`paths` must be a list of files, got {paths!r}; pass [{paths!r}].")
        photos = [read_photo(path) for path in paths]
        if not photos:
            raise ValueError(
                "`paths` must name a photo at least, got an empty list. Does the pattern match?"
            )
        cut = partial(to_tensor, size=size, transform=transform, mean=mean, std=std)
        known = normalisation(mean, std) if transform is None else normalisation_of(transform)
        stems = [Path(path).stem for path in paths]
        return cls(
            stacked([cut(photo) for photo in photos]),
            None if labels is None else as_labels(labels),
            class_names=class_names,
            names=names or (stems if len(set(stems)) == len(stems) else None),
            masks=_read_masks(masks or {}, photos, size, transform),
            mean=None if known is None else known[0],
            std=None if known is None else known[1],
        )

    @classmethod
    def from_folder(
        cls,
        root: str | Path,
        size: int | tuple[int, int] = 224,
        *,
        per_class: int | None = None,
        masks: str | Path | None = None,
        region: str = "object",
        mean: str | Sequence[float] | None = "imagenet",
        std: str | Sequence[float] | None = "imagenet",
        transform: Callable[[Any], Any] | None = None,
    ) -> ProbeBatch:
        """Read the photos under ``root``, one folder a class, named as the folders are.

        Args:
            root: The folder of the classes' folders.
            size: See :meth:`from_files`, also for ``mean``, ``std`` and ``transform``.
            per_class: Photos of each class, the first by name; all by default.
            masks: A folder of the same layout, with a mask of the same name for each photo, with
                any suffix.
            region: What the masks show.
            mean: See :meth:`from_files`.
            std: See :meth:`from_files`.
            transform: See :meth:`from_files`.

        Raises:
            FileNotFoundError: A photo without a mask.
            ValueError: No classes, no photos, or one that cannot be read.
        """
        paths, labels, class_names = list_photos(root)
        seen: Counter[int] = Counter()
        chosen = []
        for path, label in zip(paths, labels, strict=True):
            seen[label] += 1
            if per_class is None or seen[label] <= per_class:
                chosen.append((path, label))
        found = [mask_of(path, root, masks) for path, _ in chosen] if masks is not None else None
        return cls.from_files(
            [path for path, _ in chosen],
            size,
            mean=mean,
            std=std,
            transform=transform,
            labels=[label for _, label in chosen],
            class_names=class_names,
            names=[f"{path.parent.name} {path.stem}" for path, _ in chosen],
            masks=None if found is None else {region: found},
        )

    def save(self, path: str | Path) -> None:
        """Write the probe to one safetensors file, whole or not at all.

        Raises:
            ValueError: It is larger than :data:`files.MAX_TENSORS`, which is all that is read.
        """
        tensors = _tensors(self)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > MAX_TENSORS - MAX_JSON:
            raise ValueError(
                f"a probe of {size:,} bytes is larger than the {MAX_TENSORS:,} that `load` would "
                "read. Take fewer images, or smaller ones."
            )
        write_whole(Path(path), tensor_bytes({"probe": _told(self)}, tensors))

    @classmethod
    def load(cls, path: str | Path) -> ProbeBatch:
        """Read what :meth:`save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a probe, or a damaged one.
        """
        try:
            told, tensors = read_tensors(Path(path))
            return cls.from_state({"tensors": tensors, **told["probe"]})
        except UNREADABLE as error:
            if not Path(path).exists():
                raise FileNotFoundError(
                    f"no probe at {path}. `ProbeBatch.save` writes one."
                ) from error
            why = in_a_line(error.__cause__ or error).rstrip(".")
            raise ValueError(
                f"{path} is not a probe written by `ProbeBatch.save`, or it is damaged: {why}. "
                "Save the probe anew."
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


def _read_masks(
    masks: Mapping[str, Sequence[str | Path]],
    photos: Sequence[Image.Image],
    size: int | tuple[int, int],
    transform: Callable[[Any], Any] | None,
) -> dict[str, Tensor]:
    regions = {}
    for region, paths in masks.items():
        if len(paths) != len(photos):
            raise ValueError(
                f"`masks[{region!r}]` must name a file for each of {len(photos)} photos, in their "
                f"order, got {len(paths)}."
            )
        read = [read_mask(path, photo) for path, photo in zip(paths, photos, strict=True)]
        regions[region] = torch.stack([mask_to_tensor(m, size, transform=transform) for m in read])
    return regions


def _tensors(probe: ProbeBatch) -> dict[str, Tensor]:
    tensors = {"images": probe.images}
    if probe.labels is not None:
        tensors["labels"] = probe.labels
    return tensors | {f"mask:{name}": mask for name, mask in probe.masks.items()}


_TOLD = ("class_names", "names", "mean", "std")


def _told(probe: ProbeBatch) -> dict[str, list[Any] | None]:
    values = {key: getattr(probe, key) for key in _TOLD}
    return {key: None if value is None else list(value) for key, value in values.items()}
