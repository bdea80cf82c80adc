"""Where an observation goes: the record on disk, the loggers, the film strips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_saliency.callback.failures import warn
from lightning_saliency.callback.filmstrips import read_strips
from lightning_saliency.callback.loggers import PictureLog
from lightning_saliency.callback.progress import Progress
from lightning_saliency.check.attention import AttentionCheck
from lightning_saliency.check.difference import draw
from lightning_saliency.check.evaluate import Candidate
from lightning_saliency.check.report import as_json
from lightning_saliency.check.verdict import Verdict
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.errors import SaliencyError
from lightning_saliency.isolation.rng import random_streams_kept
from lightning_saliency.observe.history import History
from lightning_saliency.observe.meter import measure_names
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.record.observation import Numbers, Observation
from lightning_saliency.record.writer import RunWriter
from lightning_saliency.storage.files import safe_name
from lightning_saliency.storage.places import Place, full_name
from lightning_saliency.viewer.report import build_report, open_records

# TensorBoard's thread computes checksums in Python and slows down drawing, so a batch of pictures
# is drawn before the first of them is logged.
_BATCH = 32


@dataclass(slots=True, eq=False)
class Publisher:
    """Sends what was seen to the record and the loggers. To publish and to end are collective.

    Attributes:
        tag: Prefix of the tags of pictures and scalars.
        probe: The images.
        renderer: Draws the pictures.
        ranks: The processes of the run; only the first of them publishes.
        log: Takes pictures and scalars; ``None`` on the other ranks.
        writer: Keeps the record; ``None`` if nothing is kept, or another rank does.
        recorded_at: The folder of the record, on every rank.
        progress: Shows how far the pictures are.
        aside: Where the record begun last moved observations that the run does not continue.
    """

    tag: str
    probe: ProbeBatch
    renderer: MosaicRenderer
    ranks: Ranks
    log: PictureLog | None
    writer: RunWriter | None
    recorded_at: Place | None
    progress: Progress = field(default_factory=Progress)
    aside: Place | None = None

    def begin(self, info: RunInfo, *, after: int | None) -> int:
        """Begin the record of a run, or go on in it.

        Args:
            info: What is known of the run.
            after: The last step of the run's past, -1 for none; ``None`` outside of training,
                where nothing is given up.

        Returns:
            The last step in the record, which must not be overwritten; -1 for none.
        """
        if self.writer is None:
            return -1
        thumbnails = self.renderer.photos()
        if after is not None:
            self.aside = self.writer.begin(info, thumbnails, after=after)
        elif not self.writer.join(info, thumbnails):
            folder, self.writer = self.writer.folder, None
            warn(
                f"{folder} holds the record of a run of another probe or rule: what is seen now is "
                "not recorded there. Log to another folder, or pass the same `probe`."
            )
        return -1 if self.writer is None else self.writer.last_step()

    def publish(self, observation: Observation) -> None:
        """Record, draw and log what was seen.

        Raises:
            SaliencyError: Another process failed.
            Exception: Whatever failed in this one; what was seen is seen all the same.
        """
        with self.ranks.synchronized("logging what was seen"):
            if self.writer is not None:
                self.writer.add(observation)
            if self.log is not None:
                self._log_mosaics(self.log, observation)
                self.log.add_scalars(self.scalars(observation.measures), observation.step)

    def find_record(self, step: int) -> Place | None:
        """Find the folder in which the observation at ``step`` was just recorded, if it was.

        A rank that does not write cannot know whether the first one could.
        """
        if self.ranks.rank == 0 and (self.writer is None or self.writer.written != step):
            return None
        return self.recorded_at

    def note_metrics(self, step: int, metrics: Numbers) -> None:
        """Record what the run has logged by the observation at ``step``."""
        with self.ranks.synchronized("recording the metrics"):
            if self.writer is not None:
                self.writer.note_metrics(step, metrics)

    def scalars(self, measures: Numbers) -> dict[str, float]:
        """What was measured, by tag."""
        return {f"{self.tag}/{name}": value for name, value in measures.items()}

    def publish_verdict(
        self, candidate: Candidate, check: AttentionCheck, verdict: Verdict
    ) -> None:
        """Record a verdict, and log its picture if it is not clean."""
        with self.ranks.synchronized("drawing what moved"):
            if self.writer is not None:
                self.writer.note_verdict(as_json(verdict, self.tag, candidate.observation).encode())
            if self.log is not None and check.reference is not None and verdict.confirmable:
                picture = draw(candidate, check.reference, verdict)
                self.log.add(self.verdict_tag, picture, candidate.observation.step)

    @property
    def verdict_tag(self) -> str:
        """The tag of the pictures of verdicts."""
        return f"{self.tag}_attention/difference"

    def publish_filmstrips(self, history: History) -> None:
        """Log one film strip per image."""
        with self.ranks.synchronized("drawing the film strips"):
            if self.log is None:
                return
            for image, snapshots in read_strips(history, len(self.probe)):
                picture = self.renderer.filmstrip(snapshots, image)
                tag = f"{filmstrip_tag(self.tag)}/{self.probe.image_name(image)}"
                self.log.add(tag, picture, snapshots[-1].step)
                self.progress.note(image + 1, len(self.probe), "film strips")

    def end(self, metrics: Numbers, *, finished: bool) -> None:
        """Write down how the run ended, if it is recorded."""
        with self.ranks.synchronized("writing down how the run ended"):
            if self.writer is not None:
                self.writer.end(metrics, finished=finished)

    def publish_page(self, step: int) -> None:
        """Send the record as one HTML page, of 10 MB at most, to the loggers that take one.

        Not collective. Training is over by now, so a failure is only a warning.
        """
        log, writer = self.log, self.writer
        if log is None or writer is None or not log.shows_pages:
            return
        with random_streams_kept():
            try:
                page = build_report(open_records([full_name(writer.folder)]))
                log.add_page(f"{self.tag}_viewer", page.html, step)
            except Exception as error:
                warn(f"the page of {self.tag!r} was not logged: {type(error).__name__}: {error}")

    @property
    def files_at(self) -> Place | None:
        """The folder of the mosaics, if they became files on this rank."""
        folder = None if self.log is None else self.log.files_at
        return None if folder is None else folder / safe_name(self.tag)

    def _log_mosaics(self, log: PictureLog, observation: Observation) -> None:
        snapshot = observation.snapshot
        for start in range(0, len(self.probe), _BATCH):
            images = range(start, min(start + _BATCH, len(self.probe)))
            pictures = []
            for image in images:
                pictures.append(self.renderer.mosaic(snapshot, image))
                self.progress.note(image + 1, len(self.probe), "pictures")
            for image, picture in zip(images, pictures, strict=True):
                log.add(f"{self.tag}/{self.probe.image_name(image)}", picture, snapshot.step)


def filmstrip_tag(tag: str) -> str:
    """The prefix of the film strips' tags, given that of the mosaics."""
    return f"{tag}_filmstrip"


def check_tags(tag: str, others: Sequence[str], probe: ProbeBatch | None) -> None:
    """Refuse tags that two things would share: only one of them would be seen.

    Args:
        tag: Prefix of the pictures and scalars.
        others: The prefixes of all callbacks of a trainer, this one's included.
        probe: The images, if they are known.

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
    if probe is None:
        return
    twice = set(probe.names or ()) & set(measure_names(probe.masks))
    if twice:
        raise SaliencyError(
            f"an image and a scalar would both be logged as {f'{tag}/{min(twice)}'!r}, which hides "
            "one of them; give the image another name in `names` of the probe."
        )
