"""One observation: the probe explained by a live model, drawn, and sent to the loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from lightning_saliency.attribution import (
    Explanation,
    Plan,
    Request,
    carry_out,
)
from lightning_saliency.classes import Targets
from lightning_saliency.errors import SaliencyError
from lightning_saliency.files import safe_name
from lightning_saliency.gauge import Gauge, mean_profile, measures_of, names_of
from lightning_saliency.grid import Picture
from lightning_saliency.logbook import Logbook
from lightning_saliency.loggers import PictureLog
from lightning_saliency.occlusion import chances_without, doubtful, told_of
from lightning_saliency.pictures import Artist
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.ranks import Ranks
from lightning_saliency.record import Measured, Numbers, Observation
from lightning_saliency.recorder import Recorder
from lightning_saliency.rules import Rule
from lightning_saliency.snapshot import Snapshot
from lightning_saliency.verdict import Verdict

# Pictures that are drawn before the first of them is logged: TensorBoard's thread reckons checksums
# in Python, and whatever is drawn meanwhile waits for it at every turn.
_AT_ONCE = 32


@dataclass(slots=True, eq=False)
class Observer:
    """Explains one probe again and again, and remembers enough for the film strips.

    Attributes:
        probe: The images.
        targets: ``(N, K)``, the classes to explain as :func:`explain` takes them; None for all.
        rule: The rule that is shown.
        plan: How to explain.
        tag: Prefix of the pictures' tags.
        artist: Draws them.
        log: Takes them; ``None`` on a rank that does not draw.
        ranks: The processes that the probe is shared out over.
        logbook: What was seen so far.
        gauge: What is measured.
        recorder: Keeps it on disk; ``None`` where nothing is kept, or another rank does.
        recorded_at: The folder of what is kept, on every rank.
        reference: The profile of good runs, ``(8, 8)``, where there are any to compare with.
        fingerprint: Of the probe.
    """

    probe: ProbeBatch
    targets: Tensor | None
    rule: Rule
    plan: Plan
    tag: str
    artist: Artist
    log: PictureLog | None
    ranks: Ranks
    logbook: Logbook
    gauge: Gauge
    recorder: Recorder | None = None
    recorded_at: Path | None = None
    reference: Tensor | None = None
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        self.fingerprint = self.probe.fingerprint  # of megabytes: once

    def observe(
        self, model: nn.Module, caption: str, step: int, *, epoch: int = -1
    ) -> tuple[Snapshot, Observation]:
        """Explain the probe by ``model`` and measure it; what is seen, to be shown and recorded.

        Raises:
            SaliencyError: Another process failed.
            Exception: Whatever failed in this one.
        """
        with self.ranks.together("choosing what to explain"):
            images, requests = self._asked()
        # Under a sharded strategy these passes are a conversation of all ranks: one that fails in
        # its middle leaves the others waiting, for as long as their process group lets them.
        with self.ranks.together("explaining the probe"):
            shown, judged = carry_out(self.plan, model, images, requests)
            seen = self._snapshot_of(shown, caption, step)
            read = self.gauge.read(judged, self.ranks.part)
        snapshot = seen.map_tensors(self._of_all_ranks).cpu()
        measured = read.map_tensors(lambda rows: self._of_all_ranks(rows).cpu())
        with self.ranks.together("noting what was seen"):
            observation = self._observation(snapshot, measured, epoch)
            self.logbook.add(snapshot, mean_profile(measured))
            self.logbook.measured = self._tagged(observation.measures)
        return snapshot, observation

    def keep(self, snapshot: Snapshot, observation: Observation) -> None:
        """Record, draw and log what was seen. Collective.

        Raises:
            SaliencyError: Another process failed.
            Exception: Whatever failed in this one; what was seen is seen all the same.
        """
        with self.ranks.together("logging what was seen"):
            self._log(snapshot, observation)

    def confirm(self, verdict: Verdict, model: nn.Module, measured: Measured) -> Verdict:
        """``verdict``, and whether ``model`` leans on what gained most. Collective."""
        if verdict.growth is None or not doubtful(verdict):
            return verdict
        with self.ranks.together("hiding what gained most"):
            after = chances_without(
                verdict.growth,
                model,
                self.probe,
                measured,
                self.plan.forward,
                chunk_size=self.plan.chunk_size,
                part=self.ranks.part,
            )
        return told_of(verdict, measured, self._of_all_ranks(after))

    def log_picture(self, tag: str, picture: Picture, step: int) -> None:
        """Log a picture of another kind under a tag that begins as ours do."""
        if self.log is not None:
            self.log.add(f"{self.tag}_{tag}", picture, step)

    def draw_filmstrips(self) -> None:
        """Log what all observations saw, a film strip an image."""
        with self.ranks.together("drawing the film strips"):
            snapshots = self.logbook.history.spread()
            if self.log is None or not snapshots:
                return
            for image in range(len(self.probe)):
                picture = self.artist.filmstrip(snapshots, image)
                tag = f"{filmstrip_tag(self.tag)}/{self.probe.image_name(image)}"
                self.log.add(tag, picture, snapshots[-1].step)

    def end_record(self, metrics: Numbers, *, finished: bool) -> None:
        """Write down how the run ended, where it is recorded. Collective."""
        with self.ranks.together("writing down how the run ended"):
            if self.recorder is not None:
                self.recorder.end(metrics, finished=finished)

    @property
    def files_at(self) -> Path | None:
        """The folder of the mosaics, where they became files on this rank."""
        folder = None if self.log is None else self.log.files_at
        return None if folder is None else folder / safe_name(self.tag)

    def _asked(self) -> tuple[Tensor, list[Request]]:
        """This rank's images, and what to explain of them: what is shown, and what is measured."""
        targets: Targets = "all" if self.targets is None else self.ranks.part(self.targets)
        requests = [Request((self.rule,), targets), self.gauge.request(self.ranks.part)]
        return self.ranks.part(self.probe.images), requests

    def _snapshot_of(self, explanation: Explanation, caption: str, step: int) -> Snapshot:
        return Snapshot.of(
            explanation,
            self.rule,
            step=step,
            caption=caption,
            size=self.artist.size,
            multi_label=self.probe.multi_label,
        )

    def _of_all_ranks(self, rows: Tensor) -> Tensor:
        return self.ranks.whole(rows, len(self.probe))

    def _observation(self, snapshot: Snapshot, measured: Measured, epoch: int) -> Observation:
        found = measures_of(
            measured,
            reference=self.reference,
            first=self.logbook.first_profile,
            previous=self.logbook.last_profile,
        )
        return Observation(
            step=snapshot.step,
            epoch=epoch,
            caption=snapshot.caption,
            fingerprint=self.fingerprint,
            rule=self.rule,
            targets=snapshot.targets,
            maps=snapshot.maps,
            peaks=snapshot.peaks.float(),
            probabilities=snapshot.probabilities.float(),
            measured=measured,
            measures={name: value for name, value in found.items() if math.isfinite(value)},
        )

    def _tagged(self, measures: Mapping[str, float]) -> dict[str, float]:
        return {f"{self.tag}/{name}": value for name, value in measures.items()}

    def _log(self, snapshot: Snapshot, observation: Observation) -> None:
        if self.recorder is not None:
            self.recorder.add(observation)
        if self.log is None:
            return
        for start in range(0, len(self.probe), _AT_ONCE):
            images = range(start, min(start + _AT_ONCE, len(self.probe)))
            pictures = [self.artist.mosaic(snapshot, image) for image in images]
            for image, picture in zip(images, pictures, strict=True):
                self.log.add(f"{self.tag}/{self.probe.image_name(image)}", picture, snapshot.step)
        self.log.add_scalars(self._tagged(observation.measures), snapshot.step)


