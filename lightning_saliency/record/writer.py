"""Writing the folder of a run, so that it is right whenever the process is killed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lightning_saliency.errors import RecordError
from lightning_saliency.record.observation import Numbers, Observation, encode_observation
from lightning_saliency.record.run import (
    OBSERVATION_FILE,
    PHOTOS_FILE,
    RUN_FILE,
    RunInfo,
    encode_run,
    encode_thumbnails,
    observation_files,
    read_info,
    step_of,
)
from lightning_saliency.storage.files import MAX_TENSORS, write_whole

SET_ASIDE = "set_aside"  # the folder of observations of branches that were given up


class RunWriter:
    """Writes the folder of a run.

    Args:
        folder: Of the run and the callback.
        keep: Observations that stay, at most; the first and the last always do. ``None`` for all.
    """

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        self.folder, self._keep = folder, keep
        self._info: RunInfo | None = None

    def begin(self, info: RunInfo, photos: Tensor, *, after: int) -> None:
        """Write what is known of the run, and clear what is not of it.

        Args:
            info: What is known by now.
            photos: ``(N, h, w, 3)`` uint8.
            after: The step of the last observation that is of this run's past, -1 for none: later
                ones, of a branch that was given up, are set aside.
        """
        for part in self.folder.glob(".*.part"):  # of a process that was killed as it wrote
            part.unlink(missing_ok=True)
        self._set_aside([p for p in observation_files(self.folder) if step_of(p) > after])
        write_whole(self.folder / PHOTOS_FILE, encode_thumbnails(photos))
        self._write(info)

    def join(self, info: RunInfo, photos: Tensor) -> bool:
        """Go on in the folder of a run that is over; begin it where there was none.

        Returns:
            Whether the run there is of the same probe, measured alike, so that it can go on.
        """
        if not (self.folder / RUN_FILE).exists():
            self.begin(replace(info, finished=True), photos, after=-1)
            return True
        there = read_info(self.folder / RUN_FILE)
        measured = [(i.fingerprint, i.rule, i.reduce) for i in (there, info)]
        return measured[0] == measured[1]

    def last_step(self) -> int:
        """The step of the last observation, -1 where there is none."""
        return max(map(step_of, observation_files(self.folder)), default=-1)

    def add(self, observation: Observation) -> None:
        """Write an observation; thin out the earlier ones where there are too many."""
        name, data = OBSERVATION_FILE.format(observation.step), encode_observation(observation)
        if len(data) > MAX_TENSORS:
            raise RecordError(
                f"an observation of {len(data):,} bytes is more than the {MAX_TENSORS:,} that are "
                "read back. Explain fewer images or `targets`, at a smaller `tile_size`, or pass "
                "`record=False`"
            )
        write_whole(self.folder / name, data)
        if self._keep is not None:
            for path in _superfluous(observation_files(self.folder), self._keep):
                path.unlink(missing_ok=True)

    def end(self, metrics: Numbers, *, finished: bool) -> None:
        """Write down how the run ended."""
        if self._info is not None:
            known = {name: value for name, value in metrics.items() if math.isfinite(value)}
            self._write(replace(self._info, metrics=known, finished=finished))

    def _write(self, info: RunInfo) -> None:
        write_whole(self.folder / RUN_FILE, encode_run(info))
        self._info = info

    def _set_aside(self, paths: Sequence[Path]) -> None:
        if not paths:
            return
        taken = [int(p.name) for p in (self.folder / SET_ASIDE).glob("*") if p.name.isdecimal()]
        aside = self.folder / SET_ASIDE / str(max(taken, default=0) + 1)
        aside.mkdir(parents=True)
        for path in paths:
            path.replace(aside / path.name)


def _superfluous(paths: Sequence[Path], keep: int) -> list[Path]:
    """The files to drop, so that ``keep`` stay as evenly spread as can be."""
    left = list(paths)
    while len(left) > max(keep, 2):
        steps = [step_of(path) for path in left]
        # The one between the two neighbours that are closest together.
        closest = min(range(1, len(left) - 1), key=lambda i: steps[i + 1] - steps[i - 1])
        del left[closest]
    return [path for path in paths if path not in left]
