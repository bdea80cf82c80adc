"""Attributions of a live model: one forward pass, then one backward pass per target and rule.

:func:`compute` does the work of :func:`explain` and of the callback. A backward pass starts from a
tensor that is 1 at one class of each image (the seed), so that it explains one class for all images
of a chunk at once. What it yields goes to reducers, one chunk and one column of classes at a time:
:func:`explain` keeps it all, and the callback only what it shows and measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.diagnostics import (
    check_graph,
    note_output,
    warn,
    warn_of_doubts,
)
from lightning_saliency.attribution.graph import Coverage, Graph
from lightning_saliency.attribution.heads import Activation, is_multi_label
from lightning_saliency.attribution.layout import LayoutError, channels_last, remember_misfit
from lightning_saliency.attribution.logits import Extras, Forward, Pass, fit_to_model, run_forward
from lightning_saliency.attribution.rules import RULES, Rule
from lightning_saliency.attribution.targets import Targets, as_columns, resolve_targets
from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.arguments import check_extras, check_images
from lightning_saliency.functional.maps import Reduce, reduce_channels
from lightning_saliency.isolation.module import undisturbed


@dataclass(frozen=True, slots=True)
class Attributions:
    """Attributions of a batch of images; index it with a rule to get the tensor of that rule.

    Attributes:
        attributions: For each rule, ``(N, K, C, H, W)``, signed, in logits per input unit; empty
            if reducers took them.
        targets: ``(N, K)`` int64, the class that each attribution explains.
        logits: ``(N, num_classes)``, the model's output for the images, or the logits under the
            softmax or sigmoid that it ends in.
        coverage: How the activations between the images and the logits were treated.
        activation: That ``"softmax"`` or ``"sigmoid"``; ``None`` if the model returns logits.
    """

    attributions: Mapping[str, Tensor]
    targets: Tensor
    logits: Tensor
    coverage: Coverage = field(default_factory=Coverage)
    activation: Activation | None = None

    def __getitem__(self, rule: str) -> Tensor:
        if rule not in self.attributions:
            raise KeyError(
                f"no attribution by {rule!r} here, only by {', '.join(self.attributions)}; "
                f"ask for it with explain(…, rules=({rule!r},))"
            )
        return self.attributions[rule]

    def multi_label(self, labelled: bool) -> bool:
        """Return whether each logit has a probability of its own.

        Args:
            labelled: Whether the labels say so. An output of several probabilities knows better.
        """
        return is_multi_label(self.activation, self.logits, labelled)

    def maps(self, rule: str, reduce: Reduce = "abs_max") -> Tensor:
        """Reduce the attribution by ``rule`` to saliency maps ``(N, K, H, W)``.

        Those of volumes are ``(N, K, D, H, W)``. See :func:`maps.reduce_channels` for the values of
        ``reduce`` and for the errors.
        """
        signed = self[rule]
        # What is done per pixel takes a volume as one image, its slices under each other.
        flat = reduce_channels(signed.flatten(3, -2), reduce)
        return flat.view(*signed.shape[:2], *signed.shape[3:])


@dataclass(frozen=True, slots=True)
class PassOptions:
    """Options of the passes that do not depend on the images.

    Attributes:
        forward: ``forward(model, images, **extras)`` returns the logits.
        chunk_size: Number of images in one forward pass; ``None`` takes all of them at once.
        alone: Whether no other process takes part in the passes. Only then may a process repeat a
            pass by itself, because a sharded model would wait for the other processes.
        warned: The doubts that were warned of already; each is warned of once. ``None`` leaves it
            to the warning filters how often a warning is shown.
        classes: The number of classes, if known; see :func:`find_logits`.
        any_layout: Whether ``forward`` may change the order of activations in memory, so that the
            operations of the model must not depend on it.
    """

    forward: Forward
    chunk_size: int | None = None
    alone: bool = True
    warned: set[str] | None = field(default=None, compare=False)
    classes: int | None = None
    any_layout: bool = False

    def __post_init__(self) -> None:
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(
                f"`chunk_size` must be at least 1, got {self.chunk_size}. `None` takes all images "
                "at once."
            )


@dataclass(frozen=True, slots=True)
class Request:
    """Which classes to explain by which rules; several requests share one forward pass."""

    rules: tuple[Rule, ...]
    targets: Targets = "all"

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError(
                f"`rules` must name at least one rule, got none. Choose from {', '.join(RULES)}."
            )
        for rule in self.rules:
            if rule not in RULES:
                raise ValueError(f"`rules` must be among {', '.join(RULES)}, got {rule!r}.")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Images that pass through the model together.

    Attributes:
        rows: Which of all images they are.
        count: The number of all images.
        classes: ``(n, K)`` int64, the classes that are explained, one column per backward pass.
        logits: ``(n, num_classes)``.
    """

    rows: slice
    count: int
    classes: Tensor
    logits: Tensor


