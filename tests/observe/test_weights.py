"""A digest of weights is equal where they are, and differs where a bit does."""

from __future__ import annotations

import pytest
import torch
from matrix import Touchy
from torch import nn

from lightning_saliency.observe.weights import _BLOCK, digest_tensors, digest_weights


def digest(tensor: torch.Tensor) -> dict[str, int]:
    return digest_tensors([("it", tensor)])


def test_every_parameter_and_buffer_is_digested_and_one_that_changes_is_named():
    module = Touchy()
    before = digest_weights(module)
    assert len(before) == len(module.state_dict())
    assert digest_weights(module) == before
    # As averaged weights are loaded: autograd does not count such a write.
    version = module.head.bias._version
    module.head.bias.data.copy_(torch.nextafter(module.head.bias.data, torch.tensor(9.0)))
    assert module.head.bias._version == version
    module.calls += 1
    after = digest_weights(module)
    assert {name for name in after if after[name] != before[name]} == {"head.bias[0]", "calls[0]"}


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool, torch.int8],
    ids=str,
)
def test_any_type_of_number_is_digested(dtype):
    tensor = torch.tensor([0, 1, 1, 0]).to(dtype)
    assert digest(tensor) == digest(tensor.clone())
    assert digest(tensor) != digest(torch.tensor([0, 1, 0, 0]).to(dtype))


def test_an_exchange_of_values_is_seen_within_a_block_and_across_blocks():
    tensor = torch.zeros(2 * _BLOCK + 1)
    tensor[0] = 1
    found = [digest(tensor.roll(places)) for places in (0, 1, _BLOCK, 2 * _BLOCK)]
    assert len({tuple(each.items()) for each in found}) == 4


def test_the_layout_in_memory_does_not_count():
    tensor = torch.randn(4, 3, 5, 5)
    assert digest(tensor) == digest(tensor.to(memory_format=torch.channels_last))
    whole = torch.randn(7)
    assert digest(whole[1::2]) == digest(whole[1::2].clone())


def test_what_has_no_plain_memory_is_left_out():
    assert digest_weights(nn.LazyLinear(3)) == {}
    assert digest_weights(nn.Linear(3, 3, device="meta")) == {}
    assert digest(torch.eye(3).to_sparse()) == {}
