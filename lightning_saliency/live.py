"""The model that a trainer holds: what to call, in which precision, and an observer of it."""

from __future__ import annotations

from typing import Any

from lightning_saliency.attribution import Forward, Plan
from lightning_saliency.loggers import PictureLog, run_folder
from lightning_saliency.observer import Observer, count_classes
from lightning_saliency.options import Options
from lightning_saliency.pictures import Artist
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.ranks import Ranks
from lightning_saliency.snapshot import History
from lightning_saliency.targets import choose_targets


def callable_model(trainer: Any, pl_module: Any) -> Any:
    """What to call for a forward pass: FSDP's first version gathers weights in its wrapper only."""
    kinds = {c.__name__ for c in type(trainer.strategy).__mro__}
    return trainer.strategy.model if "FSDPStrategy" in kinds else pl_module


def in_precision_of(trainer: Any, forward: Forward | None) -> Forward:
    """The forward pass under the trainer's own precision."""
    plugin = trainer.precision_plugin

    def in_precision(model: Any, images: Any) -> Any:
        images = plugin.convert_input(images)
        with plugin.forward_context():
            return model(images) if forward is None else forward(model, images)

    return in_precision


def current_step(trainer: Any) -> int:
    """The step at which Lightning logs the scalars of this moment."""
    try:
        return int(trainer.fit_loop.epoch_loop._batches_that_stepped)
    except AttributeError:  # private, so it may go; the optimizer steps are nearly the same
        return int(trainer.global_step)


def observer_of(
    trainer: Any, pl_module: Any, probe: ProbeBatch, options: Options, history: History
) -> Observer:
    """An observer of ``pl_module``, which is tried on one image. Collective: on every rank.

    Raises:
        SaliencyError: No logits in what the module returns, or it fails on another rank.
        ValueError: Targets that the module or the probe does not know, names that collide.
    """
    ranks = Ranks(trainer)
    forward = in_precision_of(trainer, options.forward)
    with ranks.together("trying the model on an image of the probe"):
        classes = count_classes(callable_model(trainer, pl_module), probe, forward)
    log = PictureLog(trainer.loggers, run_folder(trainer), options.image_format)
    return Observer(
        probe=probe,
        targets=choose_targets(options.targets, probe, classes),
        rule=options.rule,
        plan=Plan(forward, options.chunk_size, alone=not ranks.sharded),
        tag=options.name,
        artist=Artist(
            probe,
            style=options.style,
            scale=options.scale,
            size=options.tile_size,
            rule=options.rule,
        ),
        log=log if ranks.rank == 0 else None,
        ranks=ranks,
        history=history,
    )
