"""Where the logits are in an output, and what a model that is called in vain is told."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency import ProbeBatch, SaliencyError, explain
from lightning_saliency.attribution.activations import declare
from lightning_saliency.attribution.diagnostics import check_classes
from lightning_saliency.attribution.logits import count_classes, find_logits
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.health import health

N, FEATURES, CLASSES = 3, 6, 4


class Net(nn.Module):
    """Calls ``out`` with features and with the logits that are made of them."""

    def __init__(self, out: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.out = (
            nn.Conv2d(3, FEATURES, 3),
            nn.Linear(FEATURES, CLASSES),
            out,
        )

    def forward(self, images: Tensor) -> Any:
        features = self.conv(images).relu().mean(dim=(2, 3))
        return self.out(features, self.head(features))


def images(count: int = N) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


LOGITS = explain(Net(lambda features, logits: logits), images()).logits


# --- tuples

Inception = namedtuple("Inception", ["logits", "aux_logits"])


@pytest.mark.parametrize(
    "out",
    [
        pytest.param(lambda f, z: (f, z), id="features-first"),
        pytest.param(lambda f, z: (z, f), id="logits-first"),
        pytest.param(lambda f, z: [f, z], id="a-list"),
        pytest.param(lambda f, z: (f.detach(), z), id="detached-features"),
        pytest.param(lambda f, z: (z, f.detach()), id="detached-features-last"),
        pytest.param(lambda f, z: (z, z * 2), id="an-auxiliary-head"),
        pytest.param(lambda f, z: (z, z.sum()), id="a-loss"),
        pytest.param(lambda f, z: (z, None, [f]), id="nothing-and-a-list"),
        pytest.param(lambda f, z: (z, f[:1]), id="other-rows"),
        pytest.param(lambda f, z: (z, z.argmax(dim=1)), id="predictions"),
        pytest.param(lambda f, z: Inception(z, f), id="a-named-tuple"),
        pytest.param(lambda f, z: {"features": f, "logits": z}, id="a-dict"),
    ],
)
def test_the_logits_are_found_beside_features(out):
    torch.testing.assert_close(explain(Net(out), images()).logits, LOGITS)
    assert count_classes(Net(out).requires_grad_(False), images()) == CLASSES


def siblings(f: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Neither is made of the other."""
    return F.normalize(f), z * 1.5


def test_a_tuple_that_does_not_say_which_is_an_error_and_its_remedy_works():
    with pytest.raises(
        SaliencyError,
        match=r"several tensors that may be the logits, of shapes \(3, 6\), \(3, 4\).*"
        r"`forward=lambda model, images: model\(images\)\[1\]`",
    ):
        explain(Net(siblings), images())
    found = explain(Net(siblings), images(), forward=lambda model, x: model(x)[1])
    torch.testing.assert_close(found.logits, LOGITS * 1.5)


@pytest.mark.parametrize(("classes", "width"), [(CLASSES, CLASSES), (FEATURES, FEATURES)])
def test_the_number_of_classes_decides(classes, width):
    output = siblings(torch.randn(N, FEATURES).requires_grad_(), torch.randn(N, CLASSES))
    output[1].requires_grad_()
    assert find_logits(output, N, classes).shape == (N, width)


def test_the_classes_that_a_probe_names_decide():
    probe = ProbeBatch(images(), torch.arange(N), class_names=["a", "b", "c", "d"])
    assert probe.num_classes == CLASSES
    found = health(Net(siblings), probe, rule="gradient")
    expected = health(Net(lambda f, z: z * 1.5), probe, rule="gradient")
    assert found.other_class == pytest.approx(expected.other_class)


# --- outputs that hold no logits


def test_an_output_with_positions_is_an_error_and_its_remedy_works():
    def dense(f: Tensor, z: Tensor) -> Tensor:
        return z[:, :, None, None] * torch.ones(2, 2)

    with pytest.raises(SaliencyError, match=r"model\(images\)\.mean\(dim=\(2, 3\)\)"):
        explain(Net(dense), images())
    found = explain(Net(dense), images(), forward=lambda model, x: model(x).mean(dim=(2, 3)))
    torch.testing.assert_close(found.logits, LOGITS)


def test_what_is_in_a_dict_is_said_and_the_remedy_works():
    net = Net(lambda f, z: OrderedDict(out=z, aux=f))
    with pytest.raises(
        SaliencyError, match=r"an? OrderedDict of 'out': \(3, 4\), 'aux': \(3, 6\)\. Pass `forward"
    ):
        explain(net, images())
    found = explain(net, images(), forward=lambda model, x: model(x)["out"])
    torch.testing.assert_close(found.logits, LOGITS)


def test_a_generator_is_explained_by_what_judges_its_images():
    class Gan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = nn.Linear(5, 3 * 8 * 8)
            self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1))

        def forward(self, noise: Tensor) -> Tensor:
            return self.generator(noise).view(-1, 3, 8, 8)

    with pytest.raises(SaliencyError, match=r"trying Gan on images .*failed: RuntimeError: "):
        explain(Gan(), images())
    with pytest.raises(SaliencyError, match=r"model\.discriminator\(images\)"):
        explain(Gan(), images(), forward=lambda model, x: model(x.flatten(1)[:, :5]))
    found = explain(
        Gan(), images(), rules=("gradient",), forward=lambda model, x: model.discriminator(x)
    )
    assert found.logits.shape == (N, 1)


# --- models that cannot be called with the images


class TakesBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net(lambda f, z: z)

    def forward(self, batch: Any) -> Tensor:
        x, _ = batch
        return self.net(x)


class NoForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net(lambda f, z: z)


@pytest.mark.parametrize(
    ("model", "given", "says", "follow"),
    [
        pytest.param(
            TakesBatch(),
            images(),
            r"\(3, 8, 8\) torch\.float32, failed: ValueError: .*pass `forward=lambda model, images",
            {"forward": lambda model, x: model((x, None))},
            id="a-batch",
        ),
        pytest.param(
            NoForward(),
            images(),
            r"trying NoForward on .*failed: NotImplementedError: .*pass `forward=lambda model, ima",
            {"forward": lambda model, x: model.net(x)},
            id="no-forward",
        ),
        pytest.param(
            NoForward().net,
            images().permute(0, 2, 3, 1),
            r"\(8, 8, 3\) .*channels last: `images\.permute\(0, 3, 1, 2\)`",
            {"images": images()},
            id="channels-last",
        ),
        pytest.param(
            NoForward().net,
            images()[:, :1],
            r"on images of shape \(1, 8, 8\) torch\.float32, failed.*takes other images, pass thos",
            {"images": images()},
            id="another-number-of-channels",
        ),
    ],
)
def test_a_model_that_cannot_be_called_says_with_what_and_the_remedy_works(
    model, given, says, follow
):
    with pytest.raises(SaliencyError, match=f"(?s){says}"):
        explain(model, given)
    options = {"images": given, **follow}
    found = explain(model, **options)
    torch.testing.assert_close(found.logits, LOGITS)


def test_a_probe_is_named_where_there_is_one():
    probe = ProbeBatch(images())
    with pytest.raises(
        SaliencyError, match=r"(?s)images of the probe, .*pass `probe=ProbeBatch\(im"
    ):
        health(TakesBatch(), probe)
    found = health(TakesBatch(), probe, forward=lambda model, x: model((x, None)))
    assert found.rule == "guided_backprop"


def test_a_forward_with_rows_of_its_own_is_pointed_to_extras():
    ages = torch.arange(float(N))[:, None]
    net = Net(lambda f, z: z)
    with pytest.raises(SaliencyError, match=r'second input .*extras=\{"age": ages\}'):
        explain(net, images(), chunk_size=2, forward=lambda model, x: model(x) + ages)
    found = explain(
        net,
        images(),
        chunk_size=2,
        extras={"age": ages},
        forward=lambda model, x, age: model(x) + age,
    )
    torch.testing.assert_close(found.logits, LOGITS + ages)


# --- what a graph hides, and layers without a gradient


def test_an_operator_of_torch_library_can_be_declared():
    @torch.library.custom_op("lightning_saliency_tests::swish", mutates_args=())
    def swish(x: Tensor) -> Tensor:
        return x * x.sigmoid()

    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return upstream * gate * (1 + x * (1 - gate))

    swish.register_autograd(
        backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0])
    )

    def net(activation: Callable[[Tensor], Tensor]) -> nn.Module:
        class Swishing(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return activation(x).mean(dim=(2, 3))

        return Swishing()

    with pytest.raises(
        SaliencyError, match=r"declare\(op, …\)`, in which `op` is what `torch\.lib"
    ):
        explain(net(swish), images())
    declare(swish, "activation")
    found, expected = explain(net(swish), images()), explain(net(F.silu), images())
    torch.testing.assert_close(found["guided_backprop"], expected["guided_backprop"])
    assert found.coverage.followed == 1
    declare(torch.ops.lightning_saliency_tests.swish, "linear")  # another name of the same operator
    assert explain(net(swish), images(), rules=("gradient",)).coverage.followed == 0


@pytest.mark.filterwarnings("ignore:.*quant", "ignore:.*autograd kernel was not registered")
def test_a_quantised_model_is_an_error_and_its_remedy_works():
    model = Net(lambda f, z: z)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with pytest.raises(SaliencyError, match=r"has no gradient.*Explain the floating-point model"):
        explain(quantised, images())
    assert explain(model, images()).coverage.followed == 1


# --- logits and what a probe knows of the classes


@pytest.mark.parametrize(
    ("logits", "labels", "names", "says"),
    [
        pytest.param(512, [0, 9], 10, "512 logits, but the probe names 10 classes", id="embedding"),
        pytest.param(1, [0, 7], 0, "labels go up to 7. If it is a regression", id="a-count"),
    ],
)
def test_logits_that_do_not_seem_to_be_of_the_classes(logits, labels, names, says):
    with pytest.warns(SaliencyWarning, match=says):
        check_classes(logits, torch.tensor(labels), ["a"] * names)


@pytest.mark.parametrize(
    ("logits", "labels", "names"),
    [
        pytest.param(10, [0, 9], 10, id="as-many"),
        pytest.param(1000, [0, 9], 0, id="no-names"),
        pytest.param(1, [0, 1], 2, id="one-logit"),
        pytest.param(1, None, 2, id="one-logit-without-labels"),
        pytest.param(512, None, 0, id="nothing-is-known"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_logits_that_may_be_of_the_classes(logits, labels, names):
    check_classes(logits, None if labels is None else torch.tensor(labels), ["a"] * names)


@pytest.mark.parametrize("labels", [torch.tensor([0, 5]), torch.zeros(2, 6)])
def test_a_label_beyond_the_logits_is_an_error(labels):
    with pytest.raises(
        ValueError, match=r"`labels` of the probe do not fit: the model has 5 logit"
    ):
        ProbeBatch(images(2), labels).check_fit(5)
