"""One observation of a model, and the file that holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.functional.maps import from_8_bits, to_8_bits
from lightning_saliency.functional.measures import CELLS
from lightning_saliency.record.facts import Header
from lightning_saliency.record.metrics import Numbers as Numbers
from lightning_saliency.storage.decode import (
    MISFITS,
    OBSERVATION_SCHEMA,
    Shapes,
    check_parts,
    check_schema,
    check_shapes,
    check_wholes,
    decode,
)
from lightning_saliency.storage.files import damaged, read_tensors, tensor_bytes
from lightning_saliency.storage.places import Place


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The maps of a probe batch at one step, at display resolution, of N images and K classes each.

    Attributes:
        step: The position of the pictures on the loggers' step axis.
        caption: The moment in words, such as ``"untrained"``, ``"epoch 3"`` or ``"step 1200"``.
        targets: ``(N, K)`` int64, the class of each map.
        probabilities: ``(N, K)``, the probability of each target.
        predicted: ``(N,)`` int64, the class with the largest logit; ``None`` for a snapshot read
            from a record of version 0.1, which does not hold it.
        maps: For each rule, ``(N, K, h, w)`` float16, signed. Each map is divided by its own peak,
            so that it lies in [-1, 1]; it is all NaN if it had values that were not finite.
        peaks: For each rule, ``(N, K)``, the largest magnitude of each map, in logits per input
            unit.
    """

    step: int
    caption: str
    targets: Tensor
    probabilities: Tensor
    predicted: Tensor | None
    maps: Mapping[str, Tensor]
    peaks: Mapping[str, Tensor]

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules of the maps, in display order."""
        return tuple(self.maps)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Snapshot:
        """A copy with ``change`` applied to each tensor."""
        return replace(
            self,
            targets=change(self.targets),
            probabilities=change(self.probabilities),
            predicted=None if self.predicted is None else change(self.predicted),
            maps={rule: change(maps) for rule, maps in self.maps.items()},
            peaks={rule: change(peaks) for rule, peaks in self.peaks.items()},
        )

    def cpu(self) -> Snapshot:
        """A copy in main memory."""
        return self.map_tensors(lambda tensor: tensor.detach().cpu())

    def only(self, image: int) -> Snapshot:
        """A copy with ``image`` in place of every image, which takes the memory of a single one."""
        return self.map_tensors(lambda rows: rows[image : image + 1].clone().expand_as(rows))

    def state(self) -> dict[str, Any]:
        """The snapshot as tensors and primitives, with maps in 8 bits, the depth of the colours."""
        maps = {rule: to_8_bits(maps) for rule, maps in self.maps.items()}
        names = ("step", "caption", "targets", "probabilities", "predicted")
        known = {name: getattr(self, name) for name in names}
        return known | {"maps": maps, "peaks": dict(self.peaks)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], rule: str = "") -> Snapshot:
        """Rebuild a snapshot from its :meth:`state`.

        Args:
            state: The result of :meth:`state`, in this version or in 0.1, which had only one rule.
            rule: The rule of the maps in a state of version 0.1, which does not name it.
        """
        stored = {"maps": state["maps"], "peaks": state["peaks"]}
        if isinstance(stored["maps"], Tensor):
            stored = {name: {rule: tensor} for name, tensor in stored.items()}
        maps = {}
        for each, in_8_bits in stored["maps"].items():
            # Version 0.1 did not mark such a map, but its peak is not finite either.
            broken = ~torch.isfinite(stored["peaks"][each])[..., None, None]
            maps[each] = from_8_bits(in_8_bits).masked_fill(broken, torch.nan)
        return cls(**{**state, "maps": maps, "peaks": dict(stored["peaks"])})


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Where the gradient of the measured class lies in each of N images.

    Attributes:
        classes: ``(N,)`` int64, the measured class of each image, which is its label.
        probabilities: ``(N,)`` float32, the probability of that class.
        maps: ``(N, h, w)`` float16, the unsigned map of that class at display resolution, divided
            by its peak.
        views: ``(N, V, 8, 8)`` float64, the fraction of the map in each cell of a grid, measured at
            full resolution, for each of V ways of making a map of the gradient; NaN if the map is
            all zero.
        shares: For each region, ``(N,)`` float64, the fraction of the map inside it, on average
            over the views; likewise.
    """

    classes: Tensor
    probabilities: Tensor
    maps: Tensor
    views: Tensor
    shares: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def profiles(self) -> Tensor:
        """The mean over the views, ``(N, 8, 8)``."""
        return self.views.mean(dim=1)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Measured:
        """A copy with ``change`` applied to each tensor."""
        shares = {region: change(values) for region, values in self.shares.items()}
        tensors = {name: change(getattr(self, name)) for name in (*_MEASURED, "views")}
        return Measured(**tensors, shares=shares)

    def mean_views(self) -> Tensor:
        """The mean of each view over the images, ``(V, 8, 8)``; NaN if none could be measured."""
        return self.views.nanmean(dim=0)

    def mean_profile(self) -> Tensor:
        """The mean profile of the images, ``(8, 8)``; NaN if none could be measured."""
        return self.profiles.nanmean(dim=0)

    def mean_share(self, region: str) -> float:
        """The mean share of a region over the images; NaN if none could be measured."""
        return float(self.shares[region].nanmean())


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The result of observing a model once.

    Attributes:
        snapshot: The maps to display.
        epoch: The epoch, from 0, at whose end or during which the model was observed; -1 before
            the first epoch.
        fingerprint: The fingerprint of the probe; see :attr:`ProbeBatch.fingerprint`.
        measured: Where the gradient of the labels lies.
        measures: The mean of each measure, by name, as it was logged.
    """

    snapshot: Snapshot
    epoch: int
    fingerprint: str
    measured: Measured
    measures: Numbers = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The position of the pictures on the loggers' step axis."""
        return self.snapshot.step

    @property
    def caption(self) -> str:
        """The moment in words."""
        return self.snapshot.caption

    def shows_same_as(self, other: Observation) -> bool:
        """Whether both are of models that are the same to the bit, as far as the probe can tell."""
        first, second = (
            (o.snapshot.probabilities, *o.snapshot.peaks.values(), o.measured.views)
            for o in (self, other)
        )
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# The names of the tensors in a file. The maps of each rule after the first are `maps.<rule>`.
_SHOWN = ("targets", "probabilities")
_PREDICTED = "predicted"  # absent from files of version 0.1
_MEASURED = {
    "classes": "measured.classes",
    "probabilities": "measured.chances",  # the name in version 0.1, whose files stay readable
    "maps": "measured.maps",
}
# Views are stored as they are, except a single one, whose file is that of version 0.1.
_VIEWS, _PROFILES = "measured.views", "measured.profiles"
SHARE = "share."  # followed by the name of the region

