"""Explain what networks trained on ImageNet see in a photo.

    python examples/explain_photo.py
    python examples/explain_photo.py --photo coffee --class espresso
    python examples/explain_photo.py --photo my.jpg --class "great grey owl" --model squeezenet

Photos and weights come with packages, and nothing is downloaded. A few seconds on a CPU.
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
from lightning_saliency.draw.canvas import Tile, colorize, photo, sheet
from lightning_saliency.functional.maps import strongest_channel
from lightning_saliency.functional.text import percent
from lightning_saliency.photos import read_photo, to_tensor
from lightning_saliency.probe.imagenet import class_index, class_names

PHOTOS = ("chelsea", "coffee", "camera", "astronaut")  # in the wheel of scikit-image
RULES = ("gradient", "guided_backprop")
SIZE = 224  # pixels a side: what both networks were trained with


def photo_path(name: str) -> Path:
    """The file of one of scikit-image's photos, or any other."""
    packaged = package_folder("skimage") / "data" / f"{name}.png"
    return packaged if name in PHOTOS and not Path(name).exists() else Path(name)


def prepared(opened: Image.Image, network: Network | None = None) -> Tensor:
    """The middle of a photo ``(3, 224, 224)``, in [0, 1] or normalised as ``network`` wants it.

    Out to its shorter side: the margin that ImageNet's models are validated without may hold what
    a person wants to have explained.
    """
    steps: list[Any] = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    if network is not None:
        steps.append(transforms.Normalize(network.mean, network.std))
    return to_tensor(opened, transform=transforms.Compose(steps))


def explain_photo(network: Network, image: Tensor, target: int | None) -> Explanation:
    """Explain one image ``(3, H, W)``: class ``target``, or the one that the network sees."""
    wanted = "predicted" if target is None else target
    return explain(network.load(), image[None], wanted, rules=RULES)


def told(network: Network, explanation: Explanation) -> str:
    """The five strongest classes and the explained one, in words."""
    names, target = class_names(), int(explanation.targets)
    chances = explanation.logits.softmax(dim=1)[0]
    lines = [f"{network.title}; {explanation.coverage}"]
    for chance, index in zip(*(found.tolist() for found in chances.topk(5)), strict=True):
        mark = "  <- explained" if index == target else ""
        lines.append(f"  {percent(chance):>4}  {names[index]}{mark}")
    rank = int((chances > chances[target]).sum()) + 1
    if rank > 5:
        lines.append(f"  {percent(float(chances[target])):>4}  {names[target]}  <- explained")
        lines.append(f"        rank {rank} of {len(chances)}: what little speaks for it is shown")
    return "\n".join(lines)


def row(image: Tensor, explanation: Explanation) -> list[Tile]:
    """The photo and a map by each rule."""
    target = int(explanation.targets)
    chance = percent(float(explanation.logits.softmax(dim=1)[0, target]))
    tiles = [Tile(photo(image.numpy(), SIZE), class_names()[target], chance)]
    for rule in RULES:
        signed = strongest_channel(explanation[rule][0, 0])
        # At its peak a map would end in a few pixels: five root mean squares show the most.
        values = signed / (5 * signed.square().mean().sqrt().clamp(min=1e-30))
        tiles.append(Tile(colorize(values.numpy(), SIZE, "magnitude"), rule.replace("_", " ")))
    return tiles


def picture_of(name: str, models: Iterable[str], target: int | None) -> tuple[str, Image.Image]:
    """What the networks ``models`` see in a photo: in words, and a picture with a row each."""
    opened = read_photo(photo_path(name))
    words, rows, titles = [], [], []
    for network in (NETWORKS[model] for model in models):
        explanation = explain_photo(network, prepared(opened, network), target)
        words.append(told(network, explanation))
        rows.append(row(prepared(opened), explanation))
        titles.append(network.title)
    foot = "the brighter, the more the logit depends on a pixel"
    laid = sheet(rows, title=Path(name).stem, foot=foot, row_names=titles)
    return "\n\n".join(words), Image.fromarray(laid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", default="chelsea", help=f"a file, or {', '.join(PHOTOS)}")
    parser.add_argument("--class", dest="name", help="class to explain; by default what each sees")
    parser.add_argument("--model", choices=NETWORKS, action="append", help="by default both")
    parser.add_argument("--out", type=Path, default=Path("photo.png"))
    arguments = parser.parse_args()

    try:
        target = None if arguments.name is None else class_index(arguments.name)
        words, picture = picture_of(arguments.photo, arguments.model or NETWORKS, target)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    picture.save(arguments.out)
    print(f"{words}\n\nThe maps are in {arguments.out}.")


if __name__ == "__main__":
    main()
