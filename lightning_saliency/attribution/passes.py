"""Attributions of a live model: one forward pass, and one backward pass per target and rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.diagnostics import check_graph, warn, warn_of_doubts
from lightning_saliency.attribution.logits import Forward, find_device, find_logits
from lightning_saliency.attribution.rules import RULES, Coverage, Graph, Rule
from lightning_saliency.attribution.targets import Targets, as_columns, resolve_targets
from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.arguments import check_images
from lightning_saliency.functional.maps import Reduce, reduce_channels
from lightning_saliency.isolation.module import undisturbed


@dataclass(frozen=True, slots=True)
class Attributions:
    """The attributions of a batch of images; ``attributions["guided_backprop"]`` is one of them.

    Attributes:
        attributions: By rule, ``(N, K, C, H, W)``, signed, in logits per input unit.
        targets: ``(N, K)`` int64, the class that each attribution explains.
        logits: ``(N, num_classes)``, the model's output for the images.
        coverage: How the activations on the way from the logits to the images were treated.
    """

    attributions: Mapping[str, Tensor]
    targets: Tensor
    logits: Tensor
    coverage: Coverage = field(default_factory=Coverage)

    def __getitem__(self, rule: str) -> Tensor:
        if rule not in self.attributions:
            raise KeyError(
                f"no attribution by {rule!r} here, only by {', '.join(self.attributions)}; "
                f"ask for it with explain(…, rules=({rule!r},))"
            )
        return self.attributions[rule]

    def maps(self, rule: str, reduce: Reduce = "abs_max") -> Tensor:
        """Saliency maps ``(N, K, H, W)`` of one rule; see :func:`maps.reduce_channels`."""
        return reduce_channels(self[rule], reduce)


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How to explain, independent of the images.

    Attributes:
        forward: ``forward(model, images)`` returns the logits.
        chunk_size: Images in one forward pass; ``None`` for all.
        alone: Whether a pass may be repeated because no other process takes part in it.
    """

    forward: Forward
    chunk_size: int | None = None
    alone: bool = True

    def __post_init__(self) -> None:
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(
                f"`chunk_size` must be at least 1, got {self.chunk_size}. `None` takes all images "
                "at once."
            )


@dataclass(frozen=True, slots=True)
class Request:
    """Which classes to explain by which rules; one forward pass serves several requests."""

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
    options: PassOptions, model: nn.Module, images: Tensor, requests: Sequence[Request]
) -> list[Attributions]:
    """Attributions for each request; arguments and errors are those of :func:`explain`."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`model` must be a torch.nn.Module, got {type(model).__name__}. A function can be "
            "called in `forward=lambda model, images: …`, with the module that it uses as `model`."
        )
    check_images(images)
    images = images.to(find_device(model, images))
    wanted = [as_columns(request.targets, images) for request in requests]
    with undisturbed(model):
        chunks = list(_in_chunks(options, model, images, requests, wanted))
    explained = [_joined(parts) for parts in zip(*chunks, strict=True)]
    attributions = [item for e in explained for item in e.attributions.items()]
    warn_of_doubts(model, explained[0].coverage, attributions)
    return explained


def _in_chunks(
    options: PassOptions,
    model: nn.Module,
    images: Tensor,
    requests: Sequence[Request],
    targets: Sequence[Tensor | None],
) -> Iterator[list[Attributions]]:
    size, start = options.chunk_size or len(images), 0
    while start < len(images):
        rows = slice(start, start + size)
        try:
            chunk = [None if t is None else t[rows] for t in targets]
            yield _explain_chunk(options, model, images[rows], requests, chunk)
        except torch.OutOfMemoryError as error:
            if size == 1 or not options.alone:
                raise SaliencyError(_out_of_memory(options, size)) from error
            size = -(-min(size, len(images)) // 2)
        else:
            start += size
            continue
        # Outside the handler: there, the error would still hold on to the memory of the pass.
        torch.cuda.empty_cache()
        warn(f"memory ran out; explaining {size} image(s) at a time. Set `chunk_size={size}`.")


def _out_of_memory(options: PassOptions, size: int) -> str:
    if options.alone:
        return "memory ran out while explaining a single image; free some, or explain smaller ones."
    return (
        f"memory ran out while explaining {size} image(s) in a pass in which other processes take "
        f"part, which cannot be repeated with fewer. Set `chunk_size={max(1, size // 2)}`."
    )


def _explain_chunk(
    options: PassOptions,
    model: nn.Module,
    images: Tensor,
    requests: Sequence[Request],
    targets: Sequence[Tensor | None],
) -> list[Attributions]:
    # Gradients are gathered in float32 at least; a clone, because a model may write to its input.
    leaf = images.detach().to(_at_least_single(images.dtype), copy=True).requires_grad_()
    found = find_logits(options.forward(model, leaf.to(images.dtype, copy=True)), len(images))
    logits = found.to(_at_least_single(found.dtype))
    graph = Graph(logits, leaf)
    check_graph(graph, {rule for request in requests for rule in request.rules})
    scales = _SEED_SCALES if options.alone and found.dtype == torch.float16 else (1.0,)
    explained = []
    for request, asked in zip(requests, targets, strict=True):
        classes = resolve_targets(asked, logits.detach())
        attributions = _attribute(graph, request.rules, leaf, logits, classes, scales)
        explained.append(Attributions(attributions, classes, logits.detach(), graph.coverage))
    return explained


def _attribute(
    graph: Graph,
    rules: Sequence[Rule],
    leaf: Tensor,
    logits: Tensor,
    classes: Tensor,
    scales: tuple[float, ...],
) -> dict[str, Tensor]:
    """Run one backward pass per rule and column of ``classes``."""
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


# Gradients in float16 vanish below 6e-8 and overflow above 65504. Every rule passes on a power of two
# unchanged, so the seed is scaled at the logits and the gradient scaled back at the images; the
# first scale that fits is used.
_SEED_SCALES = (2.0**10, 1.0, 2.0**-10)


def _input_gradient(
    logits: Tensor, leaf: Tensor, seed: Tensor, scales: tuple[float, ...]
) -> Tensor:
    for scale in scales:
        (gradient,) = torch.autograd.grad(logits, leaf, seed * scale, retain_graph=True)
        if len(scales) == 1 or bool(torch.isfinite(gradient).all()):
            break
    return gradient / scale if scale != 1 else gradient


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _joined(parts: Sequence[Attributions]) -> Attributions:
    if len(parts) == 1:
        return parts[0]
    return Attributions(
        {rule: torch.cat([p[rule] for p in parts]) for rule in parts[0].attributions},
        torch.cat([p.targets for p in parts]),
        torch.cat([p.logits for p in parts]),
        parts[0].coverage,
    )
