"""Rules that are callables: methods of other libraries, or of your own.

A method is called as ``method(model, images, targets)``:

- ``model``, a :class:`LogitModel`, returns the logits of images, in eval mode on its device;
- ``images``, ``(n, C, H, W)``, are a copy in at least single precision, of which gradients can be
  taken;
- ``targets``, ``(n,)`` int64, are the classes to explain, one per image.

It returns a floating-point tensor ``(n, C, H, W)``, or ``(n, 1, H, W)`` if it does not tell
channels apart, as Grad-CAM does not.

It is called once per column of classes rather than once for all of them, because that is the shape
that libraries ask for, and because the attributions of one column are reduced before those of the
next need memory. Each call borrows the model by itself, so that none sees what another has left
behind, and draws the same random numbers: if the maps of two observations differ, then because the
models do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.heads import find_head
from lightning_saliency.attribution.logits import (
    Extras,
    Forward,
    at_least_single,
    copy_extras,
    find_logits,
)
from lightning_saliency.attribution.rules import RULES, Rule
from lightning_saliency.errors import SaliencyError
from lightning_saliency.isolation.module import undisturbed
from lightning_saliency.isolation.rng import random_streams_kept

Method: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]

# The seed of the random numbers that a method draws, the same for each call.
_SEED = 1706_03825

# A name is part of a file's keys, of addresses in the viewer and of identifiers in its page.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}")
_REMEDY = (
    "Give it one with `def my_rule(model, images, targets): …`, or by its attribute: "
    '`rule.name = "my_rule"`.'
)


def name_rule(rule: Rule | Method | str) -> str:
    """Return the name of a rule: a callable's attribute ``name`` or else its ``__name__``.

    Raises:
        TypeError: ``rule`` is neither a string nor callable.
        ValueError: A callable has no name, one that cannot be a key, or that of a built-in rule.
    """
    if isinstance(rule, str):
        return rule
    if not callable(rule):
        raise TypeError(
            f"a rule must be one of {', '.join(RULES)}, or a callable "
            f"`rule(model, images, targets) -> attributions`, got {rule!r}."
        )
    name = getattr(rule, "name", None)
    name = getattr(rule, "__name__", None) if name is None else name
    if not isinstance(name, str) or name == "<lambda>":
        raise ValueError(f"the rule {rule!r} has no name, which its maps go by. {_REMEDY}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            "the name of a rule must begin with a letter and hold up to 60 letters, digits, '_' "
            f"and '-', got {name!r}. {_REMEDY}"
        )
    if name in RULES:
        raise ValueError(
            f"a callable must not have the name of a built-in rule, got {name!r}. Give it another "
            f'one: `rule.name = "my_{name}"`.'
        )
    return name


def read_rules(
    rules: Sequence[Rule | Method], argument: str = "rules"
) -> tuple[tuple[str, ...], dict[str, Method]]:
    """Split rules into the names of all, in order, and what to call for those not built in.

    Args:
        rules: Names of built-in rules, and callables.
        argument: The name of the argument, for messages.

    Raises:
        TypeError, ValueError: See :func:`name_rule`; or two rules have the same name.
    """
    names = tuple(map(name_rule, rules))
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"`{argument}` must name each rule once, got {name!r} twice. Two callables are "
                "told apart by their attribute `name`."
            )
    pairs = zip(names, rules, strict=True)
    return names, {name: rule for name, rule in pairs if not isinstance(rule, str)}


class LogitModel(nn.Module):
    """The live model as methods want it: a module that takes images and returns logits.

    It applies the user's ``forward``, finds the logits in what the model returns, and looks under
    a softmax or sigmoid at its end, so that what is explained is the logit.

    Attributes that it does not have are those of the live model, so that ``model.layer4`` finds a
    layer.

    Args:
        forward: ``forward(model, images, **extras)`` returns the logits.
        model: The live model.
        images: ``(n, C, H, W)``, as the model takes them; only their type and number matter.
        extras: The rows of further inputs for these images.
        classes: The number of classes, if known; see :func:`find_logits`.
        headed: Whether the model ends in a softmax or sigmoid.

    Attributes:
        model: The live model.
        extras: The further inputs in their order, for methods that repeat or permute images. Such
            a method has to do the same with these and pass them along: ``model(images, *extras)``.
    """

    def __init__(
        self,
        forward: Forward,
        model: nn.Module,
        images: Tensor,
        extras: Extras,
        classes: int | None,
        headed: bool,
    ) -> None:
        super().__init__()
        self.training = False  # `eval()` would run the live model's own `train()`.
        self.model = model
        self.extras = tuple(extras.values())
        self._names = tuple(extras)
        self._call, self._classes, self._headed = forward, classes, headed
        self._device, self._dtype, self._count = images.device, images.dtype, len(images)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def forward(self, images: Tensor, *extras: Tensor) -> Tensor:
        """Compute the logits ``(N, num_classes)`` of images ``(N, C, H, W)``.

        Raises:
            SaliencyError: The images are not as many as the further inputs.
        """
        wanted = torch.is_grad_enabled()
        # Only a graph shows whether an output is a softmax.
        with torch.set_grad_enabled(wanted or self._headed):
            if self._headed and not images.requires_grad:
                images = images.detach().requires_grad_()
            given = images.to(self._device, self._dtype, copy=True)
            further = dict(zip(self._names, extras or self._own_extras(images), strict=True))
            output = self._call(self.model, given, **copy_extras(further, given))
            found = find_logits(output, len(images), self._classes)
            logits = _look_under_head(found) if self._headed else found
            logits = logits.to(at_least_single(logits.dtype))
        return logits if wanted else logits.detach()

    def _own_extras(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.extras and len(images) != self._count:
            raise SaliencyError(
                f"the model was called with {len(images)} images in place of {self._count}, so it "
                f"is not known which rows of {', '.join(self._names)} belong to each. Repeat "
                "`model.extras` like the images, and call `model(images, *extras)`."
            )
        return self.extras


def _look_under_head(output: Tensor) -> Tensor:
    """Return the logits under the softmax or sigmoid that ``output`` ends in, with a graph."""
    head = find_head(output)
    if head is None:
        return output
    # The hooks belong to the graph of this output alone, and disappear with it.
    tuple(head.attach())
    result: Tensor = _Replaced.apply(output, head.logits(output.detach()))
    return result


class _Replaced(torch.autograd.Function):
    """Values in place of others, whose gradient they get."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, values: Tensor) -> Tensor:  # noqa: ARG004
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:  # noqa: ARG004
        return upstream[0], None


