"""The false-alarm rate that a calibration realises: its mean, and how far it may lie from it.

With one image in each of G calibration groups, the share of new normal images above the k-th
highest calibration score is Beta(k, G + 1 − k) over calibrations (Vovk, Conditional validity of
inductive conformal predictors, ACML 2012; Angelopoulos & Bates, 2021, section 3.2). Its mean is
k / (G + 1). The number of n new normal images above it is beta-binomial.

Where groups have several images, the mean depends on how alike these are. It is estimated by
leaving out each group in turn and judging its images by the others. With one image a group this
gives k / (G + 1) exactly. Bounds are those of groups whose images are all alike, which are the
widest.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class RealisedRate:
    """The distribution Beta(mean · units, (1 − mean) · units) of a realised false-alarm rate.

    `most` is the mean if all images of a group were alike, `units` the calibration groups and one.
    """

    mean: float
    most: float
    units: int

    def bound(self, share: float = 0.95) -> float:
        """Return the rate that a `share` of calibrations like this one do not exceed."""
        from scipy.special import betaincinv  # takes time to import

        if self.most >= 1:
            return 1.0
        return float(betaincinv(*self._shapes(self.most), share))

    def chance(self, flagged: float, normal: int) -> float:
        """Return the two-sided p-value of so many flagged ones of `normal` new normal groups:
        twice the smaller tail of the beta-binomial distribution, at most 1."""
        if not normal:
            return 1.0
        fewer, more = range(math.ceil(flagged) + 1), range(math.floor(flagged), normal + 1)
        low, high = self._shapes(self.mean), self._shapes(self.most)
        so_few = math.fsum(beta_binomial(k, normal, *low) for k in fewer)
        so_many = math.fsum(beta_binomial(k, normal, *high) for k in more)
        return min(1.0, 2 * min(so_few, so_many))

    def _shapes(self, mean: float) -> tuple[float, float]:
        return mean * self.units, (1 - mean) * self.units


def beta_binomial(k: int, n: int, above: float, below: float) -> float:
    """Return P(k of n), where each is above with a probability that is Beta(above, below)."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + _log_beta(k + above, n - k + below) - _log_beta(above, below))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def left_out_rate(scores: Doubles, groups: tuple[str, ...], far: float, *, by_group: bool) -> float:
    """Return the mean rate at which new normal images are flagged: each group is judged by the
    others, by p-values over groups, or, not `by_group`, over images as if independent.

    Over groups the rule is that of G, not of G − 1, so that the sum is divided by G + 1. The rate
    is at least 1 / (n + 1), that of exceeding n images.
    """
    _, number, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    weights = 1 / sizes[number] if by_group else np.ones(len(scores))
    order = np.argsort(scores)
    ordered = scores[order]
    at_or_above = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)

    total = len(sizes) + 1
    flagged = 0.0
    for group, size in enumerate(sizes.tolist()):
        own = np.sort(scores[number == group])
        from_own = size - np.searchsorted(own, own, "left")
        others = at_or_above[np.searchsorted(ordered, own, "left")]
        if by_group:
            p = (1 + others - from_own / size) / total
        else:
            p = (1 + others - from_own) / (len(scores) - size + 1)
        flagged += float((p <= far + 1e-12).mean())
    return max(flagged / (total if by_group else len(sizes)), 1 / (len(scores) + 1))
