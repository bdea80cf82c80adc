"""Borrow a live module for a computation, and give it back as it was found.

An observation in the middle of training must not change the run by a single bit, whatever the
user's ``forward`` does. :func:`undisturbed` is the one entry to this. It stacks context managers,
each of which borrows one thing: it notes the state, lets the computation run, and restores the
state in a ``finally`` block, so that nothing depends on the computation being successful.

- **Modes** of submodules: the flags are set again, one by one.
- **Parameters**: ``requires_grad`` and ``.grad`` are set again if they differ. Their values are not
  copied, because a forward pass does not write to them.
- **Buffers and attributes**, the latter of modules that users write: a shallow copy of each
  dictionary and container is kept, so that entries that were added can be removed and others put
  back. The tensors in them are copied too; one whose content changed gets it written back.
- **Random streams**: their states are set again; see :mod:`rng`.
- **cuDNN's search, the compiler and the modules' ``log``**: switched off inside, and on again
  afterwards.

Tensors are restored in place because others may refer to the same tensor: an optimizer, another
module, or the graph of a training step that has yet to run its backward pass. For the sake of that
graph, a tensor that did not change is not written to at all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.isolation.rng import random_streams_kept


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in eval mode with gradients enabled; undo every side effect at the end.

    The following are restored, also after an error:

    - the mode of every submodule;
    - buffers, including those that were added or were ``None`` before;
    - attributes of user-written modules, and the content of tensors among them (one level deep into
      lists, dicts, tuples and sets);
    - ``.grad`` and ``requires_grad`` of parameters;
    - the random streams of torch, CUDA, MPS, numpy and python.

    Inside the ``with`` block, compiled code runs eagerly, so that the graph shows its activations,
    and the modules' own ``log`` and ``log_dict`` do nothing.

    It may be entered under ``no_grad`` or ``inference_mode``: both are suspended inside, so that
    tensors that are created there are ordinary ones.
    """
    with ExitStack() as stack:
        # Exits run in reverse order: whatever is switched off below is back on, and `log` is no
        # longer shadowed, by the time that attributes, buffers and parameters are restored.
        for keep in (_parameters_kept, _buffers_kept, _attributes_kept, _evaluating):
            stack.enter_context(keep(module))
        for guard in (random_streams_kept, _cudnn_search_off, _eager):
            stack.enter_context(guard())
        stack.enter_context(_silenced(module))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode, then give each its own mode back."""
    # Set the flags instead of calling `eval()`, which would run the module's own `train()`: some
    # override it to merge weights or to freeze layers. Frozen TorchScript modules have no flag,
    # because they were frozen in eval mode.
    modes = [(m, m.training) for m in module.modules() if hasattr(m, "training")]
    try:
        for m, _ in modes:
            m.training = False
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def _parameters_kept(module: nn.Module) -> Iterator[None]:
    """Restore ``requires_grad`` and ``.grad`` of every parameter."""
    found = [(p, p.requires_grad, p.grad) for p in module.parameters()]
    try:
        yield
    finally:
        for parameter, requires_grad, grad in found:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not grad:
                parameter.grad = grad


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restore which buffers there are, and what is in them (the statistics of norms, counters)."""
    found = [(m._buffers, dict(m._buffers)) for m in module.modules()]
    tensors = [h for buffers, _ in found for h in _hold(buffers, buffers.items())]
    try:
        _make_ordinary(tensors)
        yield
    finally:
        for buffers, content in found:
            _restore_mapping(buffers, content)
        for held in tensors:
            _write_back(held)


@dataclass(frozen=True, slots=True)
class _Held:
    """A tensor that a module refers to as ``holder[key]``, with a copy of its content."""

    holder: Any
    key: Any
    tensor: Tensor
    value: Tensor
    requires_grad: bool


def _hold(holder: Any, items: Iterable[tuple[Any, Any]]) -> list[_Held]:
    """Copy the tensors among ``items``, which are pairs of a key of ``holder`` and a value."""
    return [
        _Held(holder, key, tensor, tensor.detach().clone(), tensor.requires_grad)
        for key, tensor in items
        if isinstance(tensor, Tensor)
    ]


def _make_ordinary(tensors: Iterable[_Held]) -> None:
    """Replace inference tensors by ordinary copies for the time being.

    A validation in inference mode leaves such tensors behind, and autograd refuses to save them for
    a backward pass. The originals return to their places when the holder is restored.
    """
    for held in tensors:
        if held.tensor.is_inference() and not isinstance(held.holder, tuple):
            with torch.inference_mode(False):
                held.holder[held.key] = held.value.clone()


