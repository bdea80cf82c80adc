"""What one observation saw, small enough to be kept until training ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_saliency.attribution import Explanation
from lightning_saliency.maps import exactly, shrink, strongest_channel


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The maps of a probe batch at one step, at picture resolution.

    Attributes:
        step: Where the pictures stand on the loggers' step axis.
        caption: The moment in words: ``"untrained"``, ``"epoch 3"``, ``"step 1200"``.
        targets: ``(N, K)`` int64, the class of each map.
        probabilities: ``(N, K)``, of the targets.
        predicted: ``(N,)`` int64, the strongest class.
        maps: ``(N, K, h, w)`` float16, signed, divided by its own peak: within [-1, 1]. NaN where
            the map has values that are not finite.
        peaks: ``(N, K)``, the largest magnitude of each map, in logits per input unit.
    """

    step: int
    caption: str
    targets: Tensor
    probabilities: Tensor
    predicted: Tensor
    maps: Tensor
    peaks: Tensor

    @classmethod
    def of(
        cls,
        explanation: Explanation,
        rule: str,
        *,
        step: int,
        caption: str,
        size: int,
        multi_label: bool = False,
    ) -> Snapshot:
        """Reduce ``explanation`` to maps of at most ``size`` pixels a side."""
        maps = shrink(exactly(strongest_channel(explanation[rule])), size)
        peaks = maps.abs().amax(dim=(-2, -1))
        # A float16 alone would lose the small gradients of a trained network.
        scaled = maps / peaks.clamp(min=torch.finfo(maps.dtype).tiny)[..., None, None]
        chances = probabilities(explanation.logits, multi_label=multi_label)
        return cls(
            step=step,
            caption=caption,
            targets=explanation.targets,
            probabilities=chances.gather(1, explanation.targets),
            predicted=explanation.logits.argmax(dim=1),
            maps=scaled.half(),
            peaks=peaks,
        )

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Snapshot:
        """The same with ``change`` applied to each of its tensors."""
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in _TENSORS}
        return replace(self, **changed)

    def cpu(self) -> Snapshot:
        """The same in main memory."""
        return self.map_tensors(lambda tensor: tensor.detach().cpu())

    def state(self) -> dict[str, Any]:
        """Tensors and primitives only; the maps in 8 bits, as fine as the colours they become."""
        told = {name: getattr(self, name) for name in (*_TENSORS, "step", "caption")}
        return told | {"maps": (self.maps.float() * 127).round().to(torch.int8)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Snapshot:
        """The snapshot that :meth:`state` described."""
        broken = ~torch.isfinite(state["peaks"])[..., None, None]
        maps = (state["maps"].float() / 127).masked_fill(broken, torch.nan)
        return cls(**{**state, "maps": maps.half()})


_TENSORS = ("targets", "probabilities", "predicted", "maps", "peaks")


def probabilities(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Softmax over the classes; a sigmoid each for several labels an image, or for one logit.

    Example:
        >>> probabilities(torch.tensor([[0.0, 0.0]]), multi_label=False)
        tensor([[0.5000, 0.5000]])
    """
    if multi_label or logits.shape[1] == 1:
        return logits.sigmoid()
    return logits.softmax(dim=1)


def chances_of(logits: Tensor, classes: Tensor, *, multi_label: bool) -> Tensor:
    """The probability of one class an image.

    Args:
        logits: ``(N, num_classes)``. A single one stands for class 1, against class 0.
        classes: ``(N,)`` int64.
        multi_label: Whether an image may have several classes.

    Returns:
        ``(N,)``.

    Example:
        >>> chances_of(torch.tensor([[2.0], [2.0]]), torch.tensor([1, 0]), multi_label=False)
        tensor([0.8808, 0.1192])
    """
    known = probabilities(logits, multi_label=multi_label)
    classes = classes.to(logits.device)
    if logits.shape[1] > 1 or multi_label:
        return known.gather(1, classes[:, None])[:, 0]
    return torch.where(classes > 0, known[:, 0], 1 - known[:, 0])


FRAMES = 12  # columns of a film strip


class History:
    """The snapshots of a run, thinned out evenly once there are many."""

    def __init__(self, frames: int = FRAMES) -> None:
        self._frames = frames
        self._every = 1  # of the observations so far, one in so many is kept
        self._seen = 0
        self._kept: list[Snapshot] = []
        self._last: Snapshot | None = None

    def add(self, snapshot: Snapshot) -> None:
        """Keep ``snapshot``, at least until the next one comes."""
        if self._seen % self._every == 0:
            self._kept.append(snapshot)
        self._last = snapshot
        self._seen += 1
        if len(self._kept) > 2 * self._frames:
            self._kept = self._kept[::2]
            self._every *= 2

    def spread(self) -> list[Snapshot]:
        """At most ``frames`` of them, spread evenly over the run, first and last included."""
        kept = list(self._kept)
        if self._last is not None and (not kept or kept[-1].step != self._last.step):
            kept.append(self._last)
        return spread(kept, self._frames)

    def state(self) -> dict[str, Any]:
        """Tensors and primitives only."""
        last = None if self._last is None else self._last.state()
        kept = [snapshot.state() for snapshot in self._kept]
        return {"every": self._every, "seen": self._seen, "kept": kept, "last": last}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """The history that :meth:`state` described."""
        history = cls()
        history._every, history._seen = state["every"], state["seen"]
        history._kept = [Snapshot.from_state(kept) for kept in state["kept"]]
        history._last = None if state["last"] is None else Snapshot.from_state(state["last"])
        return history


T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of ``items`` at even distances, the first and last included.

    Example:
        >>> spread(range(10), 4)
        [0, 3, 6, 9]
    """
    if len(items) <= count:
        return list(items)
    last = len(items) - 1
    return [items[round(i * last / (count - 1))] for i in range(count)]
