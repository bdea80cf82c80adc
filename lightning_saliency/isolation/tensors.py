"""Note what tensors hold, and write it back in place.

Others may refer to a tensor: an optimizer, another module, or the graph of a training step that has
yet to run its backward pass. So a tensor is never replaced. It gets back its memory, its shape, its
bits, and the count of writes by which autograd notices that a saved tensor was changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# A forward pass can write to a tensor in ways that leave no trace: `weight.data.clamp_(…)` is not
# counted as a write, and neither is one through numpy. So there is a copy of everything, which is
# compared bit by bit at the end; what was seen to write once cannot be relied on, because a module
# may write only now and then. On an accelerator, the copies of large tensors are kept in the host's
# memory and compared tensor by tensor: a run that just fits must not run out of memory because it
# is observed. Transferring a small tensor costs more than its memory does. For a ResNet-50 (102 MB)
# all of this takes 0.13 s on one core, less than half of a forward pass of two images.
_SMALL = 2**20  # bytes

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def tensors_kept(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Restore the memory, shape and content of ``tensors``; those that cannot be are left alone."""
    distinct = {id(t): t for t in tensors}.values()
    held = [_Held.of(t) for t in distinct if is_restorable(t)]
    counted = tuple(h.tensor for h in held if not h.tensor.is_inference())
    with ExitStack() as stack:
        stack.enter_context(_write_counts_kept(counted))
        stack.enter_context(_classes_kept([t for t in distinct if is_lazy(t)]))
        stack.callback(_restore, held)
        yield


def is_restorable(tensor: Tensor) -> bool:
    """Return whether the content of ``tensor`` can be copied and written back."""
    # Classes with a dispatch of their own, such as the shards of distributed training, may hold no
    # memory of their own or belong to other processes too.
    if is_lazy(tensor) or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.is_quantized:
        return False
    # What is shared between processes may be written by another one at any time.
    if tensor.device.type == "cpu" and tensor.is_shared():  # type: ignore[no-untyped-call]
        return False
    # Elements of an expanded tensor share memory, so that it cannot be written to.
    return 0 not in tensor.stride() or tensor.numel() < 2


@dataclass(frozen=True, slots=True)
class _Held:
    """A tensor with an alias of its memory and a copy of its content."""

    tensor: Tensor
    alias: Tensor  # Writing to it is not counted as a write to the tensor.
    value: Tensor
    requires_grad: bool

    @classmethod
    def of(cls, tensor: Tensor) -> _Held:
        with torch._C.DisableTorchFunctionSubclass():
            alias = tensor.data
        small = alias.device.type == "cpu" or alias.nbytes < _SMALL
        return cls(tensor, alias, alias.clone() if small else alias.cpu(), tensor.requires_grad)

    def restore(self) -> None:
        tensor, alias = self.tensor, self.alias
        with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
            if tensor.requires_grad and not self.requires_grad and not tensor._is_view():
                # Something that depends on the images was added in place, so the tensor now refers
                # to the graph of the computation. Views cannot be detached in place.
                tensor.detach_()
            if _memory(tensor) != _memory(alias):
                tensor.data = alias
            value = self.value.to(alias.device)
            if not _same_bits(alias, value):
                alias.copy_(value)


def _restore(held: list[_Held]) -> None:
    """Restore everything, whatever error there is on the way; then raise the first error."""
    first = None
    for each in held:
        try:
            each.restore()
        except BaseException as error:  # Ctrl-C must not leave weights of the observation behind.
            first = first or error
    if first is not None:
        raise first


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """What says where the elements of a tensor lie, and as what they are read."""
    shape = (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
    return (*shape, tensor.data_ptr(), tensor.storage_offset())


def _same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors agree bit by bit, so that NaN equals itself and 0 does not equal -0."""
    if first.is_complex():
        first, second = (torch.view_as_real(t.resolve_conj()) for t in (first, second))
    bits = _BITS[first.element_size()]
    return torch.equal(first.resolve_neg().view(bits), second.resolve_neg().view(bits))


@contextmanager
def _write_counts_kept(tensors: tuple[Tensor, ...]) -> Iterator[None]:
    """Set back the count of writes to each tensor, because their content is set back too.

    Otherwise, a graph that saved one of them would refuse to run its backward pass.
    """
    found = tuple(tensor._version for tensor in tensors)
    try:
        yield
    finally:
        moved = [(t, v) for t, v in zip(tensors, found, strict=True) if t._version != v]
        if moved:
            set_counts: Any = torch._C._autograd._unsafe_set_version_counter
            try:
                set_counts(*zip(*moved, strict=True))
            except TypeError:  # PyTorch 2.6 takes one tensor at a time.
                for tensor, count in moved:
                    set_counts(tensor, count)


@contextmanager
def _classes_kept(lazy: list[Any]) -> Iterator[None]:
    """Make parameters and buffers of lazy layers uninitialised again."""
    found = [(tensor, type(tensor), tensor.data) for tensor in lazy]
    try:
        yield
    finally:
        for tensor, kind, empty in found:
            if type(tensor) is not kind:
                tensor.data = empty
                tensor.__class__ = kind


def is_uninitialised(module: nn.Module) -> bool:
    """Return whether ``module`` has lazy layers whose weights its first forward pass will make."""
    return any(map(is_lazy, module.parameters()))


def named_weights(module: nn.Module) -> set[str]:
    """Return the names of the parameters that have values, without those of lazy layers."""
    return {name for name, p in module.named_parameters() if not is_lazy(p)}
