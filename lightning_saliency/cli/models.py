"""Models named on the command line: references from them, and the confirmation of a verdict."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_saliency.attribution.logits import Forward
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.verdict import Verdict
from lightning_saliency.cli.checkpoints import check_kind, find_probes, load_model, read_checkpoint
from lightning_saliency.cli.imported import describe, import_object, parse_arguments
from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.measures import moved_mass
from lightning_saliency.observe.standalone import build_observer, reference_from_models
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import Measured, Observation
from lightning_saliency.record.run import Run

ABOUT_MODELS = """\
checkpoints:
  With --model, the class is imported from pkg.module, with the current folder on the path, and the
  code in that module runs. The checkpoint is loaded with weights only: nothing in it is executed,
  but its hyperparameters are passed to the class. Computations run on the CPU."""

# The model of a checkpoint is the recorded one if it agrees with the record up to rounding. In
# trainings with bfloat16, probabilities differed by up to 0.007 from those in single precision;
# profiles of neighbouring epochs differed by 0.006 and more.
SAME_PROBABILITY = 0.02
SAME_PROFILE = 0.005


def add_model_options(made: argparse.ArgumentParser, probe: str, *, several: bool) -> None:
    """Add the options that name a model.

    Args:
        made: The parser of a command.
        probe: What the probe is for.
        several: Whether there may be several checkpoints.
    """
    group = made.add_argument_group("models")
    group.add_argument("--model", metavar="M", help="its class, as pkg.module:Class")
    more: dict[str, Any] = {"action": "append"} if several else {}
    repeated = "; once for each model" if several else ""
    group.add_argument("--ckpt", metavar="F", help=f"its checkpoint{repeated}", **more)
    group.add_argument("--probe", metavar="F", help=probe)
    argument = "an argument of the class that the checkpoint does not hold; may be repeated"
    group.add_argument("--model-arg", metavar="K=V", action="append", default=[], help=argument)
    forward = "pkg.module:function(model, images) that returns the logits, if it is not just called"
    group.add_argument("--forward", metavar="M", help=forward)


def names_model(options: argparse.Namespace) -> bool:
    """Whether there is a model on the command line.

    Args:
        options: Of a command with :func:`add_model_options`; wrong usage ends the program.
    """
    if bool(options.model) != bool(options.ckpt):
        options.error("--model and --ckpt must be given together")
    if not options.ckpt and (options.probe or options.model_arg or options.forward):
        options.error("--probe, --model-arg and --forward need --model and --ckpt")
    return bool(options.ckpt)


@dataclass(frozen=True, slots=True, eq=False)
class _Loader:
    """Loads checkpoints as models of one class."""

    kind: Any
    arguments: dict[str, Any]
    forward: Forward | None

    @classmethod
    def parse(cls, options: argparse.Namespace) -> _Loader:
        kind = import_object("--model", options.model)
        check_kind(kind, options.model)
        forward = None
        if options.forward:
            forward = import_object("--forward", options.forward)
            if not callable(forward):
                raise ValueError(f"`--forward`: {options.forward} is not a function")
        return cls(kind, parse_arguments("--model-arg", options.model_arg), forward)

    def load(self, path: str) -> nn.Module:
        return load_model(self.kind, path, self.arguments)


def reference_from_checkpoints(options: argparse.Namespace, require: Sequence[str]) -> Reference:
    """Make a reference from the checkpoints on the command line; one model is loaded at a time."""
    loader = _Loader.parse(options)
    probe = ProbeBatch.load(options.probe) if options.probe else _find_common_probe(options.ckpt)
    return reference_from_models(
        (loader.load(path) for path in options.ckpt),
        probe,
        require,
        reason=options.reason,
        forward=loader.forward,
        names=options.ckpt,
    )


def _find_common_probe(paths: list[str]) -> ProbeBatch:
    """The probe that runs with the callback have left in the first of their checkpoints."""
    found = {probe.fingerprint: probe for probe in find_probes(read_checkpoint(paths[0]))}
    if len(found) != 1:
        holds = "several probes" if found else "no probe"
        raise ValueError(
            f"{paths[0]} holds {holds}; pass the images to explain as `--probe probe.safetensors`. "
            "`ProbeBatch.from_dataset(val_data).save('probe.safetensors')` makes such a file"
        )
    return next(iter(found.values()))


@dataclass(frozen=True, slots=True, eq=False)
class Confirmation:
    """The model of a checkpoint, to confirm what was found in the record of its run.

    Attributes:
        path: The file of the checkpoint.
        model: The model.
        probe: The images of the run.
        forward: How the model is called; ``None`` for plainly.
        epoch: When the checkpoint was saved, in words.
    """

    path: str
    model: nn.Module
    probe: ProbeBatch
    forward: Forward | None
    epoch: str

    @classmethod
    def load(cls, options: argparse.Namespace, run: Run) -> Confirmation:
        """Load the model on the command line, and the images of ``run``.

        Raises:
            OSError: A file is missing.
            ValueError: The class or the checkpoint cannot be used, or the images are not those of
                the run.
        """
        loader = _Loader.parse(options)
        checkpoint = read_checkpoint(options.ckpt)
        probe = _find_probe(options, run, find_probes(checkpoint))
        epoch = checkpoint.get("epoch")
        saved = f" saved at epoch {epoch}" if isinstance(epoch, int) else ""
        model = loader.load(options.ckpt)
        return cls(options.ckpt, model, probe, loader.forward, saved)

    def confirm(self, verdict: Verdict, run: Run, observation: Observation) -> tuple[Verdict, str]:
        """Hide what gained most, if the model is the one that was observed.

        Returns:
            The verdict; and why it is not confirmed, or an empty string. A failure must not hide
            the verdict, so it is such a reason too.
        """
        recorded = observation.measured
        try:
            observer = build_observer(
                self.model, self.probe, self.forward, like=run.info, classes=recorded.classes
            )
            measured = observer.observe(self.model, "now", step=0).measured
            if differs := _describe_difference(recorded, measured, run.info.images):
                return verdict, (
                    f"{self.path}{self.epoch} is not the model that the run has recorded at "
                    f"{observation.caption}: {differs}"
                )
            return observer.confirm(verdict, self.model, recorded), ""
        except (SaliencyError, ValueError, TypeError) as error:
            return verdict, describe(error)


def _find_probe(options: argparse.Namespace, run: Run, kept: Iterator[ProbeBatch]) -> ProbeBatch:
    """The images of the run: from a file if one is given, else from the checkpoint."""
    wanted = run.info.fingerprint
    if options.probe:
        probe = ProbeBatch.load(options.probe)
        if probe.fingerprint == wanted:
            return probe
        what = (
            f"{options.probe} is not the probe of {options.run}: its images, labels or masks differ"
        )
    else:
        for probe in kept:
            if probe.fingerprint == wanted:
                return probe
        what = f"{options.ckpt} does not hold the probe of {options.run}"
    raise ValueError(
        f"{what}. Checkpoints of a run with the callback hold its probe; else save it after "
        "training, `callback.probe.save('probe.safetensors')`, and pass it as `--probe`"
    )


def _describe_difference(recorded: Measured, measured: Measured, names: Sequence[str]) -> str:
    """Say by what another model is recognised; empty if both are the same."""
    before, now = recorded.probabilities, measured.probabilities
    gaps = (now - before).abs()
    worst = int(gaps.argmax())
    if not float(gaps[worst]) <= SAME_PROBABILITY:
        return (
            f"it gives the label of {names[worst]!r} a probability of {float(now[worst]):.3f}, "
            f"not {float(before[worst]):.3f}"
        )
    moved = moved_mass(measured.mean_profile(), recorded.mean_profile())
    if not moved <= SAME_PROFILE:
        return f"{moved:.1%} of its gradient lies elsewhere"
    return ""
