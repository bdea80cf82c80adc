"""The measurements of each observation: which class, which gradient, which regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.attribution.passes import Attributions, Chunk, Request
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.attribution.targets import STRONGEST
from lightning_saliency.check.measures import GoodRuns, quantities
from lightning_saliency.functional.maps import MassReduce
from lightning_saliency.functional.measures import moved_mass
from lightning_saliency.functional.probabilities import gather_probabilities, probabilities
from lightning_saliency.observe.reducers import MeasuredMaps, ShownMaps
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
        return Request((self.rule,), self._targets(shard))

    def _targets(self, shard: Shard = whole) -> Tensor:
        """The class to explain per image, ``(N,)`` int64; -1 for the predicted one."""
        if self.classes is None or self.one_logit:  # A single logit is always the predicted one.
            return shard(torch.full((len(self.probe),), STRONGEST))
        return shard(self.classes).long()

    def is_shown(self, targets: Tensor | None, rules: Sequence[str]) -> bool:
        """Return whether the attributions that are measured are among those that are shown.

        All processes must agree on it, so it is answered for the whole probe and before any pass.

        Args:
            targets: ``(N, K)``, the classes that are shown; ``None`` for all.
            rules: The rules that are shown.
        """
        if self.rule not in rules:
            return False
        if targets is None:
            return True
        # If a row of targets has a -1, which stands for the strongest class that it does not name,
        # the predicted class is shown too: either it is named, or the first -1 stands for it.
        return bool((targets == self._targets().to(targets)[:, None]).any(dim=1).all())

    def reducer(self, shard: Shard = whole) -> MeasuredMaps:
        """Build what takes the attributions of :meth:`request` and measures them."""
        return MeasuredMaps(
            shard(self.probe.images),
            {name: shard(mask) for name, mask in self.probe.masks.items()},
            self._targets(shard)[:, None],
            rule=self.rule,
            reduce=self.reduce,
            size=self.size,
            projection=self.probe.projection,
        )

    def measure(self, explained: Attributions, shard: Shard = whole) -> Measured:
        """Measure the attributions that :meth:`request` asked for."""
        taken, count = self.reducer(shard), len(explained.logits)
        taken.begin(Chunk(slice(0, count), count, explained.targets, explained.logits))
        taken.take(self.rule, 0, explained[self.rule][:, 0])
        return self.collect(taken, explained, shard)

    def collect(
        self, taken: MeasuredMaps, explained: Attributions, shard: Shard = whole
    ) -> Measured:
        """Put together what a :meth:`reducer` has taken of all images.

        Args:
            taken: The reducer, after all passes.
            explained: What the passes returned.
            shard: Picks the rows of a tensor that this process computes.
        """
        classes = self._classes(taken.kept["classes"], shard)
        return Measured(
            classes=classes,
            probabilities=gather_probabilities(
                explained.logits.float(),
                classes,
                multi_label=explained.multi_label(self.probe.multi_label),
            ).detach(),
            maps=taken.kept["maps"],
            views=taken.kept["views"],
            shares={n: taken.kept[f"share.{n}"].mean(dim=1) for n in self.probe.masks},
        )

    def _classes(self, targets: Tensor, shard: Shard) -> Tensor:
        """The measured class of each image, ``(N,)``, from the one that was explained."""
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


def measure_names(regions: Iterable[str]) -> list[str]:
    """The names of all measures of a probe with masks of ``regions``."""
    return [*(quantity.name for quantity in quantities(list(regions))), *DRIFTS]


def take_snapshot(
    explained: Attributions,
    shown: ShownMaps,
    *,
    step: int,
    caption: str,
    multi_label: bool = False,
) -> Snapshot:
    """Put together the maps that are shown and the probabilities of their classes.

    Args:
        explained: What the passes returned.
        shown: The maps of the attributions, after all passes.
        step: The step at which the pictures are logged.
        caption: The moment in words.
        multi_label: Whether an image may have several labels.
    """
    by_class = probabilities(explained.logits, multi_label=explained.multi_label(multi_label))
    return Snapshot(
        step=step,
        caption=caption,
        targets=explained.targets,
        probabilities=by_class.gather(1, explained.targets),
        predicted=explained.logits.argmax(dim=1),
        maps=shown.maps,
        peaks=shown.peaks,
    )
