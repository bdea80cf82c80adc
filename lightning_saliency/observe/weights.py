"""Whether the weights of a model are still those that were observed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

# Numbers that are added up at once: few enough for their 64-bit copies not to need much memory.
_BLOCK = 2**18
# The integers that hold the bits of a number of so many bytes.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """Reduce each of ``tensors`` to a number that depends on each of its bits.

    Two digests are equal if the tensors are, on whatever device, and differ if any bit differs
    (but for a chance of about 1 in 2**32). It takes one pass over the tensors where they are; to
    keep a copy to compare with would double the memory of the weights. The counters that autograd
    keeps of writes to a tensor would cost nothing, but they do not count writes through ``.data``,
    which is how averaged weights are usually loaded.

    Args:
        tensors: Pairs of a name and a tensor, such as ``module.named_parameters()``.

    Returns:
        A number by name. What has no plain memory, such as a tensor of a lazy layer, is left out.
    """
    names: list[str] = []
    digests: list[Tensor] = []
    with torch.no_grad():
        for name, tensor in tensors:
            for number, part in enumerate(_plain_parts(tensor)):
                names.append(f"{name}[{number}]")
                digests.append(_digest(part.detach()))
        # One transfer per device, because each waits for all that is still to be computed there.
        by_device: dict[torch.device, list[int]] = {}
        for index, digest in enumerate(digests):
            by_device.setdefault(digest.device, []).append(index)
        found: dict[str, int] = {}
        for indices in by_device.values():
            values = torch.stack([digests[i] for i in indices]).tolist()
            found |= dict(zip((names[i] for i in indices), values, strict=True))
    return found


def digest_weights(module: nn.Module) -> dict[str, int]:
    """Digest all parameters and buffers of ``module``; see :func:`digest_tensors`."""
    return digest_tensors([*module.named_parameters(), *module.named_buffers()])


def _plain_parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors with memory of their own that ``tensor`` consists of."""
    if is_lazy(tensor):
        return
    if is_traceable_wrapper_subclass(tensor):  # such as a shard of it, or quantized weights
        inner = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
        for part in inner:
            if isinstance(part, Tensor):  # a shard also names the devices that it is spread over
                yield from _plain_parts(part)
    elif tensor.layout == torch.strided and not (
        tensor.is_meta or tensor.is_quantized or tensor.is_nested
    ):
        yield tensor


def _digest(tensor: Tensor) -> Tensor:
    """Add up the bits of ``tensor``, each element with a random factor of its own."""
    numbers = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    numbers = numbers.contiguous().reshape(-1)
    bits = numbers.view(_INTEGERS[numbers.element_size()])
    factors = _factors(tensor.device)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for block in torch.split(bits, _BLOCK):
        # Overflow is meant: all this is modulo 2**64. The odd factor tells the blocks apart.
        total = total * 3 + (block.to(torch.int64) * factors[: len(block)]).sum()
    return total


@cache
def _factors(device: torch.device) -> Tensor:
    """Odd random integers; always the same ones, so that digests can be compared."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (_BLOCK,), generator=generator)
    return (factors * 2 + 1).to(device)
