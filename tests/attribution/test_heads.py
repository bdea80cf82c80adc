"""Outputs that are probabilities already: the logits under them are explained."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from training import quiet_trainer

from lightning_saliency import Explanation, ProbeBatch, SaliencyCallback, explain
from lightning_saliency.attribution.graph import Graph
from lightning_saliency.attribution.heads import find_head
from lightning_saliency.attribution.logits import call_plainly, find_logits
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.attribution.rules import RULES
from lightning_saliency.check.verdict import Growth
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.observe.occlusion import probabilities_without

N, CLASSES = 5, 4
Out = Callable[[Tensor], Any]


class Net(nn.Module):
    """Logits that make a softmax nearly certain, and ``out`` of them; has a gate inside."""

    def __init__(self, out: Out = lambda logits: logits, scale: float = 300) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6, CLASSES), out
        with torch.no_grad():
            self.head.weight.mul_(scale)

    def forward(self, images: Tensor) -> Any:
        x = self.conv(images).relu()
        gate = x.mean(dim=(2, 3), keepdim=True).sigmoid()
        return self.out(self.head((x * gate).mean(dim=(2, 3))))


def images(count: int = N) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def explained(out: Out, **options: Any) -> Explanation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaliencyWarning)
        return explain(Net(out), images(), rules=RULES, **options)


@pytest.fixture(scope="module")
def plain() -> Explanation:
    return explain(Net(), images(), rules=RULES)


SOFTMAX: dict[str, Out] = {
    "softmax": lambda z: z.softmax(dim=1),
    "log_softmax": lambda z: z.log_softmax(dim=-1),
    "exponential-of-log_softmax": lambda z: z.log_softmax(dim=1).exp(),
    "logarithm-of-softmax": lambda z: (z.softmax(dim=1) + 1e-12).log(),
    "logarithm-of-clamped": lambda z: z.softmax(dim=1).clamp(min=1e-12).log(),
    "clamped": lambda z: z.softmax(dim=1).clamp(1e-12, 1),
    "in-a-tuple": lambda z: (z.softmax(dim=1),),
    "in-a-dict": lambda z: {"logits": z.softmax(dim=1)},
    "through-views": lambda z: z.view(N, CLASSES, 1, 1).softmax(dim=1).squeeze(-1).flatten(1),
    "through-an-unsqueeze": lambda z: z.softmax(dim=1).unsqueeze(1)[:, 0],
    "through-a-transpose": lambda z: z.t().softmax(dim=0).t().contiguous(),
    "through-a-cast": lambda z: z.softmax(dim=1).double(),
    "in-single-precision": lambda z: z.softmax(dim=1, dtype=torch.float64).float(),
    "of-a-module": nn.Softmax(dim=1),
}
SIGMOID: dict[str, Out] = {
    "sigmoid": torch.sigmoid,
    "in-place": lambda z: z.clone().sigmoid_(),
    "logsigmoid": F.logsigmoid,
    "exponential-of-logsigmoid": lambda z: F.logsigmoid(z).exp(),
    "of-a-module": nn.Sigmoid(),
}


def same_maps(found: Explanation, plain: Explanation) -> None:
    for rule in RULES:
        torch.testing.assert_close(found[rule], plain[rule], rtol=1e-6, atol=1e-6)
    assert found.coverage == plain.coverage


@pytest.mark.parametrize("out", SOFTMAX.values(), ids=SOFTMAX)
def test_a_softmax_at_the_end_makes_no_difference(out, plain):
    found = explained(out)
    same_maps(found, plain)
    assert found.activation == "softmax"
    expected = plain.logits.softmax(dim=1)
    torch.testing.assert_close(
        found.logits.softmax(dim=1), expected, rtol=0, atol=1e-6, check_dtype=False
    )
    assert float(expected.max()) > 0.999, (
        "the class must be nearly certain for the test to mean anything"
    )


@pytest.mark.parametrize("out", SIGMOID.values(), ids=SIGMOID)
def test_a_sigmoid_at_the_end_makes_no_difference(out, plain):
    found = explained(out)
    same_maps(found, plain)
    assert found.activation == "sigmoid"
    torch.testing.assert_close(found.logits.sigmoid(), plain.logits.sigmoid(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("end", ["softmax", "log_softmax"])
def test_one_probability_of_a_softmax_is_that_class_against_all_others(end):
    """``softmax(…)[:, 1]`` is one logit; its gradient is worked out in float64 by autograd."""
    found = explained(lambda z: getattr(z, end)(dim=1)[:, 1])
    model, leaf = Net().double(), images().double().requires_grad_()
    logits = model(leaf)
    odds = logits[:, 1] - logits[:, [0, 2, 3]].logsumexp(dim=1)
    (gradient,) = torch.autograd.grad(odds.sum(), leaf)
    torch.testing.assert_close(found["gradient"][:, 0], gradient.float(), rtol=1e-5, atol=1e-6)
    expected = logits.softmax(dim=1)[:, 1].float()
    torch.testing.assert_close(found.logits.sigmoid()[:, 0], expected, rtol=0, atol=1e-6)


def test_the_odds_of_a_certain_class_stay_finite():
    found = explained(lambda z: (z * 1e4).softmax(dim=1)[:, 1])
    assert bool(torch.isfinite(found["gradient"]).all())
    assert bool(torch.isfinite(found.logits).all())


@pytest.mark.parametrize("out", [torch.sigmoid, lambda z: z.softmax(dim=1)])
def test_logits_stay_finite_where_probabilities_are_0_or_1(out):
    found = explained(lambda z: out(z * 1e4))
    assert bool(torch.isfinite(found.logits).all())
    assert float(found["gradient"].abs().max()) > 0


def through_a_checkpoint(z: Tensor) -> Tensor:
    return checkpoint(lambda z: z.softmax(dim=1), z, use_reentrant=False)


@pytest.mark.parametrize("options", [{"chunk_size": 2}, {"targets": 1}, {"targets": "predicted"}])
def test_any_way_of_explaining_sees_the_logits(options):
    expected = explain(Net(), images(), rules=RULES, **options)
    same_maps(explained(lambda z: z.softmax(dim=1), **options), expected)
    same_maps(explained(through_a_checkpoint, **options), expected)


def test_full_backward_hooks_do_not_hide_the_softmax(plain):
    model = Net(nn.Softmax(dim=1))
    model.register_full_backward_hook(lambda *_: None)
    with pytest.warns(SaliencyWarning, match="returns the softmax of its logits"):
        same_maps(explain(model, images(), rules=RULES), plain)


def test_a_compiled_model_is_explained_by_its_logits(plain):
    model = torch.compile(Net(lambda z: z.softmax(dim=1)), backend="eager")
    with pytest.warns(SaliencyWarning, match="returns the softmax of its logits"):
        same_maps(explain(model, images(), rules=RULES), plain)


def test_half_precision_sees_the_logits():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaliencyWarning)
        model = Net(lambda z: z.softmax(dim=1)).to(torch.bfloat16)
        found = explain(model, images().bfloat16(), rules=("gradient",))
    expected = explain(Net().to(torch.bfloat16), images().bfloat16(), rules=("gradient",))
    torch.testing.assert_close(found["gradient"], expected["gradient"])


@pytest.mark.parametrize(
    "out",
    [
        pytest.param(lambda z: z * z.sigmoid(), id="a-gate"),
        pytest.param(lambda z: z.sigmoid() @ torch.ones(CLASSES, 3), id="hidden-units"),
        pytest.param(lambda z: z.softmax(dim=0), id="over-the-images"),
        pytest.param(lambda z: z.log_softmax(dim=1) + torch.arange(4.0), id="with-a-prior"),
        pytest.param(lambda z: z.softmax(dim=1).exp(), id="exponential"),
        pytest.param(lambda z: z[:, :1].softmax(dim=1), id="over-one-logit"),
    ],
)
def test_other_ends_are_explained_as_they_are(out):
    output = Net(out)(images().requires_grad_())
    assert find_head(output) is None


# --- what is said of it


def told(out: Out, times: int = 1) -> list[str]:
    model = Net(out, scale=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            explain(model, images(), rules=("gradient",))
    return [str(w.message) for w in caught if w.category is SaliencyWarning]


def test_it_is_said_once_per_model():
    said = [
        "Net returns the sigmoid of its logits: the maps explain the logits, because the gradient "
        "of a probability vanishes as the model grows sure."
    ]
    assert told(torch.sigmoid, times=3) == said
    assert told(torch.sigmoid) == said


def test_logits_are_not_commented_on():
    assert told(lambda z: z) == []


def test_probabilities_of_another_making_are_named_and_the_remedy_works():
    message = "seems to return probabilities.*Pass `forward=lambda model, images: …`"
    average = Net(lambda z: (z.softmax(dim=1) + (2 * z).softmax(dim=1)) / 2)
    with pytest.warns(SaliencyWarning, match=message):
        explain(average, images(), rules=("gradient",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(
            Net(average.out),
            images(),
            rules=("gradient",),
            forward=lambda model, x: model(x).log(),
        )


def test_an_embedding_is_named_and_the_remedy_works(plain):
    model = Net(lambda z: F.normalize(z))
    with pytest.warns(SaliencyWarning, match="seems to return embeddings.*the similarity to"):
        explain(model, images(), rules=("gradient",))
    others = F.normalize(torch.randn(2, CLASSES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain(
            Net(model.out),
            images(),
            rules=("gradient",),
            forward=lambda model, x: model(x) @ others.t(),
        )
    assert found.logits.shape == (N, 2)


def test_a_figure_shows_the_probabilities_of_the_output():
    """With labels of one class per image, a sigmoid is still what the model says."""
    found = explained(torch.sigmoid)
    probe = ProbeBatch(images(), torch.zeros(N, dtype=torch.int64))
    figure = found.plot(probe, rule="gradient", image=0, targets=2)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any(f"{float(found.logits[0, 2].sigmoid()):.0%}" in text for text in texts)


class Training(pl.LightningModule):
    """A classifier whose ``forward`` returns probabilities of some form."""

    def __init__(self, out: Out) -> None:
        super().__init__()
        self.net = Net(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self(batch[0]).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        pytest.param(SOFTMAX["log_softmax"], lambda z: z.softmax(dim=1), id="log_softmax"),
        pytest.param(SOFTMAX["softmax"], lambda z: z.softmax(dim=1), id="softmax"),
        pytest.param(torch.sigmoid, torch.sigmoid, id="sigmoid"),
        pytest.param(lambda z: z[:, 0].sigmoid(), lambda z: z[:, :1].sigmoid(), id="one-logit"),
    ],
)
def test_a_run_shows_the_probabilities_of_the_model_and_says_it_once(out, expected, tmp_path):
    probe = ProbeBatch(images(), torch.tensor([0, 1, 0, 1, 1]))
    watch = SaliencyCallback(probe, record=False, tile_size=24)
    module = Training(out)
    loader = DataLoader(TensorDataset(images(8)), 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_trainer(tmp_path, watch, max_epochs=2).fit(module, loader)
    module.net.out = lambda z: z
    shown = watch.state_dict()["history"]["last"]["probabilities"]
    said = expected(module.eval()(images())).detach()
    torch.testing.assert_close(shown, said, rtol=0, atol=1e-6)
    assert sum("of its logits" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize(
    "out",
    [
        pytest.param(lambda z: z.softmax(dim=1), id="softmax"),
        pytest.param(lambda z: z.softmax(dim=1)[:, 1], id="one-of-several"),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_batched_gradients_pass_a_head_too(out, rule):
    """Several backward passes in one, as `is_grads_batched` runs them."""
    leaf = images().requires_grad_()
    output = find_logits(Net(out)(leaf), N)
    graph = Graph(output, leaf, find_head(output))
    seeds = torch.eye(output.shape[1])[:, None].expand(-1, N, -1)
    with graph.following(rule):
        found = torch.autograd.grad(output, leaf, seeds, retain_graph=True, is_grads_batched=True)
    expected = explained(out)[rule].transpose(0, 1)
    torch.testing.assert_close(found[0], expected)


def test_the_pass_with_a_place_hidden_reads_the_output_alike():
    probe, classes = ProbeBatch(images(), torch.tensor([0, 1, 2, 3, 0])), torch.arange(N) % CLASSES
    growth = Growth(None, row=1, column=1, before=0.1, now=0.2)

    def hidden(out: Out, **options: Any) -> Tensor:
        passes = PassOptions(call_plainly, **options)
        return probabilities_without(growth, Net(out), probe, classes, passes, lambda rows: rows)

    plain = hidden(lambda z: z)
    for out in (SOFTMAX["softmax"], SOFTMAX["log_softmax"]):
        torch.testing.assert_close(hidden(out, chunk_size=2), plain, rtol=0, atol=1e-6)
    sigmoid = hidden(torch.sigmoid)
    assert float((sigmoid - plain).abs().max()) > 0.01, "a sigmoid is no softmax"


def test_what_is_passed_along_is_released_with_the_graph():
    """No hook stays at a node, so that a later backward pass of the user's own is as it was."""
    leaf = images().requires_grad_()
    output = Net(lambda z: z.softmax(dim=1))(leaf)
    (before,) = torch.autograd.grad(output[:, 0].sum(), leaf, retain_graph=True)
    graph = Graph(output, leaf, find_head(output))
    with graph.following("gradient"):
        (inside,) = torch.autograd.grad(output[:, 0].sum(), leaf, retain_graph=True)
    (after,) = torch.autograd.grad(output[:, 0].sum(), leaf)
    assert torch.equal(before, after)
    assert not torch.allclose(inside, after)