def _write_back(held: _Held) -> None:
    """Restore the content of a tensor, in place."""
    # Write only if something changed. Autograd counts writes: after one, even of the same numbers,
    # a graph that saved the tensor would refuse to run its backward pass.
    tensor, value = held.tensor, held.value
    with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
        if tensor.requires_grad and not held.requires_grad and not tensor._is_view():
            # Something that depends on the images was added in place, so the tensor now refers to
            # the graph of the computation. Views cannot be detached in place.
            tensor.detach_()
        if tensor.shape != value.shape:
            tensor.resize_(value.shape)
        if not torch.equal(tensor, value):
            tensor.copy_(value)


@contextmanager
def _attributes_kept(module: nn.Module) -> Iterator[None]:
    """Restore the attributes of modules that users write, one level deep."""
    # torch's own modules keep their state in parameters and buffers. Only modules that users write
    # leave something in attributes during a forward pass, such as a counter or a list of features.
    theirs = [m for m in module.modules() if not type(m).__module__.startswith("torch.")]
    found = [(m, dict(m.__dict__), _containers(m)) for m in theirs]
    tensors = _tensors_in_attributes(theirs, {id(buffer) for buffer in module.buffers()})
    try:
        _make_ordinary(tensors)
        yield
    finally:
        for m, attributes, containers in found:
            _restore_mapping(m.__dict__, attributes)
            for container, content in containers:
                _restore_container(container, content)
        for held in tensors:
            _write_back(held)


def _tensors_in_attributes(modules: Iterable[nn.Module], known: set[int]) -> list[_Held]:
    """Copy the plain tensors that are attributes of ``modules``, or items of such a container.

    Args:
        modules: The modules to search.
        known: The ids of tensors that are restored elsewhere; those that are found are added, so
            that a tensor with two names is copied once.
    """
    tensors = []
    for m in modules:
        values = [value for name, value in m.__dict__.items() if name not in _GUARDED]
        for holder in (m.__dict__, *(v for v in values if isinstance(v, dict | list | tuple))):
            items = holder.items() if isinstance(holder, dict) else enumerate(holder)
            fitting = [item for item in items if _can_be_kept(item[1]) and id(item[1]) not in known]
            tensors += _hold(holder, fitting)
            known |= {id(tensor) for _, tensor in fitting}
    return tensors


def _can_be_kept(item: Any) -> bool:
    # Subclasses are excluded: parameters are restored elsewhere or belong to the optimizer, and so
    # do the shards of distributed training.
    if type(item) is not Tensor or item.layout != torch.strided or item.is_nested or item.is_meta:
        return False
    # Elements of an expanded tensor share memory, so that it cannot be written to.
    return 0 not in item.stride() or item.numel() < 2


# Names in a module's `__dict__` that are restored elsewhere, or that sharded training replaces by
# itself while a forward pass runs.
_GUARDED = frozenset({"_parameters", "_buffers"})


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    """Pair each container among the attributes of ``module`` with a shallow copy of it."""
    return [
        (value, value.copy())
        for name, value in module.__dict__.items()
        if name not in _GUARDED and isinstance(value, list | dict | set)
    ]


def _restore_mapping(mapping: dict[Any, Any], content: dict[Any, Any]) -> None:
    # `keys()` of TorchScript's buffers is a list, hence the `set`.
    for key in set(mapping.keys()) - content.keys():
        del mapping[key]
    for key, value in content.items():
        if key not in mapping or mapping[key] is not value:
            mapping[key] = value


def _restore_container(container: Any, content: Any) -> None:
    if isinstance(container, dict):
        _restore_mapping(container, content)
    elif isinstance(container, list):
        container[:] = content
    else:
        container.intersection_update(content)
        container.update(content)


@contextmanager
def _silenced(module: nn.Module) -> Iterator[None]:
    """Shadow ``log`` and ``log_dict`` of LightningModules by functions that do nothing."""
    # A `forward` that calls `self.log` would otherwise overwrite the metric of the current step.
    loggers = [m for m in module.modules() if callable(getattr(type(m), "log_dict", None))]
    shadows = [(m, name) for m in loggers for name in ("log", "log_dict")]
    try:
        for m, name in shadows:
            m.__dict__[name] = _log_nothing
        yield
    finally:
        for m, name in shadows:
            m.__dict__.pop(name, None)


def _log_nothing(*args: object, **kwargs: object) -> None:
    """Stand in for ``LightningModule.log`` and ``log_dict``."""


@contextmanager
def _cudnn_search_off() -> Iterator[None]:
    """Keep cuDNN from searching for the fastest algorithm, as it would for each new shape."""
    found = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.backends.cudnn.benchmark = found


@contextmanager
def _eager() -> Iterator[None]:
    """Run compiled code eagerly: a compiled graph is one node, which hides its activations."""
    # Importing the compiler takes seconds. If nobody has imported it, nothing has been compiled.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
