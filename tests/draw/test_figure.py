"""The four panels: their values, worked by hand, and how files and notebooks get them."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_saliency import Explanation, ProbeBatch, explain
from lightning_saliency.draw.figure import COLOURS, SATURATION

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)


@pytest.fixture(autouse=True)
def no_open_figures():
    """No drawing may leave a figure open in pyplot."""
    import matplotlib.pyplot as plt

    yield
    assert plt.get_fignums() == []


def explanation(
    count: int = 1, classes: int = 1, channels: int = 3, size: tuple[int, int] = (4, 4)
) -> Explanation:
    """Random attributions; class 0 is the most likely, class 1 the next, and so on."""
    generator = torch.Generator().manual_seed(0)
    attribution = torch.randn(count, classes, channels, *size, generator=generator)
    targets = torch.arange(classes).expand(count, -1)
    logits = -torch.arange(max(classes, 2)).float().expand(count, -1)
    return Explanation({"guided_backprop": attribution}, targets, logits)


def plot(made: Explanation, probe: Any, **options: Any) -> Any:
    return made.plot(probe, **options)


def panels(figure: Any, row: int = 0) -> list[np.ndarray]:
    """The arrays in the four axes of a row."""
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes[4 * row : 4 * row + 4]]


def labels(figure: Any) -> list[str]:
    return [ax.texts[0].get_text() for ax in figure.axes[::4]]


def heads(figure: Any) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes[:4]]


def with_attribution(values: Tensor) -> Explanation:
    """One image and one class, explained by ``values`` ``(C, H, W)``."""
    return Explanation({"gradient": values[None, None]}, torch.tensor([[0]]), torch.zeros(1, 2))


def test_numbers_worked_by_hand():
    # One red and one blue value in 12: the root mean square is sqrt((3² + 4²) / 12) = 1.4434, and
    # the colours end at five times that, 7.2169. So 3 is at 0.4157 of the scale and -4 at -0.5543.
    values = torch.zeros(3, 2, 2)
    values[0, 0, 1], values[2, 1, 0] = 3.0, -4.0
    figure = plot(with_attribution(values), torch.zeros(1, 3, 2, 2))
    photo, signed, strength, overlay = panels(figure)
    expected = np.full((2, 2, 3), 0.5)  # zero is mid grey
    expected[0, 1, 0] = 0.5 + 0.4157 / 2  # more red would raise the logit
    expected[1, 0, 2] = 0.5 - 0.5543 / 2  # more blue would lower it
    np.testing.assert_allclose(signed, expected, atol=1e-4)
    np.testing.assert_allclose(strength, [[0, 0.4157], [0.5543, 0]], atol=1e-4)
    assert (photo == 0).all()
    colour = matplotlib.colormaps[COLOURS](0.5543)[:3]
    np.testing.assert_allclose(overlay[1, 0], np.array(colour) * 0.5543**0.7, atol=5e-3)
    np.testing.assert_array_equal(overlay[0, 0], 0)  # nothing laid over a black photo


def test_the_input_is_shown_in_its_own_colours_red_first():
    colours = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    probe = ProbeBatch(((colours - mean) / std)[None], mean=MEAN, std=STD)
    shown = panels(plot(explanation(), probe))[0]
    np.testing.assert_allclose(shown[..., 0], colours[0], atol=1e-6)
    np.testing.assert_allclose(shown[..., 2], colours[2], atol=1e-6)


def test_the_overlay_is_the_dimmed_photo_where_the_map_is_zero():
    values = torch.zeros(3, 2, 2)
    values[1, 0, 0] = 1.0
    image = torch.tensor([0.9, 0.6, 0.3]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    overlay = panels(plot(with_attribution(values), image))[3]
    np.testing.assert_allclose(overlay[1, 1], [0.36, 0.36, 0.36], atol=1e-6)  # 0.6 of the mean 0.6


def test_strong_values_saturate_and_never_leave_the_scale():
    values = torch.zeros(3, 10, 10)
    values[:, 0, 0] = torch.tensor([1e6, -1e6, 0.0])
    signed, strength = panels(plot(with_attribution(values), torch.zeros(1, 3, 10, 10)))[1:3]
    assert SATURATION * values.square().mean().sqrt() < 1e6
    assert signed[0, 0].tolist() == [1.0, 0.0, 0.5]
    assert strength.max() == 1.0


def test_an_all_zero_map_is_mid_grey_and_black():
    photo, signed, strength, _ = panels(
        plot(with_attribution(torch.zeros(3, 2, 2)), torch.ones(1, 3, 2, 2))
    )
    assert (signed == 0.5).all()
    assert (strength == 0).all()
    assert (photo == 1).all()


@pytest.mark.parametrize(
    ("reduce", "expected", "head"),
    [
        pytest.param("abs_max", 4.0, "max magnitude", id="magnitude"),
        pytest.param("max", 3.0, "max, signed", id="flashtorch"),
        pytest.param("abs_sum", 7.0, "sum of magnitudes", id="sum"),
        pytest.param("square", 25.0, "sum of squares", id="square"),
    ],
)
def test_reductions(reduce: Any, expected: float, head: str):
    values = torch.zeros(3, 8, 8)
    values[0, 0, 0], values[1, 0, 0], values[:, 1, 1] = 3.0, -4.0, -9.0
    limit = SATURATION * float(values.square().mean().sqrt())
    unit = limit**2 if reduce == "square" else limit
    figure = plot(with_attribution(values), torch.zeros(1, 3, 8, 8), reduce=reduce)
    assert panels(figure)[2][0, 0] == pytest.approx(min(1.0, expected / unit), rel=1e-5)
    assert heads(figure)[2] == f"gradient\n{head}"
    if reduce == "max":  # all channels negative: the signed maximum is below zero, drawn as zero
        assert panels(figure)[2][1, 1] == 0


@pytest.mark.parametrize(
    ("channels", "head"),
    [
        pytest.param(1, "signed", id="grey"),
        pytest.param(2, "strongest channel", id="two"),
        pytest.param(3, "by colour channel", id="colour"),
        pytest.param(5, "strongest channel", id="five"),
    ],
)
def test_any_number_of_channels(channels: int, head: str):
    made = explanation(channels=channels, size=(3, 6))
    images = torch.rand(1, channels, 3, 6, generator=torch.Generator().manual_seed(0))
    figure = plot(made, images)
    photo, signed, strength, overlay = panels(figure)
    assert heads(figure) == [
        "input",
        f"guided backprop\n{head}",
        "guided backprop\nmax magnitude",
        "overlay",
    ]
    assert photo.shape == signed.shape == ((3, 6, 3) if channels == 3 else (3, 6))
    assert strength.shape == (3, 6)
    assert overlay.shape == (3, 6, 3)
    if channels != 3:
        np.testing.assert_allclose(photo, images[0].mean(dim=0), atol=1e-6)
        values = made["guided_backprop"][0, 0]
        strongest = values.flatten(1)[values.flatten(1).abs().argmax(dim=0), torch.arange(18)]
        limit = SATURATION * values.square().mean().sqrt()
        np.testing.assert_allclose(
            signed.ravel(), (strongest / limit / 2 + 0.5).clamp(0, 1), atol=1e-6
        )


def test_one_image_has_one_row_per_class_with_name_and_probability():
    made = explanation(classes=3)
    probe = ProbeBatch(torch.rand(1, 3, 4, 4), class_names=["cat", "dog", "$bird$"])
    figure = plot(made, probe)
    assert len(figure.axes) == 12
    assert labels(figure) == ["cat · 67%", "dog · 24%", "$bird$ · 9%"]  # softmax of 0, -1, -2
    figure.draw_without_rendering()  # a dollar is no formula


def test_several_images_have_a_row_each_for_the_label_or_else_the_strongest():
    made = explanation(count=3, classes=3)
    images = torch.rand(3, 3, 4, 4)
    labelled = ProbeBatch(images, torch.tensor([2, 0, 1]))
    assert labels(plot(made, labelled)) == ["class 2 · 9%", "class 0 · 67%", "class 1 · 24%"]
    assert labels(plot(made, images)) == ["class 0 · 67%"] * 3
    unexplained = ProbeBatch(images, torch.tensor([2, 7, 1]))
    assert labels(plot(made, unexplained))[1] == "class 0 · 67%"


def test_rows_can_be_chosen():
    made = explanation(count=3, classes=3)
    images = torch.rand(3, 3, 4, 4)
    figure = plot(made, images, image=-1, targets=[2, 0])
    assert labels(figure) == ["class 2 · 9%", "class 0 · 67%"]
    limit = SATURATION * made["guided_backprop"][2, 2].square().mean().sqrt()
    strength = made["guided_backprop"][2, 2].abs().amax(dim=0) / limit
    np.testing.assert_allclose(panels(figure)[2], strength.clamp(0, 1), atol=1e-6)
    assert labels(plot(made, images, targets=1)) == ["class 1 · 24%"] * 3
    assert len(plot(made, images, targets=[0, 2]).axes) == 4 * 6


def test_the_rule_can_be_chosen():
    first, second = explanation(), explanation(count=1, size=(4, 4))
    both = {"gradient": first["guided_backprop"], "deconvnet": -second["guided_backprop"]}
    made = Explanation(both, first.targets, first.logits)
    images = torch.zeros(1, 3, 4, 4)
    plain = plot(made, images, rule="gradient")
    assert heads(plain)[1].startswith("gradient\n")
    chosen = plot(made, images, rule="deconvnet")
    assert heads(chosen)[1].startswith("deconvnet\n")
    np.testing.assert_allclose(panels(chosen)[1], 1 - panels(plain)[1], atol=1e-6)


def test_all_rules_are_drawn_together_one_row_each():
    first, second = explanation(2, 3), explanation(2, 3)
    both = {"guided_backprop": first["guided_backprop"], "gradient": -second["guided_backprop"]}
    made = Explanation(both, first.targets, first.logits)
    figure = plot(made, torch.zeros(2, 3, 4, 4), image=1, targets=[2, 0])
    assert heads(figure) == ["input", "by colour channel", "max magnitude", "overlay"]
    assert labels(figure) == [
        "class 2 · 9% · guided backprop",
        "class 2 · 9% · gradient",
        "class 0 · 67% · guided backprop",
        "class 0 · 67% · gradient",
    ]
    guided, gradient = panels(figure, 0), panels(figure, 1)
    np.testing.assert_allclose(guided[1], 1 - gradient[1], atol=1e-6)
    np.testing.assert_allclose(guided[2], gradient[2], atol=1e-6)
    alone = plot(made, torch.zeros(2, 3, 4, 4), rule="gradient", image=1, targets=[2])
    np.testing.assert_array_equal(panels(alone)[1], gradient[1])


@pytest.mark.parametrize(
    ("labels_given", "logits", "expected"),
    [
        pytest.param(None, [[2.0]], "88%", id="one-logit"),
        pytest.param(torch.tensor([[1.0, 1.0]]), [[2.0, 2.0]], "88%", id="several-labels"),
        pytest.param(torch.tensor([0]), [[2.0, 2.0]], "50%", id="one-label"),
    ],
)
def test_probabilities(labels_given: Tensor | None, logits: list[list[float]], expected: str):
    made = Explanation(
        {"gradient": torch.ones(1, 1, 1, 2, 2)}, torch.tensor([[0]]), torch.tensor(logits)
    )
    probe = ProbeBatch(torch.zeros(1, 1, 2, 2), labels_given)
    assert labels(plot(made, probe)) == [f"class 0 · {expected}"]


def test_maps_that_are_not_finite_say_so():
    values = torch.ones(3, 2, 4)
    values[0, 0, 0] = torch.nan
    figure = plot(with_attribution(values), torch.zeros(1, 3, 2, 4))
    assert [ax.texts[0].get_text() for ax in figure.axes[1:]] == ["not finite"] * 3
    assert all(np.isfinite(panel).all() for panel in panels(figure))
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"rule": "gradient"}, KeyError, "no attribution by 'gradient'", id="rule"),
        pytest.param({"image": 2}, IndexError, "`image` must be from 0 to 1, got 2", id="image"),
        pytest.param(
            {"targets": 5}, ValueError, r"of image 0 0, 1, 2; got 5. Ask for it", id="target"
        ),
        pytest.param({"targets": []}, ValueError, "1 to 40 rows, got 0", id="no-rows"),
        pytest.param(
            {"targets": [0] * 21}, ValueError, "rows, got 42. Choose with `image=…`", id="rows"
        ),
        pytest.param(
            {"reduce": "mean"}, ValueError, "`reduce` must be one of abs_max, max", id="reduce"
        ),
        pytest.param({"width": 0}, ValueError, "`width` must be at least 1 inch", id="width"),
        pytest.param(
            {"probe": torch.zeros(2, 3, 4, 5)},
            ValueError,
            r"of shape \(2, 3, 4, 4\), got \(2, 3, 4, 5\)",
            id="shape",
        ),
        pytest.param(
            {"probe": torch.zeros(3, 4, 4)}, ValueError, r"Add a batch axis", id="no-batch-axis"
        ),
        pytest.param({"probe": "cat.jpg"}, TypeError, "must be a ProbeBatch or the", id="path"),
    ],
)
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str):
    made = explanation(count=2, classes=3)
    with pytest.raises(error, match=message):
        made.plot(**{"probe": torch.zeros(2, 3, 4, 4)} | arguments)


@pytest.mark.parametrize("width", [7.0, 3.4])
@pytest.mark.parametrize("size", [(4, 4), (3, 8), (9, 4)], ids=["square", "wide", "high"])
def test_panels_are_equal_fill_the_width_and_lie_apart(width: float, size: tuple[int, int]):
    made = explanation(classes=2, size=size)
    names = ["WIDE, " * 40, "b"]
    probe = ProbeBatch(torch.rand(1, 3, *size), class_names=names)
    figure = plot(made, probe, width=width)
    figure.draw_without_rendering()
    boxes = [ax.get_window_extent() for ax in figure.axes]
    for box in boxes:
        assert box.width == pytest.approx(boxes[0].width, abs=0.5)
        assert box.height / box.width == pytest.approx(size[0] / size[1], rel=0.01)
    assert sum(box.width for box in boxes[:4]) > 0.9 * width * figure.dpi
    words = [ax.texts[0].get_window_extent() for ax in figure.axes[::4]]
    words += [ax.get_tightbbox() for ax in figure.axes]
    assert min(w.y0 for w in words) >= 0
    assert max(w.y1 for w in words) <= figure.bbox.y1
    assert max(w.x1 for w in words) <= figure.bbox.x1
    assert re.fullmatch(r"(WIDE, )+.*… · 73%", labels(figure)[0])
    assert words[0].y0 >= boxes[4].y1  # a label lies between its row and the next
    assert words[0].y1 <= boxes[0].y0


def test_files_are_fine_enough_for_print(tmp_path: Path):
    figure = plot(explanation(), torch.rand(1, 3, 4, 4), width=3.5)
    figure.savefig(tmp_path / "figure.png")
    figure.savefig(tmp_path / "coarse.png", dpi=50)
    assert Image.open(tmp_path / "figure.png").width == 3.5 * 300
    assert Image.open(tmp_path / "coarse.png").width == 3.5 * 50
    with matplotlib.rc_context({"savefig.dpi": 80}):  # the user's own choice holds
        figure.savefig(tmp_path / "chosen.png")
    assert Image.open(tmp_path / "chosen.png").width == 3.5 * 80


def test_words_in_a_pdf_are_text(tmp_path: Path):
    with matplotlib.rc_context({"pdf.compression": 0}):
        plot(explanation(), torch.rand(1, 3, 4, 4)).savefig(tmp_path / "figure.pdf")
    data = (tmp_path / "figure.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert b"DejaVuSans" in data
    words = [b"".join(re.findall(rb"\((.*?)\)", line)) for line in data.split(b"\n")]
    assert b"overlay" in words  # in pieces, as its letters are moved closer together


def test_a_notebook_gets_a_picture_of_twice_its_resolution():
    figure = plot(explanation(), torch.rand(1, 3, 4, 4))
    data, size = figure._repr_png_()
    assert Image.open(io.BytesIO(data)).width == 2 * size["width"]
    assert size["width"] == math.floor(7 * figure.dpi)


def test_the_paper_is_white_and_the_words_dark_whatever_the_style():
    # What matplotlib 3.7 changes in its files, and later versions no longer do.
    with matplotlib.style.context(["dark_background", {"savefig.facecolor": "black"}]):
        figure = plot(explanation(), torch.zeros(1, 3, 4, 4))
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=100)
    pixels = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
    head = pixels[: int(0.3 * 100), : int(0.5 * 100)]  # over the first panel: "input"
    assert (pixels[-1] == 255).all()
    assert head.min() < 80


def test_a_model_from_end_to_end_on_its_own_device():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).half()
    images = torch.rand(2, 3, 8, 8).half().requires_grad_()
    figure = plot(explain(model, images, "predicted"), images)
    assert len(figure.axes) == 8
    figure.savefig(io.BytesIO())