def apply_method(
    method: Method, name: str, model: LogitModel, images: Tensor, targets: Tensor
) -> Tensor:
    """Call a method, and leave the model and the random streams as they were found.

    Args:
        method: The callable.
        name: Its name, for messages.
        model: The live model, wrapped.
        images: ``(n, C, H, W)``, in at least single precision.
        targets: ``(n,)`` int64.

    Returns:
        ``(n, C, H, W)`` or ``(n, 1, H, W)``, contiguous, with the type and device of ``images``.
        Values that are not finite are not an error, because a model that diverges causes them too.

    Raises:
        SaliencyError: The method failed, or returned something else.
    """
    given = images.detach().clone().requires_grad_()
    try:
        with undisturbed(model), random_streams_kept(_SEED):
            found = method(model, given, targets.clone())
    except (SaliencyError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise SaliencyError(
            f"the rule {name!r} failed on images of shape {tuple(images.shape)}: "
            f"{type(error).__name__}: {error}\nIt is called as `rule(model, images, targets)` with "
            "a module that returns logits, a tensor (N, C, H, W) and the classes (N,), and returns "
            "attributions of the shape of the images."
        ) from error
    _check_result(name, found, images)
    return found.detach().to(images.device, images.dtype).contiguous()


def _check_result(name: str, found: Any, images: Tensor) -> None:
    """Refuse what is not an attribution of ``images``."""
    count, channels, *sides = images.shape
    what = f"the rule {name!r} must return a floating-point tensor {tuple(images.shape)}"
    if channels > 1:
        what += f" or {(count, 1, *sides)}"
    if not isinstance(found, Tensor):
        remedy = "Convert it with `torch.as_tensor`."
        if isinstance(found, tuple | list):
            remedy = "Return the item that holds the attributions."
        raise SaliencyError(f"{what}, got {type(found).__name__}. {remedy}")
    if not found.is_floating_point():
        raise SaliencyError(f"{what}, got {found.dtype}. Convert it with `.float()`.")
    shape = tuple(found.shape)
    if shape not in (tuple(images.shape), (count, 1, *sides)):
        raise SaliencyError(f"{what}, got shape {shape}. {_remedy_for_shape(shape, images)}")


def _remedy_for_shape(shape: tuple[int, ...], images: Tensor) -> str:
    count, _, *sides = images.shape
    if shape == (count, *sides):
        return "Add an axis for the channels: `maps[:, None]`."
    if len(shape) == 4 and shape[0] == count:
        return (
            "Add up the channels of a layer with `maps.sum(1, keepdim=True)`, and bring them to "
            f"the size of the images with `F.interpolate(maps, {tuple(sides)})`."
        )
    return "It is called with several images at a time, and explains each by its own class."
