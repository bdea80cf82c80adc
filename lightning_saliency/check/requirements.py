"""Requirements: small sentences about what a run must measure, such as ``object.share >= 0.6``."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lightning_saliency.check.measures import EVERY, MEASURES, Measure, Quantity, find_measure

AUTO = "auto"

DEFAULT = ("moved_mass <= auto", "*.share within auto")
_EXAMPLES = "'moved_mass <= auto', '*.share within auto', 'object.share >= 0.6'"
_SENTENCE = re.compile(
    r"\s*(?P<measure>\S.*?)\s*(?P<relation><=|>=|\bwithin\b)\s*(?P<bound>\S+)\s*"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One sentence.

    Attributes:
        text: As it was written.
        measure: What is measured.
        region: Of which region, or ``"*"`` for every one; empty if the measure has no region.
        relation: ``"<="``, ``">="`` or ``"within"``, which is both.
        bound: A number in [0, 1]; ``None`` for ``auto``, which a reference implies.
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
            TypeError: Not a string.
            ValueError: Not a requirement; the message says what one looks like.

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
            names = (f"<region>{m.name}" if m.regional else m.name for m in reversed(MEASURES))
            on = " or on ".join(map(repr, names))
            raise ValueError(f"a requirement must be on {on}, got {text!r}.")
        measure, region = found
        if relation not in measure.relations:
            allowed = " or ".join(map(repr, measure.relations))
            raise ValueError(f"{measure.name!r} takes only {allowed}, got {text!r}.")
        bound = _bound(sentence["bound"], relation, text)
        return cls(text.strip(), measure, region, relation, bound)

    def quantities(self, regions: Collection[str]) -> list[Quantity]:
        """What it judges in a probe with masks of ``regions``.

        Raises:
            ValueError: It names a region that the probe has no mask of.
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
        """Whether it cannot be judged without good runs."""
        return self.bound is None or self.measure.compares


def _bound(text: str, relation: str, sentence: str) -> float | None:
    if text == AUTO:
        return None
    if relation == "within":
        raise ValueError(
            f"'within' takes 'auto' only, got {sentence!r}. Write two requirements, with '>=' and "
            "'<='."
        )
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if not 0 <= bound <= 1:
        raise ValueError(f"a bound must be 'auto' or a number from 0 to 1, got {sentence!r}.")
    return bound


def parse_all(sentences: Sequence[str]) -> tuple[Requirement, ...]:
    """Read several sentences; a repeated one counts once.

    Raises:
        TypeError, ValueError: As :meth:`Requirement.parse`; or a sentence in place of a list.
    """
    if isinstance(sentences, str):
        raise TypeError(f"requirements must be a list of sentences, got {sentences!r}.")
    return tuple(dict.fromkeys(Requirement.parse(sentence) for sentence in sentences))


def merge(
    kept: Sequence[Requirement], more: Sequence[str] | None = None
) -> tuple[Requirement, ...]:
    """The requirements of a reference and further sentences, each once."""
    return tuple(dict.fromkeys((*kept, *parse_all(more or ()))))
