"""Attributions of a live model: one forward pass, one backward pass a target and rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.classes import Targets, as_columns, resolve_targets
from lightning_saliency.doubts import check_graph, warn, warn_of_doubts
from lightning_saliency.errors import SaliencyError
from lightning_saliency.isolation import undisturbed
from lightning_saliency.maps import Reduce, reduce_channels
from lightning_saliency.rules import RULES, Coverage, Graph, Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_saliency.probe import ProbeBatch

Forward: TypeAlias = Callable[[nn.Module, Tensor], Any]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The attributions of a batch of images; ``explanation["guided_backprop"]`` is one of them.

    Attributes:
        attributions: By rule, ``(N, K, C, H, W)``, signed, in logits per input unit.
        targets: ``(N, K)`` int64, the class that each attribution explains.
        logits: ``(N, num_classes)``, what the model said of the images.
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

    def plot(self, probe: ProbeBatch | Tensor, **options: Any) -> Figure:
        """Draw four panels a row: the image, its gradient by channel, the maximum, an overlay.

        Args:
            probe: The images that were explained.
            **options: ``rule``, ``image``, ``targets``, …; see :func:`plot.plot`, also for errors.
        """
        from lightning_saliency.plot import plot  # drawing is no part of computing

        return plot(self, probe, **options)


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Targets = "all",
    *,
    rules: Sequence[Rule] = ("guided_backprop",),
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Explanation:
    """Attribute the logits of ``model`` to the pixels of ``images``.

    The model computes in eval mode and is left as it was found, also after an error: modes,
    buffers, gradients, attributes and random streams. It may be compiled (it runs eagerly here),
    in training, and called under ``no_grad`` or ``inference_mode``.

    Args:
        model: Any module. Its logits are the output itself, the first item of a tuple, the entry
            ``"logits"`` of a dict or the attribute ``.logits`` of an object.
        images: ``(N, C, H, W)``, floating point, as the model expects them. Moved to the model's
            device.
        targets: The classes to explain: ``"all"``; ``"predicted"``; one class for all images; or
            an int64 tensor ``(N,)`` or ``(N, K)``, in which -1 stands for the strongest class that
            its row does not name. A model of one logit has the one target 0.
        rules: Any of ``"guided_backprop"``, ``"gradient"`` and ``"deconvnet"``; see :mod:`rules`.
        forward: ``forward(model, images)`` returns the logits, for a model that is not called
            plainly.
        chunk_size: Images in one forward pass; all by default. Halved by itself, with a warning,
            when memory runs out.

    Returns:
        Attributions in the precision of the images, float32 for those of lower precision, on the
        model's device.

    Raises:
        TypeError: Images that are not floating point, targets that are not integers.
        ValueError: A wrong shape, a class out of range, an unknown rule.
        SaliencyError: Logits that do not depend on the images, or a rule that has nothing to hold
            on to because the graph hides the activations.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False), nn.ReLU())
        >>> _ = nn.init.ones_(model[1].weight)
        >>> explanation = explain(model, torch.ones(1, 1, 2, 2), targets=1)
        >>> explanation["guided_backprop"].shape
        torch.Size([1, 1, 1, 2, 2])
        >>> print(explanation.coverage)
        guided: 1 Relu
    """
    if isinstance(rules, str):
        raise ValueError(f"`rules` must be a tuple such as ('gradient',), got {rules!r}.")
    plan = Plan(forward or call_plainly, chunk_size)
    return carry_out(plan, model, images, [Request(tuple(rules), targets)])[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to explain, whatever the images.

    Attributes:
        forward: ``forward(model, images)`` returns the logits.
        chunk_size: Images in one forward pass; ``None`` for all.
        alone: Whether a pass may be repeated, because no other process takes part in it.
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
                f"`rules` must name a rule at least, got none. There are {', '.join(RULES)}."
            )
        for rule in self.rules:
            if rule not in RULES:
                raise ValueError(f"`rules` must be among {', '.join(RULES)}, got {rule!r}.")


def carry_out(
    plan: Plan, model: nn.Module, images: Tensor, requests: Sequence[Request]
) -> list[Explanation]:
    """An explanation a request, as ``plan`` says; arguments and errors are those of `explain`."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`model` must be a torch.nn.Module, got {type(model).__name__}. A function can be "
            "called in `forward=lambda model, images: …`, with the module that it uses as `model`."
        )
    _check_images(images)
    images = images.to(_device_of(model, images))
    wanted = [as_columns(request.targets, images) for request in requests]
    with undisturbed(model):
        chunks = list(_in_chunks(plan, model, images, requests, wanted))
    explanations = [_joined(parts) for parts in zip(*chunks, strict=True)]
    attributions = [item for e in explanations for item in e.attributions.items()]
    warn_of_doubts(model, explanations[0].coverage, attributions)
    return explanations


def call_plainly(model: nn.Module, images: Tensor) -> Any:
    """How a model is called where nothing else is said."""
    return model(images)


