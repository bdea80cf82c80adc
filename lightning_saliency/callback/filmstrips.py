"""What film strips show: snapshots read back from the record, wherever its parts are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

from lightning_saliency.callback.failures import warn
from lightning_saliency.callback.trainer import Trainer
from lightning_saliency.draw.mosaics import FILMSTRIP_COLUMNS
from lightning_saliency.errors import RecordError
from lightning_saliency.observe.history import History, Part, digest_observation, spread
from lightning_saliency.record.facts import RUN_FILE, read_info
from lightning_saliency.record.metrics import METRICS_FILE, read_thinned
from lightning_saliency.record.observation import Snapshot
from lightning_saliency.record.run import Run
from lightning_saliency.storage.places import Place, find_place, full_name

# Bytes of maps that are held to draw film strips. If all images take more, the record is read once
# per image.
_MOST_HELD = 500_000_000
_UNREACHABLE = (RecordError, OSError)

# The step of an observation, and its snapshot or the run that holds it.
_Source: TypeAlias = tuple[int, Snapshot | Run]


def find_other_places(trainer: Trainer, recorded_at: Place | None) -> list[Place]:
    """List where else the record of a resumed run may be, if its folders were moved.

    Args:
        trainer: Of the run that goes on.
        recorded_at: The folder of its record, if it has one.

    Returns:
        This folder, and two near the checkpoint: by default a run has ``checkpoints/<file>`` next
        to the folder of the callback.
    """
    if recorded_at is None:
        return []
    places = [recorded_at]
    with suppress(RecordError):  # Lightning reads it, so whether we can is of no importance.
        if trainer.ckpt_path is not None:
            near = find_place(trainer.ckpt_path).parent
            places += [near.parent / recorded_at.name, near / recorded_at.name]
    return places


def find_parts(
    parts: Sequence[Part], others: Sequence[Place], fingerprint: str, name: str
) -> list[Part]:
    """Find the record of the run that is resumed, and warn of what cannot be found.

    Args:
        parts: Where the run was recorded, as its checkpoint says.
        others: Where each part is looked for if it is not there.
        fingerprint: The fingerprint of the probe.
        name: The name of the callback.

    Returns:
        The parts that were found, with the folders that they are in now.
    """
    found, lost = [], []
    for part in parts:
        folders = dict.fromkeys([part.folder, *map(full_name, others)])
        here = next((folder for folder in folders if _holds(folder, part, fingerprint)), None)
        if here is None:
            lost.append(part)
        else:
            found.append(replace(part, folder=here))
    if lost:
        _warn_of_lost(lost, name)
    return found


def _holds(name: str, part: Part, fingerprint: str) -> bool:
    """Whether the folder of this name holds the very observations that ``part`` speaks of."""
    with suppress(*_UNREACHABLE):
        folder = find_place(name)
        if not (folder / RUN_FILE).is_file():
            return False
        run = Run(folder, read_info(folder / RUN_FILE))
        if run.info.fingerprint != fingerprint:
            return False
        if part.last in run.steps():
            return digest_observation(run.observation(part.last)) == part.digest
        # The run went on after the checkpoint, and thinned out what it had observed last.
        metrics = folder / METRICS_FILE
        return metrics.is_file() and part.last in read_thinned(metrics)
    return False


def _warn_of_lost(lost: Sequence[Part], name: str) -> None:
    folders = ", ".join(part.folder for part in lost)
    warn(
        f"the record of the run that is resumed is not in {folders}, or that run has gone another "
        f"way since: the film strips of {name!r} leave out what was observed up to step "
        f"{lost[-1].last}. To have all of it in them, put the record back before you resume."
    )


def read_strips(history: History, images: int) -> Iterator[tuple[int, list[Snapshot]]]:
    """Read what the film strip of each image shows.

    Args:
        history: What was observed, and where it is recorded.
        images: The number of images.

    Yields:
        The number of an image and the snapshots of the run, spread evenly, the first and the last
        included; nothing if there are none.

    Warns:
        SaliencyWarning: A part of the record cannot be read.
    """
    sources = spread(_list_sources(history), FILMSTRIP_COLUMNS)
    if not sources:
        return
    last = _read(sources[-1:])
    held = sum(maps.nbytes for snapshot in last for maps in snapshot.maps.values())
    if held * len(sources) <= _MOST_HELD:
        snapshots = _read(sources)
        for image in range(images if snapshots else 0):
            yield image, snapshots
        return
    del last
    for image in range(images):
        if snapshots := _read(sources, image):
            yield image, snapshots


def _list_sources(history: History) -> list[_Source]:
    """List all that can be shown of a run, in the order of the steps."""
    sources: list[_Source] = [(frame.step, frame) for frame in history.frames.spread()]
    for part in history.parts:
        try:
            folder = find_place(part.folder)
            run = Run(folder, read_info(folder / RUN_FILE))
            sources += [(s, run) for s in run.steps() if part.first <= s <= part.last]
        except _UNREACHABLE as error:
            _warn_of_unread(error)
    return sorted(sources, key=lambda source: source[0])


def _read(sources: Sequence[_Source], image: int | None = None) -> list[Snapshot]:
    """Read those of ``sources`` that can be read: for all images, or for one in place of all."""
    snapshots = []
    for step, source in sources:
        try:
            snapshot = source.observation(step).snapshot if isinstance(source, Run) else source
            snapshots.append(snapshot if image is None else snapshot.only(image))
        except _UNREACHABLE as error:
            _warn_of_unread(error)
    return snapshots


def _warn_of_unread(error: Exception) -> None:
    warn(f"the film strips leave out what cannot be read from the record: {error}")
