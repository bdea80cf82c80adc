"""What is measured in each observation: of which class, by which gradient, in which regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.attribution.passes import Attributions, Request
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.check.measures import GoodRuns, quantities
from lightning_saliency.functional.maps import MassReduce, exactly, mass, shrink, strongest_channel
from lightning_saliency.functional.measures import moved_mass, profiles, share
from lightning_saliency.functional.probabilities import gather_probabilities, probabilities
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import Measured, Snapshot

DRIFTS = ("drift.first", "drift.previous")  # plots, never gates: shortcut models drift less

Shard = Callable[[Tensor], Tensor]  # takes the rows of a tensor that this process computes


def whole(rows: Tensor) -> Tensor:
    """The shard of a process that computes everything itself."""
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class Meter:
    """Measures where the gradient of one class per image lies.

    Attributes:
        probe: The images and their masks.
        size: Pixels per side of the maps that are kept, at most.
        classes: ``(N,)`` int64; ``None`` for the classes that are predicted.
        rule: Of the gradient. The plain one by default: guided backprop is poor to judge by.
        reduce: How its channels are reduced; see :func:`maps.mass`.
        one_logit: Whether the model has a single logit, which stands for class 1 against class 0.
        good: The good runs to compare with, if there are any.
    """

    probe: ProbeBatch
    size: int
    classes: Tensor | None
    rule: Rule = "gradient"
    reduce: MassReduce = "square"
    one_logit: bool = False
    good: GoodRuns | None = None

    @classmethod
    def for_probe(
        cls,
        probe: ProbeBatch,
        size: int,
        *,
        classes: Tensor | None = None,
        rule: Rule = "gradient",
        reduce: MassReduce = "square",
        one_logit: bool = False,
        good: GoodRuns | None = None,
    ) -> Meter:
        """The meter of a probe: of its labels, or of ``classes`` if it has none."""
        labels = probe.first_labels()
        if classes is not None and len(classes) != len(probe):
            classes = None  # of another probe, which a verdict will say
        chosen = classes if labels is None else labels
        return cls(probe, size, chosen, rule, reduce, one_logit, good)

    def request(self, shard: Shard = whole) -> Request:
        """What has to be explained of this process's shard of the images."""
        if self.classes is None or self.one_logit:  # of which there is but one to explain
            return Request((self.rule,), "predicted")
        return Request((self.rule,), shard(self.classes))

    def measure(self, explained: Attributions, shard: Shard = whole) -> Measured:
        """Measure the attributions of :meth:`request`."""
        attribution = explained[self.rule][:, 0]
        maps = exactly(mass(attribution, shard(self.probe.images), self.reduce))
        small = shrink(maps, self.size)
        peaks = small.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(small.dtype).tiny)
        classes = self._classes(explained, shard)
        masks = {name: shard(mask).to(maps.device) for name, mask in self.probe.masks.items()}
        return Measured(
            classes=classes,
            probabilities=gather_probabilities(
                explained.logits.float(), classes, multi_label=self.probe.multi_label
            ).detach(),
            maps=(small / peaks).half(),
            profiles=profiles(maps),
            shares={name: share(maps, mask) for name, mask in masks.items()},
        )

    def _classes(self, explained: Attributions, shard: Shard) -> Tensor:
        """The measured class of each image, ``(N,)``."""
        targets = explained.targets[:, 0]
        if not self.one_logit or self.probe.multi_label:
            return targets
        if self.classes is None:
            return torch.ones_like(targets)
        return shard(self.classes).to(targets)

    def summarize(
        self, measured: Measured, *, first: Tensor | None = None, previous: Tensor | None = None
    ) -> dict[str, float]:
        """One number per measure, by name; NaN for what could not be measured.

        Args:
            measured: Of all images.
            first: The profile ``(8, 8)`` of the first observation of this run.
            previous: That of the observation before.
        """
        now = measured.mean_profile()
        found = {
            quantity.name: quantity.value(measured, self.good)
            for quantity in quantities(measured.shares)
            if self.good is not None or not quantity.measure.compares
        }
        before = dict(zip(DRIFTS, (first, previous), strict=True))
        return found | {n: moved_mass(now, then) for n, then in before.items() if then is not None}


def measure_names(regions: Iterable[str]) -> list[str]:
    """The names of all that may be measured in a probe with masks of ``regions``."""
    return [*(quantity.name for quantity in quantities(list(regions))), *DRIFTS]


def take_snapshot(
    explained: Attributions,
    rules: Iterable[str],
    *,
    step: int,
    caption: str,
    size: int,
    multi_label: bool = False,
) -> Snapshot:
    """Reduce attributions to maps of at most ``size`` pixels per side."""
    maps, peaks = {}, {}
    for rule in rules:
        small = shrink(exactly(strongest_channel(explained[rule])), size)
        peaks[rule] = small.abs().amax(dim=(-2, -1))
        # A float16 alone would lose the small gradients of a trained network.
        scale = peaks[rule].clamp(min=torch.finfo(small.dtype).tiny)[..., None, None]
        maps[rule] = (small / scale).half()
    known = probabilities(explained.logits, multi_label=multi_label)
    return Snapshot(
        step=step,
        caption=caption,
        targets=explained.targets,
        probabilities=known.gather(1, explained.targets),
        predicted=explained.logits.argmax(dim=1),
        maps=maps,
        peaks=peaks,
    )
