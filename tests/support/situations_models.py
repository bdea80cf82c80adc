"""Models of other packages, and models of other tasks than classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from situations import CLASSES, REFUSES, SIDE, Items, Net, Situation, images, labels, load
from situations_modules import found_by
from torch import Tensor, nn
from torch.utils.data import TensorDataset

X, Y = images(), labels()
PIXELS = Y[:, None, None].expand(-1, SIDE, SIDE).clone()  # the class of each pixel


def batches() -> dict[str, Any]:
    """Batches as an image processor of Hugging Face makes them."""
    return load(Items(lambda i: {"pixel_values": X[i], "labels": int(Y[i])}))


class HuggingFace(pl.LightningModule):
    """A model of Hugging Face, which is called with its batches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        return self.model(pixel_values=pixel_values, labels=labels)

    def loss(self, batch: Any) -> Tensor:
        return self(**batch).loss

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=8)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Keywords(HuggingFace):
    def forward(self, **batch: Any) -> Any:
        return self.model(**batch)


class NoForward(HuggingFace):
    forward = pl.LightningModule.forward

    def loss(self, batch: Any) -> Tensor:
        return self.model(**batch).loss


class Boxes(HuggingFace):
    """A detector, which is trained here as if each image had one box."""

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch["pixel_values"]).logits.amax(dim=1), batch["labels"])


LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TRANSFORMER = {"image_size": SIDE, "patch_size": 4, "intermediate_size": 32, **LAYERS}
PYRAMID = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
SWIN = {"image_size": SIDE, "patch_size": 2, "window_size": 3, "embed_dim": 8}


def hugging_face(
    config: str,
    task: str = "ImageClassification",
    module: Callable[[Any], Any] = HuggingFace,
    **sizes: Any,
) -> Callable[[], Any]:
    """Build modules around a network of random weights."""

    def build() -> Any:
        import transformers

        auto = getattr(transformers, f"AutoModelFor{task}")
        known = getattr(transformers, config)(num_labels=CLASSES, **sizes)
        return module(auto.from_config(known))

    return build


def classifier(kind: str, module: Callable[[], Any], **changed: Any) -> Situation:
    """A classifier of Hugging Face."""
    known = {"needs": "transformers", **found_by(lambda output: output.logits), **changed}
    return Situation(kind, module, batches, **known)


def reduced(function: Callable[[Any, Tensor], Tensor]) -> dict[str, Any]:
    """Follow the advice to reduce the logits, of a task that has no labels for whole images."""
    return {
        "outcome": REFUSES,
        "options": lambda data: {"forward": function},
        "truth": None,
        "chances": lambda module, probe: function(module, probe.images).softmax(1),
    }


