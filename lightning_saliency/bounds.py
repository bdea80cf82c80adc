"""How far a measure may lie from N good runs before it is no accident: prediction bounds.

Of N values with mean x̄ and standard deviation s, the next of the same kind lies below
x̄ + t·s·√(1 + 1/N) with the probability whose quantile of Student's distribution with N − 1 degrees
of freedom is t (Hahn & Meeker 1991, Statistical Intervals, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

ENOUGH = 3  # runs, from which on their spread tells something
CONFIDENCE = 0.99  # that no good run fails, shared out over the bounds that are judged
LEEWAY = 1.5  # times the largest moved mass between good runs: the least that is allowed
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
    return max(upper(left_out, confidence), LEEWAY * max(left_out))


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


def student(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution.

    Args:
        probability: Above 1/2 and below 1.
        freedom: Degrees of freedom, 1 at least.

    Example:
        >>> round(student(0.975, 4), 4)
        2.7764
    """
    if not 0.5 < probability < 1:
        raise ValueError(f"`probability` must lie between 0.5 and 1, got {probability}.")
    low, high = 0.0, 1.0
    while _distribution(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        if _distribution(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high


def _distribution(t: float, freedom: int) -> float:
    """P(T ≤ t) for t ≥ 0, a finite sum (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (k - 1) / k * math.cos(theta) ** 2
    total *= math.sin(theta)
    inside = 2 / math.pi * (theta + total) if odd else total
    return (1 + inside) / 2
