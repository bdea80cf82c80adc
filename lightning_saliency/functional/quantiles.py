"""Quantiles of Student's t and Fisher's F distributions, without scipy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache


@lru_cache
def student(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution.

    Args:
        probability: Above 1/2 and below 1.
        freedom: Degrees of freedom, 1 at least.

    Example:
        >>> round(student(0.975, 4), 4)
        2.7764
    """
    # P(|T| > t) is the part of a beta distribution.
    return _quantile(probability, lambda t: 1 - _beta(freedom / (freedom + t * t), freedom, 1) / 2)


@lru_cache
def fisher(probability: float, first: int, second: int) -> float:
    """The quantile of Fisher's F distribution.

    Args:
        probability: Above 1/2 and below 1.
        first: Degrees of freedom of the numerator, 1 at least.
        second: Of the denominator.

    Example:
        >>> round(fisher(0.99, 5, 25), 4)
        3.855
    """
    return _quantile(probability, lambda x: _beta(first * x / (first * x + second), first, second))


def _quantile(probability: float, distribution: Callable[[float], float]) -> float:
    """Where a distribution of what is not negative reaches ``probability``."""
    if not 0.5 < probability < 1:
        raise ValueError(f"`probability` must lie between 0.5 and 1, got {probability}.")
    low, high = 0.0, 1.0
    while distribution(high) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        if distribution(middle) < probability:
            low = middle
        else:
            high = middle
    return high


def _beta(x: float, first: int, second: int) -> float:
    """The regularised incomplete beta function at x, of half of ``first`` and ``second``.

    By its continued fraction (Abramowitz & Stegun 1964, 26.5.8), evaluated from its end.
    """
    a, b = first / 2, second / 2
    if x > (a + 1) / (a + b + 2):  # where the fraction of the complement converges faster
        return 1 - _beta(1 - x, second, first)
    if x <= 0:
        return 0.0
    fraction = 1.0
    for m in range(_TERMS, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        fraction = 1 + even / (1 + odd / fraction)
    fraction = 1 - (a + b) * x / (a + 1) / fraction
    whole = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - whole) / (a * fraction)


_TERMS = 200  # of the fraction: far more than it needs for what is asked here
