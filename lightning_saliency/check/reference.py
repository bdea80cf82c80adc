"""The reference: where good runs look, kept in a folder next to the code that it guards.

``reference.json`` holds what people read and edit, ``reference.safetensors`` holds the tensors.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from os import PathLike
from typing import Annotated, Any

import torch
from torch import Tensor

from lightning_saliency.check.comparable import why_not_comparable
from lightning_saliency.check.requirements import DEFAULT, Requirement, parse_all
from lightning_saliency.errors import NotComparableError, RecordError
from lightning_saliency.functional.measures import CELLS, at_one_size
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.record.observation import SHARE, Numbers, Observation
from lightning_saliency.record.run import open_run
from lightning_saliency.storage.decode import (
    MISFITS,
    SCHEMA,
    AtLeast,
    Shapes,
    check_parts,
    check_schema,
    check_shapes,
    check_wholes,
    decode,
)
from lightning_saliency.storage.files import (
    damaged,
    json_bytes,
    read_json,
    read_tensors,
    tensor_bytes,
    write_whole,
)
from lightning_saliency.storage.places import Place, RemotePath, find_place

REFERENCE_FILE = "reference.json"
NUMBERS_FILE = "reference.safetensors"


@dataclass(frozen=True, slots=True)
class GoodRun:
    """The metadata of one of the runs of a reference.

    Attributes:
        epoch: The epoch of its last observation, which is the one that counts.
        caption: The caption of that observation.
        seed: The seed that ``seed_everything`` was given.
        commit: The commit of the repository in which the run was started.
        started: When the run was started, in ISO 8601.
        versions: The versions of the packages, by name.
        metrics: The metrics that it logged last.
    """

    epoch: Annotated[int, AtLeast(-1)]
    caption: str
    seed: int | None
    commit: str | None
    started: str
    versions: Mapping[str, str]
    metrics: Numbers


@dataclass(frozen=True, slots=True)
class EarlierReference:
    """A reference that was replaced by a later one.

    Attributes:
        reason: Why its runs were considered good.
        created: When it was made, in ISO 8601.
        runs: The number of its runs.
    """

    reason: str
    created: str
    runs: Annotated[int, AtLeast(1)]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One good run or model, as a reference takes it in.

    Attributes:
        name: What messages call it, such as the folder of the run.
        info: The metadata of the run.
        observation: The observation that counts.
    """

    name: str
    info: RunInfo
    observation: Observation


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Where N good runs look; made by :meth:`from_runs`, written by :meth:`save`.

    Attributes:
        info: The metadata of the first run. A run must share its probe and rule to be compared.
        runs: The metadata of each run.
        classes: ``(images,)`` int64, the measured class of each image.
        views: ``(runs, images, V, 8, 8)`` float64; NaN where a map is all zero.
        shares: By region, ``(runs, images)`` float64, likewise.
        maps: ``(images, h, w)`` float16, the mean of the runs' maps, divided by its peak.
        photos: ``(images, h, w, 3)`` uint8.
        requirements: What is required of a run.
        reason: Why the runs are considered good.
        created: When the reference was made, in ISO 8601.
        history: The references that it replaced, oldest first.
    """

    info: RunInfo
    runs: tuple[GoodRun, ...]
    classes: Tensor
    views: Tensor
    shares: Mapping[str, Tensor]
    maps: Tensor
    photos: Tensor
    requirements: tuple[Requirement, ...] = parse_all(DEFAULT)
    reason: str = ""
    created: str = ""
    history: tuple[EarlierReference, ...] = ()

    @classmethod
    def from_runs(
        cls,
        runs: Sequence[str | PathLike[str] | RemotePath],
        require: Sequence[str] = DEFAULT,
        *,
        reason: str = "",
    ) -> Reference:
        """Make a reference from the last observations of recorded runs.

        Automatic bounds come from the spread of at least three runs with different seeds. With
        fewer runs, would-be failures are only warnings.

        Args:
            runs: The log folders of the runs, or their URLs.
            require: What is required of a run; see :class:`requirements.Requirement`.
            reason: Why the runs are good, for whoever looks at the reference later.

        Raises:
            RecordError: There are no runs, one is damaged, or two are the same.
            NotComparableError: The runs differ in their probe, classes or rule.
            ValueError: A requirement cannot be judged.
        """
        if isinstance(runs, str | PathLike | RemotePath) or not runs:
            raise RecordError("a reference needs a list of at least one run, preferably three")
        opened = [open_run(run) for run in runs]
        sources = [Source(str(run.folder), run.info, run.last()) for run in opened]
        return cls.from_sources(sources, opened[0].photos(), require, reason=reason)

    @classmethod
    def from_sources(
        cls,
        sources: Sequence[Source],
        photos: Tensor,
        require: Sequence[str] = DEFAULT,
        *,
        reason: str = "",
    ) -> Reference:
        """Make a reference from observations of any origin; see :meth:`from_runs`.

        Args:
            sources: At least one.
            photos: ``(images, h, w, 3)`` uint8, the thumbnails of their probe.
            require: What is required of a run.
            reason: Why the runs are good.
        """
        requirements = parse_all(require)
        seen = [source.observation for source in sources]
        first = sources[0]
        for requirement in requirements:
            requirement.quantities(first.info.areas)
        for source, observation in zip(sources[1:], seen[1:], strict=True):
            classes = seen[0].measured.classes, observation.measured.classes
            if why := why_not_comparable(first.info, source.info, *classes):
                raise NotComparableError(
                    f"{first.name} and {source.name} cannot be compared: {why}"
                )
        views = torch.stack([o.measured.views for o in seen])
        _refuse_copies(views, sources)
        _refuse_empty(views, sources)
        regions = seen[0].measured.shares
        return cls(
            info=replace(first.info, metrics={}, settings={}),
            runs=tuple(_good_run(s.info, s.observation) for s in sources),
            classes=seen[0].measured.classes,
            views=views,
            shares={name: torch.stack([o.measured.shares[name] for o in seen]) for name in regions},
            maps=_mean_map([o.measured.maps for o in seen]),
            photos=photos,
            requirements=requirements,
            reason=reason,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )

    def following(self, earlier: Reference) -> Reference:
        """Return this reference with ``earlier`` added to its history."""
        before = EarlierReference(earlier.reason, earlier.created, len(earlier.runs))
        return replace(self, history=(*earlier.history, before))

    def profile(self) -> Tensor:
        """The mean profile over the runs and views, ``(8, 8)``."""
        return self.run_views().mean(dim=(0, 1))

    def run_views(self) -> Tensor:
        """The mean of each view over the images of each run, ``(runs, V, 8, 8)``."""
        return self.views.nanmean(dim=1)

    def image_profiles(self) -> Tensor:
        """The mean profile of each image over the runs and views, ``(images, 8, 8)``."""
        return self.views.nanmean(dim=0).mean(dim=1)

    def run_shares(self, region: str) -> list[float]:
        """The mean share of ``region`` in each run, in [0, 1]."""
        shares: list[float] = self.shares[region].nanmean(dim=1).tolist()
        return shares

    def metrics(self) -> dict[str, float]:
        """The mean of each metric that all runs logged."""
        names = set(self.runs[0].metrics).intersection(*(run.metrics for run in self.runs))
        count = len(self.runs)
        return {n: sum(run.metrics[n] for run in self.runs) / count for n in sorted(names)}

    def save(self, folder: str | PathLike[str] | RemotePath) -> None:
        """Write the two files into ``folder``; an earlier reference stays whole if that fails."""
        folder = find_place(folder)
        tensors = {name: getattr(self, name) for name in _TENSORS}
        one = self.views.shape[2] == 1
        tensors |= {_PROFILES: self.views[:, :, 0]} if one else {_VIEWS: self.views}
        tensors |= {SHARE + region: shares for region, shares in self.shares.items()}
        data = tensor_bytes({"schema": SCHEMA}, tensors)
        about = _File(
            reason=self.reason,
            created=self.created,
            requirements=tuple(requirement.text for requirement in self.requirements),
            runs=self.runs,
            history=self.history,
            numbers=_digest(data),
            probe=self.info,
        )
        text = json_bytes({"schema": SCHEMA, **asdict(about)})
        numbers = folder / NUMBERS_FILE
        earlier = numbers.read_bytes() if numbers.is_file() else None
        write_whole(numbers, data)
        try:
            write_whole(folder / REFERENCE_FILE, text)
        except BaseException:
            # The old text does not belong to the new numbers.
            if earlier is not None:
                with suppress(OSError):
                    write_whole(numbers, earlier)
            raise

    @classmethod
    def load(cls, folder: str | PathLike[str] | RemotePath) -> Reference:
        """Read what :meth:`save` wrote. Nothing in it is executed.

        Raises:
            RecordError: A file is missing or damaged, or the two do not belong together.
        """
        folder = find_place(folder)
        path = folder / REFERENCE_FILE
        content = read_json(path)
        try:
            check_schema(content)
            about = decode(_File, content)
            requirements = parse_all(about.requirements)
        except MISFITS as error:
            raise damaged(path, error) from error
        return cls(
            info=about.probe,
            runs=about.runs,
            requirements=requirements,
            reason=about.reason,
            created=about.created,
            history=about.history,
            **_read_numbers(folder / NUMBERS_FILE, about),
        )


@dataclass(frozen=True, slots=True)
class _File:
    """The content of ``reference.json``.

    Attributes:
        numbers: The SHA-256 of ``reference.safetensors``, in hexadecimal.
        probe: The metadata of the first run, which includes that of the probe.
    """

    reason: str
    created: str
    requirements: tuple[str, ...]
    runs: tuple[GoodRun, ...]
    history: tuple[EarlierReference, ...]
    numbers: str
    probe: RunInfo

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("it has no runs")


_TENSORS = ("classes", "maps", "photos")
# Views are stored as they are, except a single one, whose file is that of version 0.1.
_VIEWS, _PROFILES = "views", "profiles"
_PROFILE_SHAPES: Shapes = {
    _VIEWS: (torch.float64, ("R", "N", "V", CELLS, CELLS)),
    _PROFILES: (torch.float64, ("R", "N", CELLS, CELLS)),
}
_SHAPES: Shapes = {
    "classes": (torch.int64, ("N",)),
    "maps": (torch.float16, ("N", "h", "w")),
    "photos": (torch.uint8, ("N", "H", "W", 3)),
}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_numbers(path: Place, about: _File) -> dict[str, Any]:
    header, tensors = read_tensors(path)
    regions = [SHARE + region for region in about.probe.areas]
    try:
        check_schema(header)
        per_run: tuple[torch.dtype, tuple[str | int, ...]] = (torch.float64, ("R", "N"))
        views = _VIEWS if _VIEWS in tensors else _PROFILES
        shapes = {**_SHAPES, views: _PROFILE_SHAPES[views]}
        check_shapes(tensors, shapes | dict.fromkeys(regions, per_run))
        check_parts(tensors, [views, *regions])
        check_wholes(tensors, views)
        if tensors[views].shape[:2] != (len(about.runs), len(about.probe.images)):
            raise ValueError(f"its runs or images are not those of {REFERENCE_FILE}")
        if int(tensors["classes"].min()) < 0:
            raise ValueError("it holds a negative class")
        if _digest(path.read_bytes()) != about.numbers:
            raise ValueError(f"it does not belong to this {REFERENCE_FILE}")
    except MISFITS as error:
        raise damaged(path, error) from error
    shares = {name.removeprefix(SHARE): tensors[name] for name in regions}
    known: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
    known["views"] = tensors[views] if views == _VIEWS else tensors[views][:, :, None]
    return known | {"shares": shares}


def _refuse_copies(views: Tensor, sources: Sequence[Source]) -> None:
    for second in range(len(views)):
        for first in range(second):
            if torch.equal(views[first].nan_to_num(), views[second].nan_to_num()):
                raise RecordError(
                    f"{sources[first].name} and {sources[second].name} hold identical maps: a run "
                    "was given twice, or two have the same seed. Train with different seeds, "
                    "because bounds come from the spread of the runs"
                )


def _refuse_empty(views: Tensor, sources: Sequence[Source]) -> None:
    empty = views.sum(dim=(2, 3, 4)).isnan()
    for source, mine in zip(sources, empty, strict=True):
        if 2 * int(mine.sum()) >= len(mine):
            raise RecordError(
                f"{source.name} cannot be a good run: {int(mine.sum())} of {len(mine)} maps of "
                "its last observation are all zero or not finite"
            )
    # Only images that all of the runs could measure are compared.
    left_out = int(empty.any(dim=0).sum())
    if 2 * left_out >= empty.shape[1]:
        raise RecordError(
            f"{left_out} of {empty.shape[1]} images have a map that is all zero or not finite in "
            "at least one of these runs, so too little is left to compare. Leave out the runs with "
            "the most such maps"
        )


def _good_run(info: RunInfo, observation: Observation) -> GoodRun:
    return GoodRun(
        epoch=observation.epoch,
        caption=observation.caption,
        seed=info.seed,
        commit=info.commit,
        started=info.started,
        versions=info.versions,
        metrics=info.metrics,
    )


def _mean_map(maps: Sequence[Tensor]) -> Tensor:
    """Average maps after giving each the same mass, and divide by the peak, as pictures need it."""
    alike = at_one_size(*(m.float() for m in maps))
    sums = [m / m.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12) for m in alike]
    mean = torch.stack(sums).nanmean(dim=0).nan_to_num()
    peaks = mean.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    return (mean / peaks).half()
