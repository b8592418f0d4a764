"""Intervals for few groups, where the bootstrap is too narrow: it never sees what it did not draw,
and finds no spread at all where all anomalous images lie above all normal ones.

A group counts as one image, so intervals are wide where images of a group are unlike each other.
"""

import math

import numpy as np
from numpy.typing import NDArray

from anodetect.stats.calibration import clopper_pearson

Doubles = NDArray[np.float64]
STEPS = 60  # of bisection: to the last bit
ROUNDING = 1e-9  # by which a sum of shares may be off, and more


def auroc_bounds(
    value: float, anomalous: int, normal: int, alpha: float = 0.05
) -> tuple[float, float]:
    """Return the 1 − `alpha` interval of an AUROC from so many anomalous and normal groups.

    It holds the θ with (θ − value)² ≤ z² V(θ), where V is the variance of Hanley & McNeil
    (Radiology 1982) with both numbers of groups replaced by their mean in its inner terms: method 5
    of Newcombe, Statistics in Medicine 2006, 25:559–573. It keeps its level up to AUROC 1.
    """
    z = _normal_quantile(1 - alpha / 2)
    inner = (anomalous + normal) / 2 - 1

    def is_inside(theta: float) -> bool:
        one, other = (1 - theta) / (2 - theta), theta / (1 + theta)
        spread = 1 + inner * one + inner * other
        variance = theta * (1 - theta) * spread / (anomalous * normal)
        return (theta - value) ** 2 <= z**2 * variance

    def end(outside: float) -> float:
        inside = value
        for _ in range(STEPS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
        return inside

    return end(0.0), end(1.0)


def precision_bounds(
    value: float, draws: Doubles, anomalous: int, normal: int, alpha: float = 0.05
) -> tuple[float, float]:
    """Return the 1 − `alpha` interval of an average precision: that of its logit (Boyd, Eng & Page,
    ECML 2013) with the deviation of the bootstrap's `draws` and Student's t of the smaller class.

    Where the value or its draws are all 1, or all 0, it is that of so many anomalous groups found.
    """
    deviation = float(np.nanstd(draws))
    # A sum of precisions that are all 1 may be less in its last bits.
    if not ROUNDING < value < 1 - ROUNDING or deviation < ROUNDING:
        return clopper_pearson(round(value * anomalous, 6), anomalous, alpha)
    from scipy.special import stdtrit  # takes time to import, and scoring does not need it

    logit = math.log(value / (1 - value))
    t = float(stdtrit(min(anomalous, normal) - 1, 1 - alpha / 2))
    half = t * deviation / (value * (1 - value))
    return _expit(logit - half), _expit(logit + half)


def found_bounds(
    found: Doubles, passed: Doubles, share: float, groups: tuple[int, int], alpha: float = 0.05
) -> tuple[float, float]:
    """Return the 1 − `alpha` interval of the share of `found` scores above the threshold that a
    `share` of `passed` scores exceeds, with so many groups of each.

    The threshold lies between two order statistics, and at each of them the share is binomial
    (Clopper & Pearson 1934). Either is wrong in half of `alpha`, so the interval is cautious.
    """
    total, passing = groups
    tail = alpha / 4
    lowest = _binomial_quantile(tail, passing, 1 - share)
    highest = _binomial_quantile(1 - tail, passing, 1 - share) + 1
    at_least = _order_statistic(passed, lowest, passing)
    at_most = _order_statistic(passed, highest, passing)

    few, many = float((found > at_most).mean()), float((found > at_least).mean())
    low, _ = clopper_pearson(few * total, total, alpha / 2)
    _, high = clopper_pearson(many * total, total, alpha / 2)
    return low, high


def differ(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """Return whether two values, each with its lower and upper bound, differ: whether the interval
    of their difference excludes 0 (square-and-add: Zou & Donner, Statistics in Medicine 2008).
    False if a bound is NaN."""
    higher, lower = (one, other) if one[0] > other[0] else (other, one)
    distance = higher[0] - lower[0]
    return distance > math.hypot(higher[0] - higher[1], lower[2] - lower[0])


def _order_statistic(scores: Doubles, rank: int, of: int) -> float:
    """Return the score of a rank, from 1, among so many groups; infinite beyond them."""
    if rank < 1:
        return -math.inf
    if rank > of:
        return math.inf
    place = math.ceil(rank / of * len(scores)) - 1
    return float(np.sort(scores)[place])


def _binomial_quantile(level: float, n: int, p: float) -> int:
    """Return the smallest k with P(K ≤ k) ≥ `level` of K ~ Binomial(n, p)."""
    total = 0.0
    for k in range(n + 1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))
        if total >= level:
            return k
    return n


def _normal_quantile(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(level))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))
