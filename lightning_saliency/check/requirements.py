"""Requirements: short sentences such as ``object.share >= 0.6`` about what a run must measure."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lightning_saliency.check.measures import Measure, Quantity, find_measure, list_names

AUTO = "auto"  # Replaces a number and stands for the bounds that good runs imply.
EVERY = "*"  # Replaces a region and stands for all that the probe has masks of.

DEFAULT = ("moved_mass <= auto", "image_moved_mass <= auto", "*.share within auto")
_EXAMPLES = "'moved_mass <= auto', '*.share within auto', 'object.share >= 0.6'"
_SENTENCE = re.compile(
    r"\s*(?P<measure>\S.*?)\s*(?P<relation><=|>=|\bwithin\b)\s*(?P<bound>\S+)\s*"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement.

    Attributes:
        text: The sentence as it was written.
        measure: The measure that it is about.
        region: The region, or ``"*"`` for every one; empty if the measure is not regional.
        relation: ``"<="``, ``">="``, or ``"within"``, which means both.
        bound: A number in [0, 1]; ``None`` for ``auto``, which a reference has to supply.
    """

    text: str
    measure: Measure
    region: str
    relation: str
    bound: float | None

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a sentence.

        Raises:
            TypeError: ``text`` is not a string.
            ValueError: ``text`` is not a requirement; the message shows what one looks like.

        Example:
            >>> Requirement.parse("object.share >= 0.6").bound
            0.6
        """
        if not isinstance(text, str):
            raise TypeError(f"a requirement must be a sentence such as {_EXAMPLES}, got {text!r}.")
        sentence = _SENTENCE.fullmatch(text)
        if sentence is None:
            raise ValueError(f"a requirement must read like {_EXAMPLES}, got {text!r}.")
        relation, found = sentence["relation"], find_measure(sentence["measure"])
        if found is None:
            raise ValueError(f"a requirement must be on {list_names()}, got {text!r}.")
        measure, region = found
        if relation not in measure.relations:
            allowed = " or ".join(map(repr, measure.relations))
            raise ValueError(f"{measure.name!r} takes only {allowed}, got {text!r}.")
        bound = _read_bound(sentence["bound"], relation, text)
        return cls(text.strip(), measure, region, relation, bound)

    def quantities(self, regions: Collection[str]) -> list[Quantity]:
        """List what is judged if the probe has masks of ``regions``.

        Raises:
            ValueError: The requirement names a region that the probe has no mask of.
        """
        if not self.measure.regional:
            return [Quantity(self.measure)]
        if self.region == EVERY:
            return [Quantity(self.measure, name) for name in sorted(regions)]
        if self.region not in regions:
            known = ", ".join(sorted(regions)) or "none"
            raise ValueError(
                f"the requirement {self.text!r} needs a mask of the region {self.region!r}; the "
                f"probe has masks of: {known}. Pass "
                f"`ProbeBatch(…, masks={{{self.region!r}: …}})`."
            )
        return [Quantity(self.measure, self.region)]

    @property
    def needs_reference(self) -> bool:
        """Whether it can only be judged with a reference."""
        return self.bound is None or self.measure.compares


def _read_bound(text: str, relation: str, sentence: str) -> float | None:
    if text == AUTO:
        return None
    if relation == "within":
        raise ValueError(
            f"'within' takes only 'auto', got {sentence!r}. Write two requirements, one with '>=' "
            "and one with '<='."
        )
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if not 0 <= bound <= 1:
        raise ValueError(f"a bound must be 'auto' or a number from 0 to 1, got {sentence!r}.")
    return bound


def parse_all(sentences: Sequence[str]) -> tuple[Requirement, ...]:
    """Read several sentences, of which equal ones count once.

    Raises:
        TypeError: ``sentences`` is a single string, or contains something that is not one.
        ValueError: A sentence is not a requirement.
    """
    if isinstance(sentences, str):
        raise TypeError(f"requirements must be a list of sentences, got {sentences!r}.")
    return tuple(dict.fromkeys(Requirement.parse(sentence) for sentence in sentences))


def merge(
    kept: Sequence[Requirement], more: Sequence[str] | None = None
) -> tuple[Requirement, ...]:
    """Combine requirements with further sentences, of which equal ones count once."""
    return tuple(dict.fromkeys((*kept, *parse_all(more or ()))))
