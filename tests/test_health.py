"""How much maps depend on the model: told right, and without a trace on the model."""

from __future__ import annotations

import pytest
import torch
from matrix import Touchy, probe
from torch import Tensor, nn

from lightning_saliency import ProbeBatch
from lightning_saliency.health import health


class Weighted(nn.Module):
    """Its gradient is its weight, so that everything can be worked out by hand."""

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
    assert abs(found.last_layer) < 0.3  # weights drawn anew have nothing to do with the old ones
    assert found.last_layer == found.all_layers  # there is but one layer
    # The images 1 and 0, 2 and 1 are of other classes, 0 and 2 of the same.
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
    assert found == health(model, probe())  # the same weights are drawn each time


def test_a_forward_of_the_user_is_given_the_other_weights():
    torch.manual_seed(0)
    plain = health(Weighted(), images(), rule="gradient")
    torch.manual_seed(0)
    asked = health(Weighted(), images(), rule="gradient", forward=lambda m, x: m(x) * 2)
    assert asked == plain


class HeadFirst(nn.Module):
    """Defines its head first; what it defines last runs first, or last and beside the logits."""

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
    # What stands aside would change nothing.
    assert health(model, images(), rule="gradient").last_layer < 0.9
    model.head.requires_grad_(False)  # as with frozen weights
    with torch.no_grad():
        # The gradient is a multiple of one pattern, whatever the head: only the body changes it.
        model.body.weight.copy_(torch.ones(16, 1) * torch.rand(64))
    found = health(model, images(), rule="gradient")
    assert abs(found.last_layer) == pytest.approx(1)
    assert abs(found.all_layers) < 0.9
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_layers_that_are_never_called_have_an_order_too():
    class Functional(Weighted):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ self.head.weight.T

    torch.manual_seed(0)
    found = health(Functional(), images(), rule="gradient")
    assert found.last_layer == found.all_layers


def test_what_cannot_be_told_is_left_out():
    one = ProbeBatch(torch.rand(1, 1, 8, 8))
    found = health(Weighted(1), one, rule="gradient")
    assert found.other_class is found.other_image is found.untrained is None
    assert "another" not in str(found)


def test_a_model_without_layers_of_its_own():
    with pytest.raises(ValueError, match="no layer with `reset_parameters` that could be drawn"):
        health(nn.Flatten(), images())


def test_it_reads_well():
    torch.manual_seed(0)
    lines = str(health(Weighted(), images(), rule="gradient")).splitlines()
    assert lines[0] == "gradient: rank correlation of the maps with those of"
    assert [line[:28].strip() for line in lines[1:]] == [
        "last layer drawn anew",
        "all layers drawn anew",
        "another class",
        "another image (the floor)",
    ]
