"""What to show of a model and how, checked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lightning_saliency.attribution import Forward
from lightning_saliency.grid import IMAGE_FORMATS, STYLES, ImageFormat, Style
from lightning_saliency.pictures import Scale
from lightning_saliency.rules import RULES, Rule
from lightning_saliency.targets import check_words

OnError: TypeAlias = Literal["raise", "warn"]


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of :class:`SaliencyCallback` that do not say when; they are explained there.

    Raises:
        TypeError: ``forward`` cannot be called, or ``targets`` hold what is no class.
        ValueError: A value out of range; the message says what is allowed.
    """

    targets: str | list[int] | list[str] = "auto"
    rule: Rule = "guided_backprop"
    forward: Forward | None = None
    style: Style = "signed"
    scale: Scale = "map"
    tile_size: int = 96
    image_format: ImageFormat = "jpeg"
    chunk_size: int | None = None
    record: bool = True
    keep: int | None = None
    on_error: OnError = "raise"
    name: str = "saliency"

    def __post_init__(self) -> None:
        check_words(self.targets)
        _check_choice("rule", self.rule, RULES)
        _check_choice("style", self.style, STYLES)
        _check_choice("image_format", self.image_format, IMAGE_FORMATS)
        _check_choice("on_error", self.on_error, ("raise", "warn"))
        _check_size("tile_size", self.tile_size, 16)
        if self.chunk_size is not None:
            _check_size("chunk_size", self.chunk_size, 1)
        if self.keep is not None:
            _check_size("keep", self.keep, 2)
        _check_scale(self.scale)
        _check_name(self.name)
        if self.forward is not None and not callable(self.forward):
            raise TypeError(
                "`forward` must be a function `forward(pl_module, images) -> logits` or None, got "
                f"{self.forward!r}."
            )

    @property
    def told(self) -> dict[str, Any]:
        """What a record tells of how a run was observed; primitives only."""
        return {**self.shown, "style": self.style, "scale": self.scale, "tile_size": self.tile_size}

    @property
    def shown(self) -> dict[str, Any]:
        """What has to agree for maps to stand in one film strip; primitives only."""
        words = self.targets if isinstance(self.targets, str) else list(self.targets)
        return {"rule": str(self.rule), "targets": words}


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")


def _check_size(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")


def _check_scale(scale: object) -> None:
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if scale != "map" and not (number and scale > 0 and math.isfinite(scale)):  # type: ignore[operator, arg-type]
        raise ValueError(f"`scale` must be 'map' or a number above 0, got {scale!r}.")


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string, got {name!r}.")
    if not name or "/" in name:
        raise ValueError(f"`name` must not be empty or hold a '/', got {name!r}.")
