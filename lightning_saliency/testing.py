"""For test suites and scripts: assert where a model looks; make a reference from models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from lightning_saliency.attribution.logits import Forward
from lightning_saliency.check.evaluate import Candidate, evaluate
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.report import as_text
from lightning_saliency.check.requirements import merge
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.observe.provenance import run_info
from lightning_saliency.observe.standalone import build_observer
from lightning_saliency.observe.standalone import reference_from_models as reference_from_models
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.run import open_run


def assert_attention(
    subject: nn.Module | str | Path,
    reference: Reference | str | Path,
    *,
    probe: ProbeBatch | None = None,
    require: Sequence[str] = (),
    strict: bool = False,
    forward: Forward | None = None,
) -> None:
    """Fail the calling test if a run or a model looks elsewhere than good runs do.

    Args:
        subject: The log folder of a recorded run, or its URL; or a model, which is explained now
            and left as it was found.
        reference: A reference, or its folder or URL. It is never created if it is missing.
        probe: The images of the reference, which a model needs.
        require: Sentences in addition to those of the reference.
        strict: Whether warnings are failures.
        forward: For a model: ``forward(model, images, **extras)`` returns the logits, with the
            extras of ``probe``.

    Raises:
        AssertionError: The outcome is not a pass; the message is the full report.
        RecordError: The run or the reference is missing or damaged.
        TypeError: A model was given without a probe.

    Warns:
        SaliencyWarning: The outcome is a pass with warnings.

    Example:
        >>> def test_where_the_model_looks():
        ...     assert_attention("logs/version_3", "attention")
    """
    if not isinstance(reference, Reference):
        reference = Reference.load(reference)
    requirements = merge(reference.requirements, require)
    if isinstance(subject, nn.Module):
        if probe is None:
            raise TypeError("`probe` is needed with a model: the images of the reference.")
        observer = build_observer(
            subject,
            probe,
            forward,
            like=reference.info,
            classes=reference.classes,
            good=reference,
        )
        observation = observer.observe(subject, "now", step=0)
        candidate = Candidate(run_info("now", observer.meter, {}), observation)
        verdict = evaluate(candidate, reference, requirements, strict=strict)
        verdict = observer.confirm(verdict, subject, observation.measured)
        name = type(subject).__name__
    else:
        run = open_run(subject)
        candidate = Candidate(run.info, run.last(), run.info.metrics)
        verdict = evaluate(candidate, reference, requirements, strict=strict)
        name = str(subject)
    report = as_text(verdict, name)
    if verdict.outcome != "pass":
        raise AssertionError(report)
    if verdict.doubtful:
        warnings.warn(report, SaliencyWarning, stacklevel=2)
