"""What a session works with, put together from the options, the probe and the trainer."""

from __future__ import annotations

from typing import Any

import torch

from lightning_saliency.attribution.logits import count_classes
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.attribution.targets import choose_targets
from lightning_saliency.callback.loggers import PictureLog
from lightning_saliency.callback.options import Options
from lightning_saliency.callback.publisher import Publisher
from lightning_saliency.callback.run_folder import find_run_folder
from lightning_saliency.callback.trainer import (
    Trainer,
    callable_model,
    wrap_forward,
)
from lightning_saliency.check.attention import AttentionCheck
from lightning_saliency.draw.colours import sharp_size
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.errors import SaliencyError
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.writer import RunWriter
from lightning_saliency.storage.files import safe_name


def build_observer(
    trainer: Trainer,
    pl_module: Any,
    probe: ProbeBatch,
    options: Options,
    ranks: Ranks,
    check: AttentionCheck | None = None,
) -> Observer:
    """Build an observer of ``pl_module``, which is tried on two images. Collective.

    Raises:
        SaliencyError: The module cannot be called with images, what it returns holds no logits,
            or it fails on another rank.
        ValueError: Targets that the module or the probe does not know, or a requirement on a
            region that the probe has no mask of.
    """
    forward = wrap_forward(trainer, options.forward)
    passes = PassOptions(forward, options.chunk_size, alone=not ranks.sharded)
    with ranks.synchronized("trying the model on images of the probe"):
        classes = _try_model(callable_model(trainer, pl_module), pl_module, probe, passes)
    targets = choose_targets(
        options.targets, classes, probe.all_true_classes(), probe.class_names or ()
    )
    size = sharp_size(probe.images.shape[-2], probe.images.shape[-1], options.tile_size)
    return Observer(
        probe=probe,
        targets=targets,
        rules=options.rules,
        size=size,
        options=passes,
        meter=build_meter(probe, size, check, one_logit=classes == 1),
        ranks=ranks,
    )


def _try_model(model: Any, pl_module: Any, probe: ProbeBatch, options: PassOptions) -> int:
    """Count the logits of the model; if it cannot be called with images, say what to do."""
    batch = min(2, options.chunk_size or 2)
    try:
        return count_classes(model, probe.images, options.forward, batch=batch)
    except torch.OutOfMemoryError:
        if batch == 1 or not options.alone:
            raise
    except SaliencyError:
        raise
    except Exception as error:
        images = f"{tuple(probe.images.shape[1:])} {probe.images.dtype}"
        raise SaliencyError(
            f"trying {type(pl_module).__name__} on images of the probe, {images}, failed: "
            f"{type(error).__name__}: {error}\nIf it takes something other than images, pass "
            "`forward=lambda model, images: …` that returns the logits; if it takes other images, "
            "pass `probe=ProbeBatch(images, labels)`."
        ) from error
    # Outside of the handler, whose error would still hold on to the memory of the pass.
    return count_classes(model, probe.images, options.forward, batch=1)


def build_meter(
    probe: ProbeBatch, size: int, check: AttentionCheck | None, *, one_logit: bool
) -> Meter:
    """Build a meter of what ``check`` needs to know, or of the default measures."""
    if check is None:
        return Meter.for_probe(probe, size, one_logit=one_logit)
    for requirement in check.requirements:
        requirement.quantities(probe.masks)  # or raise, while nothing is lost yet
    return Meter.for_probe(
        probe,
        size,
        classes=check.reference.classes if check.reference else None,
        rule=check.rule,
        reduce=check.reduce,
        one_logit=one_logit,
        good=check.reference,
    )


def build_publisher(trainer: Trainer, observer: Observer, options: Options) -> Publisher:
    """Build a publisher of what ``observer`` sees. Collective."""
    ranks, folder = observer.ranks, find_run_folder(trainer, observer.ranks)
    first, log = ranks.rank == 0, PictureLog(trainer.loggers, folder, options.image_format)
    kept = folder / safe_name(options.name) if options.record and folder is not None else None
    return Publisher(
        tag=options.name,
        probe=observer.probe,
        renderer=MosaicRenderer(
            observer.probe,
            style=options.style,
            scale=options.scale,
            size=options.tile_size,
            one_logit=observer.meter.one_logit,
        ),
        ranks=ranks,
        log=log if first else None,
        writer=RunWriter(kept, options.keep) if first and kept is not None else None,
        recorded_at=kept,
    )
