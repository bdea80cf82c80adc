"""One observation: the probe explained by a live model, drawn, and sent to the loggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from lightning_saliency.attribution import (
    Explanation,
    Forward,
    Plan,
    Request,
    carry_out,
    find_logits,
)
from lightning_saliency.classes import Targets
from lightning_saliency.errors import SaliencyError
from lightning_saliency.files import safe_name
from lightning_saliency.isolation import undisturbed
from lightning_saliency.loggers import PictureLog
from lightning_saliency.measures import share
from lightning_saliency.pictures import Artist
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.ranks import Ranks
from lightning_saliency.rules import Rule
from lightning_saliency.snapshot import History, Snapshot


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
        history: What the film strips will show.
    """

    probe: ProbeBatch
    targets: Tensor | None
    rule: Rule
    plan: Plan
    tag: str
    artist: Artist
    log: PictureLog | None
    ranks: Ranks
    history: History

    def observe(self, model: nn.Module, caption: str, step: int) -> dict[str, float]:
        """Explain the probe by ``model``; log a mosaic an image, and what was measured.

        Returns:
            What was measured, by its tag: ``"saliency/object.share"`` for a mask ``"object"``.

        Raises:
            SaliencyError: Another process failed.
            Exception: Whatever failed in this one.
        """
        with self.ranks.together("choosing what to explain"):
            images, requests = self._asked()
        # Under a sharded strategy these passes are a conversation of all ranks: one that fails in
        # its middle leaves the others waiting, for as long as their process group lets them.
        with self.ranks.together("explaining the probe"):
            shown, *judged = carry_out(self.plan, model, images, requests)
            part = self._snapshot_of(shown, caption, step)
            squares = judged[0].maps("gradient", "square")[:, 0] if judged else None
        snapshot = part.map_tensors(self._of_all_ranks).cpu()
        label_maps = None if squares is None else self._of_all_ranks(squares).cpu()
        with self.ranks.together("logging what was seen"):
            self.history.add(snapshot)
            self._log_mosaics(snapshot)
            measured = self._measures(label_maps)
            if self.log is not None:
                self.log.add_scalars(measured, step)
        return measured

    def draw_filmstrips(self) -> None:
        """Log what all observations saw, a film strip an image."""
        with self.ranks.together("drawing the film strips"):
            snapshots = self.history.spread()
            if self.log is None or not snapshots:
                return
            for image in range(len(self.probe)):
                picture = self.artist.filmstrip(snapshots, image)
                tag = f"{filmstrip_tag(self.tag)}/{self.probe.image_name(image)}"
                self.log.add(tag, picture, snapshots[-1].step)

    @property
    def files_at(self) -> Path | None:
        """The folder of the mosaics, where they became files on this rank."""
        folder = None if self.log is None else self.log.files_at
        return None if folder is None else folder / safe_name(self.tag)

    def _asked(self) -> tuple[Tensor, list[Request]]:
        """This rank's images, and what to explain of them: what is shown, and what is judged.

        The label's plain gradient, squared, is judged, for guided backprop is poor to judge by.
        """
        targets: Targets = "all" if self.targets is None else self.ranks.part(self.targets)
        requests = [Request((self.rule,), targets)]
        labels = self.probe.first_labels()
        if labels is not None:
            requests.append(Request(("gradient",), self.ranks.part(labels)))
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

    def _measures(self, maps: Tensor | None) -> dict[str, float]:
        """Of the label's maps ``(N, H, W)``: for each mask the share that lies inside."""
        if maps is None:
            return {}
        names = measure_names(self.tag, self.probe)
        masks = zip(names, self.probe.masks.values(), strict=True)
        return {name: float(share(maps, mask).mean()) for name, mask in masks}

    def _log_mosaics(self, snapshot: Snapshot) -> None:
        if self.log is None:
            return
        for image in range(len(self.probe)):
            picture = self.artist.mosaic(snapshot, image)
            self.log.add(f"{self.tag}/{self.probe.image_name(image)}", picture, snapshot.step)


def measure_names(tag: str, probe: ProbeBatch) -> list[str]:
    """The tags of what is measured in each observation of ``probe``."""
    return [f"{tag}/{name}.share" for name in probe.masks]


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


def count_classes(model: nn.Module, probe: ProbeBatch, forward: Forward) -> int:
    """How many logits ``model`` has, tried on one image.

    Raises:
        SaliencyError: What it returns holds no logits.
    """
    first = next(model.parameters(), probe.images)
    with undisturbed(model):
        logits = find_logits(forward(model, probe.images[:1].to(first.device)), 1)
    return logits.shape[1]
