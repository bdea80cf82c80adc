"""The fixed images to explain: validated once, the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_saliency.functional.projection import Depth, Projection
from lightning_saliency.functional.text import outline
from lightning_saliency.probe.joining import (
    Loaded,
    join_batches,
    leave_out_unpicklable,
    transfer_images,
)
from lightning_saliency.probe.labels import UNLABELLED, check_labels_fit, find_first_labels
from lightning_saliency.probe.photo_sets import choose_photos, read_photos
from lightning_saliency.probe.preview import show_images
from lightning_saliency.probe.reading import Reader, warn_of_many
from lightning_saliency.probe.state import (
    fingerprint,
    pack,
    pack_compactly,
    read_state,
    unpack,
    unpack_compactly,
    unreadable_explained,
    write_state,
)
from lightning_saliency.probe.transforms import to_original_colours
from lightning_saliency.probe.validation import (
    checked_class_names,
    checked_depth,
    checked_extras,
    checked_images,
    checked_labels,
    checked_masks,
    checked_names,
    checked_normalisation,
    default_name,
)


@dataclass(frozen=True, eq=False, repr=False)
class ProbeBatch:
    """Images to explain again and again, with their labels, names and masks.

    The batch is frozen and holds copies, so later changes to the arguments do not affect it.

    Attributes:
        images: ``(N, C, H, W)``, floating point, as the model expects them; or volumes and clips
            ``(N, C, D, H, W)``, whose channels come before the slices or frames.
        labels: ``(N,)`` int64, the true class of each image, -1 if unknown; float
            ``(N, num_classes)`` if an image may have several; ``None`` if all are unknown. Lists,
            arrays, one-hot integers and other usual forms are converted; see
            :func:`labels.read_labels`.
        class_names: The name of each class, in order; or a dict from each class to its name.
        names: A unique name for each image; by default its number and label.
        masks: Bool ``(N, H, W)`` for each named region, such as ``"object"``. Those of volumes are
            ``(N, D, H, W)``; flat ones hold for every slice.
        extras: Further inputs of the model, such as metadata: for each name, a tensor ``(N, …)`` of
            numbers or bools, with one row per image. Wherever some of the images are passed to the
            model, their rows are passed along, as keyword arguments of these names.
        mean: The mean of each channel that the images were normalised with, for images in
            [0, 1]. It is used, with ``std``, to display them in their original colours; without
            it, each image is scaled from its lowest to its highest value.
        std: The standard deviation of each channel; see ``mean``. A single number is for all.
        depth: How volumes are drawn. ``"max"``, the default, shows what is strongest along an axis,
            of images and of maps, with its sign; ``"middle"`` or a number shows one slice.
            Measurements are of the whole volume, added up along the axis.
        depth_axis: That axis: -3, the default, for D, -2 for H or -1 for W.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes do not agree, values are out of range, or names are not unique.

    Example:
        >>> import torch
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
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    depth: Depth | None = None
    depth_axis: int | None = None

    _labels_found_in: ClassVar[str] = ""  # the field of the data, for messages; set per probe
    # The batches of data that the images come from, until `transferred` has passed them on.
    _batches: ClassVar[tuple[Any, ...]] = ()

    def __post_init__(self) -> None:
        self._put("images", checked_images(self.images))
        if self.class_names is not None:
            self._put("class_names", checked_class_names(self.class_names))
        if self.labels is not None:
            self._put("labels", checked_labels(self.labels, len(self), self.class_names))
        names = self._default_names() if self.names is None else self.names
        self._put("names", checked_names(names, len(self)))
        depth, axis = checked_depth(self.depth, self.depth_axis, self.images.shape)
        self._put("depth", depth)
        self._put("depth_axis", axis)
        self._put("masks", checked_masks(self.masks, self.images, axis))
        self._put("extras", checked_extras(self.extras, len(self)))
        if self.mean is not None or self.std is not None:
            mean, std = checked_normalisation(self.mean, self.std, self.images.shape[1])
            self._put("mean", mean)
            self._put("std", std)

    def _put(self, name: str, value: Any) -> None:
        # A frozen dataclass can only be filled in this way.
        object.__setattr__(self, name, value)

    def _default_names(self) -> list[str]:
        """Build a name for each image from its number and its labels, the first few of many."""
        word = "" if self.class_names else "class "
        labels = [[word + self.class_name(c) for c in found] for found in self.all_true_classes()]
        return [default_name(image, found) for image, found in enumerate(labels)]

    def __repr__(self) -> str:
        return outline(self)

    def __len__(self) -> int:
        return len(self.images)

    def check_fit(self, num_logits: int) -> None:
        """Check that the labels fit a model of ``num_logits`` logits.

        Raises:
            ValueError: They do not, and were passed by the user.
            SaliencyError: They do not, and were found in the data.
        """
        check_labels_fit(self.labels, num_logits, self._labels_found_in)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several true classes."""
        return self.labels is not None and self.labels.ndim == 2

    @property
    def num_classes(self) -> int | None:
        """The number of classes, if there are class names or multi-label labels."""
        if self.labels is not None and self.multi_label:
            return self.labels.shape[1]
        return None if self.class_names is None else len(self.class_names)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of images, labels, masks and extras, as 64 hexadecimal digits."""
        return fingerprint(pack(self))

    @property
    def projection(self) -> Projection | None:
        """How volumes become flat pictures; ``None`` for images that are flat."""
        if self.depth is None or self.depth_axis is None:
            return None
        return Projection(self.depth, self.depth_axis)

    @property
    def drawn_size(self) -> tuple[int, int]:
        """The height and the width of the images as they are drawn, in pixels."""
        sides = list(self.images.shape[2:])
        if self.depth_axis is not None:
            del sides[self.depth_axis]
        height, width = sides
        return height, width

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
        return {int(self.labels[image])} - {UNLABELLED}

    def all_true_classes(self) -> list[list[int]]:
        """The sorted classes of each image; empty lists without labels."""
        return [sorted(self.true_classes(image)) for image in range(len(self))]

    def first_labels(self) -> Tensor | None:
        """The first label of each image, ``(N,)``; ``None`` if any image has no label."""
        return None if self.labels is None else find_first_labels(self.labels)

    def displayed(self) -> Tensor:
        """The images in their original colours, flat: ``(N, C, H, W)`` float32 in [0, 1].

        Warns:
            SaliencyWarning: ``mean`` and ``std`` leave hardly anything to be seen.
        """
        flat = self.images if self.projection is None else self.projection.brightest(self.images)
        return to_original_colours(flat.float(), self.mean, self.std)

    def _repr_html_(self) -> str:
        """The images and their names, which notebooks show."""
        return show_images(self.displayed(), self.names or self._default_names())

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

        Random transforms are drawn from a fixed seed. Afterwards the global random streams and the
        dataset are as they were, as far as :func:`~.isolation.dataset.dataset_kept` finds its
        state. In a run, the images pass the batch hooks; see :meth:`transferred`.

        Args:
            dataset: Its items are ``(image, label, …)`` or dicts. Their classes are read from its
                ``targets`` or ``labels``, or else from items spread evenly over it: at most eight
                per image of the probe, or 256.
            per_class: How many images of each class to take, from the start of the dataset.
            count: The maximum number of images in total, spread over the classes.
            indices: The items to take, instead of choosing by class.
            collate_fn: Combines items into a batch. Pass the training loader's if it has its own.
            **known: Arguments of :class:`ProbeBatch`, such as ``class_names`` or ``mean``. Class
                names and normalisation that are not given are looked up in the dataset and its
                transforms.

        Raises:
            TypeError: The dataset can only be iterated, or has no length.
            SaliencyError: The dataset is empty, or its items hold no image.

        Warns:
            SaliencyWarning: The images have several sizes, so that only some of them were taken.
        """
        loaded = Reader(dataset, collate_fn).read(per_class, count, indices)
        probe = cls._from_loaded(loaded, dataset, known)
        if indices is None and count is None:
            warn_of_many(len(probe))
        return probe

    @classmethod
    def from_dataloader(cls, loader: DataLoader[Any], count: int = 8, **known: Any) -> ProbeBatch:
        """Choose ``count`` images of those that a loader yields, spread over their classes.

        The loader itself is never iterated. The images are read from its dataset, at positions
        that its sampler may yield, in batches of its size, and with its ``collate_fn``. If it has
        workers, they are read by a worker, which is started in the same way.

        See :meth:`from_dataset` for the other arguments and the errors.
        """
        reader = Reader.for_loader(loader, collate_fn=known.pop("collate_fn", None))
        indices = known.pop("indices", None)
        loaded = reader.read(count, count, indices)
        most = count if indices is None else None
        return cls._from_loaded(loaded, loader.dataset, known, most)

    @classmethod
    def from_batch(
        cls, batch: Any, dataset: Any = None, *, items: Sequence[int] | None = None, **known: Any
    ) -> ProbeBatch:
        """Take the images and labels from a collated batch, as a loader yields it.

        In a run, the images pass the batch hooks; see :meth:`transferred`. To explain images that
        have passed them before, pass ``ProbeBatch(images, labels)``.

        Args:
            batch: A tuple, list, dict, dataclass or other object, nested or not. Fields are found
                by their names, such as ``image`` and ``label``, and otherwise by what they hold:
                the first floating-point tensor ``(N, C, H, W)`` or ``(N, C, D, H, W)`` that does
                not look like a mask, and the only field with one class, or one row of labels, per
                image. Rows that add up to 1, such as one-hot labels, are one class per image; see
                :func:`labels.read_labels`.
            dataset: Where to look up class names and normalisation that are not given.
            items: The positions of the batch's items in ``dataset``. If it lists their targets in
                ``targets`` or ``labels``, these decide which field holds the labels.
            **known: Arguments of :class:`ProbeBatch`. ``labels`` replace those of the batch.

        Raises:
            SaliencyError: The batch holds no images, or several fields can be the labels.
        """
        return cls._from_loaded([Loaded(batch, items)], dataset, known)

    @classmethod
    def join(
        cls,
        loaded: Sequence[Loaded],
        dataset: Any = None,
        *,
        most: int | None = None,
        **known: Any,
    ) -> ProbeBatch:
        """Take the images and labels from batches that have passed the batch hooks already.

        Args:
            loaded: Batches as the model takes them; see :meth:`from_batch`.
            dataset: Where to look up targets, and class names and normalisation not given.
            most: How many images to take at most.
            **known: Arguments of :class:`ProbeBatch`. ``labels`` replace those of the batches.

        Raises:
            SaliencyError: A batch holds no images, or several fields can be the labels.

        Warns:
            SaliencyWarning: The images have several sizes, so that only some of them were taken.
        """
        probe = cls._from_loaded(loaded, dataset, known, most)
        probe._put("_batches", ())  # They must not pass the hooks again.
        return probe

    @classmethod
    def _from_loaded(
        cls, loaded: Sequence[Loaded], dataset: Any, known: dict[str, Any], most: int | None = None
    ) -> ProbeBatch:
        """Join batches, and keep them until they can pass the batch hooks of a trainer."""
        joined = join_batches(loaded, dataset, known, most)
        probe = cls(joined.images, **joined.arguments)
        probe._put("_labels_found_in", joined.labels_found_in)
        probe._put("_batches", joined.batches)
        return probe

    def transferred(self, transfer: Callable[[Any], Any]) -> ProbeBatch:
        """Return this probe with its images as the model of a run gets them.

        Images that come from a dataset, a loader or a batch are not always what the model sees:
        a module or datamodule may normalise them in ``on_before_batch_transfer``,
        ``transfer_batch_to_device`` or ``on_after_batch_transfer``. Therefore the batches are kept
        until a trainer is known, and then passed through these hooks. Labels, names and masks stay.

        Args:
            transfer: Passes a batch through the hooks.

        Raises:
            SaliencyError: The hooks do not return as many images, or the batches were lost when
                the probe was sent to another process.
        """
        if not self._batches:
            return self
        images = transfer_images(self._batches, transfer, len(self))
        changed: dict[str, Any] = {"images": images}
        if images.shape[1] != self.images.shape[1]:
            changed |= {"mean": None, "std": None}  # They are of other channels.
        if images.ndim != self.images.ndim:
            changed |= {"depth": None, "depth_axis": None}
        passed = replace(self, **changed)
        passed._put("_labels_found_in", self._labels_found_in)
        return passed

    def __getstate__(self) -> dict[str, Any]:
        """Return what a spawned process gets: all but batches that cannot be pickled."""
        return {**self.__dict__, "_batches": leave_out_unpicklable(self._batches)}

    def __deepcopy__(self, memo: dict[int, Any]) -> ProbeBatch:
        """Return the probe itself, which nothing changes, with all of its batches."""
        return self

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
        read = read_photos(
            paths,
            size,
            mean=mean,
            std=std,
            transform=transform,
            labels=labels,
            names=names,
            masks=masks,
        )
        return cls(**read, class_names=class_names)

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
        chosen = choose_photos(root, per_class, masks, region)
        return cls.from_files(**chosen, size=size, mean=mean, std=std, transform=transform)

    def save(self, path: str | Path) -> None:
        """Write the probe to one safetensors file, whole or not at all.

        Raises:
            ValueError: The probe is larger than :data:`files.MAX_TENSORS`, the most that
                :meth:`load` reads.
        """
        write_state(path, self.state())

    @classmethod
    def load(cls, path: str | Path) -> ProbeBatch:
        """Read a probe that :meth:`save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or is not a probe.
        """
        with unreadable_explained(path):
            return cls.from_state(read_state(path))

    def state(self) -> dict[str, Any]:
        """The probe as tensors and primitives, for checkpoints loaded with ``weights_only``."""
        return pack(self)

    def compact_state(self) -> dict[str, Any]:
        """The same as :meth:`state`, in the smallest form that gives the same probe bit for bit."""
        return pack_compactly(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ProbeBatch:
        """Rebuild a probe from its :meth:`state` or its :meth:`compact_state`.

        Raises:
            ValueError: The images are not those that were stored.
        """
        return cls(**unpack(unpack_compactly(state) if "compact" in state else state))
