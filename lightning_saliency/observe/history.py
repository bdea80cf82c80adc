"""What a run has shown so far, in a form that a checkpoint can keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from lightning_saliency.draw.mosaics import FILMSTRIP_COLUMNS
from lightning_saliency.probe.state import hash_tensors
from lightning_saliency.record.observation import Observation, Snapshot
from lightning_saliency.storage.places import Place, full_name

_MOST_BYTES = 32 * 2**20  # of maps in 8 bits that a checkpoint holds, unless two frames take more
_MOST_PARTS = 2 * FILMSTRIP_COLUMNS  # of one run; a checkpoint must not grow with resumptions


@dataclass(frozen=True, slots=True)
class Part:
    """Where a part of a run is recorded: a run that is resumed elsewhere has several parts.

    Attributes:
        folder: The folder of the record, an absolute path or a URL.
        first: The step of the first observation of this part.
        last: The step of the last one. Later ones in the folder are not of this run.
        digest: The digest of the observation at ``last``. If the folder holds another one there,
            the run has gone on from an earlier checkpoint since.
    """

    folder: str
    first: int
    last: int
    digest: str


def digest_observation(observation: Observation) -> str:
    """Compute 16 hexadecimal digits from what was measured; its file gives the same ones."""
    return hash_tensors({"views": observation.measured.views})[:16]


class Frames:
    """Snapshots that no record holds, thinned out evenly once there are many or large ones.

    Args:
        frames: At most twice as many are kept.
        most_bytes: Of the maps of all that are kept, in 8 bits; the first and the last always are.
    """

    def __init__(self, frames: int = FILMSTRIP_COLUMNS, most_bytes: int = _MOST_BYTES) -> None:
        self._frames, self._most_bytes = frames, most_bytes
        self._every = 1  # One in so many observations is kept.
        self._seen = 0
        self._kept: list[Snapshot] = []
        self._last: Snapshot | None = None

    def add(self, snapshot: Snapshot) -> None:
        """Keep ``snapshot``, at least until the next one comes."""
        if self._seen % self._every == 0:
            self._kept.append(snapshot)
        self._last = snapshot
        self._seen += 1
        while len(self._kept) > 2 * self._frames or self._is_heavy():
            self._kept = self._kept[::2]
            self._every *= 2

    def _is_heavy(self) -> bool:
        """Whether more than the first one is kept, and all of them take too many bytes."""
        values = sum(maps.numel() for kept in self._kept for maps in kept.maps.values())
        return len(self._kept) > 1 and values > self._most_bytes

    def spread(self) -> list[Snapshot]:
        """At most ``frames`` snapshots, evenly over the run, the first and the last included."""
        kept = list(self._kept)
        if self._last is not None and (not kept or kept[-1].step != self._last.step):
            kept.append(self._last)
        return spread(kept, self._frames)

    def state(self) -> dict[str, Any]:
        """The frames as tensors and primitives only."""
        last = None if self._last is None else self._last.state()
        kept = [snapshot.state() for snapshot in self._kept]
        return {"every": self._every, "seen": self._seen, "kept": kept, "last": last}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], rule: str = "") -> Frames:
        """Restore what :meth:`state` returned; for ``rule`` see :meth:`Snapshot.from_state`."""
        frames = cls()
        frames._every, frames._seen = state["every"], state["seen"]
        frames._kept = [Snapshot.from_state(kept, rule) for kept in state["kept"]]
        frames._last = None if state["last"] is None else Snapshot.from_state(state["last"], rule)
        return frames


T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> list[T]:
    """Choose at most ``count`` of ``items`` at even distances, the first and last included.

    Example:
        >>> spread(range(10), 4)
        [0, 3, 6, 9]
    """
    if len(items) <= count:
        return list(items)
    last = len(items) - 1
    return [items[round(i * last / (count - 1))] for i in range(count)]


@dataclass(slots=True, eq=False)
class History:
    """What a resumed run must know of its past.

    Attributes:
        last_step: The step at which the latest pictures were logged; -1 for none.
        changed: Whether the model was trained since it was last observed. The number of optimizer
            steps cannot show it: a module may step without Lightning, which then counts none.
        last_scalars: The scalars of the last observation, for monitors that have yet to read them.
        first_profile: The profile of the first observation, ``(8, 8)``: where its gradient lay.
        last_profile: The profile of the last one, ``(8, 8)``.
        frames: What the film strips will show of observations that are not recorded.
        parts: Where the other observations are recorded, in the order of their steps.
    """

    last_step: int = -1
    changed: bool = False
    last_scalars: dict[str, float] = field(default_factory=dict)
    first_profile: Tensor | None = None
    last_profile: Tensor | None = None
    frames: Frames = field(default_factory=Frames)
    parts: list[Part] = field(default_factory=list)

    def next_step(self, step: int) -> int:
        """Begin an observation at ``step``, or one after the last: equal steps hide pictures."""
        self.changed = False
        self.last_step = max(step, self.last_step + 1)
        return self.last_step

    def add(
        self,
        observation: Observation,
        scalars: Mapping[str, float],
        recorded_at: Place | None = None,
    ) -> None:
        """Keep what must be known of ``observation``.

        Args:
            observation: The observation.
            scalars: What is logged of it.
            recorded_at: The folder that it was recorded in. If it was not, its snapshot is kept.
        """
        profile = observation.measured.mean_profile()
        if recorded_at is None:
            self.frames.add(observation.snapshot)
        else:
            self._extend(observation, recorded_at)
        self.first_profile = profile if self.first_profile is None else self.first_profile
        self.last_profile, self.last_scalars = profile, dict(scalars)

    def _extend(self, observation: Observation, recorded_at: Place) -> None:
        folder = full_name(recorded_at)
        step, digest = observation.step, digest_observation(observation)
        if self.parts and self.parts[-1].folder == folder:
            self.parts[-1] = replace(self.parts[-1], last=step, digest=digest)
        else:
            self.parts = spread([*self.parts, Part(folder, step, step, digest)], _MOST_PARTS)

    def reset(self) -> History:
        """Return an empty history that still knows which steps are taken."""
        return History(self.last_step, self.changed)

    def state(self) -> dict[str, Any]:
        """The history as tensors and primitives only, under the names of version 0.1."""
        return {
            "last_step": self.last_step,
            "changed": self.changed,
            "measured": dict(self.last_scalars),
            "first_profile": self.first_profile,
            "last_profile": self.last_profile,
            "history": self.frames.state(),
            "recorded": [asdict(part) for part in self.parts],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], rule: str = "") -> History:
        """Restore what :meth:`state` returned.

        Args:
            state: What :meth:`state` returned.
            rule: See :meth:`Snapshot.from_state`.
        """
        return cls(
            last_step=state["last_step"],
            changed=state["changed"],
            last_scalars=dict(state["measured"]),
            first_profile=state["first_profile"],
            last_profile=state["last_profile"],
            frames=Frames.from_state(state["history"], rule),
            # Version 0.1 kept all that film strips show.
            parts=[Part(**part) for part in state.get("recorded", ())],
        )
