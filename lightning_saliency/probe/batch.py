"""The fixed images to explain: validated once, the same in every run."""

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
    find_images_and_labels,
)
from lightning_saliency.probe.photos import find_mask, list_photos, read_mask, read_photo
from lightning_saliency.probe.transforms import (
    find_normalisation,
    mask_to_tensor,
    normalisation,
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
    stack_photos,
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

# Random transforms are seeded with this, so that the same data give the same probe in every run.
SEED = 0


@dataclass(frozen=True, eq=False)
class ProbeBatch:
    """Images to explain again and again, with their labels, names and masks.

    The batch is frozen and holds copies, so later changes to the arguments do not affect it.

    Attributes:
        images: ``(N, C, H, W)``, floating point, as the model expects them.
        labels: ``(N,)`` int64, the true class of each image; float ``(N, num_classes)`` if an image
            may have several; ``None`` if unknown.
        class_names: The name of each class, in order.
        names: A unique name for each image; by default its number and label.
        masks: Bool ``(N, H, W)`` for each named region, such as ``"object"``.
        mean: The mean of each channel that the images were normalised with. It is used, with
            ``std``, to display them in their original colours; without it, each image is scaled
            from its lowest to its highest value.
        std: The standard deviation of each channel; see ``mean``.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes do not agree, values are out of range, or names are not unique.

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
        # A frozen dataclass can only be filled in this way.
        object.__setattr__(self, name, value)

    def _default_names(self) -> list[str]:
        """Build a name for each image from its number and its labels."""
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
        """The name of image number ``image``."""
        return (self.names or self._default_names())[image]

    def class_name(self, index: int) -> str:
        """The name of class ``index``, or its number if it has no name."""
        if self.class_names is not None and index < len(self.class_names):
            return self.class_names[index]
        return str(index)

    def true_classes(self, image: int) -> set[int]:
        """The classes that image number ``image`` is labelled with; empty without labels."""
        if self.labels is None:
            return set()
        if self.multi_label:
            return set(self.labels[image].gt(0.5).nonzero().flatten().tolist())
        return {int(self.labels[image])}

    def all_true_classes(self) -> list[list[int]]:
        """The sorted classes of each image; empty lists without labels."""
        return [sorted(self.true_classes(image)) for image in range(len(self))]

    def first_labels(self) -> Tensor | None:
        """The first label of each image, ``(N,)``; ``None`` if any image has no label."""
        if self.labels is None or not self.multi_label:
            return self.labels
        positive = self.labels > 0.5
        return positive.int().argmax(dim=1) if bool(positive.any(dim=1).all()) else None

    def displayed(self) -> Tensor:
        """The images in their original colours, ``(N, C, H, W)`` float32 in [0, 1]."""
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
        dataset: Dataset,  # type: ignore[type-arg]  # bare, so that LightningCLI can parse it
        *,
        per_class: int = 1,
        count: int | None = None,
        indices: Sequence[int] | None = None,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        **known: Any,
    ) -> ProbeBatch:
        """Choose images from a map-style dataset.

        Random transforms are drawn from a fixed seed. Afterwards the global random streams are as
        they were, and so are those generators of the dataset that :func:`rng.own_streams_kept`
        finds.

        Args:
            dataset: Its items are ``(image, label, …)`` or dicts. Their classes are read from its
                ``targets`` or ``labels``, or else from 256 items spread evenly over it.
            per_class: How many images of each class to take, from the start of the dataset.
            count: The maximum number of images in total, spread over the classes.
            indices: The items to take, instead of choosing by class.
            collate_fn: Combines items into a batch. Pass the training loader's if it has its own.
            **known: Arguments of :class:`ProbeBatch`, such as ``class_names`` or ``mean``. Class
                names and normalisation that are not given are looked up in the dataset and its
                transforms.

        Raises:
            TypeError: The dataset can only be iterated.
            SaliencyError: The dataset is empty, or its items hold no image.
        """
        with random_streams_kept(SEED), own_streams_kept(dataset, collate_fn):
            if indices is None:
                indices = choose_items(dataset, per_class, count)
            return cls.from_batch(collate_items(dataset, indices, collate_fn), dataset, **known)

    @classmethod
    def from_dataloader(cls, loader: DataLoader[Any], count: int = 8, **known: Any) -> ProbeBatch:
        """Choose ``count`` images from a loader's dataset, spread over its classes.

        The loader itself is never iterated; only its dataset and ``collate_fn`` are used. See
        :meth:`from_dataset` for the other arguments and the errors.
        """
        known.setdefault("collate_fn", loader.collate_fn)
        return cls.from_dataset(loader.dataset, per_class=count, count=count, **known)

    @classmethod
    def from_batch(cls, batch: Any, dataset: Any = None, **known: Any) -> ProbeBatch:
        """Take the images and labels from a collated batch: a tuple, a list or a dict.

        Args:
            batch: Its first four-dimensional floating-point tensor is taken as the images, and
                the next integer tensor ``(N,)`` or float tensor ``(N, num_classes)`` as the labels.
            dataset: Where to look up class names and normalisation that are not given.
            **known: Arguments of :class:`ProbeBatch`.

        Raises:
            SaliencyError: The batch holds no images.
        """
        images, labels = find_images_and_labels(batch)
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
        """Read photos from files: JPEG, PNG and other formats that Pillow reads.

        Photos are turned upright and converted to RGB.

        Args:
            paths: One file per photo.
            size: The side in pixels of the square cut from the middle, or a pair: the side to
                resize to and the side to crop to. See :func:`photos.to_tensor`.
            mean: One value per channel, or ``"imagenet"``. ``None``, for ``std`` too, leaves
                values in [0, 1].
            std: See ``mean``.
            transform: Replaces ``size``, ``mean`` and ``std`` with the transform that the model's
                weights come with, such as ``ResNet18_Weights.DEFAULT.transforms()``.
            labels: One class per photo.
            class_names: The name of each class, in order.
            names: One unique name per photo; by default the file names without suffix, if these
                are unique.
            masks: For each named region, one mask file per photo, of the photo's size.

        Raises:
            TypeError: ``paths`` is a single path, or another argument has the wrong type.
            FileNotFoundError: A file does not exist.
            ValueError: A file is not a readable image, or a mask does not fit its photo.
        """
        if isinstance(paths, str | Path):
            raise TypeError(f"`paths` must be a list of files, got {paths!r}; pass [{paths!r}].")
        photos = [read_photo(path) for path in paths]
        if not photos:
            raise ValueError(
                "`paths` must name at least one photo, got an empty list. Does the pattern match?"
            )
        cut = partial(to_tensor, size=size, transform=transform, mean=mean, std=std)
        known = normalisation(mean, std) if transform is None else find_normalisation(transform)
        stems = [Path(path).stem for path in paths]
        return cls(
            stack_photos([cut(photo) for photo in photos]),
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
        """Read the photos under ``root``, which holds one folder per class.

        Args:
            root: The folder that holds the class folders. Their names become the class names.
            size: See :meth:`from_files`.
            per_class: How many photos of each class to read, the first by name; all by default.
            masks: A folder with the same layout, which holds a mask for each photo under the same
                name with any suffix.
            region: The name of the region that the masks mark.
            mean: See :meth:`from_files`.
            std: See :meth:`from_files`.
            transform: See :meth:`from_files`.

        Raises:
            FileNotFoundError: A photo has no mask.
            ValueError: There are no class folders, a class has no photos, or a photo cannot be
                read.
        """
        paths, labels, class_names = list_photos(root)
        seen: Counter[int] = Counter()
        chosen = []
        for path, label in zip(paths, labels, strict=True):
            seen[label] += 1
            if per_class is None or seen[label] <= per_class:
                chosen.append((path, label))
        found = [find_mask(path, root, masks) for path, _ in chosen] if masks is not None else None
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
            ValueError: The probe is larger than :data:`files.MAX_TENSORS`, the most that
                :meth:`load` reads.
        """
        tensors = _tensors(self)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > MAX_TENSORS - MAX_JSON:
            raise ValueError(
                f"a probe of {size:,} bytes is larger than the {MAX_TENSORS:,} bytes that `load` "
                "reads. Take fewer images, or smaller ones."
            )
        write_whole(Path(path), tensor_bytes({"probe": _metadata(self)}, tensors))

    @classmethod
    def load(cls, path: str | Path) -> ProbeBatch:
        """Read a probe that :meth:`save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or is not a probe.
        """
        try:
            metadata, tensors = read_tensors(Path(path))
            return cls.from_state({"tensors": tensors, **metadata["probe"]})
        except UNREADABLE as error:
            if not Path(path).exists():
                raise FileNotFoundError(
                    f"no probe at {path}. `ProbeBatch.save` writes one."
                ) from error
            why = summarise(error.__cause__ or error).rstrip(".")
            raise ValueError(
                f"{path} is not a probe written by `ProbeBatch.save`, or it is damaged: {why}. "
                "Save the probe again."
            ) from error

    def state(self) -> dict[str, Any]:
        """The probe as tensors and primitives, for checkpoints loaded with ``weights_only``."""
        return {"tensors": _tensors(self), **_metadata(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ProbeBatch:
        """Rebuild a probe from its :meth:`state`."""
        tensors = dict(state["tensors"])
        images, labels = tensors.pop("images"), tensors.pop("labels", None)
        masks = {name.removeprefix("mask:"): mask.bool() for name, mask in tensors.items()}
        metadata = {key: state[key] for key in _METADATA}
        return cls(images, labels, masks=masks, **metadata)


def _read_masks(
    masks: Mapping[str, Sequence[str | Path]],
    photos: Sequence[Image.Image],
    size: int | tuple[int, int],
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


def _tensors(probe: ProbeBatch) -> dict[str, Tensor]:
    tensors = {"images": probe.images}
    if probe.labels is not None:
        tensors["labels"] = probe.labels
    return tensors | {f"mask:{name}": mask for name, mask in probe.masks.items()}


_METADATA = ("class_names", "names", "mean", "std")


def _metadata(probe: ProbeBatch) -> dict[str, list[Any] | None]:
    values = {key: getattr(probe, key) for key in _METADATA}
    return {key: None if value is None else list(value) for key, value in values.items()}
