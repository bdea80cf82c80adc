"""The model that a trainer holds: what to call, in which precision, and an observer of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_saliency.about import run_info
from lightning_saliency.attribution import Forward, Plan, count_classes
from lightning_saliency.check import AttentionCheck
from lightning_saliency.differences import draw
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.files import safe_name
from lightning_saliency.gauge import Gauge
from lightning_saliency.judge import Seen
from lightning_saliency.logbook import Logbook
from lightning_saliency.loggers import PictureLog, run_folder
from lightning_saliency.observer import Observer
from lightning_saliency.occlusion import doubtful
from lightning_saliency.options import Options
from lightning_saliency.pictures import Artist
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.ranks import Ranks
from lightning_saliency.record import RunInfo
from lightning_saliency.recorder import Recorder
from lightning_saliency.targets import choose_targets
from lightning_saliency.verdict import Verdict


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


def metrics_of(trainer: Any, ours: Sequence[str]) -> dict[str, float]:
    """What a run has logged, apart from what callbacks named ``ours`` have."""
    found = {str(name): float(value) for name, value in trainer.callback_metrics.items()}
    prefixes = tuple(f"{name}/" for name in ours)
    return {name: value for name, value in found.items() if not name.startswith(prefixes)}


def observer_of(
    trainer: Any,
    pl_module: Any,
    probe: ProbeBatch,
    options: Options,
    logbook: Logbook,
    check: AttentionCheck | None = None,
) -> Observer:
    """An observer of ``pl_module``, which is tried on one image. Collective: on every rank.

    Raises:
        SaliencyError: No logits in what the module returns, or it fails on another rank.
        ValueError: Targets that the module or the probe does not know, names that collide, or a
            requirement on a region that the probe has no mask of.
    """
    ranks = Ranks(trainer)
    forward = in_precision_of(trainer, options.forward)
    with ranks.together("trying the model on an image of the probe"):
        classes = count_classes(callable_model(trainer, pl_module), probe.images, forward)
    folder = run_folder(trainer)
    first, log = ranks.rank == 0, PictureLog(trainer.loggers, folder, options.image_format)
    artist = Artist(
        probe,
        style=options.style,
        scale=options.scale,
        size=options.tile_size,
        rule=options.rule,
        one_logit=classes == 1,
    )
    kept = folder / safe_name(options.name) if options.record and folder is not None else None
    return Observer(
        probe=probe,
        targets=choose_targets(options.targets, probe, classes),
        rule=options.rule,
        plan=Plan(forward, options.chunk_size, alone=not ranks.sharded),
        tag=options.name,
        artist=artist,
        log=log if first else None,
        ranks=ranks,
        logbook=logbook,
        gauge=_gauge_of(probe, artist.size, check, one_logit=classes == 1),
        recorder=Recorder(kept, options.keep) if first and kept is not None else None,
        recorded_at=kept,
        reference=check.reference.profile() if check and check.reference else None,
    )


def _gauge_of(
    probe: ProbeBatch, size: int, check: AttentionCheck | None, *, one_logit: bool
) -> Gauge:
    if check is None:
        return Gauge.for_probe(probe, size, one_logit=one_logit)
    for requirement in check.requirements:
        requirement.measures(probe.masks)  # or raise, while nothing is lost yet
    return Gauge.for_probe(
        probe,
        size,
        classes=check.reference.classes if check.reference else None,
        rule=check.rule,
        reduce=check.reduce,
        one_logit=one_logit,
    )


def begin_record(
    observer: Observer, name: str, settings: Mapping[str, Any], *, after: int | None
) -> RunInfo:
    """What is known of the run; written down where it is recorded. Collective.

    Args:
        observer: Of the run.
        name: Of the callback.
        settings: How it is observed; primitives only.
        after: The last step of the run's past, -1 for none; ``None`` outside of training, where
            nothing is given up.
    """
    with observer.ranks.together("beginning the record"):
        info = run_info(name, observer.probe, observer.gauge, settings)
        photos = observer.artist.photos()
        if observer.recorder is not None and after is not None:
            observer.recorder.begin(info, photos, after=after)
        elif observer.recorder is not None and not observer.recorder.join(info, photos):
            folder, observer.recorder = observer.recorder.folder, None
            warnings.warn(
                f"{folder} holds the record of a run of another probe or rule: what is seen now is "
                "not recorded there. Log to another folder, or pass the same `probe`.",
                SaliencyWarning,
                stacklevel=2,
            )
        last = -1 if observer.recorder is None else observer.recorder.last_step()
    # A step of the record's past would overwrite it.
    observer.logbook.last_step = max(observer.logbook.last_step, observer.ranks.of_first(last))
    return info


def log_verdict(observer: Observer, check: AttentionCheck, seen: Seen, verdict: Verdict) -> None:
    """Log the picture of a verdict that is not clean. Collective."""
    with observer.ranks.together("drawing what moved"):
        if observer.log is not None and check.reference is not None and doubtful(verdict):
            picture = draw(seen, check.reference, verdict)
            observer.log_picture("attention/difference", picture, seen.observation.step)
