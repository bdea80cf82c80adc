"""One observation: a live model is explained on the probe, and the maps are measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_saliency.attribution.diagnostics import mixes_images
from lightning_saliency.attribution.logits import Extras
from lightning_saliency.attribution.passes import PassOptions, Reducer, Request, compute
from lightning_saliency.attribution.targets import Targets
from lightning_saliency.check.verdict import Verdict
from lightning_saliency.observe.meter import Meter, take_snapshot
from lightning_saliency.observe.occlusion import confirmed, probabilities_without
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.observe.reducers import ShownMaps
from lightning_saliency.observe.tally import build_tallies
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import Measured, Observation, Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Observer:
    """Explains and measures one probe again and again, and keeps none of the results.

    Attributes:
        probe: The images.
        targets: ``(N, K)``, the classes to explain; ``None`` for all. See :func:`explain`.
        rules: The rules that are shown, in their order.
        size: Most pixels per side of the maps that are shown.
        options: How to explain.
        meter: Measures the maps.
        ranks: The processes among which the probe is divided.
        note: Called after each pass with the number of maps that are done, and of all.
        fingerprint: The fingerprint of the probe.
    """

    probe: ProbeBatch
    targets: Tensor | None
    rules: tuple[str, ...]
    size: int
    options: PassOptions
    meter: Meter
    ranks: Ranks = field(default_factory=Ranks)
    note: Callable[[int, int], None] | None = None
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        # The digest covers megabytes, so it is computed once.
        object.__setattr__(self, "fingerprint", self.probe.fingerprint)

    def observe(
        self,
        model: nn.Module,
        caption: str,
        step: int,
        *,
        epoch: int = -1,
        first: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Observation:
        """Explain the probe by ``model`` and measure the maps. Collective.

        Args:
            model: Any module; it is left as it was found.
            caption: The moment in words.
            step: The step at which the pictures are logged.
            epoch: The epoch that ended or is under way, from 0; -1 before the first.
            first: The profile ``(8, 8)`` of the first observation of the run.
            previous: The profile ``(8, 8)`` of the observation before.

        Raises:
            SaliencyError: Another process failed.
            Exception: Whatever failed in this process.
        """
        with self.ranks.synchronized("choosing what to explain"):
            images, extras, requests = self._inputs(model)
            shown = ShownMaps(self.size, self.probe.projection)
            taken = self.meter.reducer(self.ranks.shard)
        # Without a request of its own, what is measured is picked from what is shown.
        reducers: list[tuple[Reducer, ...]]
        reducers = [(shown, taken)] if len(requests) == 1 else [(shown,), (taken,)]
        if self.note is not None:
            tallies = build_tallies(requests, self.note)
            reducers = [(*r, tally) for r, tally in zip(reducers, tallies, strict=True)]
        # Under a sharded strategy, all ranks take part in each pass. If the model fails on one of
        # them, the others wait until their process group times out. If a reducer fails, the passes
        # still go on to their end.
        with self.ranks.synchronized("explaining the probe"):
            explained = compute(self.options, model, images, requests, extras, reducers)
            seen = take_snapshot(
                explained[0],
                shown,
                step=step,
                caption=caption,
                multi_label=self.probe.multi_label,
            )
            read = self.meter.collect(taken, explained[-1], self.ranks.shard)
        snapshot = seen.map_tensors(self._gathered).cpu()
        measured = read.map_tensors(lambda rows: self._gathered(rows).cpu())
        with self.ranks.synchronized("noting what was seen"):
            return self._observation(snapshot, measured, epoch, first, previous)

    def confirm(self, verdict: Verdict, model: nn.Module, measured: Measured) -> Verdict:
        """Add to ``verdict`` whether ``model`` relies on what gained most. Collective."""
        if verdict.growth is None or not verdict.confirmable:
            return verdict
        with self.ranks.synchronized("hiding what gained most"):
            after = probabilities_without(
                verdict.growth, model, self.probe, measured.classes, self.options, self.ranks.shard
            )
        return confirmed(verdict, measured, self._gathered(after))

    def _inputs(self, model: nn.Module) -> tuple[Tensor, Extras, list[Request]]:
        """This rank's images and extras, and requests for what is shown and what is measured."""
        shard = self.ranks.shard
        targets: Targets = "all" if self.targets is None else shard(self.targets)
        extras = {name: shard(rows) for name, rows in self.probe.extras.items()}
        requests = [Request(self.rules, targets)]
        # If the model mixes images, an attribution depends on the classes of the other images.
        if mixes_images(model) or not self.meter.is_shown(self.targets, self.rules):
            requests.append(self.meter.request(shard))
        return shard(self.probe.images), extras, requests

    def _gathered(self, rows: Tensor) -> Tensor:
        return self.ranks.gather(rows, len(self.probe))

    def _observation(
        self,
        snapshot: Snapshot,
        measured: Measured,
        epoch: int,
        first: Tensor | None,
        previous: Tensor | None,
    ) -> Observation:
        found = self.meter.summarize(measured, first=first, previous=previous)
        finite = {name: value for name, value in found.items() if math.isfinite(value)}
        return Observation(snapshot, epoch, self.fingerprint, measured, finite)
