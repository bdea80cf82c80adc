"""Everything of a live module that a computation may disturb, given back as it was found."""

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
    """Run ``module`` in eval mode with gradients; afterwards, also after an error, nothing shows.

    Kept: the mode of every submodule; buffers, those that are added or filled as well; attributes
    of user-written modules, and what is in tensors among them (one level into lists, dicts, tuples
    and sets); ``.grad`` and ``requires_grad`` of parameters; the random streams of torch, CUDA,
    MPS, numpy and python. Inside, compiled code runs eagerly, so that a graph shows its
    activations, and a module's own ``log`` and ``log_dict`` are silent.

    Works under ``no_grad`` and ``inference_mode``: tensors made inside are ordinary ones.
    """
    with ExitStack() as stack:
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
    # Flags, not `eval()`: a `train()` overridden to merge weights or freeze layers must not run.
    # Frozen TorchScript has none: it was frozen in eval mode.
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
    found = [(m._buffers, dict(m._buffers)) for m in module.modules()]
    tensors = [h for buffers, _ in found for h in _held(buffers, buffers.items())]
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
    """A tensor that a module holds under ``key`` of ``holder``, and what was in it."""

    holder: Any
    key: Any
    tensor: Tensor
    value: Tensor
    requires_grad: bool


def _held(holder: Any, items: Iterable[tuple[Any, Any]]) -> list[_Held]:
    return [
        _Held(holder, key, tensor, tensor.detach().clone(), tensor.requires_grad)
        for key, tensor in items
        if isinstance(tensor, Tensor)
    ]


def _make_ordinary(tensors: Iterable[_Held]) -> None:
    # Made by a validation in inference mode; no graph could be built on it.
    for held in tensors:
        if held.tensor.is_inference() and not isinstance(held.holder, tuple):
            with torch.inference_mode(False):
                held.holder[held.key] = held.value.clone()


def _write_back(held: _Held) -> None:
    # Only what changed: a write, even of the same numbers, would tell a graph that still needs
    # the tensor for its backward pass that it is no longer valid.
    tensor, value = held.tensor, held.value
    with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
        if tensor.requires_grad and not held.requires_grad and not tensor._is_view():
            tensor.detach_()  # the graph of an image that was added in place
        if tensor.shape != value.shape:
            tensor.resize_(value.shape)
        if not torch.equal(tensor, value):
            tensor.copy_(value)


@contextmanager
def _attributes_kept(module: nn.Module) -> Iterator[None]:
    # torch's own modules keep their state in parameters and buffers; what a forward pass leaves in
    # attributes (a counter, a list of features) is found in modules that users write.
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
    """The plain tensors that are attributes of ``modules``, or in a container that is one."""
    tensors = []
    for m in modules:
        guarded = [value for name, value in m.__dict__.items() if name not in _GUARDED]
        for holder in (m.__dict__, *(v for v in guarded if isinstance(v, dict | list | tuple))):
            items = holder.items() if isinstance(holder, dict) else enumerate(holder)
            fitting = [item for item in items if _can_be_kept(item[1]) and id(item[1]) not in known]
            tensors += _held(holder, fitting)
            known |= {id(tensor) for _, tensor in fitting}
    return tensors


def _can_be_kept(item: Any) -> bool:
    # Exactly a tensor: parameters are guarded elsewhere, or trained, and so are their shards.
    if type(item) is not Tensor or item.layout != torch.strided or item.is_nested or item.is_meta:
        return False
    return 0 not in item.stride() or item.numel() < 2  # else several elements are one in memory


# Names in a module's `__dict__` that are guarded elsewhere, or that sharded training swaps itself.
_GUARDED = frozenset({"_parameters", "_buffers"})


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    return [
        (value, value.copy())
        for name, value in module.__dict__.items()
        if name not in _GUARDED and isinstance(value, list | dict | set)
    ]


def _restore_mapping(mapping: dict[Any, Any], content: dict[Any, Any]) -> None:
    for key in set(mapping.keys()) - content.keys():  # a list of TorchScript's buffers
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
    # A `forward` that calls `self.log` would overwrite the metric of the step that it stands in.
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
    # The search for the fastest algorithm would run anew for the shape of the probe.
    found = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.backends.cudnn.benchmark = found


@contextmanager
def _eager() -> Iterator[None]:
    # Importing the compiler takes seconds; where nobody has, nothing is compiled.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
