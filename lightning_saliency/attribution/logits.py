"""Calling a model, and finding the logits in its output."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.heads import Head, find_head
from lightning_saliency.attribution.nodes import depends_on
from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.arguments import plain_tensor
from lightning_saliency.isolation.module import undisturbed

Forward: TypeAlias = Callable[..., Any]  # (model, images, **extras)
Extras: TypeAlias = Mapping[str, Tensor]  # further inputs of the model, one row per image


def call_plainly(model: nn.Module, images: Tensor, **extras: Tensor) -> Any:
    """Call ``model`` with the images and the extras, if any; the default ``forward``.

    A model that takes only keywords, such as ``forward(self, **batch)`` around one of Hugging
    Face's, gets the images as ``pixel_values``, which is what theirs call them.
    """
    if _takes_only_keywords(model):
        return model(pixel_values=images, **extras)
    return model(images, **extras)


def _takes_only_keywords(model: nn.Module) -> bool:
    """Whether ``forward`` takes no positional argument, but one that is named ``pixel_values``."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # It is not a Python function, or there is none.
        return False
    keywords = [p.kind for p in parameters if p.name == "pixel_values" or p.kind == p.VAR_KEYWORD]
    return bool(keywords) and all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters)


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward pass, from which gradients can be taken.

    Attributes:
        leaf: ``(N, C, H, W)``, the images with respect to which gradients are taken.
        output: ``(N, num_classes)``, what the model returned, in at least single precision.
        logits: ``(N, num_classes)``, detached: the output itself, or the logits under the softmax
            or sigmoid that it ends in.
        head: That softmax or sigmoid.
        half: Whether gradients may leave the range of float16.
    """

    leaf: Tensor
    output: Tensor
    logits: Tensor
    head: Head | None
    half: bool


def run_forward(
    forward: Forward, model: nn.Module, images: Tensor, extras: Extras, classes: int | None = None
) -> Pass:
    """Run one forward pass in which gradients flow to the images.

    Args:
        forward: ``forward(model, images, **extras)`` returns the logits.
        model: Any module, which the caller has borrowed; see :func:`undisturbed`.
        images: ``(N, C, H, W)``, on the model's device.
        extras: The rows of further inputs for these images. Floating-point ones are passed in the
            precision of the images.
        classes: The number of classes, if known; see :func:`find_logits`.

    Raises:
        SaliencyError: The model's output contains no logits.
    """
    # Gradients are accumulated in at least float32. The model gets a copy of the leaf, because it
    # may write to its input, which autograd forbids for a leaf.
    leaf = images.detach().to(at_least_single(images.dtype), copy=True).requires_grad_()
    output = forward(model, leaf.to(images.dtype, copy=True), **copy_extras(extras, images))
    found = find_logits(output, len(images), classes)
    head = find_head(found)
    result = found.to(at_least_single(found.dtype))
    logits = result.detach() if head is None else head.logits(result.detach())
    # Under a head, the logits may be of a lower precision than the output.
    half = found.dtype == torch.float16 or head is not None
    return Pass(leaf, result, logits, head, half)


def copy_extras(extras: Extras, images: Tensor) -> dict[str, Tensor]:
    """Copy further inputs to the device of the images, and floats to their precision."""
    return {
        name: extra.to(
            images.device, images.dtype if extra.is_floating_point() else None, copy=True
        )
        for name, extra in extras.items()
    }


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64, and float32 for every lower precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def find_device(model: nn.Module, images: Tensor) -> torch.device:
    """Return the device of the model's first parameter, or of ``images`` if it has none."""
    return next((p.device for p in model.parameters()), images.device)


def fit_to_model(model: nn.Module, images: Tensor) -> Tensor:
    """Bring images to the device of the model, and to a precision that it can compute in.

    Only float64 and half-precision images are cast, and only if no parameter is of their precision:
    to float32 if any parameter is, else to the precision of the first. A subclass of Tensor, whose
    operations would hide the model's in the graph, becomes a plain tensor.
    """
    dtypes = [p.dtype for p in model.parameters() if p.is_floating_point()]
    dtype = images.dtype
    if dtype != torch.float32 and dtypes and dtype not in dtypes:
        dtype = torch.float32 if torch.float32 in dtypes else dtypes[0]
    return plain_tensor(images).to(find_device(model, images), dtype)


def count_classes(
    model: nn.Module,
    images: Tensor,
    forward: Forward | None = None,
    *,
    batch: int = 2,
    extras: Extras | None = None,
    classes: int | None = None,
) -> int:
    """Count the logits of ``model`` by running it on two of ``images``.

    The model is left as it was found. Two, because a model that squeezes its output is right for
    any batch but that of a single image; if there is only one image, it is passed twice.

    Args:
        model: Any module.
        images: ``(N, C, H, W)``, on any device.
        forward: ``forward(model, images, **extras)`` returns the logits.
        batch: How many images to run it on instead.
        extras: Further inputs of the model, one row per image.
        classes: The number of classes, if known; see :func:`find_logits`.

    Raises:
        SaliencyError: The model's output contains no logits.
    """
    with undisturbed(model):
        rows = torch.arange(batch) % len(images)
        tried = fit_to_model(model, images[rows.to(images.device)])
        first = {name: extra[rows.to(extra.device)] for name, extra in (extras or {}).items()}
        found = run_forward(forward or call_plainly, model, tried, first, classes)
        return found.logits.shape[1]


