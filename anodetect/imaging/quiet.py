"""Maps that are too quiet: a map quieter than any normal image's is as odd as one with a peak.

A lens cap is likely under a model, and easy to reconstruct (Nalisnick et al., "Detecting
out-of-distribution inputs using typicality", 2019). Such an image scores above most normal ones,
the more so the quieter it is, and its whole map is raised. The limits are learned on tune normals.
"""

from typing import NamedTuple

import numpy as np

from anodetect.types import Bools, Floats

FEWEST_LEVELS = 10  # tune images from which it can be learned how quiet a normal one may be
HIGH = 95  # percentile of tune scores, with which an image that is too quiet starts
LEAST_SPREAD = 0.02  # of the logarithm of a map's level: two per cent
TINY = 1e-12


class QuietLimits(NamedTuple):
    """Limits learned from normal images, float32.

    `lowest` is the lowest level of a normal map, -inf if there are too few images, and `spread` the
    standard deviation of levels. `high` is a score that few normal images have, and `share` the
    least share of foreground.
    """

    lowest: float
    spread: float
    high: float
    share: float


def levels(heatmaps: Floats, foreground: Bools) -> Floats:
    """Return the logarithm of each map's mean over the foreground, [N]."""
    axes = _inner_axes(foreground)
    mean = heatmaps.sum(axes, dtype=np.float64) / np.maximum(foreground.sum(axes), 1)
    level: Floats = np.log(np.maximum(mean, TINY)).astype(np.float32)
    return level


def quiet_limits(level: Floats, scores: Floats, foreground: Bools) -> QuietLimits:
    """Return the limits learned from the levels and scores [N] of normal images."""
    spread = max(float(level.std()), LEAST_SPREAD)
    lowest = level.min() - spread if len(level) >= FEWEST_LEVELS else -np.inf
    share = foreground.mean(_inner_axes(foreground)).min()
    limits = np.array([lowest, spread, np.percentile(scores, HIGH), share], np.float32)
    return QuietLimits(*limits)


def quiet_raised(
    scores: Floats, heatmaps: Floats, foreground: Bools, limits: QuietLimits
) -> tuple[Floats, Floats]:
    """Return scores [N] and heatmaps, of images or of patches of volumes, raised where a map is
    quieter than the limits."""
    axes = _inner_axes(foreground)
    below = (limits.lowest - levels(heatmaps, foreground)) / limits.spread
    # A tile at an image's rim has too little foreground to judge by.
    whole = foreground.mean(axes) >= limits.share

    louder = np.maximum(scores, limits.high * (1 + below))
    raised = np.where((below > 0) & whole, louder, scores).astype(np.float32)
    factor: Floats = (raised / np.maximum(scores, TINY)).astype(np.float32)
    return raised, heatmaps * np.expand_dims(factor, axes)


def _inner_axes(maps: Bools) -> tuple[int, ...]:
    """Return all axes but the first."""
    return tuple(range(1, maps.ndim))
