"""Choices made with planted defects: how maps of normal images become one score.

The first choice is taken that is within a standard error of the best (Breiman et al., CART, 1984,
section 3.4.3): a few dozen images cannot tell more.
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
    scores: Mapping[Option, Floats], seed: int
) -> tuple[Option, dict[Option, float]]:
    """Return the first option whose planted AUROC is within a standard error of the best, and all
    AUROCs.

    `scores` are [1 + plantings, N] for each option, those of clean images first. The error is that
    of the difference, over resampled images.
    """
    auroc = {option: float(planted_auroc(values)) for option, values in scores.items()}
    best = max(auroc, key=lambda option: auroc[option])
    count = scores[best].shape[1]
    resamples = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    again = {option: planted_auroc(values[:, resamples]) for option, values in scores.items()}

    error = {option: (again[best] - values).std() for option, values in again.items()}
    close = [option for option in scores if auroc[best] - auroc[option] <= error[option]]
    return close[0], auroc


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
