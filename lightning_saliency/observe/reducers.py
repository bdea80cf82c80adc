"""Reduce attributions to what an observation keeps, while they are computed.

An attribution has the size of the images, and there is one per image, class and rule. Each is
reduced as soon as its backward pass is done, so that memory holds those of one chunk and one column
of classes, and maps at the size at which they are shown. The maps are made of a few images at a
time, which bounds what the reduction itself needs.

With N images of C × H × W in single precision, K classes, R rules that are shown, n images in a
chunk and maps of h × w, an observation holds at most this many bytes in addition to its passes:

    N·(2·h·w·(R·K + 1) + 1024)              the maps that are kept, and their profiles
    + 4·n·C·H·W                             one attribution of one chunk
    + 16·(C + 2)·max(2·H·W, B/C)            its reduction; B is 2^16 on a CPU, 2^20 elsewhere

Of volumes, H·W is D·H·W. Of several processes, each holds this for its share of the images until
the maps are gathered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_saliency.attribution.passes import Chunk
from lightning_saliency.attribution.targets import resolve_targets
from lightning_saliency.functional.maps import (
    MassReduce,
    exactly,
    masses,
    shrink_mass,
    shrink_strongest_channel,
)
from lightning_saliency.functional.measures import CELLS, profiles, profiles_and_shares
from lightning_saliency.functional.projection import Projection


def _images_at_once(attribution: Tensor) -> int:
    """The number of images to reduce together: enough to keep the device busy."""
    # These are the B of the bound above. Small steps fit in a processor's cache, but an accelerator
    # spends more time on starting them than on the work itself.
    numbers = 2**16 if attribution.device.type == "cpu" else 2**20
    return max(1, numbers // attribution[0].numel())


class ShownMaps:
    """Maps of all classes, small enough to keep: the strongest channel, divided by its peak.

    Args:
        size: Most pixels per side of a map.
        projection: How volumes become flat; ``None`` for images.

    Attributes:
        maps: For each rule, ``(N, K, h, w)`` float16; see :class:`Snapshot`.
        peaks: For each rule, ``(N, K)``.
    """

    def __init__(self, size: int, projection: Projection | None = None) -> None:
        self._size, self._projection = size, projection
        self.maps: dict[str, Tensor] = {}
        self.peaks: dict[str, Tensor] = {}

    def begin(self, chunk: Chunk) -> None:
        """Take the attributions of ``chunk`` next."""
        self._chunk = chunk

    def take(self, rule: str, column: int, attribution: Tensor) -> None:
        """Keep the maps of one class per image."""
        first, size = self._chunk.rows.start, _images_at_once(attribution)
        for start in range(0, len(attribution), size):
            part = attribution[start : start + size]
            flat = part if self._projection is None else self._projection.fold(part)
            small = shrink_strongest_channel(exactly(flat), self._size)
            peaks = small.abs().amax(dim=(-2, -1))
            # The small gradients of a trained network would underflow in float16 without their
            # peaks.
            scale = peaks.clamp(min=torch.finfo(small.dtype).tiny)[:, None, None]
            if rule not in self.maps:
                # One allocation for all chunks: joining theirs would need as much memory again.
                shape = (self._chunk.count, self._chunk.classes.shape[1])
                self.peaks[rule] = small.new_empty(shape)
                self.maps[rule] = small.new_empty(*shape, *small.shape[1:], dtype=torch.float16)
            rows = slice(first + start, first + start + len(part))
            self.peaks[rule][rows, column] = peaks
            self.maps[rule][rows, column] = small / scale


class MeasuredMaps:
    """Where the attribution of one class per image lies.

    That class is looked for among those of each chunk, so that passes for all classes need not be
    repeated for the one that is measured.

    Args:
        images: ``(N, C, H, W)`` or ``(N, C, D, H, W)``, the images that are explained.
        masks: For each region, a bool tensor of that shape without channels.
        targets: ``(N, 1)`` int64, the class of each image; see :func:`as_columns`.
        rule: The rule to measure.
        reduce: How maps are made of attributions; see :func:`maps.masses`.
        size: Most pixels per side of the maps that are kept.
        projection: How volumes become flat; ``None`` for images.

    Attributes:
        kept: ``"classes"``, ``(N,)`` int64; ``"maps"``, ``(N, h, w)`` float16, divided by their
            peaks; ``"views"``, ``(N, V, 8, 8)`` float64, see :class:`Measured`; and for each
            region ``"share.<region>"``, ``(N, V)`` float64.
    """

    def __init__(
        self,
        images: Tensor,
        masks: Mapping[str, Tensor],
        targets: Tensor,
        *,
        rule: str,
        reduce: MassReduce,
        size: int,
        projection: Projection | None = None,
    ) -> None:
        self._images, self._masks, self._targets = images, masks, targets
        self._projection = projection
        self._rule, self._reduce, self._size = rule, reduce, size
        self.kept: dict[str, Tensor] = {}

    def begin(self, chunk: Chunk) -> None:
        """Find the measured class of each image among the classes of ``chunk``.

        Raises:
            ValueError: It is not among them.
        """
        self._chunk = chunk
        wanted = resolve_targets(self._targets[chunk.rows], chunk.logits)
        self._keep("classes", range(*chunk.rows.indices(chunk.count)), wanted[:, 0])
        matches = chunk.classes == wanted
        if not bool(matches.any(dim=1).all()):
            raise ValueError(
                "the class to measure is not among the classes that are explained, for at least "
                "one image; explain those that `Meter.request` names."
            )
        self._columns = matches.int().argmax(dim=1).tolist()

    def take(self, rule: str, column: int, attribution: Tensor) -> None:
        """Measure the images of the chunk whose measured class is in ``column``."""
        if rule != self._rule:
            return
        picked = [row for row, each in enumerate(self._columns) if each == column]
        size = _images_at_once(attribution)
        for start in range(0, len(picked), size):
            self._measure(attribution, picked[start : start + size])

    def _measure(self, attribution: Tensor, picked: Sequence[int]) -> None:
        """Measure some images of the chunk."""
        first, single = self._chunk.rows.start, attribution.shape[1] == 1 or self._reduce != "joint"
        if single and len(picked) == 1 < self._chunk.count:
            # Torch divides the sum over a single map among threads, and rounds it differently than
            # that over each of several. A copy makes the results independent of the chunks.
            picked = [*picked, *picked]
        rows = [first + row for row in picked]
        # What is measured per pixel takes a volume as one image, its slices under each other.
        gradients, images = attribution[picked].flatten(2, -2), self._images[rows].flatten(2, -2)
        maps = exactly(masses(gradients, images, self._reduce))
        views = maps.shape[:2]
        inside = {
            name: mask[rows].flatten(1, -2).to(maps.device).repeat_interleave(views[1], dim=0)
            for name, mask in self._masks.items()
        }
        cells, shares = profiles_and_shares(maps.flatten(0, 1), inside)
        shown = maps
        if self._projection is not None:
            volumes = maps.view(*views, *attribution.shape[2:])
            shown = self._projection.strongest(volumes)
            cells = profiles(self._projection.total(volumes).flatten(0, 1))
        self._keep("maps", rows, _join_views(shrink_mass(shown, self._size)))
        self._keep("views", rows, cells.view(*views, CELLS, CELLS))
        for name, values in shares.items():
            self._keep(f"share.{name}", rows, values.view(views))

    def _keep(self, name: str, rows: Sequence[int], values: Tensor) -> None:
        if name not in self.kept:
            self.kept[name] = values.new_empty(self._chunk.count, *values.shape[1:])
        self.kept[name][list(rows)] = values


def _join_views(maps: Tensor) -> Tensor:
    """Join views ``(N, V, h, w)`` of equal weight to maps to be shown, divided by their peaks."""
    tiny = torch.finfo(maps.dtype).tiny
    parts = maps / maps.sum(dim=(-2, -1), keepdim=True).clamp(min=tiny)
    joined = parts.mean(dim=1)
    return (joined / joined.amax(dim=(1, 2), keepdim=True).clamp(min=tiny)).half()
