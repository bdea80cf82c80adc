"""Make the picture of Captum's methods next to guided backprop, on two photos, with SqueezeNet.

    python docs/make_methods_picture.py

All maps of a photo come from one call of :func:`lightning_saliency.explain`. It takes ten seconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from captum.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from PIL import Image
from torch import Tensor

from lightning_saliency import explain
from lightning_saliency.captum import rule
from lightning_saliency.draw.canvas import Tile, sheet
from lightning_saliency.draw.colours import colorize, photo
from lightning_saliency.functional.maps import strongest_channel
from lightning_saliency.photos import read_photo
from lightning_saliency.probe.imagenet import class_index

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "examples"))

from explain_photo import photo_path, prepare  # noqa: E402
from weights import NETWORKS  # noqa: E402

PHOTOS = {"chelsea": "Egyptian cat", "coffee": "espresso"}
SIDE = 176  # pixels of a tile
LIMIT = 5  # root mean squares of a map at which its colours saturate
SMOOTH = {"nt_samples": 16, "nt_samples_batch_size": 4, "stdevs": 0.3, "abs": False}
METHODS = {
    "guided backprop": "guided_backprop",
    "gradient": "gradient",
    "integrated gradients": rule(IntegratedGradients, n_steps=32, internal_batch_size=8),
    "SmoothGrad": rule(NoiseTunnel, around=Saliency, name="smooth_grad", **SMOOTH),
    "Grad-CAM": rule(
        LayerGradCam,
        layer="features.12",
        relu_attributions=True,
        interpolate_mode="bilinear",
        name="grad_cam",
    ),
}


def draw_map(caption: str, attribution: Tensor) -> Tile:
    """Draw one attribution ``(C, H, W)``."""
    signed = strongest_channel(attribution)
    # Grad-CAM is smooth and never negative, so it is scaled to its peak.
    limit = signed.max() if len(attribution) == 1 else LIMIT * signed.square().mean().sqrt()
    return Tile(colorize((signed / limit.clamp(min=1e-30)).numpy(), SIDE, "magnitude"), caption)


def draw_row(name: str, shown: str) -> list[Tile]:
    """Draw a photo, and what each method says of the class ``shown``."""
    network = NETWORKS["squeezenet"]
    opened = read_photo(photo_path(name))
    image = prepare(opened, network)[None]
    rules = tuple(METHODS.values())
    explanation = explain(network.load(), image, torch.tensor([class_index(shown)]), rules=rules)
    maps = zip(METHODS, explanation.attributions.values(), strict=True)
    return [
        Tile(photo(prepare(opened).numpy(), SIDE), shown),
        *(draw_map(caption, found[0, 0]) for caption, found in maps),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/images")
    path = parser.parse_args().out / "methods.png"
    torch.manual_seed(0)
    rows = [draw_row(name, shown) for name, shown in PHOTOS.items()]
    laid = sheet(
        rows,
        title="one class of two photos, by five methods",
        foot="the brighter, the more the logit depends on a pixel, as each method defines it",
    )
    picture = Image.fromarray(laid)
    picture.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {picture.width}×{picture.height}, {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
