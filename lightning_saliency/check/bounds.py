"""Prediction bounds: how far a measure may lie from N good runs before that is no accident.

Given N values with mean x̄ and standard deviation s, the next value of the same kind lies below
x̄ + t·s·√(1 + 1/N) with probability p, where t is the p-quantile of Student's distribution with
N − 1 degrees of freedom (Hahn & Meeker 1991, Statistical Intervals, section 4.2).

Distances need another bound, because they are never negative and every good run lies at some
distance from the mean. A distance in ν directions is distributed like the root of a χ² with ν
degrees of freedom, so the square of the next one over the mean square of N follows Fisher's F
distribution with ν and ν·N degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_saliency.functional.quantiles import fisher, student

# The probability that a good run passes, which is shared out over all bounds that are judged.
CONFIDENCE = 0.99
# Good runs were measured to spread in 11 to 41 directions (single views in 5 and more). Fewer
# directions give a wider bound. With this number, at most 0.4 % of good runs exceeded it, with 8 up
# to 1.6 %; see benchmarks/RESULTS.md.
DIRECTIONS = 5
# Each image spreads in directions of its own, so the mean of their moves hardly spreads at all. The
# number was chosen with all runs of the studies known, so its rates flatter a little.
IMAGE_DIRECTIONS = 65
# Shares below this count as zero, because a logarithm needs a lower limit.
FLOOR = 1e-6
# Taking a logarithm and its inverse changes the last digit. This relative tolerance keeps equal
# shares within their own bounds.
_ROUNDING = 1e-9


def upper(values: Sequence[float], confidence: float) -> float:
    """One-sided upper prediction bound for the next value.

    Args:
        values: At least two values of the same kind.
        confidence: The probability that the next value lies below the bound, in (0.5, 1).

    Raises:
        ValueError: There are fewer than two values, or ``confidence`` is out of range.

    Example:
        >>> round(upper([1.0, 2.0, 3.0], 0.99), 3)  # 2 + 6.965·1·√(4/3)
        10.042
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"`values` must hold at least 2 numbers, got {count}: one has no spread.")
    mean = math.fsum(values) / count
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean + student(confidence, count - 1) * spread * math.sqrt(1 + 1 / count)


def moved_mass_bound(
    left_out: Sequence[float], confidence: float, directions: int = DIRECTIONS
) -> float:
    """The moved mass that a good run does not exceed.

    Args:
        left_out: The distance of each good run from the mean of the others, in [0, 1].
        confidence: The probability that a good run stays within the bound, in (0.5, 1).
        directions: The number of directions in which good runs spread.
    """
    square = math.fsum(move**2 for move in left_out) / len(left_out)
    return math.sqrt(square * fisher(confidence, directions, directions * len(left_out)))


def share_bounds(shares: Sequence[float], confidence: float) -> tuple[float, float]:
    """The lowest and the highest share of a region in a good run.

    The bounds are computed on a log scale, because large and small shares spread alike there.

    Args:
        shares: The share of the region in each good run, in [0, 1].
        confidence: The probability that a good run stays within either bound, in (0.5, 1).
    """
    logs = [math.log(max(share, FLOOR)) for share in shares]
    highest = upper(logs, confidence)
    lowest = math.exp(-upper([-log for log in logs], confidence))
    # Shares below the floor cannot be told from zero, so a lower bound there becomes zero.
    lowest = lowest * (1 - _ROUNDING) if lowest > (1 + _ROUNDING) * FLOOR else 0.0
    return lowest, min(1.0, math.exp(min(highest, 0.0)) * (1 + _ROUNDING))
