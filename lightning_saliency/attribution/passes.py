"""Attributions of a live model: one forward pass, then one backward pass per target and rule.

:func:`compute` does the work of :func:`explain` and of the callback. A backward pass starts from a
tensor that is 1 at one class of each image (the seed), so that it explains one class for all images
of a chunk at once. What it yields goes to reducers, one chunk and one column of classes at a time:
:func:`explain` keeps it all, and the callback only what it shows and measures.

Rules that are callables of the user's are called once per column instead, see :mod:`methods`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.diagnostics import (
    check_graph,
    note_output,
    warn,
    warn_of_doubts,
)
from lightning_saliency.attribution.graph import Coverage, Graph
from lightning_saliency.attribution.jobs import Attributions as Attributions
from lightning_saliency.attribution.jobs import Chunk as Chunk
from lightning_saliency.attribution.jobs import Job, plan
from lightning_saliency.attribution.jobs import Reducer as Reducer
from lightning_saliency.attribution.jobs import Request as Request
from lightning_saliency.attribution.layout import LayoutError, channels_last, remember_misfit
from lightning_saliency.attribution.logits import Extras, Forward, Pass, fit_to_model, run_forward
from lightning_saliency.attribution.methods import LogitModel, Method, apply_method
from lightning_saliency.attribution.rules import RULES
from lightning_saliency.attribution.targets import resolve_targets
from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.arguments import check_extras, check_images
from lightning_saliency.isolation.module import undisturbed


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
        methods: How to compute the rules that are not built in: a callable for each name.
        quick: What may be called instead of ``forward`` for the built-in rules. It may change the
            order of activations in memory, so the operations of the model must not depend on it.
    """

    forward: Forward
    chunk_size: int | None = None
    alone: bool = True
    warned: set[str] | None = field(default=None, compare=False)
    classes: int | None = None
    methods: Mapping[str, Method] = field(default_factory=dict)
    quick: Forward | None = None

    def __post_init__(self) -> None:
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(
                f"`chunk_size` must be at least 1, got {self.chunk_size}. `None` takes all images "
                "at once."
            )


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
    _check_rules(options, requests)
    check_images(images)
    check_extras({} if extras is None else extras, len(images))
    images = fit_to_model(model, images)
    extras = {name: rows.to(images.device) for name, rows in (extras or {}).items()}
    jobs = _explain_quickly(options, model, images, extras, requests, reducers)
    if jobs is None:
        planned = plan(images, requests, reducers, alone=options.alone)
        jobs = _explain(options, model, images, extras, planned)
    explained = [job.finish() for job in jobs]
    finite = [item for job in jobs for item in job.finite.items()]
    warn_of_doubts(model, explained[0].coverage, finite, options.warned, options.methods)
    note_output(model, explained[0].logits, explained[0].activation)
    return explained


def _check_rules(options: PassOptions, requests: Sequence[Request]) -> None:
    for rule in (rule for request in requests for rule in request.rules):
        if rule not in RULES and rule not in options.methods:
            raise ValueError(f"`rules` must be among {', '.join(RULES)}, got {rule!r}.")


def _explain(
    options: PassOptions, model: nn.Module, images: Tensor, extras: Extras, jobs: list[Job]
) -> list[Job]:
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
) -> list[Job] | None:
    """Explain with weights whose channels lie last; return ``None`` if that is not possible."""
    jobs = plan(images, requests, reducers, alone=options.alone)
    quick = channels_last(options.forward, model, images) if options.alone else None
    if quick is None:
        return None
    try:
        return _explain(replace(options, quick=quick), model, images, extras, jobs)
    except (LayoutError, RuntimeError, ValueError, AssertionError) as error:
        if any(job.failure is not None for job in jobs):
            raise
        # Whatever is wrong with the model is raised again by plain passes. Reducers may have taken
        # attributions already, which those overwrite.
        remember_misfit(model, images, error)
        return None


def _in_chunks(
    options: PassOptions, model: nn.Module, images: Tensor, extras: Extras, jobs: Sequence[Job]
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
    jobs: Sequence[Job],
    rows: slice,
) -> list[Attributions]:
    """Run one forward pass of ``rows``, then what each job asks for."""
    further = {name: extra[rows] for name, extra in extras.items()}
    forward = options.quick or options.forward
    run = run_forward(forward, model, images[rows], further, options.classes)
    rules = {rule for job in jobs for rule in job.request.rules} - options.methods.keys()
    graph = _build_graph(options, run, rules) if rules else None
    live = LogitModel(
        options.forward, model, images[rows], further, options.classes, run.head is not None
    )
    activation = None if run.head is None else run.head.activation
    coverage, logits, leaf = Coverage() if graph is None else graph.coverage, run.logits, run.leaf
    # Methods make graphs of their own, so that of this pass, which may be large, need not be kept.
    kept = None if graph is None else run
    del run
    explained = []
    for job in jobs:
        classes = resolve_targets(None if job.targets is None else job.targets[rows], logits)
        job.begin(Chunk(rows, len(images), classes, logits))
        for rule in job.request.rules:
            if rule in options.methods:
                _call_method(options.methods[rule], rule, job, live, leaf, classes)
            elif graph is not None and kept is not None:
                _attribute(graph, rule, job, kept, classes, options.alone)
        explained.append(Attributions({}, classes, logits, coverage, activation))
    return explained


def _build_graph(options: PassOptions, run: Pass, rules: set[str]) -> Graph:
    """Find the activations of a forward pass, to which ``rules`` are to be applied."""
    graph = Graph(run.output, run.leaf, run.head)
    if options.quick is not None and not graph.any_layout:
        raise LayoutError("an operation of the model may depend on the order of its memory")
    check_graph(graph, rules)
    return graph


def _call_method(
    method: Method, rule: str, job: Job, live: LogitModel, images: Tensor, classes: Tensor
) -> None:
    """Call a method once per column of ``classes``, so that one attribution exists at a time."""
    for column in range(classes.shape[1]):
        try:
            attribution = apply_method(method, rule, live, images, classes[:, column])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            job.fail(error)
        else:
            job.take(rule, column, attribution)
            del attribution


def _attribute(graph: Graph, rule: str, job: Job, run: Pass, classes: Tensor, alone: bool) -> None:
    """Run one backward pass per column of ``classes``.

    Args:
        graph: The graph of the forward pass.
        rule: The rule to follow.
        job: It takes the attributions.
        run: The forward pass.
        classes: ``(n, K)`` int64.
        alone: Whether passes may be repeated; see :class:`PassOptions`.
    """
    scales = _SEED_SCALES if alone and run.half else (1.0,)
    with graph.following(rule):
        for column in range(classes.shape[1]):
            seed = torch.zeros_like(run.output).scatter_(1, classes[:, [column]], 1)
            # The attribution gets no name here, which would keep it until the next is done.
            job.take(rule, column, _input_gradient(run.output, run.leaf, seed, scales).contiguous())


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
