"""Requirements: small sentences on what a run has to measure, such as ``object.share >= 0.6``."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

AUTO = "auto"
MOVED_MASS = "moved_mass"
SHARE = ".share"  # the ending of the name of a region's share
_EVERY = "*"

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
        measure: ``"moved_mass"``, ``"<region>.share"``, or ``"*.share"`` for every region.
        relation: ``"<="``, ``">="`` or ``"within"``, which is both.
        bound: A number in [0, 1]; ``None`` for ``auto``, which a reference tells.
    """

    text: str
    measure: str
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
        found = _SENTENCE.fullmatch(text)
        if found is None:
            raise ValueError(f"a requirement must read like {_EXAMPLES}, got {text!r}.")
        measure, relation = found["measure"], found["relation"]
        if measure != MOVED_MASS and not (measure.endswith(SHARE) and len(measure) > len(SHARE)):
            raise ValueError(
                f"a requirement must be on 'moved_mass' or on '<region>.share', got {text!r}."
            )
        if measure == MOVED_MASS and relation != "<=":
            raise ValueError(f"'moved_mass' has an upper bound only, '<=', got {text!r}.")
        return cls(text.strip(), measure, relation, _bound(found["bound"], relation, text))

    def measures(self, regions: Collection[str]) -> list[str]:
        """What it judges in a probe with masks of ``regions``: one measure, or one a region.

        Raises:
            ValueError: It names a region that the probe has no mask of.
        """
        if self.measure == MOVED_MASS:
            return [MOVED_MASS]
        region = self.measure.removesuffix(SHARE)
        if region == _EVERY:
            return [name + SHARE for name in sorted(regions)]
        if region not in regions:
            told = ", ".join(sorted(regions)) or "none"
            raise ValueError(
                f"the requirement {self.text!r} needs a mask of the region {region!r}; the probe "
                f"has masks of: {told}. Pass `ProbeBatch(…, masks={{{region!r}: …}})`."
            )
        return [self.measure]


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
    """Read several sentences; the same one twice counts once.

    Raises:
        TypeError, ValueError: As :meth:`Requirement.parse`; or a sentence in place of a list.
    """
    if isinstance(sentences, str):
        raise TypeError(f"requirements must be a list of sentences, got {sentences!r}.")
    return tuple(dict.fromkeys(Requirement.parse(sentence) for sentence in sentences))
