"""One observation: the probe explained by a live model, drawn, and sent to the loggers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from lightning_saliency.attribution import Forward, Plan, Targets, carry_out, find_logits
from lightning_saliency.isolation import undisturbed
from lightning_saliency.loggers import PictureLog
from lightning_saliency.pictures import Artist
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.ranks import Ranks
from lightning_saliency.snapshot import History, Snapshot


@dataclass(slots=True, eq=False)
class Observer:
    """Explains one probe again and again, and remembers enough for the film strips.

    Attributes:
        probe: The images.
        targets: ``(N, K)``, the classes to explain as :func:`explain` takes them; None for all.
        plan: How to explain; its first rule is the one that is shown.
        tag: Prefix of the pictures' tags.
        artist: Draws them.
        log: Takes them; ``None`` on a rank that does not draw.
        ranks: The processes that the probe is shared out over.
        history: What the film strips will show.
    """

    probe: ProbeBatch
    targets: Tensor | None
    plan: Plan
    tag: str
    artist: Artist
    log: PictureLog | None
    ranks: Ranks
    history: History

    def observe(self, model: nn.Module, caption: str, step: int) -> None:
        """Explain the probe by ``model`` and log a mosaic an image.

        Raises:
            SaliencyError: Another process failed.
            Exception: Whatever failed in this one.
        """
        with self.ranks.together("explaining the probe"):
            part = self._explain_part(model, caption, step)
        snapshot = part.map_tensors(lambda rows: self.ranks.whole(rows, len(self.probe))).cpu()
        self.history.add(snapshot)
        with self.ranks.together("logging pictures"):
            self._log_mosaics(snapshot)

    def draw_filmstrips(self) -> None:
        """Log what all observations saw, a film strip an image."""
        snapshots = self.history.spread()
        if self.log is None or not snapshots:
            return
        for image in range(len(self.probe)):
            picture = self.artist.filmstrip(snapshots, image)
            tag = f"{self.tag}_filmstrip/{self.probe.image_name(image)}"
            self.log.add(tag, picture, snapshots[-1].step)

    def _explain_part(self, model: nn.Module, caption: str, step: int) -> Snapshot:
        targets: Targets = "all" if self.targets is None else self.ranks.part(self.targets)
        explanation = carry_out(self.plan, model, self.ranks.part(self.probe.images), targets)
        return Snapshot.of(
            explanation,
            self.plan.rules[0],
            step=step,
            caption=caption,
            size=self.artist.size,
            multi_label=self.probe.multi_label,
        )

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
