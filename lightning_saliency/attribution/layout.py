"""Call a model with its convolutions in the memory format in which a CPU computes them fastest.

A convolution with a weight whose channels lie last in memory returns such an activation, and so do
the operations after it, forward and backward. On a CPU in single precision that saves up to half of
the time. The values are the same but for the order in which sums are rounded, which changes an
attribution by less than 1e-5 of its largest value.

Only *copies* of weights change their format, and only those of plain :class:`torch.nn.Conv2d`
layers. ``torch.func.functional_call`` lends them to the model for the duration of a call, so the
live weights keep their memory, their format and their count of writes. Whether it is done depends
on the model and the images alone, never on a clock: the same inputs give the same bits, also in a
run that is resumed.

Some code works in one format only, such as ``view(n, -1)`` of an activation, which then raises an
error, or a kernel that reads raw memory, which may not. What raises is called again plainly, and so
is every model in whose graph there is an operation that is not torch's own or that reads memory by
strides; see :func:`remember_misfit` and :attr:`Graph.any_layout`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_saliency.attribution.logits import Forward
from lightning_saliency.isolation.tensors import is_restorable

# Output channels of the widest convolution: narrower networks lose a fifth of the time, such as one
# for digits with 32.
_WIDE = 64

# The models that work in one format only, with the shapes of the images of which this is known.
_misfits: WeakKeyDictionary[nn.Module, set[torch.Size]] = WeakKeyDictionary()


class LayoutError(Exception):
    """A model has to be called with its own weights."""


def channels_last(forward: Forward, model: nn.Module, images: Tensor) -> Forward | None:
    """Return a ``forward`` that lends the model convolutions whose channels lie last in memory.

    Args:
        forward: ``forward(model, images, **extras)``, which calls the model that it is given.
        model: Any module; it is not changed.
        images: ``(N, C, H, W)``, on the model's device.

    Returns:
        What to call instead of ``forward``, within one borrowing of the model; ``None`` if the
        model should be called with its own weights.
    """
    if images.shape[1:] in _misfits.get(model, ()) or not _pays(images):
        return None
    if not all(_is_plain(module) for module in model.modules()):
        return None
    live = dict(_find_weights(model))
    if max((len(weight) for weight in live.values()), default=0) < _WIDE:
        return None
    lent: dict[str, Tensor] = {}
    written = [weight._version for weight in live.values()]

    def called(_: nn.Module, images: Tensor, **extras: Tensor) -> Any:
        if not lent:  # This is the first chunk.
            for name, weight in live.items():
                lent[name] = weight.detach().contiguous(memory_format=torch.channels_last)
        output = functional_call(call, lent, (images,), dict(extras))
        if [weight._version for weight in live.values()] != written:
            raise LayoutError("the forward pass writes to weights past the modules that own them")
        return output

    call = _Call(forward, model)
    return called


def remember_misfit(model: nn.Module, images: Tensor, error: Exception) -> None:
    """Note that a model cannot be called so, unless the error may be gone the next time."""
    # Only what is sure to happen again is noted, so that a resumed run decides in the same way.
    if isinstance(error, LayoutError) or "view size is not compatible" in str(error):
        _misfits.setdefault(model, set()).add(images.shape[1:])


class _Call(nn.Module):
    """A call of a function with a model, as the module that ``functional_call`` needs."""

    def __init__(self, function: Forward, model: nn.Module) -> None:
        super().__init__()
        self.function, self.model = function, model

    def forward(self, images: Tensor, **extras: Any) -> Any:
        """Call the function with the model, whose weights are those that were lent."""
        return self.function(self.model, images, **extras)


def _pays(images: Tensor) -> bool:
    """Whether the format makes a difference for the better."""
    single = images.dtype == torch.float32 and images.device.type == "cpu"
    return single and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _find_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Find the weights to lend, with their names in a :class:`_Call`.

    Subclasses may do anything with their weights, and so may those who share them.
    """
    names: dict[int, int] = {}
    for _, weight in model.named_parameters(remove_duplicate=False):
        names[id(weight)] = names.get(id(weight), 0) + 1
    for name, module in model.named_modules(prefix="model"):
        if type(module) is nn.Conv2d and type(module.weight) is nn.Parameter:
            weight = module.weight
            fits = weight.dtype == torch.float32 and weight.device.type == "cpu"
            # The writes to a tensor of inference mode are not counted.
            fits = fits and is_restorable(weight) and not weight.is_inference()
            if fits and weight.is_contiguous() and names[id(weight)] == 1:
                yield f"{name}.weight", weight


def _is_plain(module: nn.Module) -> bool:
    """Whether a module computes nothing but its ``forward``, and is no wrapper of torch's own.

    Hooks may look at weights. Wrappers for scripts, compilation, quantisation, parametrisation and
    distributed training have ways of their own to find them.
    """
    kind = type(module)
    if kind.__module__.startswith("torch.") and not kind.__module__.startswith("torch.nn.modules."):
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    backward = (module._backward_hooks, module._backward_pre_hooks)
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return not (any(hooks) or any(backward) or compiled)