HUGGING_FACE = (
    classifier("Hugging Face's ViT", hugging_face("ViTConfig", **TRANSFORMER)),
    classifier("Hugging Face's BEiT", hugging_face("BeitConfig", **TRANSFORMER)),
    classifier(
        "Hugging Face's Swin",
        hugging_face("SwinConfig", depths=[1, 1], num_heads=[2, 2], **SWIN),
    ),
    classifier("Hugging Face's ConvNeXt", hugging_face("ConvNextConfig", num_stages=2, **STAGES)),
    classifier(
        "Hugging Face's ResNet",
        hugging_face("ResNetConfig", embedding_size=8, layer_type="basic", **STAGES),
    ),
    classifier(
        "the same in `forward(**batch)`",
        hugging_face("ViTConfig", module=Keywords, **TRANSFORMER),
        chances=lambda module, probe: module(pixel_values=probe.images).logits.softmax(1),
    ),
    classifier(
        "the same without `forward`",
        hugging_face("ViTConfig", module=NoForward, **TRANSFORMER),
        outcome=REFUSES,
        says="forward=lambda",
        remedy="`forward=lambda module, images: module.model(images)`",
        options=lambda data: {"forward": lambda module, images: module.model(images)},
        chances=lambda module, probe: module.model(probe.images).logits.softmax(1),
    ),
    Situation(
        "a segmentation network of Hugging Face",
        hugging_face(
            "SegformerConfig",
            "SemanticSegmentation",
            decoder_hidden_size=16,
            sr_ratios=[1] * 4,
            **PYRAMID,
        ),
        lambda: load(Items(lambda i: {"pixel_values": X[i], "labels": PIXELS[i]})),
        says=r"model\(images\).logits.mean\(dim=\(2, 3\)\)",
        remedy="`forward=lambda model, images: model(images).logits.mean(dim=(2, 3))`",
        needs="transformers",
        **reduced(lambda module, x: module(x).logits.mean(dim=(2, 3))),
    ),
    classifier(
        "a detector of Hugging Face, `(N, boxes, C)`",
        hugging_face(
            "YolosConfig",
            "ObjectDetection",
            Boxes,
            **{**TRANSFORMER, "image_size": [SIDE, SIDE]},
            num_detection_tokens=3,
        ),
        outcome=REFUSES,
        says=r"model\(images\).logits.amax\(dim=1\)",
        remedy="`forward=lambda model, images: model(images).logits.amax(dim=1)`",
        options=lambda data: {"forward": lambda model, x: model(x).logits.amax(dim=1)},
        chances=lambda module, probe: module(probe.images).logits.amax(dim=1).softmax(1),
    ),
)


# --- Segmentation and detection.


class Segmenting(Net):
    """Logits at each position, in a dict as torchvision returns them."""

    def __init__(self, dimensions: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.conv, self.head = conv(3, 4, 3, padding=1), conv(4, CLASSES, 1)

    def forward(self, x: Tensor) -> Any:
        return {"out": self.head(self.conv(x).relu())}

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0])["out"], batch[1])


class SegmentingVolumes(Segmenting):
    def __init__(self) -> None:
        super().__init__(3)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)["out"]

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


def mean_of_region(module: Any, x: Tensor) -> Tensor:
    """The mean logit of each class, over the pixels that are predicted to show it."""
    logits = module(x)["out"]
    predicted = F.one_hot(logits.argmax(dim=1), logits.shape[1]).movedim(-1, 1)
    return (logits * predicted).sum(dim=(2, 3)) / predicted.sum(dim=(2, 3)).clamp(min=1)


TASKS = (
    Situation(
        "a segmentation network, `{'out': (N, C, H, W)}`",
        Segmenting,
        lambda: load(TensorDataset(X, PIXELS)),
        says=r'model\(images\)\["out"\].mean\(dim=\(2, 3\)\)',
        remedy="`forward=lambda model, images: model(images)['out'].mean(dim=(2, 3))`",
        **reduced(lambda module, x: module(x)["out"].mean(dim=(2, 3))),
    ),
    Situation(
        "the same, by the region of each class",
        Segmenting,
        lambda: load(TensorDataset(X, PIXELS)),
        says="reduces them",
        remedy="`forward=` as in [models.md](models.md#segmentation)",
        **reduced(mean_of_region),
    ),
    Situation(
        "a segmentation network of volumes, `(N, C, D, H, W)`",
        SegmentingVolumes,
        lambda: load(
            TensorDataset(X[:, :, None].repeat(1, 1, 4, 1, 1), PIXELS[:, None].repeat(1, 4, 1, 1))
        ),
        says=r"model\(images\).mean\(dim=\(2, 3, 4\)\)",
        remedy="`forward=lambda model, images: model(images).mean(dim=(2, 3, 4))`",
        **reduced(lambda module, x: module(x).mean(dim=(2, 3, 4))),
    ),
)


# --- timm.


class Timm(Net):
    def __init__(self) -> None:
        super().__init__()
        import timm

        self.model = timm.create_model("test_resnet", num_classes=CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


MODELS = (
    Situation("a model of timm", Timm, lambda: load(TensorDataset(X, Y)), needs="timm"),
    *HUGGING_FACE,
    *TASKS,
)
