"""Write the folder of a run, so that it is valid even if the process is killed at any time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from lightning_saliency.errors import RecordError
from lightning_saliency.record.facts import (
    OBSERVATION_FILE,
    PHOTOS_FILE,
    RUN_FILE,
    VERDICT_FILE,
    RunInfo,
    encode_run,
    read_info,
)
from lightning_saliency.record.metrics import (
    METRICS_FILE,
    Numbers,
    encode_metrics,
    only_finite,
    read_metrics,
    read_thinned,
)
from lightning_saliency.record.observation import (
    Observation,
    encode_observation,
    read_observation,
)
from lightning_saliency.record.run import encode_thumbnails, observation_files, read_step
from lightning_saliency.storage.files import MAX_TENSORS, move, write_whole
from lightning_saliency.storage.places import Place

SET_ASIDE = "set_aside"  # the folder for observations that a run does not continue
_ABOUT_RUN = (RUN_FILE, PHOTOS_FILE, METRICS_FILE, VERDICT_FILE)


class RunWriter:
    """Writes the observations of a run, and facts about it, to the folder of the run.

    Args:
        folder: The folder of the run and the callback.
        keep: The maximum number of observations to keep; the first and the last always stay.
            ``None`` keeps all.

    Attributes:
        folder: The folder.
        written: The step of the last observation that was written by this object; -1 for none.
    """

    def __init__(self, folder: Place, keep: int | None = None) -> None:
        self.folder, self._keep = folder, keep
        self.written = -1
        self._info: RunInfo | None = None
        self._metrics: dict[int, Numbers] = {}
        self._measures: dict[int, Numbers] = {}  # of observations that may be thinned out
        self._thinned: dict[int, Numbers] = {}  # of those that were

    def begin(self, info: RunInfo, photos: Tensor, *, after: int) -> Place | None:
        """Start the record of a run, and set aside observations that do not belong to it.

        If none of the recorded observations stays, the folder that they are moved to becomes a
        record of its own, with copies of the files about the run.

        Args:
            info: The facts that are known so far.
            photos: Thumbnails of the probe, ``(N, h, w, 3)`` uint8.
            after: The step of the last observation that this run continues from; -1 if there is
                none. Later observations belong to an abandoned branch and are set aside, and so
                are all that were made with another probe: only one can be described in the folder.

        Returns:
            The folder that observations were moved to; ``None`` if there were none to move.
        """
        # A process that was killed while writing leaves such a partial file behind.
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)
        if not self._has_probe_of(info):
            after = -1
        aside = self._set_aside(after)
        self._resume_metrics(after)
        (self.folder / VERDICT_FILE).unlink(missing_ok=True)  # It is about what was set aside.
        write_whole(self.folder / PHOTOS_FILE, encode_thumbnails(photos))
        self._write(info)
        return aside

    def _has_probe_of(self, info: RunInfo) -> bool:
        """Whether observations in the folder can be read together with those of ``info``."""
        try:
            recorded = read_info(self.folder / RUN_FILE)
        except RecordError:  # It is missing or damaged, and says nothing against it.
            return True
        same_regions = recorded.areas.keys() == info.areas.keys()
        return recorded.fingerprint == info.fingerprint and same_regions

    def join(self, info: RunInfo, photos: Tensor) -> bool:
        """Continue the record of a run that has ended, or begin one if the folder has none.

        Args:
            info: The facts about the run that wants to add observations.
            photos: Thumbnails of the probe, ``(N, h, w, 3)`` uint8.

        Returns:
            Whether observations can be added: the recorded run has the same probe and measures it
            in the same way.

        Raises:
            RecordError: The ``run.json`` in the folder is damaged.
        """
        if not (self.folder / RUN_FILE).exists():
            self.begin(replace(info, finished=True), photos, after=-1)
            return True
        recorded = read_info(self.folder / RUN_FILE)
        measured = [(i.fingerprint, i.rule, i.reduce) for i in (recorded, info)]
        return measured[0] == measured[1]

    def last_step(self) -> int:
        """The step of the last observation; -1 if there is none."""
        return max(map(read_step, observation_files(self.folder)), default=-1)

    def add(self, observation: Observation) -> None:
        """Write an observation, and thin out earlier ones if there are too many.

        Raises:
            RecordError: The observation is larger than :data:`files.MAX_TENSORS`, the most that is
                read back, or there already is one at its step.
            OSError: The file cannot be written.
        """
        name, data = OBSERVATION_FILE.format(observation.step), encode_observation(observation)
        if len(data) > MAX_TENSORS:
            raise RecordError(
                f"an observation of {len(data):,} bytes is larger than the {MAX_TENSORS:,} bytes "
                "that can be read back. Explain fewer images or `targets`, use a smaller "
                "`tile_size`, or pass `record=False`"
            )
        if (self.folder / name).exists():
            # Stores may list files late, and what is already recorded must not be lost by that.
            raise RecordError(f"{self.folder / name} is there already and is not overwritten")
        write_whole(self.folder / name, data)
        self.written = observation.step
        if self._keep is not None:
            self._measures[observation.step] = observation.measures
            self._thin_out(self._keep)

    def _thin_out(self, keep: int) -> None:
        """Delete observations beyond ``keep``. What was measured at them is small, and stays."""
        superfluous = _superfluous(observation_files(self.folder), keep)
        left = {}
        for path in superfluous:
            step = read_step(path)
            if step not in self._measures:  # Another process wrote it.
                with suppress(RecordError):
                    self._measures[step] = read_observation(path).measures
            left[step] = self._measures.pop(step, {})
        if any(left.values()):
            self._thinned |= left
            self._write_metrics()
        for path in superfluous:
            path.unlink(missing_ok=True)

    def end(self, metrics: Numbers, *, finished: bool) -> None:
        """Record how the run ended; metrics that are not finite are left out."""
        if self._info is not None:
            self._write(replace(self._info, metrics=only_finite(metrics), finished=finished))

    def note_metrics(self, step: int, metrics: Numbers) -> None:
        """Record what the run has logged by the observation at ``step``, if that is new."""
        if self._metrics.get(step) != metrics:
            self._metrics[step] = metrics
            self._write_metrics()

    def note_verdict(self, data: bytes) -> None:
        """Record the verdict on the run, a JSON file."""
        write_whole(self.folder / VERDICT_FILE, data)

    def _resume_metrics(self, after: int) -> None:
        """Go on with the metrics up to the step ``after``, if there are any that can be read."""
        path = self.folder / METRICS_FILE
        with suppress(RecordError):
            self._metrics = {s: found for s, found in read_metrics(path).items() if s <= after}
            self._thinned = {s: found for s, found in read_thinned(path).items() if s <= after}
        if not self._metrics and not self._thinned:
            path.unlink(missing_ok=True)

    def _write_metrics(self) -> None:
        data = encode_metrics(self._metrics, self._thinned)
        write_whole(self.folder / METRICS_FILE, data)

    def _write(self, info: RunInfo) -> None:
        write_whole(self.folder / RUN_FILE, encode_run(info))
        self._info = info

    def _set_aside(self, after: int) -> Place | None:
        """Move the observations later than ``after`` to a new folder, and return it."""
        known = observation_files(self.folder)
        paths = [path for path in known if read_step(path) > after]
        if not paths:
            return None
        taken = [int(p.name) for p in (self.folder / SET_ASIDE).glob("*") if p.name.isdecimal()]
        aside = self.folder / SET_ASIDE / str(max(taken, default=0) + 1)
        aside.mkdir(parents=True)
        if len(paths) == len(known):
            # These files are about to be replaced. They are copied first, so that observations
            # have theirs next to them at any time.
            for path in (self.folder / name for name in _ABOUT_RUN):
                if path.is_file():
                    write_whole(aside / path.name, path.read_bytes())
        for path in paths:
            move(path, aside / path.name)
        return aside


def _superfluous(paths: Sequence[Place], keep: int) -> list[Place]:
    """The files to delete, so that ``keep`` files, spread as evenly as possible, remain."""
    left = list(paths)
    while len(left) > max(keep, 2):
        steps = [read_step(path) for path in left]
        # Drop the file whose two neighbours are closest together.
        closest = min(range(1, len(left) - 1), key=lambda i: steps[i + 1] - steps[i - 1])
        del left[closest]
    return [path for path in paths if path not in left]
