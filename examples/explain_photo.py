"""Explain what networks trained on ImageNet see in a photo.

    python examples/explain_photo.py
    python examples/explain_photo.py --photo coffee --class espresso
    python examples/explain_photo.py --photo my.jpg --class "great grey owl" --model squeezenet

Photos and weights come with packages, so nothing is downloaded. It takes a few seconds on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision import transforms
from weights import NETWORKS, Network, package_folder

from lightning_saliency import Explanation, explain
from lightning_saliency.draw.canvas import RowName, Tile, colorize, photo, sheet
from lightning_saliency.functional.maps import strongest_channel
from lightning_saliency.functional.text import percent
from lightning_saliency.photos import read_photo, to_tensor
from lightning_saliency.probe.imagenet import class_index, class_names

PHOTOS = ("chelsea", "coffee", "camera", "astronaut")  # in the wheel of scikit-image
RULES = ("gradient", "guided_backprop")
SIZE = 224  # pixels per side, as both networks were trained


def photo_path(name: str) -> Path:
    """The path of one of scikit-image's photos by its name, or of any other file."""
    packaged = package_folder("skimage") / "data" / f"{name}.png"
    return packaged if name in PHOTOS and not Path(name).exists() else Path(name)


def prepare(opened: Image.Image, network: Network | None = None) -> Tensor:
    """Crop the central square of a photo and scale it to ``(3, 224, 224)``.

    The square is as wide as the photo's shorter side. ImageNet's models are validated without a
    margin around it, but that margin may hold what a person wants to have explained.

    Returns:
        Values in [0, 1], or normalised for ``network`` if there is one.
    """
    steps: list[Any] = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    if network is not None:
        steps.append(transforms.Normalize(network.mean, network.std))
    return to_tensor(opened, transform=transforms.Compose(steps))


def explain_photo(network: Network, image: Tensor, target: int | None) -> Explanation:
    """Explain class ``target`` of one image ``(3, H, W)``; by default the predicted class."""
    wanted = "predicted" if target is None else target
    return explain(network.load(), image[None], wanted, rules=RULES)


def describe(network: Network, explanation: Explanation) -> str:
    """List the five most probable classes and the explained one."""
    names, target = class_names(), int(explanation.targets)
    probabilities = explanation.logits.softmax(dim=1)[0]
    lines = [f"{network.title}; {explanation.coverage}"]
    for probability, index in zip(*(t.tolist() for t in probabilities.topk(5)), strict=True):
        mark = "  <- explained" if index == target else ""
        lines.append(f"  {percent(probability):>4}  {names[index]}{mark}")
    explained = float(probabilities[target])
    rank = int((probabilities > explained).sum()) + 1
    if rank > 5:
        lines.append(f"  {percent(explained):>4}  {names[target]}  <- explained")
        lines.append(f"        rank {rank} of {len(probabilities)}: the map shows weak evidence")
    return "\n".join(lines)


def draw_row(image: Tensor, explanation: Explanation) -> list[Tile]:
    """Draw the photo and one map per rule."""
    target = int(explanation.targets)
    probability = percent(float(explanation.logits.softmax(dim=1)[0, target]))
    tiles = [Tile(photo(image.numpy(), SIZE), class_names()[target], probability)]
    for rule in RULES:
        signed = strongest_channel(explanation[rule][0, 0])
        # Scaled to its peak, a map would show a few bright pixels and little else. Scaled to five
        # root mean squares, it shows the most.
        values = signed / (5 * signed.square().mean().sqrt().clamp(min=1e-30))
        tiles.append(Tile(colorize(values.numpy(), SIZE, "magnitude"), rule.replace("_", " ")))
    return tiles


def explain_and_draw(
    name: str, models: Iterable[str], target: int | None
) -> tuple[str, Image.Image]:
    """Explain a photo by each of ``models``: as text, and as a picture with one row per model."""
    opened = read_photo(photo_path(name))
    words, rows, names = [], [], []
    for network in (NETWORKS[model] for model in models):
        explanation = explain_photo(network, prepare(opened, network), target)
        words.append(describe(network, explanation))
        rows.append(draw_row(prepare(opened), explanation))
        names.append(RowName(network.title))
    foot = "the brighter, the more the logit depends on a pixel"
    laid = sheet(rows, title=Path(name).stem, foot=foot, row_names=names)
    return "\n\n".join(words), Image.fromarray(laid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", default="chelsea", help=f"a file, or {', '.join(PHOTOS)}")
    parser.add_argument(
        "--class", dest="name", help="class to explain; by default the predicted one"
    )
    parser.add_argument(
        "--model", choices=NETWORKS, action="append", help="network to use; by default both"
    )
    parser.add_argument("--out", type=Path, default=Path("photo.png"))
    arguments = parser.parse_args()

    try:
        target = None if arguments.name is None else class_index(arguments.name)
        words, picture = explain_and_draw(arguments.photo, arguments.model or NETWORKS, target)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    picture.save(arguments.out)
    print(f"{words}\n\nThe maps are in {arguments.out}.")


if __name__ == "__main__":
    main()