def _in_chunks(
    plan: Plan,
    model: nn.Module,
    images: Tensor,
    requests: Sequence[Request],
    targets: Sequence[Tensor | None],
) -> Iterator[list[Explanation]]:
    size, start = plan.chunk_size or len(images), 0
    while start < len(images):
        rows = slice(start, start + size)
        try:
            chunk = [None if t is None else t[rows] for t in targets]
            yield _explain_chunk(plan, model, images[rows], requests, chunk)
        except torch.OutOfMemoryError as error:
            if size == 1 or not plan.alone:
                raise SaliencyError(_out_of_memory(plan, size)) from error
            size = -(-min(size, len(images)) // 2)
        else:
            start += size
            continue
        # Outside the handler: there, the error would still hold on to the memory of the pass.
        torch.cuda.empty_cache()
        warn(f"memory ran out; explaining {size} image(s) at a time. Set `chunk_size={size}`.")


def _out_of_memory(plan: Plan, size: int) -> str:
    if plan.alone:
        return "memory ran out while explaining a single image; free some, or explain smaller ones."
    return (
        f"memory ran out while explaining {size} image(s) in a pass in which other processes take "
        f"part, which cannot be repeated with fewer. Set `chunk_size={max(1, size // 2)}`."
    )


def _explain_chunk(
    plan: Plan,
    model: nn.Module,
    images: Tensor,
    requests: Sequence[Request],
    targets: Sequence[Tensor | None],
) -> list[Explanation]:
    # Gradients are gathered in float32 at least; a clone, because a model may write to its input.
    leaf = images.detach().to(_at_least_single(images.dtype), copy=True).requires_grad_()
    found = find_logits(plan.forward(model, leaf.to(images.dtype, copy=True)), len(images))
    logits = found.to(_at_least_single(found.dtype))
    graph = Graph(logits, leaf)
    check_graph(graph, {rule for request in requests for rule in request.rules})
    scales = _SEED_SCALES if plan.alone and found.dtype == torch.float16 else (1.0,)
    explanations = []
    for request, asked in zip(requests, targets, strict=True):
        classes = resolve_targets(asked, logits.detach())
        attributions = _attribute(graph, request.rules, leaf, logits, classes, scales)
        explanation = Explanation(attributions, classes, logits.detach(), graph.coverage)
        explanations.append(explanation)
    return explanations


def _attribute(
    graph: Graph,
    rules: Sequence[Rule],
    leaf: Tensor,
    logits: Tensor,
    classes: Tensor,
    scales: tuple[float, ...],
) -> dict[str, Tensor]:
    """One backward pass a rule and column of ``classes``."""
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


# Gradients in float16 vanish below 6e-8 and overflow above 65504. A rule passes a power of two on
# unchanged, so it is put in at the logits and taken out at the images; the first that fits is used.
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


def count_classes(model: nn.Module, images: Tensor, forward: Forward | None = None) -> int:
    """How many logits ``model`` has, tried on the first of ``images``.

    Raises:
        SaliencyError: What it returns holds no logits.
    """
    with undisturbed(model):
        output = (forward or call_plainly)(model, images[:1].to(_device_of(model, images)))
        return find_logits(output, 1).shape[1]


def find_logits(output: Any, count: int) -> Tensor:
    """The logits ``(count, num_classes)`` in whatever a model returned.

    Raises:
        SaliencyError: There are none, or they are of another shape.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
        if found is None and isinstance(output, tuple | list) and output:
            found = output[0]
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise SaliencyError(
            f"no logits found in the model's output, a {type(output).__name__}. Pass "
            "`forward=lambda model, images: …` that returns a floating-point tensor "
            "(N, num_classes)."
        )
    logits = found.unsqueeze(1) if found.ndim == 1 else found
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] == 0:
        raise SaliencyError(
            f"the logits of {count} image(s) must have shape ({count}, num_classes), got "
            f"{tuple(found.shape)}. Pass `forward=lambda model, images: …` that reduces them, for "
            "example by a mean over positions."
        )
    return logits


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(
            f"`images` must be a tensor, got {type(images).__name__}. "
            "`ProbeBatch.from_files` reads photos, `torch.from_numpy` takes arrays."
        )
    if images.ndim != 4:
        raise ValueError(
            f"`images` must have shape (N, C, H, W), got {tuple(images.shape)}. "
            "Add a batch axis with `images[None]` to explain one image."
        )
    if images.numel() == 0:
        raise ValueError(
            f"`images` must not be empty, got shape {tuple(images.shape)}. Pass an image at least."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"`images` must be floating point, as the model expects them, got {images.dtype}. "
            "Scale and normalise them as in training, for example `images / 255`."
        )


def _device_of(model: nn.Module, images: Tensor) -> torch.device:
    return next((p.device for p in model.parameters()), images.device)


def _joined(parts: Sequence[Explanation]) -> Explanation:
    if len(parts) == 1:
        return parts[0]
    return Explanation(
        {rule: torch.cat([p[rule] for p in parts]) for rule in parts[0].attributions},
        torch.cat([p.targets for p in parts]),
        torch.cat([p.logits for p in parts]),
        parts[0].coverage,
    )
