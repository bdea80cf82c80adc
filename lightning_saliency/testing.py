"""For test suites: assert that a run, or a model, looks where good runs look."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from lightning_saliency.about import run_info
from lightning_saliency.attribution import (
    Forward,
    Plan,
    call_plainly,
    carry_out,
    count_classes,
)
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.gauge import Gauge, MassReduce, measures_of
from lightning_saliency.judge import Seen, judge
from lightning_saliency.occlusion import confirm
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.record import Observation, open_run
from lightning_saliency.reference import Reference
from lightning_saliency.report import as_text
from lightning_saliency.requirements import parse_all
from lightning_saliency.rules import Rule

_SIZE = 96  # pixels a side of the maps that are kept


def assert_attention(
    subject: nn.Module | str | Path,
    reference: Reference | str | Path,
    *,
    probe: ProbeBatch | None = None,
    require: Sequence[str] = (),
    strict: bool = False,
    forward: Forward | None = None,
) -> None:
    """Fail the test that calls this if a run or a model looks elsewhere than good runs do.

    Args:
        subject: The log folder of a recorded run; or a model, which is explained here and left as
            it was found.
        reference: A reference or its folder. A missing one is an error, never made up.
        probe: The images of the reference, needed with a model.
        require: Sentences in addition to those that the reference holds.
        strict: Whether what is warned of fails.
        forward: ``forward(model, images)`` returns the logits, for a model.

    Raises:
        AssertionError: It looks elsewhere, or that cannot be told; the message says all of it.
        RecordError: A run or a reference is missing or damaged.
        TypeError: A model without a probe.

    Example:
        >>> def test_where_the_model_looks():
        ...     assert_attention("logs/version_3", "attention")
    """
    if not isinstance(reference, Reference):
        reference = Reference.load(reference)
    requirements = tuple(dict.fromkeys((*reference.requirements, *parse_all(require))))
    if isinstance(subject, nn.Module):
        if probe is None:
            raise TypeError("`probe` is needed with a model: the images of the reference.")
        seen = _seen_now(subject, probe, reference, forward)
    else:
        seen = _seen_then(subject)
    verdict = judge(seen, reference, requirements, strict=strict)
    if isinstance(subject, nn.Module) and probe is not None:
        verdict = confirm(verdict, subject, probe, seen.observation.measured, forward)
    name = subject if isinstance(subject, str | Path) else type(subject).__name__
    told = as_text(verdict, str(name))
    if verdict.outcome != "pass":
        raise AssertionError(told)
    if verdict.warnings:
        warnings.warn(told, SaliencyWarning, stacklevel=2)


def _seen_then(folder: str | Path) -> Seen:
    run = open_run(folder)
    return Seen(run.info, run.last(), run.info.metrics)


def _seen_now(
    model: nn.Module, probe: ProbeBatch, reference: Reference, forward: Forward | None
) -> Seen:
    """What a run would have recorded of ``model`` at this moment."""
    info = reference.info
    gauge = Gauge.for_probe(
        probe,
        _SIZE,
        classes=reference.classes,
        rule=cast(Rule, info.rule),
        reduce=cast(MassReduce, info.reduce),
        one_logit=count_classes(model, probe.images, forward) == 1,
    )
    plan = Plan(forward or call_plainly)
    explained = carry_out(plan, model, probe.images, [gauge.request(_all)])[0]
    measured = gauge.read(explained, _all).map_tensors(lambda tensor: tensor.cpu())
    observation = Observation(
        step=0,
        epoch=-1,
        caption="now",
        fingerprint=probe.fingerprint,
        rule=gauge.rule,
        targets=measured.classes[:, None],
        maps=measured.maps[:, None],
        peaks=measured.chances[:, None].new_ones(len(probe), 1),
        probabilities=measured.chances[:, None],
        measured=measured,
        measures=measures_of(measured, reference=reference.profile(), first=None, previous=None),
    )
    return Seen(run_info("now", probe, gauge, {}), observation)


def _all(tensor: Tensor) -> Tensor:
    return tensor
