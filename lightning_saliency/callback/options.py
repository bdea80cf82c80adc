"""What to show of a model and how, validated before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lightning_saliency.attribution.logits import Forward
from lightning_saliency.attribution.methods import Method, read_rules
from lightning_saliency.attribution.rules import RULES, Rule
from lightning_saliency.attribution.targets import read_words
from lightning_saliency.draw.canvas import IMAGE_FORMATS, ImageFormat
from lightning_saliency.draw.colours import STYLES, Style
from lightning_saliency.draw.mosaics import Scale
from lightning_saliency.functional.arguments import (
    check_choice,
    check_integer,
    is_integer,
    plain_text,
)

OnError: TypeAlias = Literal["raise", "warn"]


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of :class:`SaliencyCallback`, which explains them, except for the schedule.

    Raises:
        TypeError: ``forward`` cannot be called, or ``targets`` holds something other than classes.
        ValueError: A value out of range; the message says what is allowed.
    """

    targets: str | list[int] | list[str] = "auto"
    rule: Rule | Sequence[Rule | Method] | Method = "guided_backprop"
    forward: Forward | None = None
    style: Style = "signed"
    scale: Scale = "map"
    tile_size: int = 96
    image_format: ImageFormat = "jpeg"
    chunk_size: int | None = None
    record: bool = True
    keep: int | None = None
    on_error: OnError | None = None
    name: str = "saliency"

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", read_words(self.targets))
        _check_rules(self.rule)
        check_choice("style", self.style, STYLES)
        check_choice("image_format", self.image_format, IMAGE_FORMATS)
        if self.on_error is not None:
            check_choice("on_error", self.on_error, ("raise", "warn"))
        check_integer("tile_size", self.tile_size, 16)
        if self.chunk_size is not None:
            check_integer("chunk_size", self.chunk_size, 1)
        if self.keep is not None:
            check_integer("keep", self.keep, 2)
        _check_scale(self.scale)
        _check_name(self.name)
        if self.forward is not None and not callable(self.forward):
            raise TypeError(
                "`forward` must be a function `forward(pl_module, images) -> logits` or None, got "
                f"{self.forward!r}."
            )
        # Checkpoints and records take plain strings and integers only, so numpy's and those of an
        # enumeration are converted.
        rules = tuple(plain_text(r) if isinstance(r, str) else r for r in self._given_rules)
        plain = {
            "rule": rules if isinstance(self.rule, list | tuple) else rules[0],
            "style": plain_text(self.style),
            "scale": plain_text(self.scale) if isinstance(self.scale, str) else self.scale,
            "image_format": plain_text(self.image_format),
            "name": plain_text(self.name),
        }
        for argument, value in plain.items():
            object.__setattr__(self, argument, value)

    @property
    def _given_rules(self) -> tuple[Rule | Method, ...]:
        rules: Any = self.rule if isinstance(self.rule, list | tuple) else (self.rule,)
        return tuple(rules)

    @property
    def rules(self) -> tuple[str, ...]:
        """The names of the rules that are shown, in order."""
        return read_rules(self._given_rules)[0]

    @property
    def methods(self) -> Mapping[str, Method]:
        """What to call for those rules that are not built in, by name."""
        return read_rules(self._given_rules)[1]

    @property
    def metadata(self) -> dict[str, Any]:
        """How a run is observed, for its record; primitives only."""
        style = {"style": self.style, "scale": self.scale, "tile_size": self.tile_size}
        return {**self.display_key, **style}

    @property
    def display_key(self) -> dict[str, Any]:
        """What must agree for maps to stand in one film strip; primitives only."""
        rules = list(self.rules)
        words = self.targets if isinstance(self.targets, str) else list(self.targets)
        return {"rule": rules[0] if len(rules) == 1 else rules, "targets": words}


def _check_rules(rule: object) -> None:
    rules = (rule,) if isinstance(rule, str) or callable(rule) else rule
    if not isinstance(rules, list | tuple) or not rules:
        raise ValueError(
            f"`rule` must be one of {', '.join(RULES)}, a callable "
            f"`rule(model, images, targets)`, or a tuple of them, got {rule!r}."
        )
    for each in rules:
        if not callable(each):
            check_choice("rule", each, RULES)
    read_rules(rules, "rule")  # or raise


def _check_scale(scale: object) -> None:
    number = is_integer(scale) or isinstance(scale, float)
    if scale != "map" and not (number and scale > 0 and math.isfinite(scale)):  # type: ignore[operator, arg-type]
        raise ValueError(f"`scale` must be 'map' or a number above 0, got {scale!r}.")


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string, got {name!r}.")
    if not name or "/" in name:
        raise ValueError(f"`name` must not be empty or contain a '/', got {name!r}.")
