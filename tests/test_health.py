"""`health` measures how much maps depend on the model, and leaves the model as it was."""

from __future__ import annotations

import pytest
import torch
from matrix import Touchy, probe
from torch import Tensor, nn

from lightning_saliency import ProbeBatch
from lightning_saliency.health import health


class Weighted(nn.Module):
    """A linear model, whose gradient is its weight, so that results can be worked out by hand."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.head = nn.Linear(64, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def images() -> ProbeBatch:
    return ProbeBatch(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 0]))


def test_a_linear_model_by_hand():
    torch.manual_seed(0)
    model = Weighted()
    before = {"head.weight": model.head.weight.detach().clone()}
    found = health(model, images(), rule="gradient", untrained=before)
    assert found.untrained == pytest.approx(1)
    assert abs(found.last_layer) < 0.3  # random weights have nothing to do with the old ones
    assert found.last_layer == found.all_layers  # there is only one layer
    # Each image is compared with the previous one, and the first with the last. Only the first and
    # the last image are of the same class.
    assert found.other_image == pytest.approx((1 + 2 * found.other_class) / 3)


def test_nothing_is_left_on_the_model():
    torch.manual_seed(0)
    model = Touchy().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    streams = torch.get_rng_state()
    found = health(model, probe())
    assert torch.equal(streams, torch.get_rng_state())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert all(m.training for m in model.modules())
    assert -1 <= found.all_layers <= 1
    assert found == health(model, probe())  # the random weights are the same each time


def test_a_user_s_forward_is_called_with_the_other_weights():
    torch.manual_seed(0)
    plain = health(Weighted(), images(), rule="gradient")
    torch.manual_seed(0)
    asked = health(Weighted(), images(), rule="gradient", forward=lambda m, x: m(x) * 2)
    assert asked == plain


class HeadFirst(nn.Module):
    """A model that defines its head first, and its body, which runs first, last.

    `aside` runs last of all, but the logits do not depend on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2, bias=False)
        self.aside = nn.Linear(16, 3)
        self.body = nn.Linear(64, 16, bias=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images.flatten(1))
        logits = self.head(features)
        return {"logits": logits, "aside": self.aside(features)}


def test_the_last_layer_is_the_one_that_runs_last_on_the_way_to_the_logits():
    torch.manual_seed(0)
    model = HeadFirst()
    # Reinitialising `aside` instead would change nothing, and give a correlation of 1.
    assert health(model, images(), rule="gradient").last_layer < 0.9
    model.head.requires_grad_(False)  # as if the weights were frozen
    with torch.no_grad():
        # All rows of the body are equal, so the gradient is a multiple of them, whatever the head
        # is. Only reinitialising the body changes the order of its pixels.
        model.body.weight.copy_(torch.ones(16, 1) * torch.rand(64))
    found = health(model, images(), rule="gradient")
    assert abs(found.last_layer) == pytest.approx(1)
    assert abs(found.all_layers) < 0.9
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_last_layer_defined_is_taken_if_no_layer_is_called():
    class Functional(Weighted):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ self.head.weight.T

    torch.manual_seed(0)
    found = health(Functional(), images(), rule="gradient")
    assert found.last_layer == found.all_layers


def test_numbers_that_cannot_be_measured_are_left_out():
    one = ProbeBatch(torch.rand(1, 1, 8, 8))
    found = health(Weighted(1), one, rule="gradient")
    assert found.other_class is found.other_image is found.untrained is None
    assert "another" not in str(found)


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="no layer with `reset_parameters` to reinitialise"):
        health(nn.Flatten(), images())


def test_it_prints_one_line_per_number():
    torch.manual_seed(0)
    lines = str(health(Weighted(), images(), rule="gradient")).splitlines()
    assert lines[0] == "gradient: rank correlation of the maps with those of"
    assert [line[:28].strip() for line in lines[1:]] == [
        "last layer reinitialised",
        "all layers reinitialised",
        "another class",
        "another image (the floor)",
    ]
