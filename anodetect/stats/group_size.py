"""p-values of groups by their highest score, among calibration groups of the same size.

The highest score of a group is the higher the more images it has. A group of k images is therefore
compared with k images of each calibration group that has as many, drawn at random, and the mean
over all ways of drawing them counts: among n images of which b are below a score, all k are below
it with probability C(b, k) / C(n, k). This is exact if images are exchangeable within groups.

Where too few calibration groups are so large, the group is cut into c parts of at most j images. It
reaches a score if one of its parts does, so c times the p-value of j images is an upper bound,
however the parts depend on each other (Bonferroni).

Slices of a volume come in an order and cannot be drawn at random. A group with one volume is
compared with whole calibration groups, as its volume is. One with v volumes is compared with
calibration groups that have as many slices in all; where these are too few, it is flagged if one of
its volumes would be at a v-th of the rate, which bounds it in the same way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
SLACK = 1.1  # calibration groups that are smaller by a tenth count as of the same size


@dataclass(frozen=True)
class Comparison:
    """The comparison of groups of one size: in so many `parts` of at most `images` images each,
    with `groups` calibration groups. With one part it is exact, with more a bound."""

    parts: int
    images: int
    groups: int

    @property
    def finest(self) -> float:
        """The smallest p-value that can occur."""
        return self.parts / (self.groups + 1)


def comparison(size: int, calibration_sizes: Sequence[int], rate: float) -> Comparison:
    """Return how groups of `size` images are compared at a false-alarm rate: exactly if that can be
    so rare, else in the way that reaches the smallest p-value. It depends on sizes alone."""
    sizes = np.asarray(calibration_sizes)
    best = None
    for parts in range(1, size + 1):
        images = math.ceil(size / parts)
        found = Comparison(parts, images, int((sizes * SLACK >= images).sum()))
        if parts == 1 and found.finest <= rate + 1e-12:
            return found
        if best is None or found.finest < best.finest:
            best = found
        if found.groups == len(sizes):
            break  # more parts have no more groups
    assert best is not None

    return best


def group_p_values(
    highest: Doubles,
    sizes: NDArray[np.integer],
    calibration: Sequence[Doubles],
    rate: float,
) -> Doubles:
    """Return the p-values [m] of the highest scores [m] of groups with so many images [m], among
    calibration groups, each with the scores of its images."""
    ordered = [np.sort(scores) for scores in calibration]
    counts = [len(scores) for scores in ordered]
    p = np.full(len(highest), np.nan)

    for size in np.unique(sizes).tolist():
        own = sizes == size
        how = comparison(size, counts, rate)
        reached = np.ones(int(own.sum()))
        for scores in ordered:
            if len(scores) * SLACK >= how.images:
                below = np.searchsorted(scores, highest[own], "left")
                reached += 1 - _all_below(len(scores), min(how.images, len(scores)))[below]
        p[own] = np.minimum(1.0, how.parts * reached / (how.groups + 1))
    return np.where(np.isnan(highest), np.nan, p)


def volume_comparison(
    volumes: int, slices: int, calibration_sizes: Sequence[int], rate: float
) -> Comparison:
    """Return how a group of so many volumes, with so many scored slices in all, is compared at a
    false-alarm rate: volume by volume with all calibration groups, or as a whole with those that
    have as many slices."""
    sizes = np.asarray(calibration_sizes)
    apart = Comparison(volumes, math.ceil(slices / volumes), len(sizes))
    whole = Comparison(1, slices, int((sizes * SLACK >= slices).sum()))
    if volumes > 1 and (whole.finest <= rate + 1e-12 or whole.finest <= apart.finest):
        return whole
    return apart


def volume_group_p_values(
    highest: Doubles,
    volumes: NDArray[np.integer],
    slices: NDArray[np.integer],
    calibration: Sequence[Doubles],
    rate: float,
) -> Doubles:
    """Return the p-values [m] of the highest scores [m] of groups with so many volumes [m], and
    scored slices in all [m], among calibration groups, each with the scores of its slices."""
    counts = [len(scores) for scores in calibration]
    maxima = np.array([scores.max() for scores in calibration])
    p = np.full(len(highest), np.nan)
    for place, score in enumerate(highest.tolist()):
        how = volume_comparison(int(volumes[place]), int(slices[place]), counts, rate)
        compared = maxima
        if how.parts == 1 and volumes[place] > 1:
            compared = maxima[np.array(counts) * SLACK >= how.images]
        reached = 1 + int((compared >= score).sum())
        p[place] = min(1.0, how.parts * reached / (how.groups + 1))
    return np.where(np.isnan(highest), np.nan, p)


def _all_below(n: int, k: int) -> Doubles:
    """Return C(b, k) / C(n, k) for b = 0 … n: the share of ways of drawing k of n images, of which
    b are below a score, in which all are."""
    b = np.arange(n, 0, -1)
    return np.append(1.0, np.cumprod(np.maximum(b - k, 0) / b))[::-1]
