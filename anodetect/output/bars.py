"""The bars of a histogram of scores, in the report and in the review app."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

BINS = 40
NARROW = 1 / 10  # of the axis of scores


@dataclass(frozen=True)
class Bars:
    """The bars between `edges` [BINS + 1], on an axis with this name, which says what it does."""

    edges: Doubles
    axis: str
    is_logarithmic: bool

    def heights(self, scores: Doubles) -> NDArray[np.int64]:
        """Return how many scores [N] each bar has [BINS]; those beyond the axis are in its outer
        bars."""
        inside = np.clip(scores, self.edges[0], self.edges[-1])
        return np.histogram(inside, self.edges)[0]


def score_bars(scores: Doubles, calibration: Doubles) -> Bars:
    """Return the bars for scores [N] and those of the calibration [M], of which one may be empty.

    The axis is linear unless nine tenths of the usual scores would share NARROW of it. Then it is
    logarithmic, or where scores are not positive it ends soon after the usual ones.
    """
    own = scores if len(scores) else calibration
    low = min(np.percentile(own, 1), calibration.min(initial=np.inf))
    high = max(np.percentile(own, 99), calibration.max(initial=-np.inf))
    lower, upper = np.percentile(calibration if len(calibration) else own, (5, 95))
    name = "score (larger = more anomalous)"

    squeezed = 0 < upper - lower < NARROW * (high - low)
    is_logarithmic = squeezed and low > 0
    if is_logarithmic:
        name += ", logarithmic"
        edges = np.geomspace(low, high, BINS + 1)
    else:
        if squeezed:
            room = (upper - lower) / NARROW / 2
            low, high = max(low, lower - room), min(high, upper + room)
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)

    beyond = int(((scores < edges[0]) | (scores > edges[-1])).sum())
    if beyond:
        name += f"; {beyond} beyond the axis in its outer bars"
    return Bars(edges, name, bool(is_logarithmic))
