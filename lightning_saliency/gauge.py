"""What is measured in each observation: of which class, by which gradient, in which regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.attribution import Explanation, Request
from lightning_saliency.maps import contributions, exactly, shrink
from lightning_saliency.measures import moved_mass, profiles, share
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.record import Measured
from lightning_saliency.requirements import MOVED_MASS
from lightning_saliency.rules import Rule
from lightning_saliency.snapshot import chances_of

# What a mass can be made of: of one sign.
MassReduce: TypeAlias = Literal["square", "abs_sum", "abs_max", "contribution"]
MASS_REDUCTIONS: tuple[MassReduce, ...] = ("square", "abs_sum", "abs_max", "contribution")

DRIFTS = ("drift.first", "drift.previous")  # plots, never gates: shortcut models drift less


@dataclass(frozen=True, slots=True, eq=False)
class Gauge:
    """Measures where the gradient of one class an image lies.

    Attributes:
        images: ``(N, C, H, W)``.
        masks: By region, ``(N, H, W)`` bool.
        multi_label: Whether an image may have several true classes.
        size: Pixels a side of the maps that are kept, at most.
        classes: ``(N,)`` int64; ``None`` for the classes that are predicted.
        one_logit: Whether the model has a single one, which stands for class 1 against class 0.
        rule: Of the gradient. The plain one by default: guided backprop is poor to judge by.
        reduce: How its channels are reduced: as in :func:`maps.reduce_channels`, or
            ``"contribution"``, :func:`maps.contributions`.
    """

    images: Tensor
    masks: Mapping[str, Tensor]
    multi_label: bool
    size: int
    classes: Tensor | None
    rule: Rule = "gradient"
    reduce: MassReduce = "square"
    one_logit: bool = False

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
    ) -> Gauge:
        """The gauge of a probe: of its labels, or of ``classes`` where it has none."""
        labels = probe.first_labels()
        if classes is not None and len(classes) != len(probe):
            classes = None  # of another probe, which a verdict will say
        return cls(
            images=probe.images,
            masks=probe.masks,
            multi_label=probe.multi_label,
            size=size,
            classes=classes if labels is None else labels,
            rule=rule,
            reduce=reduce,
            one_logit=one_logit,
        )

    def request(self, part: Callable[[Tensor], Tensor]) -> Request:
        """What has to be explained of this process's ``part`` of the images."""
        if self.classes is None or self.one_logit:  # of which there is but one to explain
            return Request((self.rule,), "predicted")
        return Request((self.rule,), part(self.classes))

    def read(self, explanation: Explanation, part: Callable[[Tensor], Tensor]) -> Measured:
        """What is measured of an explanation of :meth:`request`."""
        maps = exactly(self._maps(explanation, part))
        logits, classes = explanation.logits.float(), self._classes(explanation, part)
        small = shrink(maps, self.size)
        peaks = small.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(small.dtype).tiny)
        masks = {name: part(mask).to(maps.device) for name, mask in self.masks.items()}
        return Measured(
            classes=classes,
            chances=chances_of(logits, classes, multi_label=self.multi_label).detach(),
            maps=(small / peaks).half(),
            profiles=profiles(maps),
            shares={name: share(maps, mask) for name, mask in masks.items()},
        )

    def _classes(self, explanation: Explanation, part: Callable[[Tensor], Tensor]) -> Tensor:
        """The class of each image that is measured, ``(N,)``."""
        explained = explanation.targets[:, 0]
        if not self.one_logit or self.multi_label:
            return explained
        if self.classes is None:
            return torch.ones_like(explained)
        return part(self.classes).to(explained)

    def _maps(self, explanation: Explanation, part: Callable[[Tensor], Tensor]) -> Tensor:
        if self.reduce != "contribution":
            return explanation.maps(self.rule, self.reduce)[:, 0]
        attribution = explanation[self.rule][:, 0]
        return contributions(attribution, part(self.images).to(attribution))


def names_of(regions: Iterable[str]) -> list[str]:
    """The names of all that may be measured in a probe with masks of ``regions``."""
    return [*(f"{name}.share" for name in regions), MOVED_MASS, *DRIFTS]


def measures_of(
    measured: Measured,
    *,
    reference: Tensor | None,
    first: Tensor | None,
    previous: Tensor | None,
) -> dict[str, float]:
    """The numbers that stand for what was measured, by name.

    Args:
        measured: Of all images.
        reference: The profile of good runs, ``(8, 8)``.
        first: That of the first observation of this run.
        previous: That of the one before.
    """
    now = mean_profile(measured)
    found = {f"{name}.share": float(values.nanmean()) for name, values in measured.shares.items()}
    beside = dict(zip((MOVED_MASS, *DRIFTS), (reference, first, previous), strict=True))
    return found | {n: moved_mass(now, then) for n, then in beside.items() if then is not None}


def mean_profile(measured: Measured) -> Tensor:
    """The mean profile of the images, ``(8, 8)``; NaN where none could be measured."""
    return measured.profiles.nanmean(dim=0)
