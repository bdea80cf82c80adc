"""Models at hand: what a run would have measured of them, without a trainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import cast

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.failures import saying_what_failed
from lightning_saliency.attribution.logits import Forward, count_classes
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.attribution.targets import STRONGEST
from lightning_saliency.check.measures import GoodRuns
from lightning_saliency.check.reference import Reference, Source
from lightning_saliency.check.requirements import DEFAULT, parse_all
from lightning_saliency.draw.colours import sharp_size
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.functional.maps import MassReduce
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.provenance import run_info
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.facts import RunInfo

_SIZE = 96  # pixels per side of the maps that are kept: the default of a run


def build_observer(
    model: nn.Module,
    probe: ProbeBatch,
    forward: Forward | None = None,
    *,
    like: RunInfo | None = None,
    classes: Tensor | None = None,
    good: GoodRuns | None = None,
) -> Observer:
    """Build an observer of a model, which is tried on two images.

    Args:
        model: Any module; it is left as it was found.
        probe: The images.
        forward: ``forward(model, images, **extras)`` returns the logits; ``None`` to call the
            model plainly.
        like: The run whose measurements are repeated; ``None`` for the default measurements.
        classes: ``(N,)`` int64, the class to measure per image if the probe has no labels;
            ``None`` for the predicted ones.
        good: The good runs to compare with.

    Raises:
        SaliencyError: The model cannot be called with the images, or returns no logits.
        ValueError: The labels do not fit the model.
    """
    passes = PassOptions(saying_what_failed(forward), classes=probe.num_classes)
    logits = count_classes(
        model, probe.images, passes.forward, extras=probe.extras, classes=passes.classes
    )
    probe.check_fit(logits)
    size = sharp_size(*probe.drawn_size, _SIZE)
    meter = Meter.for_probe(probe, size, classes=classes, one_logit=logits == 1, good=good)
    if like is not None:
        rule, reduce = cast(Rule, like.rule), cast(MassReduce, like.reduce)
        meter = replace(meter, rule=rule, reduce=reduce)
    shown = meter.classes
    if shown is None:
        shown = torch.full((len(probe),), STRONGEST)
    return Observer(
        probe=probe,
        targets=None if meter.one_logit else shown[:, None],
        rules=(meter.rule,),
        size=size,
        options=passes,
        meter=meter,
    )


def reference_from_models(
    models: Iterable[nn.Module],
    probe: ProbeBatch,
    require: Sequence[str] = DEFAULT,
    *,
    reason: str = "",
    forward: Forward | None = None,
    names: Iterable[str] | None = None,
) -> Reference:
    """Make a reference from good models, which need not have been trained with the callback.

    It is the one that :meth:`Reference.from_runs` would make of runs that ended with these models.
    Automatic bounds come from the spread of at least three, trained with different seeds.

    Args:
        models: The modules, each of which is left as it was found. An iterator may load one after
            another, so that only one of them is in memory.
        probe: The images, as the models take them.
        require: What is required of a run; see :class:`requirements.Requirement`.
        reason: Why the models are good, for whoever looks at the reference later.
        forward: ``forward(model, images, **extras)`` returns the logits, if the models are not
            simply called.
        names: What messages and the reference call the models; by default their numbers.

    Raises:
        RecordError: Two models are the same, or the maps of one are all zero or not finite.
        NotComparableError: The probe has no labels, and the models predict different classes.
        SaliencyError: A model cannot be explained.
        TypeError: ``models`` are not modules, or ``probe`` is not a :class:`ProbeBatch`.
        ValueError: There are no models, or a requirement cannot be judged.

    Example:
        >>> from lightning_saliency import ProbeBatch
        >>> probe = ProbeBatch(torch.rand(2, 1, 8, 8), [0, 1])
        >>> models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 2)) for _ in range(3)]
        >>> len(reference_from_models(models, probe).runs)
        3
    """
    if isinstance(models, nn.Module):
        raise TypeError("`models` must be a list of modules, preferably three. Pass `[model]`.")
    if not isinstance(probe, ProbeBatch):
        raise TypeError(
            f"`probe` must be a ProbeBatch, got {type(probe).__name__}. Wrap tensors as "
            "`ProbeBatch(images, labels)`."
        )
    for requirement in parse_all(require):
        requirement.quantities(probe.masks)  # or raise, before anything is computed
    named = zip(models, (f"model {n}" for n in count(1)) if names is None else names, strict=False)
    sources = [_measure(model, probe, name, forward) for model, name in named]
    if not sources:
        raise ValueError("`models` must hold at least one module, preferably three, got none.")
    photos = MosaicRenderer(probe, style="signed", scale="map", size=_SIZE).photos()
    return Reference.from_sources(sources, photos, require, reason=reason)


def _measure(model: nn.Module, probe: ProbeBatch, name: str, forward: Forward | None) -> Source:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`models` must hold modules, got {type(model).__name__}.")
    observer = build_observer(model, probe, forward)
    # The code and the seed of this process are not those of the training.
    info = replace(run_info("saliency", observer.meter, {}), commit=None, seed=None, started="")
    return Source(name, info, observer.observe(model, name, step=0))