def measure_names(tag: str, probe: ProbeBatch) -> list[str]:
    """The tags of what is measured in each observation of ``probe``."""
    return [f"{tag}/{name}" for name in names_of(probe.masks)]


def filmstrip_tag(tag: str) -> str:
    """The prefix of the film strips' tags beside that of the mosaics."""
    return f"{tag}_filmstrip"


def check_tags(tag: str, others: Sequence[str], probe: ProbeBatch | None) -> None:
    """Refuse tags that two things would share: only one of them would be seen.

    Args:
        tag: Prefix of the pictures and scalars.
        others: The prefixes of all observers of a run, this one's included.
        probe: The images, where they are known.

    Raises:
        SaliencyError: It names what is named twice.
    """
    if others.count(tag) > 1:
        raise SaliencyError(f"two callbacks are named {tag!r}; give each its own `name=…`.")
    if filmstrip_tag(tag) in others:
        raise SaliencyError(
            f"a callback is named {filmstrip_tag(tag)!r}, where the film strips of {tag!r} go; "
            "give it another `name=…`."
        )
    images = [f"{tag}/{name}" for name in probe.names or ()] if probe else []
    twice = set(images) & set(measure_names(tag, probe) if probe else ())
    if twice:
        raise SaliencyError(
            f"an image and a scalar would both be logged as {min(twice)!r}, which hides one of "
            "them; give the image another name in `names` of the probe."
        )