_MAPS = {1: torch.float16, 2: torch.int8}  # by schema
_PEAKS: tuple[torch.dtype, tuple[str | int, ...]] = (torch.float32, ("N", "K"))
_SHAPES: Shapes = {
    "targets": (torch.int64, ("N", "K")),
    "probabilities": (torch.float32, ("N", "K")),
    "measured.classes": (torch.int64, ("N",)),
    "measured.chances": (torch.float32, ("N",)),
    "measured.maps": (torch.float16, ("N", "h", "w")),
}
_PROFILE_SHAPES: Shapes = {
    _VIEWS: (torch.float64, ("N", "V", CELLS, CELLS)),
    _PROFILES: (torch.float64, ("N", CELLS, CELLS)),
}
_PER_IMAGE: tuple[torch.dtype, tuple[str | int, ...]] = (torch.float64, ("N",))


def encode_observation(observation: Observation) -> bytes:
    """Encode ``observation`` as a safetensors file."""
    snapshot, measured = observation.snapshot, observation.measured
    rule, *more_rules = snapshot.rules
    header: dict[str, Any] = {
        "schema": OBSERVATION_SCHEMA,
        "step": snapshot.step,
        "epoch": observation.epoch,
        "caption": snapshot.caption,
        "fingerprint": observation.fingerprint,
        "rule": rule,
        "measures": observation.measures,
    }
    if more_rules:
        header["more_rules"] = more_rules
    # A model of double precision has probabilities of double precision too.
    tensors = {"targets": snapshot.targets, "probabilities": snapshot.probabilities.float()}
    for each, (maps, peaks) in _tensor_names(snapshot.rules).items():
        tensors |= {maps: to_8_bits(snapshot.maps[each]), peaks: snapshot.peaks[each].float()}
    if snapshot.predicted is not None:
        tensors[_PREDICTED] = snapshot.predicted
    tensors |= {name: getattr(measured, attribute) for attribute, name in _MEASURED.items()}
    one = measured.views.shape[1] == 1
    tensors |= {_PROFILES: measured.views[:, 0]} if one else {_VIEWS: measured.views}
    tensors |= {SHARE + region: shares for region, shares in measured.shares.items()}
    return tensor_bytes(header, tensors)


