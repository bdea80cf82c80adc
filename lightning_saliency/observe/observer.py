"""One observation: the probe explained by a live model, and measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_saliency.attribution.passes import PassOptions, Request, compute
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.attribution.targets import Targets
from lightning_saliency.check.verdict import Verdict
from lightning_saliency.observe.meter import Meter, take_snapshot
from lightning_saliency.observe.occlusion import confirmed, probabilities_without
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import Measured, Observation, Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Observer:
    """Explains and measures one probe again and again; it keeps nothing of what it saw.

    Attributes:
        probe: The images.
        targets: ``(N, K)``, the classes to explain as :func:`explain` takes them; None for all.
        rules: The rules that are shown.
        size: Pixels per side of the maps that are shown, at most.
        options: How to explain.
        meter: What is measured.
        ranks: The processes that the probe is shared out over.
        fingerprint: Of the probe.
    """

    probe: ProbeBatch
    targets: Tensor | None
    rules: tuple[Rule, ...]
    size: int
    options: PassOptions
    meter: Meter
    ranks: Ranks = field(default_factory=Ranks)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        # A digest of megabytes: computed once.
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
        """Explain the probe by ``model`` and measure it. Collective.

        Args:
            model: Left as it is found.
            caption: The moment in words.
            step: Where it stands on the loggers' step axis.
            epoch: The epoch that ended or is going on, from 0.
            first: The profile ``(8, 8)`` of the first observation of the run.
            previous: That of the observation before.

        Raises:
            SaliencyError: Another process failed.
            Exception: Whatever failed in this one.
        """
        with self.ranks.synchronized("choosing what to explain"):
            images, requests = self._requests()
        # Under a sharded strategy these passes are a conversation of all ranks: one that fails in
        # its middle leaves the others waiting, for as long as their process group lets them.
        with self.ranks.synchronized("explaining the probe"):
            shown, judged = compute(self.options, model, images, requests)
            seen = take_snapshot(
                shown,
                self.rules,
                step=step,
                caption=caption,
                size=self.size,
                multi_label=self.probe.multi_label,
            )
            read = self.meter.measure(judged, self.ranks.shard)
        snapshot = seen.map_tensors(self._gathered).cpu()
        measured = read.map_tensors(lambda rows: self._gathered(rows).cpu())
        with self.ranks.synchronized("noting what was seen"):
            return self._observation(snapshot, measured, epoch, first, previous)

    def confirm(self, verdict: Verdict, model: nn.Module, measured: Measured) -> Verdict:
        """``verdict``, and whether ``model`` leans on what gained most. Collective."""
        if verdict.growth is None or not verdict.confirmable:
            return verdict
        with self.ranks.synchronized("hiding what gained most"):
            after = probabilities_without(
                verdict.growth, model, self.probe, measured.classes, self.options, self.ranks.shard
            )
        return confirmed(verdict, measured, self._gathered(after))

    def _requests(self) -> tuple[Tensor, list[Request]]:
        """This rank's images, and what to explain of them: what is shown, and what is measured."""
        shard = self.ranks.shard
        targets: Targets = "all" if self.targets is None else shard(self.targets)
        return shard(self.probe.images), [Request(self.rules, targets), self.meter.request(shard)]

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
