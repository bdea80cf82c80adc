"""How far a measure may lie from N good runs before it is no accident: prediction bounds.

Of N values with mean x̄ and standard deviation s, the next of the same kind lies below
x̄ + t·s·√(1 + 1/N) with the probability whose quantile of Student's distribution with N − 1 degrees
of freedom is t (Hahn & Meeker 1991, Statistical Intervals, section 4.2).

Distances are another matter: they are never negative, and all good runs lie away from their mean.
A distance in ν directions spreads like the root of a χ² with ν degrees of freedom, so the square of
the next one over the mean square of N is distributed like Fisher's F with ν and ν·N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_saliency.functional.quantiles import fisher, student

ENOUGH = 3  # runs, from which on their spread tells something
CONFIDENCE = 0.99  # that no good run fails, shared out over the bounds that are judged
DIRECTIONS = 5  # that profiles of good runs spread in; measured: 5 to 19, so on the safe side
FLOOR = 1e-6  # of a share: what lies below it is none
_ROUNDING = 1e-9  # relative: a number through a logarithm and back is another in its last place


def upper(values: Sequence[float], confidence: float) -> float:
    """What the next value of the kind of ``values`` lies below, with ``confidence``.

    Raises:
        ValueError: Less than two values, or a confidence that is no probability above 1/2.

    Example:
        >>> round(upper([1.0, 2.0, 3.0], 0.99), 3)  # 2 + 6.965·1·√(4/3)
        10.042
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"`values` must be two at least, got {count}: one has no spread.")
    mean = math.fsum(values) / count
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean + student(confidence, count - 1) * spread * math.sqrt(1 + 1 / count)


def moved_mass_bound(left_out: Sequence[float], confidence: float) -> float:
    """The most that a good run moves.

    Args:
        left_out: How far each good run lies from the mean of the others.
        confidence: That a good run does not fail.
    """
    square = math.fsum(move**2 for move in left_out) / len(left_out)
    return math.sqrt(square * fisher(confidence, DIRECTIONS, DIRECTIONS * len(left_out)))


def share_bounds(shares: Sequence[float], confidence: float) -> tuple[float, float]:
    """The least and the most that a region's share is in a good run.

    On a log scale, on which shares spread alike whether they are large or small.

    Args:
        shares: Of the region in each good run, in [0, 1].
        confidence: That a good run does not fail, of either bound.
    """
    logs = [math.log(max(share, FLOOR)) for share in shares]
    highest = upper(logs, confidence)
    lowest = math.exp(-upper([-log for log in logs], confidence))
    # Below the floor there is nothing to tell apart: a share of none at all is allowed there.
    lowest = lowest * (1 - _ROUNDING) if lowest > (1 + _ROUNDING) * FLOOR else 0.0
    return lowest, min(1.0, math.exp(min(highest, 0.0)) * (1 + _ROUNDING))
