"""The end of scoring as operations on tensors that a graph can hold: what `imaging.heatmaps` and
`imaging.standardise` do in NumPy, for one image whose every pixel counts.

A detector that is one pass returns a `Pass`; `model.graph` puts an image in native units before it
and p-values behind it.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from anodetect.config import Pooling
from anodetect.imaging.patterns import NEIGHBOURS
from anodetect.imaging.quiet import TINY, QuietLimits
from anodetect.imaging.standardise import MapStandardizer, Patterns

# Takes what a detector sees of an image [1, c, h, w]; returns its score [1] and heatmap [1, h, w].
Pass = Callable[[Tensor], tuple[Tensor, Tensor]]


def finish(maps: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """Return the image score [1] and the smoothed heatmap [1, h, w] of a raw map [1, h, w]."""
    heatmap = maps
    if pooling.smooth:
        height, width = maps.shape[1:]
        heatmap = smoother(height, pooling.smooth) @ maps @ smoother(width, pooling.smooth).T
    return pool(heatmap, pooling), heatmap


def smoother(side: int, sigma: float) -> Tensor:
    """Return the matrix [side, side] that smooths a column of a map as SciPy's filter does."""
    return torch.from_numpy(ndimage.gaussian_filter1d(np.eye(side), sigma, 0)).float()


def pool(heatmap: Tensor, pooling: Pooling) -> Tensor:
    """Return the image score [1] of a heatmap [1, h, w]: the mean of its highest values over its
    median^`relative`."""
    values = heatmap.flatten(1)
    size = int(heatmap.shape[1]) * int(heatmap.shape[2])
    count = max(1, round(pooling.top * size))
    score = torch.topk(values, count, 1).values.mean(1)
    if not pooling.relative:
        return score
    upper = torch.topk(values, size // 2 + 1, 1).values
    median = upper[:, -2:].mean(1) if size % 2 == 0 else upper[:, -1]
    return score / median.clamp(min=1e-6) ** pooling.relative


def combine(standardizer: MapStandardizer, maps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the score [1] and the heatmap [1, h, w] that a standardizer makes of the raw maps
    [1, M, h, w] of an image x [1, c, h, w]."""
    if standardizer.patterns is not None:
        maps = _with_patterns(standardizer.patterns, maps, x)
    recipe = standardizer.recipe
    one = (maps[:, recipe.rows] / torch.from_numpy(recipe.error)).mean(1)
    if recipe.distance_error is not None:
        one = (one * (maps[:, -1] / torch.from_numpy(recipe.distance_error))).sqrt()

    score, heatmap = finish(one, standardizer.pooling)
    return _quiet_raised(score, heatmap, standardizer.quiet)


def _with_patterns(patterns: Patterns, maps: Tensor, x: Tensor) -> Tensor:
    """Return maps [1, M, h, w], those divided by what similar patterns have, and the distance to
    the nearest of these, [1, 2M + 1, h, w]."""
    vectors, errors = torch.from_numpy(patterns.vectors), torch.from_numpy(patterns.errors)
    channels, height, width = x.shape[1:]
    places = x.reshape(channels, height * width).T
    closeness = places @ vectors.T - vectors.square().sum(1) / 2
    highest, rows = closeness.topk(min(NEIGHBOURS, len(vectors)), 1)
    squared = places.square().sum(1) - 2 * highest[:, 0]
    distance = (squared.clamp(min=0) / channels).sqrt()

    divided = []
    for number in range(len(errors)):
        similar = errors[number][rows].mean(1).reshape(1, 1, height, width)
        divided.append(maps[:, number : number + 1] / similar)
    return torch.cat([maps, *divided, distance.reshape(1, 1, height, width)], 1)


def _quiet_raised(score: Tensor, heatmap: Tensor, limits: QuietLimits) -> tuple[Tensor, Tensor]:
    """Return a score [1] and a heatmap [1, h, w] raised where the map is quieter than the
    limits."""
    level = heatmap.flatten(1).mean(1).clamp(min=TINY).log()
    below = (float(limits.lowest) - level) / float(limits.spread)
    louder = torch.maximum(score, float(limits.high) * (1 + below))
    raised = torch.where(below > 0, louder, score)
    factor = raised / score.clamp(min=TINY)
    return raised, heatmap * factor[:, None, None]
