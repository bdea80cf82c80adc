"""Quantiles of Student's t and Fisher's F distributions, without a dependency on scipy.

Both distribution functions are regularised incomplete beta functions, and a quantile is found by
bisection. The tests compare them with scipy to eight digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

_TERMS = 200  # of the continued fraction: far more than the arguments used here need


@lru_cache
def student(probability: float, freedom: int) -> float:
    """Compute a quantile of Student's t distribution.

    Args:
        probability: Between 1/2 and 1, exclusive.
        freedom: Degrees of freedom, at least 1.

    Raises:
        ValueError: ``probability`` is out of range.

    Example:
        >>> round(student(0.975, 4), 4)
        2.7764
    """
    # With n degrees of freedom, P(|T| > t) is the incomplete beta function of n/2 and 1/2 at
    # n / (n + t²), and P(T > t) is half of that.
    return _quantile(probability, lambda t: 1 - _beta(freedom / (freedom + t * t), freedom, 1) / 2)


@lru_cache
def fisher(probability: float, first: int, second: int) -> float:
    """Compute a quantile of Fisher's F distribution.

    Args:
        probability: Between 1/2 and 1, exclusive.
        first: Degrees of freedom of the numerator, at least 1.
        second: Degrees of freedom of the denominator, at least 1.

    Raises:
        ValueError: ``probability`` is out of range.

    Example:
        >>> round(fisher(0.99, 5, 25), 4)
        3.855
    """
    return _quantile(probability, lambda x: _beta(first * x / (first * x + second), first, second))


def _quantile(probability: float, distribution: Callable[[float], float]) -> float:
    """Find by bisection where a distribution function on [0, ∞) reaches ``probability``."""
    if not 0.5 < probability < 1:
        raise ValueError(f"`probability` must lie between 0.5 and 1, got {probability}.")
    low, high = 0.0, 1.0
    # Double the upper end until it lies beyond the quantile.
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
    """Compute the regularised incomplete beta function I_x(first / 2, second / 2).

    Its continued fraction (Abramowitz & Stegun 1964, 26.5.8) is evaluated from the last term to the
    first.
    """
    a, b = first / 2, second / 2
    # Beyond this point, the fraction of the complement converges faster.
    if x > (a + 1) / (a + b + 2):
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
