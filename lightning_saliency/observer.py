"""One observation: the probe explained by a live model, drawn, and sent to the loggers."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_saliency.attribution import Forward, explain, find_logits
from lightning_saliency.isolation import undisturbed
from lightning_saliency.loggers import PictureLog
from lightning_saliency.pictures import Artist
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.rules import Rule
from lightning_saliency.snapshot import History, Snapshot

FRAMES = 12  # columns of a film strip


@dataclass(slots=True, eq=False)
class Observer:
    """Explains one probe again and again, and remembers enough for the film strips.

    Attributes:
        probe: The images.
        targets: ``(N, K)``, the classes to explain as :func:`explain` takes them; None for all.
        rule: How gradients pass activations.
        forward: ``forward(model, images)`` returns the logits.
        chunk_size: Images in one forward pass.
        tag: Prefix of the pictures' tags.
        artist: Draws them.
        log: Takes them; ``None`` on a rank that does not draw.
    """

    probe: ProbeBatch
    targets: Tensor | None
    rule: Rule
    forward: Forward
    chunk_size: int | None
    tag: str
    artist: Artist
    log: PictureLog | None
    _history: History = field(default_factory=lambda: History(FRAMES))

    def observe(self, model: nn.Module, caption: str, step: int) -> None:
        """Explain the probe by ``model`` and log a mosaic an image."""
        explanation = explain(
            model,
            self.probe.images,
            "all" if self.targets is None else self.targets,
            rules=(self.rule,),
            forward=self.forward,
            chunk_size=self.chunk_size,
        )
        snapshot = Snapshot.of(
            explanation,
            self.rule,
            step=step,
            caption=caption,
            size=self.artist.size,
            multi_label=self.probe.multi_label,
        )
        self._history.add(snapshot)
        if self.log is not None:
            for image in range(len(self.probe)):
                picture = self.artist.mosaic(snapshot, image)
                self.log.add(f"{self.tag}/{self.probe.image_name(image)}", picture, step)

    def draw_filmstrips(self) -> None:
        """Log what all observations saw, a film strip an image."""
        snapshots = self._history.spread()
        if self.log is None or not snapshots:
            return
        for image in range(len(self.probe)):
            picture = self.artist.filmstrip(snapshots, image)
            tag = f"{self.tag}_filmstrip/{self.probe.image_name(image)}"
            self.log.add(tag, picture, snapshots[-1].step)


def count_classes(model: nn.Module, probe: ProbeBatch, forward: Forward) -> int:
    """How many logits ``model`` has, tried on one image.

    Raises:
        SaliencyError: What it returns holds no logits.
    """
    first = next(model.parameters(), probe.images)
    with undisturbed(model):
        logits = find_logits(forward(model, probe.images[:1].to(first.device)), 1)
    return logits.shape[1]
