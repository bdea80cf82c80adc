"""What a session works with, put together from the options, the probe and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from lightning_saliency.attribution.diagnostics import check_classes
from lightning_saliency.attribution.failures import saying_what_failed
from lightning_saliency.attribution.passes import PassOptions, Request, compute
from lightning_saliency.attribution.targets import choose_targets
from lightning_saliency.callback.loggers import PictureLog
from lightning_saliency.callback.options import Options
from lightning_saliency.callback.progress import Progress
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
    note: Callable[[int, int], None] | None = None,
) -> Observer:
    """Build an observer of ``pl_module``, which is tried on two images. Collective.

    Args:
        trainer: Of the run.
        pl_module: The model.
        probe: The images.
        options: What to show and how.
        ranks: The processes of the run.
        check: What the run is held against.
        note: See :class:`Observer`.

    Raises:
        SaliencyError: The module cannot be called with images, what it returns holds no logits or
            does not depend on the images, or it fails on another rank.
        ValueError: Targets that the module or the probe does not know, labels that do not fit, or
            a requirement on a region that the probe has no mask of.
    """
    forward = wrap_forward(trainer, options.forward)
    passes = PassOptions(
        forward,
        options.chunk_size,
        alone=not ranks.sharded,
        warned=set(),
        classes=probe.num_classes,
        methods=options.methods,
    )
    # Those of the observations, in the same order, so that a doubt is found in the same words.
    rules = dict.fromkeys((*options.rules, "gradient" if check is None else check.rule))
    with ranks.synchronized("trying the model on images of the probe"):
        classes = _try_model(callable_model(trainer, pl_module), probe, passes, list(rules))
    probe.check_fit(classes)
    check_classes(classes, probe.labels, probe.class_names or ())
    targets = choose_targets(
        options.targets, classes, probe.all_true_classes(), probe.class_names or ()
    )
    size = sharp_size(*probe.drawn_size, options.tile_size)
    return Observer(
        probe=probe,
        targets=targets,
        rules=options.rules,
        size=size,
        options=passes,
        meter=build_meter(probe, size, check, one_logit=classes == 1),
        ranks=ranks,
        note=note,
    )


def _try_model(model: Any, probe: ProbeBatch, options: PassOptions, rules: Sequence[str]) -> int:
    """Explain one class of two images, and count the logits.

    A whole pass of the kind that observations make, so that what would fail in the first of them,
    perhaps after hours of training, fails before anything is trained.
    """
    # Of a single image, the same twice: see `count_classes`.
    tried = torch.arange(min(2, options.chunk_size or 2)) % len(probe)
    extras = {name: rows[tried] for name, rows in probe.extras.items()}
    trial = replace(options, forward=saying_what_failed(options.forward))
    try:
        request = Request(tuple(rules), 0)
        (explained,) = compute(trial, model, probe.images[tried], [request], extras)
    except (SaliencyError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise SaliencyError(
            f"trying {type(model).__name__} on images of the probe failed in the backward pass: "
            f"{type(error).__name__}: {error}"
        ) from error
    return explained.logits.shape[1]


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


def build_publisher(
    trainer: Trainer,
    observer: Observer,
    options: Options,
    number: int = 1,
    *,
    checked: bool = False,
    progress: Progress | None = None,
) -> Publisher:
    """Build a publisher of what ``observer`` sees. Collective.

    Args:
        trainer: Of the run.
        observer: Of its model.
        options: What to show and how.
        number: Of the model, among those that the trainer has fitted; each has its own record.
        checked: Whether the run is held against a check.
        progress: Shows how far the pictures are; by default nothing is shown.
    """
    ranks = observer.ranks
    folder = find_run_folder(trainer, ranks, needed=checked)
    first, log = ranks.rank == 0, PictureLog(trainer.loggers, folder, options.image_format)
    name = options.name if number == 1 else f"{options.name}-{number}"
    kept = folder / safe_name(name) if options.record and folder is not None else None
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
        progress=progress or Progress(),
    )
