"""The measurements of each observation: which class, which gradient, which regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.attribution.passes import Attributions, Request
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.check.measures import GoodRuns, quantities
from lightning_saliency.functional.maps import (
    MassReduce,
    exactly,
    masses,
    shrink,
    strongest_channel,
)
from lightning_saliency.functional.measures import CELLS, moved_mass, profiles, share
from lightning_saliency.functional.probabilities import gather_probabilities, probabilities
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import Measured, Snapshot

# Drifts are plotted but never required, because models that take a shortcut drift less.
DRIFTS = ("drift.first", "drift.previous")

Shard = Callable[[Tensor], Tensor]  # picks the rows of a tensor that this process computes


def whole(rows: Tensor) -> Tensor:
    """Return all rows: the shard of a process that computes everything itself."""
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class Meter:
    """Measures where the gradient of one class per image lies.

    Attributes:
        probe: The images and their masks.
        size: Most pixels per side of the maps that are kept.
        classes: ``(N,)`` int64, the class to measure per image; ``None`` for the predicted ones.
        rule: The rule of the gradient. Guided backprop is a poor basis for a verdict, because its
            maps depend little on the model.
        reduce: How maps are made of it; see :func:`maps.masses`.
        one_logit: Whether the model has a single logit, which stands for class 1 against class 0.
        good: The good runs to compare with; ``None`` for none.
    """

    probe: ProbeBatch
    size: int
    classes: Tensor | None
    rule: Rule = "gradient"
    reduce: MassReduce = "joint"
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
        reduce: MassReduce = "joint",
        one_logit: bool = False,
        good: GoodRuns | None = None,
    ) -> Meter:
        """Build the meter of a probe, for its labels, or for ``classes`` if it has none."""
        labels = probe.first_labels()
        if classes is not None and len(classes) != len(probe):
            classes = None  # These belong to another probe, which the verdict will report.
        chosen = classes if labels is None else labels
        return cls(probe, size, chosen, rule, reduce, one_logit, good)

    def request(self, shard: Shard = whole) -> Request:
        """The classes and the rule to explain, for this process's shard of the images."""
        if self.classes is None or self.one_logit:  # A single logit is always the predicted one.
            return Request((self.rule,), "predicted")
        return Request((self.rule,), shard(self.classes))

    def measure(self, explained: Attributions, shard: Shard = whole) -> Measured:
        """Measure the attributions that :meth:`request` asked for."""
        attribution = explained[self.rule][:, 0]
        maps = exactly(masses(attribution, shard(self.probe.images), self.reduce))
        flat, views = maps.flatten(0, 1), maps.shape[:2]
        classes = self._classes(explained, shard)
        masks = {
            name: shard(mask).to(maps.device).repeat_interleave(views[1], dim=0)
            for name, mask in self.probe.masks.items()
        }
        return Measured(
            classes=classes,
            probabilities=gather_probabilities(
                explained.logits.float(),
                classes,
                multi_label=explained.multi_label(self.probe.multi_label),
            ).detach(),
            maps=_join_maps(shrink(maps, self.size)),
            views=profiles(flat).view(*views, CELLS, CELLS),
            shares={n: share(flat, mask).view(views).mean(dim=1) for n, mask in masks.items()},
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
        """Reduce what was measured to one number per measure; NaN if it could not be measured.

        Args:
            measured: The measurements of all images.
            first: The profile ``(8, 8)`` of the first observation of this run.
            previous: The profile ``(8, 8)`` of the observation before.
        """
        now = measured.mean_profile()
        found = {
            quantity.name: quantity.value(measured, self.good)
            for quantity in quantities(measured.shares)
            if self.good is not None or not quantity.measure.compares
        }
        before = dict(zip(DRIFTS, (first, previous), strict=True))
        return found | {n: moved_mass(now, then) for n, then in before.items() if then is not None}


def _join_maps(maps: Tensor) -> Tensor:
    """Join views ``(N, V, h, w)`` of equal weight to maps to be shown, divided by their peaks."""
    tiny = torch.finfo(maps.dtype).tiny
    parts = maps / maps.sum(dim=(-2, -1), keepdim=True).clamp(min=tiny)
    joined = parts.mean(dim=1)
    return (joined / joined.amax(dim=(1, 2), keepdim=True).clamp(min=tiny)).half()


def measure_names(regions: Iterable[str]) -> list[str]:
    """The names of all measures of a probe with masks of ``regions``."""
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
    """Reduce attributions to maps that are small enough to keep.

    Args:
        explained: Attributions by all of ``rules``.
        rules: In the order in which they are shown.
        step: The step at which the pictures are logged.
        caption: The moment in words.
        size: Most pixels per side of a map.
        multi_label: Whether an image may have several labels.
    """
    maps, peaks = {}, {}
    for rule in rules:
        small = shrink(exactly(strongest_channel(explained[rule])), size)
        peaks[rule] = small.abs().amax(dim=(-2, -1))
        # The small gradients of a trained network would underflow in float16 without their peaks.
        scale = peaks[rule].clamp(min=torch.finfo(small.dtype).tiny)[..., None, None]
        maps[rule] = (small / scale).half()
    by_class = probabilities(explained.logits, multi_label=explained.multi_label(multi_label))
    return Snapshot(
        step=step,
        caption=caption,
        targets=explained.targets,
        probabilities=by_class.gather(1, explained.targets),
        predicted=explained.logits.argmax(dim=1),
        maps=maps,
        peaks=peaks,
    )
