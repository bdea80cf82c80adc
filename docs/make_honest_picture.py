"""Make three pictures of the documentation: explained photos, and how far to trust the maps.

    python docs/make_honest_picture.py

``photo.png`` is what ``examples/explain_photo.py`` draws. ``panels.png`` is what
``Explanation.plot`` draws of two photos explained by SqueezeNet. ``honest.png`` shows that guided
backprop depends little on the class and the weights: SqueezeNet explains one photo as two things
that are in it, and again with a randomised last layer (Adebayo et al. 2018,
https://arxiv.org/abs/1810.03292).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.draw.figure import COLOURS
from lightning_saliency.photos import read_photo
from lightning_saliency.probe.imagenet import class_index, class_names

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "examples"))

from explain_photo import explain_and_draw, photo_path, prepare  # noqa: E402
from weights import NETWORKS  # noqa: E402

PHOTO, UNRELATED = "astronaut", "coffee"
CLASSES = ("space shuttle", "crash helmet")
SHUTTLE = (155, 0, 50, 132)  # left, top, width and height, in pixels of the 224 × 224 image
RULES = {"guided_backprop": "guided\nbackprop", "gradient": "plain\ngradient"}
HEADS = (
    f"explained as\n{CLASSES[0]}",
    f"explained as\n{CLASSES[1]}",
    f"{CLASSES[0]}, with the\nlast layer randomised",
)
DRAWS = 11  # number of random last layers that are tried
INK, FAINT, ALIKE = "#202124", "#5f6368", "#b3261e"
BOX = "#4dd0e1"
HEAD = {"fontsize": 12.5, "color": INK}
LIMIT = 3.5  # root mean squares of a map at which its colours saturate


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Reset the last layer of ``model`` to random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.classifier[1].reset_parameters()
    return model


def maps(model: nn.Module, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The maps ``(N, K, H, W)`` of the classes called ``names``, by rule."""
    classes = torch.tensor([class_index(name) for name in names]).expand(len(images), -1)
    explanation = explain(model, images, classes, rules=tuple(RULES))
    return {rule: explanation.maps(rule) for rule in RULES}


def correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation over the pixels of two maps."""
    return float(spearmanr(a.flatten(), b.flatten()).statistic)


def measure(photos: Tensor) -> tuple[dict[str, list[Tensor]], dict[str, float]]:
    """Explain two photos of ``(3, 224, 224)`` in [0, 1].

    Returns:
        By rule, three maps of the first photo: of both classes, and with a random last layer. And
        by rule, the correlation of the two photos' maps of the first class.
    """
    network = NETWORKS["squeezenet"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    images = (photos - mean) / std
    found = maps(network.load(), images, CLASSES)
    fresh = median_draw(images[:1], {rule: found[rule][0, 0] for rule in RULES})
    rows = {rule: [*found[rule][0], fresh[rule]] for rule in RULES}
    return rows, {rule: correlation(found[rule][0, 0], found[rule][1, 0]) for rule in RULES}


def median_draw(image: Tensor, trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """Draw random last layers, and return the maps of the median one, by rule.

    It is the one whose guided map has the median correlation with the trained one. The draws
    differ so much that a single one could show anything.
    """
    load = NETWORKS["squeezenet"].load
    draws = [maps(randomised(load(), seed), image, CLASSES[:1]) for seed in range(DRAWS)]
    alike = {r: [correlation(trained[r], draw[r][0, 0]) for draw in draws] for r in RULES}
    for rule, values in alike.items():
        middle = sorted(values)[DRAWS // 2]
        print(f"{rule}, randomised: median {middle:.2f}, {min(values):.2f} to {max(values):.2f}")
    order = sorted(range(DRAWS), key=lambda seed: alike["guided_backprop"][seed])
    return {rule: draws[order[DRAWS // 2]][rule][0, 0] for rule in RULES}


def draw(photo: Tensor, rows: dict[str, list[Tensor]], unrelated: dict[str, float]) -> Figure:
    figure = Figure(figsize=(10, 5.7), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(
        w_pad=0.05, h_pad=0.07, wspace=0, hspace=0, rect=(0, 0.01, 1, 0.98)
    )
    axes = figure.subplot_mosaic("PABC;TDEF")
    for ax in axes.values():
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    axes["P"].imshow(photo.permute(1, 2, 0))
    axes["P"].set_title("one photo,\ntwo things in it", **HEAD)
    explain_numbers(axes["T"], unrelated)
    for keys, (rule, found) in zip(("ABC", "DEF"), rows.items(), strict=True):
        draw_row([axes[key] for key in keys], rule, found)
    for key, head in zip("ABC", HEADS, strict=True):
        axes[key].set_title(head, **HEAD)
    for key in "PABCDEF":
        left, top, *size = SHUTTLE
        axes[key].add_patch(Rectangle((left, top), *size, fill=False, edgecolor=BOX, linewidth=1.5))
    return figure


def draw_row(axes: list[Axes], rule: str, found: list[Tensor]) -> None:
    for ax, values in zip(axes, found, strict=True):
        limit = LIMIT * float(values.square().mean().sqrt())
        ax.imshow(values, cmap=COLOURS, vmin=0, vmax=limit)
    axes[0].set_ylabel(RULES[rule], fontsize=15, color=INK, weight="bold")
    axes[0].set_xlabel("correlation with this map", fontsize=11.5, color=FAINT)
    for ax, values in zip(axes[1:], found[1:], strict=True):
        value = correlation(found[0], values)
        colour = ALIKE if value > 0.85 else INK
        ax.set_xlabel(f"{value:.2f}", fontsize=18, weight="bold", color=colour)


def explain_numbers(ax: Axes, unrelated: dict[str, float]) -> None:
    words = (
        "A map should change with\nthe class and the weights.\n"
        "In the box: the shuttle.\n\n"
        "Numbers: Spearman's\ncorrelation with the map\non the left. The maps of\n"
        "two different photos:\n"
        f"{unrelated['guided_backprop']:.2f} guided, {unrelated['gradient']:.2f} plain."
    )
    ax.set_box_aspect(1)
    ax.text(-0.02, 0.99, words, fontsize=12.5, color=INK, va="top", linespacing=1.35)


def panels() -> Figure:
    """Plot two photos, each explained as the class of what it shows."""
    network = NETWORKS["squeezenet"]
    paths = [photo_path(name) for name in ("chelsea", "coffee")]
    targets = torch.tensor(class_index(["Egyptian cat", "espresso"]))
    probe = ProbeBatch.from_files(paths, (224, 224), class_names=class_names())
    return explain(network.load(), probe.images, targets).plot(probe)


def rendered(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer)


def save(picture: Image.Image, path: Path) -> None:
    picture.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    print(f"{path}  {picture.width}×{picture.height}, {path.stat().st_size / 1024:.0f} KB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/images")
    out = parser.parse_args().out
    photos = torch.stack([prepare(read_photo(photo_path(n))) for n in (PHOTO, UNRELATED)])
    save(rendered(draw(photos[0], *measure(photos))), out / "honest.png")
    save(rendered(panels()), out / "panels.png")
    save(explain_and_draw("chelsea", NETWORKS, None)[1], out / "photo.png")


if __name__ == "__main__":
    main()