class Reducer(Protocol):
    """Keeps what is needed of each attribution, which is gone after the call."""

    def begin(self, chunk: Chunk) -> None:
        """Prepare for the attributions of ``chunk``.

        A chunk may begin again with fewer images, if memory ran out.
        """

    def take(self, rule: Rule, column: int, attribution: Tensor) -> None:
        """Take the attribution ``(n, C, H, W)`` of one column of the chunk's classes by ``rule``.

        It is contiguous and must not be written to, because other reducers get it too.
        """


def compute(
    options: PassOptions,
    model: nn.Module,
    images: Tensor,
    requests: Sequence[Request],
    extras: Extras | None = None,
    reducers: Sequence[Sequence[Reducer]] | None = None,
) -> list[Attributions]:
    """Compute the attributions for each of ``requests``, and warn of what makes them doubtful.

    Args:
        options: How to run the passes.
        model: Any module; it is left as it was found.
        images: ``(N, C, H, W)``, floating point; they are moved to the model's device.
        requests: What to explain.
        extras: Further inputs of the model, one row per image.
        reducers: For each request, who takes its attributions; ``None`` keeps them all. With
            reducers, no more than the attributions of one chunk and one column exist at a time.

    Returns:
        One item per request, in their order; without the attributions, if reducers took them.

    Raises:
        TypeError: ``model`` is not a module, or an argument has the wrong type.
        ValueError: A shape does not fit, or a class is out of range.
        SaliencyError: The model cannot be explained, or there is not enough memory to do so.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`model` must be a torch.nn.Module, got {type(model).__name__}. To explain a function,"
            " pass the module it uses as `model` and call it in `forward=lambda model, images: …`."
        )
    check_images(images)
    check_extras({} if extras is None else extras, len(images))
    images = fit_to_model(model, images)
    extras = {name: rows.to(images.device) for name, rows in (extras or {}).items()}
    jobs = _explain_quickly(options, model, images, extras, requests, reducers)
    if jobs is None:
        jobs = _explain(options, model, images, extras, _plan(options, images, requests, reducers))
    explained = [job.finish() for job in jobs]
    finite = [item for job in jobs for item in job.finite.items()]
    warn_of_doubts(model, explained[0].coverage, finite, options.warned)
    note_output(model, explained[0].logits, explained[0].activation)
    return explained


def _explain(
    options: PassOptions, model: nn.Module, images: Tensor, extras: Extras, jobs: list[_Job]
) -> list[_Job]:
    """Do all jobs, and leave the model as it was found."""
    with undisturbed(model):
        for parts in _in_chunks(options, model, images, extras, jobs):
            for job, part in zip(jobs, parts, strict=True):
                job.parts.append(part)
    return jobs


def _explain_quickly(
    options: PassOptions,
    model: nn.Module,
    images: Tensor,
    extras: Extras,
    requests: Sequence[Request],
    reducers: Sequence[Sequence[Reducer]] | None,
) -> list[_Job] | None:
    """Explain with weights whose channels lie last; return ``None`` if that is not possible."""
    jobs = _plan(options, images, requests, reducers)
    quick = channels_last(options.forward, model, images) if options.alone else None
    if quick is None:
        return None
    quick_options = replace(options, forward=quick, any_layout=True)
    try:
        return _explain(quick_options, model, images, extras, jobs)
    except Exception as error:
        if any(job.failure is not None for job in jobs):
            raise
        # Whatever is wrong with the model is raised again by plain passes. Reducers may have taken
        # attributions already, which those overwrite.
        remember_misfit(model, images, error)
        return None


class _Everything:
    """Keeps all attributions in full."""

    def __init__(self) -> None:
        self.attributions: dict[str, Tensor] = {}

    def begin(self, chunk: Chunk) -> None:
        self._chunk = chunk

    def take(self, rule: Rule, column: int, attribution: Tensor) -> None:
        if rule not in self.attributions:
            shape = (self._chunk.count, self._chunk.classes.shape[1], *attribution.shape[1:])
            self.attributions[rule] = attribution.new_empty(shape)
        self.attributions[rule][self._chunk.rows, column] = attribution


@dataclass(slots=True)
class _Job:
    """A request, and who takes the attributions.

    Attributes:
        request: What to explain.
        targets: ``(N, K)``, as :func:`as_columns` returns them.
        reducers: They take the attributions.
        everything: The reducer among them that keeps all attributions, if there is one.
        alone: See :class:`PassOptions`.
        finite: For each rule, a bool tensor: whether all values were finite.
        parts: What each chunk returned.
        failure: The first error of a reducer.
    """

    request: Request
    targets: Tensor | None
    reducers: Sequence[Reducer]
    everything: _Everything | None
    alone: bool
    finite: dict[Rule, Tensor] = field(default_factory=dict)
    parts: list[Attributions] = field(default_factory=list)
    failure: Exception | None = None

    def begin(self, chunk: Chunk) -> None:
        """Announce ``chunk`` to the reducers."""
        for reducer in self.reducers:
            reducer.begin(chunk)

    def take(self, rule: Rule, column: int, attribution: Tensor) -> None:
        """Hand an attribution to the reducers, and note whether it is finite."""
        try:
            # The extremes show it without another tensor of the attribution's size.
            extremes = torch.stack((attribution.amax(), attribution.amin()))
            finite = torch.isfinite(extremes).all()
            self.finite[rule] = self.finite[rule] & finite if rule in self.finite else finite
            for reducer in self.reducers:
                reducer.take(rule, column, attribution)
        except Exception as error:
            self.failure = self.failure or error
            # If other processes take part in the passes, they would wait for those still to come.
            if self.alone:
                raise

    def finish(self) -> Attributions:
        """Join what the chunks returned."""
        if self.failure is not None:
            raise self.failure
        parts = self.parts
        return Attributions(
            {} if self.everything is None else self.everything.attributions,
            torch.cat([p.targets for p in parts]),
            torch.cat([p.logits for p in parts]),
            parts[0].coverage,
            parts[0].activation,
        )


def _plan(
    options: PassOptions,
    images: Tensor,
    requests: Sequence[Request],
    reducers: Sequence[Sequence[Reducer]] | None,
) -> list[_Job]:
    """Pair each request with its reducers."""
    jobs = []
    for index, request in enumerate(requests):
        everything = _Everything() if reducers is None else None
        takers = (everything,) if everything is not None else (reducers or ())[index]
        targets = as_columns(request.targets, images)
        jobs.append(_Job(request, targets, takers, everything, options.alone))
    return jobs


def _in_chunks(
    options: PassOptions, model: nn.Module, images: Tensor, extras: Extras, jobs: Sequence[_Job]
) -> Iterator[list[Attributions]]:
    """Explain the images chunk by chunk; halve the chunks whenever memory runs out."""
    size, start = options.chunk_size or len(images), 0
    while start < len(images):
        try:
            rows = slice(start, min(start + size, len(images)))
            yield _explain_chunk(options, model, images, extras, jobs, rows)
        except torch.OutOfMemoryError as error:
            if size == 1 or not options.alone:
                raise SaliencyError(_out_of_memory(options, size)) from error
            size = -(-min(size, len(images)) // 2)
        else:
            start += size
            continue
        # Free memory outside of the handler: inside it, the error's traceback would still keep the
        # tensors of the failed pass alive.
        torch.cuda.empty_cache()
        warn(f"memory ran out; explaining {size} image(s) at a time. Set `chunk_size={size}`.")


def _out_of_memory(options: PassOptions, size: int) -> str:
    if options.alone:
        return "memory ran out while explaining a single image; free some, or explain smaller ones."
    return (
        f"memory ran out while explaining {size} image(s). Other processes take part in this pass, "
        f"so it cannot be repeated with fewer images. Set `chunk_size={max(1, size // 2)}`."
    )


def _explain_chunk(
    options: PassOptions,
    model: nn.Module,
    images: Tensor,
    extras: Extras,
    jobs: Sequence[_Job],
    rows: slice,
) -> list[Attributions]:
    """Run one forward pass of ``rows``, then the backward passes of each job."""
    further = {name: extra[rows] for name, extra in extras.items()}
    run = run_forward(options.forward, model, images[rows], further, options.classes)
    graph = Graph(run.output, run.leaf, run.head)
    if options.any_layout and not graph.any_layout:
        raise LayoutError("an operation of the model may depend on the order of its memory")
    check_graph(graph, {rule for job in jobs for rule in job.request.rules})
    scales = _SEED_SCALES if options.alone and run.half else (1.0,)
    activation = None if run.head is None else run.head.activation
    explained = []
    for job in jobs:
        classes = resolve_targets(None if job.targets is None else job.targets[rows], run.logits)
        job.begin(Chunk(rows, len(images), classes, run.logits))
        _attribute(graph, job, run, classes, scales)
        explained.append(Attributions({}, classes, run.logits, graph.coverage, activation))
    return explained


def _attribute(
    graph: Graph, job: _Job, run: Pass, classes: Tensor, scales: tuple[float, ...]
) -> None:
    """Run one backward pass per rule and column of ``classes``.

    Args:
        graph: The graph of the forward pass.
        job: It names the rules to follow and takes the attributions.
        run: The forward pass.
        classes: ``(n, K)`` int64.
        scales: The scales to try for the seed; see ``_SEED_SCALES``.
    """
    for rule in job.request.rules:
        with graph.following(rule):
            for column in range(classes.shape[1]):
                seed = torch.zeros_like(run.output).scatter_(1, classes[:, [column]], 1)
                # The attribution gets no name here, which would keep it until the next is done.
                job.take(
                    rule, column, _input_gradient(run.output, run.leaf, seed, scales).contiguous()
                )


# Gradients in float16 vanish below 6e-8 and overflow above 65504. By every rule, multiplying the
# seed by a positive factor multiplies the gradient by the same factor. So the seed is scaled up at
# the logits and the gradient scaled back at the images, which is exact for powers of two. The first
# scale that does not overflow is used.
_SEED_SCALES = (2.0**10, 1.0, 2.0**-10)


def _input_gradient(
    logits: Tensor, leaf: Tensor, seed: Tensor, scales: tuple[float, ...]
) -> Tensor:
    """Run one backward pass from ``seed`` at the logits to the images."""
    for scale in scales:
        (gradient,) = torch.autograd.grad(logits, leaf, seed * scale, retain_graph=True)
        if len(scales) == 1 or bool(torch.isfinite(gradient).all()):
            break
    return gradient / scale if scale != 1 else gradient