def find_logits(output: Any, count: int, classes: int | None = None) -> Tensor:
    """Find the logits in whatever a model returned.

    Args:
        output: A tensor, a mapping with the key ``"logits"``, an object with the attribute
            ``.logits``, or a tuple or list; see :func:`_choose_item`.
        count: The number of images that the model was called with.
        classes: The number of classes, if known. It decides between several items of a tuple.

    Returns:
        ``(count, num_classes)``, floating point. A vector ``(count,)`` becomes ``(count, 1)``.

    Raises:
        SaliencyError: There are no logits, or they have another shape.
    """
    found, place = output, ""
    if isinstance(output, Mapping):
        # Those of Hugging Face are both dicts and objects.
        found = output.get("logits")
        place = ".logits" if hasattr(output, "logits") else '["logits"]'
    elif not isinstance(output, Tensor):
        found, place = getattr(output, "logits", None), ".logits"
        if found is None and isinstance(output, tuple | list) and output:
            found, place = _choose_item(output, count, classes), "[…]"
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise SaliencyError(
            f"no logits found in the model's output, {_describe(output)}. {_find_remedy(output)}"
        )
    logits = found.unsqueeze(1) if found.ndim == 1 else found
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] == 0:
        if count == 1 and found.ndim < 2:
            raise SaliencyError(
                "the logits of 1 image must have shape (1, num_classes), got "
                f"{tuple(found.shape)}: does the model squeeze its output? That drops the batch "
                "axis of a single image. Use `squeeze(-1)` or `flatten(1)` there, or explain two "
                "images at a time."
            )
        raise SaliencyError(
            f"the logits of {count} image(s) must have shape ({count}, num_classes), got "
            f"{tuple(found.shape)}. {_reduce_remedy(found, place)}"
        )
    return plain_tensor(logits)


def _find_remedy(output: Any) -> str:
    """How to find logits in an output that holds none where they are looked for."""
    if isinstance(output, Mapping):
        for key, value in output.items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (4, 5):
                return _reduce_remedy(value, f'["{key}"]')
    return (
        "Pass `forward=lambda model, images: …` that returns a floating-point tensor "
        "(N, num_classes)."
    )


def _reduce_remedy(found: Tensor, place: str) -> str:
    """How to make logits of an output of another shape.

    Args:
        found: The output.
        place: Where it was found in what the model returns, as code.
    """
    call = f"forward=lambda model, images: model(images){place}"
    if found.ndim == 3:
        return (
            f"The output of a detector has logits for each box: pass `{call}.amax(dim=1)`, which "
            "takes those of the strongest box, or another `forward` that reduces them."
        )
    if found.ndim not in (4, 5):
        return (
            "Pass `forward=lambda model, images: …` that reduces them, for example by a mean over "
            "positions."
        )
    axes = ", ".join(map(str, range(2, found.ndim)))
    return (
        f"The output of a segmentation network has logits at each position: pass "
        f"`{call}.mean(dim=({axes}))`, which reduces them, for example by a mean over positions. "
        "What generates images has no classes: explain the network that judges them, such as "
        "`forward=lambda model, images: model.discriminator(images)`."
    )


def _choose_item(items: Sequence[Any], count: int, classes: int | None) -> Any:
    """Choose the logits among the items of a tuple, such as ``(logits, features)``.

    They are the first item, unless there are matrices of other widths. Among those, they are the
    only one with as many columns as there are classes; or else the one that is computed from all
    others, because features come before the logits.

    Raises:
        SaliencyError: Neither is decisive.
    """
    fitting = [item for item in items if _width(item, count)]
    if not any(item is items[0] for item in fitting):
        return items[0]
    # What was detached cannot be explained, so it is no choice if anything else is.
    fitting = [item for item in fitting if item.requires_grad] or fitting
    # Auxiliary logits have as many classes, and the main ones come first.
    rivals = list({_width(item, count): item for item in reversed(fitting)}.values())[::-1]
    if len(rivals) == 1:
        return rivals[0]
    for item in rivals:
        if _width(item, count) == classes:
            return item
    for item in rivals:
        if all(depends_on(item, other) for other in rivals if other is not item):
            return item
    shapes = ", ".join(str(tuple(item.shape)) for item in rivals)
    raise SaliencyError(
        f"the model returns several tensors that may be the logits, of shapes {shapes}. Say which, "
        "for example the second, with `forward=lambda model, images: model(images)[1]`."
    )


def _width(item: Any, count: int) -> int:
    """The number of logits per image if ``item`` may be logits, else 0."""
    if not isinstance(item, Tensor) or not item.is_floating_point() or item.ndim not in (1, 2):
        return 0
    if len(item) != count:
        return 0
    return 1 if item.ndim == 1 else item.shape[1]


def _describe(output: Any) -> str:
    """Name the type of an output and the shapes of the tensors in it."""
    kind = type(output).__name__
    name = f"an {kind}" if kind[0] in "AEIOU" else f"a {kind}"
    if isinstance(output, Mapping):
        items = [f"{key!r}: {_shape(value)}" for key, value in list(output.items())[:6]]
    elif isinstance(output, tuple | list):
        items = [_shape(value) for value in output[:6]]
    else:
        return f"{name} of {output.dtype}" if isinstance(output, Tensor) else name
    return f"{name} of {', '.join(items)}" if items else f"{name} of nothing"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
