"""One observation: the probe explained by a live model, drawn, and sent to the loggers."""

from __future__ import annotations

from dataclasses import dataclass

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
        """Explain the probe by ``model`` and log a mosaic an image.

        Returns:
            What was measured, by name: ``"object.share"`` for a mask named ``"object"``.

        Raises:
            SaliencyError: Another process failed.
            Exception: Whatever failed in this one.
        """
        with self.ranks.together("explaining the probe"):
            shown, measured = self._explain_part(model)
            part = self._snapshot_of(shown, caption, step)
        snapshot = part.map_tensors(self._of_all_ranks).cpu()
        self.history.add(snapshot)
        with self.ranks.together("logging pictures"):
            self._log_mosaics(snapshot)
        if measured is None:
            return {}
        maps = measured.maps("gradient", "square")[:, 0]
        return self._measures(self._of_all_ranks(maps).cpu())

    def draw_filmstrips(self) -> None:
        """Log what all observations saw, a film strip an image."""
        snapshots = self.history.spread()
        if self.log is None or not snapshots:
            return
        for image in range(len(self.probe)):
            picture = self.artist.filmstrip(snapshots, image)
            tag = f"{self.tag}_filmstrip/{self.probe.image_name(image)}"
            self.log.add(tag, picture, snapshots[-1].step)

    def _explain_part(self, model: nn.Module) -> tuple[Explanation, Explanation | None]:
        """This rank's images: what is shown, and the label's plain gradient, to be measured."""
        targets: Targets = "all" if self.targets is None else self.ranks.part(self.targets)
        requests = [Request((self.rule,), targets)]
        labels = self.probe.first_labels()
        if labels is not None and self.probe.masks:
            requests.append(Request(("gradient",), self.ranks.part(labels)))
        images = self.ranks.part(self.probe.images)
        shown, *measured = carry_out(self.plan, model, images, requests)
        return shown, measured[0] if measured else None

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

    def _measures(self, maps: Tensor) -> dict[str, float]:
        masks = self.probe.masks.items()
        return {f"{name}.share": float(share(maps, mask).mean()) for name, mask in masks}

    def _log_mosaics(self, snapshot: Snapshot) -> None:
        if self.log is None:
            return
        for image in range(len(self.probe)):
            picture = self.artist.mosaic(snapshot, image)
            self.log.add(f"{self.tag}/{self.probe.image_name(image)}", picture, snapshot.step)


def count_classes(model: nn.Module, probe: ProbeBatch, forward: Forward) -> int:
    """How many logits ``model`` has, tried on one image.

    Raises:
        SaliencyError: What it returns holds no logits.
    """
    first = next(model.parameters(), probe.images)
    with undisturbed(model):
        logits = find_logits(forward(model, probe.images[:1].to(first.device)), 1)
    return logits.shape[1]
