"""Attributions of a live model: one forward pass, then one backward pass per target and rule.

:func:`compute` does the work of :func:`explain` and of the callback. A backward pass starts from a
tensor that is 1 at one class of each image (the seed), so that it explains one class for all images
of a chunk at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.diagnostics import (
    check_graph,
    note_output,
    warn,
    warn_of_doubts,
)
from lightning_saliency.attribution.heads import Activation, is_multi_label
from lightning_saliency.attribution.logits import Extras, Forward, fit_to_model, run_forward
from lightning_saliency.attribution.rules import RULES, Coverage, Graph, Rule
from lightning_saliency.attribution.targets import Targets, as_columns, resolve_targets
from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.arguments import check_extras, check_images
from lightning_saliency.functional.maps import Reduce, reduce_channels
from lightning_saliency.isolation.module import undisturbed


@dataclass(frozen=True, slots=True)
class Attributions:
    """Attributions of a batch of images; index it with a rule to get the tensor of that rule.

    Attributes:
        attributions: For each rule, ``(N, K, C, H, W)``, signed, in logits per input unit.
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

        See :func:`maps.reduce_channels` for the values of ``reduce`` and for the errors.
        """
        return reduce_channels(self[rule], reduce)


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
    """

    forward: Forward
    chunk_size: int | None = None
    alone: bool = True
    warned: set[str] | None = field(default=None, compare=False)
    classes: int | None = None

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


def compute(
    options: PassOptions,
    model: nn.Module,
    images: Tensor,
    requests: Sequence[Request],
    extras: Extras | None = None,
) -> list[Attributions]:
    """Compute the attributions for each of ``requests``, and warn of what makes them doubtful.

    Args:
        options: How to run the passes.
        model: Any module; it is left as it was found.
        images: ``(N, C, H, W)``, floating point; they are moved to the model's device.
        requests: What to explain.
        extras: Further inputs of the model, one row per image.

    Returns:
        One item per request, in their order.

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
    wanted = [as_columns(request.targets, images) for request in requests]
    with undisturbed(model):
        chunks = list(_in_chunks(options, model, images, extras, requests, wanted))
    explained = [_join(parts) for parts in zip(*chunks, strict=True)]
    attributions = [item for e in explained for item in e.attributions.items()]
    warn_of_doubts(model, explained[0].coverage, attributions, options.warned)
    note_output(model, explained[0].logits, explained[0].activation)
    return explained


def _in_chunks(
    options: PassOptions,
    model: nn.Module,
    images: Tensor,
    extras: Extras,
    requests: Sequence[Request],
    targets: Sequence[Tensor | None],
) -> Iterator[list[Attributions]]:
    """Explain the images chunk by chunk; halve the chunks whenever memory runs out."""
    size, start = options.chunk_size or len(images), 0
    while start < len(images):
        rows = slice(start, start + size)
        try:
            chunk = [None if t is None else t[rows] for t in targets]
            further = {name: extra[rows] for name, extra in extras.items()}
            yield _explain_chunk(options, model, images[rows], further, requests, chunk)
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
    requests: Sequence[Request],
    targets: Sequence[Tensor | None],
) -> list[Attributions]:
    """Run one forward pass, then the backward passes of each request."""
    run = run_forward(options.forward, model, images, extras, options.classes)
    graph = Graph(run.output, run.leaf, run.head)
    check_graph(graph, {rule for request in requests for rule in request.rules})
    scales = _SEED_SCALES if options.alone and run.half else (1.0,)
    activation = None if run.head is None else run.head.activation
    explained = []
    for request, asked in zip(requests, targets, strict=True):
        classes = resolve_targets(asked, run.logits)
        found = _attribute(graph, request.rules, run.leaf, run.output, classes, scales)
        explained.append(Attributions(found, classes, run.logits, graph.coverage, activation))
    return explained


def _attribute(
    graph: Graph,
    rules: Sequence[Rule],
    leaf: Tensor,
    logits: Tensor,
    classes: Tensor,
    scales: tuple[float, ...],
) -> dict[str, Tensor]:
    """Run one backward pass per rule and column of ``classes``.

    Args:
        graph: The graph of the forward pass.
        rules: The rules to follow.
        leaf: ``(N, C, H, W)``, the images with respect to which gradients are taken.
        logits: ``(N, num_classes)``.
        classes: ``(N, K)`` int64.
        scales: The scales to try for the seed; see ``_SEED_SCALES``.

    Returns:
        For each rule, ``(N, K, C, H, W)``.
    """
    shape = (len(leaf), classes.shape[1], *leaf.shape[1:])
    attributions: dict[str, Tensor] = {}
    for rule in rules:
        attributions[rule] = leaf.new_empty(shape)
        with graph.following(rule):
            for column in range(classes.shape[1]):
                seed = torch.zeros_like(logits).scatter_(1, classes[:, [column]], 1)
                gradient = _input_gradient(logits, leaf, seed, scales)
                attributions[rule][:, column] = gradient
    return attributions


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


def _join(parts: Sequence[Attributions]) -> Attributions:
    """Concatenate the attributions of the chunks along the images."""
    if len(parts) == 1:
        return parts[0]
    return Attributions(
        {rule: torch.cat([p[rule] for p in parts]) for rule in parts[0].attributions},
        torch.cat([p.targets for p in parts]),
        torch.cat([p.logits for p in parts]),
        parts[0].coverage,
        parts[0].activation,
    )