def read_observation(path: Place) -> Observation:
    """Read an observation that :func:`encode_observation` encoded.

    Raises:
        RecordError: The file is missing or damaged, or has another schema.
    """
    metadata, tensors = read_tensors(path)
    try:
        schema = check_schema(metadata, OBSERVATION_SCHEMA)
        header = decode(Header, metadata)
        rules = _tensor_names((header.rule, *header.more_rules))
        _check_tensors(tensors, rules, _MAPS[schema])
    except (*MISFITS, RuntimeError) as error:
        raise damaged(path, error) from error
    regions = [name for name in tensors if name.startswith(SHARE)]
    snapshot = Snapshot(
        step=header.step,
        caption=header.caption,
        predicted=tensors.get(_PREDICTED),
        maps={
            rule: tensors[maps] if schema == 1 else from_8_bits(tensors[maps])
            for rule, (maps, _) in rules.items()
        },
        peaks={rule: tensors[peaks] for rule, (_, peaks) in rules.items()},
        **{name: tensors[name] for name in _SHOWN},
    )
    measured = Measured(
        **{attribute: tensors[name] for attribute, name in _MEASURED.items()},
        views=tensors[_VIEWS] if _VIEWS in tensors else tensors[_PROFILES][:, None],
        shares={name.removeprefix(SHARE): tensors[name] for name in regions},
    )
    return Observation(snapshot, header.epoch, header.fingerprint, measured, header.measures)


def _tensor_names(rules: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """The names in a file of the maps and the peaks of each rule."""
    more = {rule: (f"maps.{rule}", f"peaks.{rule}") for rule in rules[1:]}
    return {rules[0]: ("maps", "peaks")} | more


def _check_tensors(
    tensors: Mapping[str, Tensor], rules: Mapping[str, tuple[str, str]], depth: torch.dtype
) -> None:
    """Refuse tensors that cannot be those of an observation, with maps of the dtype ``depth``."""
    regions = [name for name in tensors if name.startswith(SHARE)]
    shown = dict.fromkeys((maps for maps, _ in rules.values()), (depth, ("N", "K", "h", "w")))
    peaks = dict.fromkeys((peaks for _, peaks in rules.values()), _PEAKS)
    views = _VIEWS if _VIEWS in tensors else _PROFILES
    shapes = {**_SHAPES, views: _PROFILE_SHAPES[views], **shown, **peaks}
    if _PREDICTED in tensors:
        shapes[_PREDICTED] = (torch.int64, ("N",))
    check_shapes(tensors, shapes | dict.fromkeys(regions, _PER_IMAGE))
    check_parts(tensors, [views, *regions])
    check_wholes(tensors, views)
    if int(min(tensors["targets"].min(), tensors["measured.classes"].min())) < 0:
        raise ValueError("it holds a negative class")
