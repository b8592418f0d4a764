"""Choices made with planted defects: how maps of normal images become one score.

The first choice is taken that is within a standard error of the best (Breiman et al., CART, 1984,
section 3.4.3): a few dozen images cannot tell more. Nor can a few kinds of defects, as real ones
are of another kind: the error also has the part that comes from which kinds there are.
"""

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from anodetect.types import Floats

RESAMPLES = 200


class Choice(NamedTuple):
    """A way to make a score of maps: which maps are averaged, and settings, each "on" or "off"."""

    maps: str
    pattern: str
    distance: str
    pixel_error: str
    relative: str

    def __str__(self) -> str:
        return "/".join(self)


Option = TypeVar("Option", bound=Hashable)


def first_of_the_best(
    scores: Mapping[Option, Floats], seed: int, kinds: NDArray[np.int64] | None = None
) -> tuple[Option, dict[Option, float]]:
    """Return the first option whose planted AUROC is within a standard error of the best, and all
    AUROCs.

    `scores` are [1 + plantings, N] for each option, those of clean images first, and `kinds`
    [plantings, N] are those of the defects. The error is that of the difference, over resampled
    images and, where kinds are known, among kinds.
    """
    auroc = {option: float(planted_auroc(values)) for option, values in scores.items()}
    best = max(auroc, key=lambda option: auroc[option])
    count = scores[best].shape[1]
    resamples = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    again = {option: planted_auroc(values[:, resamples]) for option, values in scores.items()}

    for option in scores:
        error = np.hypot(
            (again[best] - again[option]).std(), kinds_error(scores[best], scores[option], kinds)
        )
        if auroc[best] - auroc[option] <= error:
            return option, auroc
    return best, auroc


def kinds_error(first: Floats, second: Floats, kinds: NDArray[np.int64] | None) -> float:
    """Return the standard error of the difference of two options' planted AUROC that comes from
    which kinds of defects there are; 0 if these are not known or of one kind."""
    known = np.unique(kinds) if kinds is not None else np.zeros(0)
    if len(known) < 2:
        return 0.0
    ranks = shares_below(first) - shares_below(second)
    means = [ranks[kinds == kind].mean() for kind in known]
    return float(np.std(means, ddof=1) / len(means) ** 0.5)


def shares_below(scores: Floats) -> NDArray[np.float64]:
    """Return for each planted score the share of clean ones below it, [plantings, N]; of equal ones
    half."""
    clean = np.sort(scores[0])
    below = np.searchsorted(clean, scores[1:], "left")
    not_above = np.searchsorted(clean, scores[1:], "right")
    share: NDArray[np.float64] = (below + not_above) / (2 * len(clean))
    return share


def planted_auroc(scores: Floats) -> NDArray[np.float64]:
    """Return the AUROC of the rows after the first against the first, [...], of scores [1 +
    plantings, ..., N], computed from ranks."""
    from scipy.stats import rankdata  # imported here, so that scoring begins at once

    rows, *_, count = scores.shape
    by_image = np.moveaxis(scores, 0, -1).swapaxes(-1, -2)
    ranks = rankdata(by_image.reshape(*scores.shape[1:-1], -1), axis=-1)
    odd = (rows - 1) * count
    total = ranks[..., count:].sum(-1) - odd * (odd + 1) / 2
    value: NDArray[np.float64] = total / (odd * count)
    return value
