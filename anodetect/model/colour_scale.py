"""The colour scale of a model: which map values are shown darkest and brightest."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from anodetect.model.loading import Failed
from anodetect.model.scoring import Scored, ScoredImage, ScoredVolume
from anodetect.types import Floats

IMAGES = 200  # about as many images are enough
PIXELS = 2**14  # and about as many pixels of each
T = TypeVar("T")


def some_for_scale(records: Sequence[T]) -> Sequence[T]:
    """Return about IMAGES of the records, evenly spread."""
    return records[:: max(1, len(records) // IMAGES)]


def colour_scale(scored: Iterable[Scored]) -> tuple[float, float]:
    """Return the map values shown darkest and brightest, learned from scored tune normals.

    A normal image stays dark but for its odd spots: darkest is the 95th percentile, brightest lies
    as far above the 99.9th as that lies above the median.
    """
    values = [_some_pixels(each) for each in scored if not isinstance(each, Failed)]
    middle, low, high = np.percentile(np.concatenate(values), (50, 95, 99.9))
    return float(low), float(high + max(high - middle, 1e-9))


def _some_pixels(scored: ScoredImage | ScoredVolume) -> Floats:
    """Return about PIXELS values of a map, evenly spread, as a copy so that the map can go.

    The map of an image is that on the detector's grid; that of a volume its scored slices.
    """
    if isinstance(scored, ScoredVolume):
        heatmap = scored.heatmap[scored.slices.numbers]
    else:
        heatmap = scored.panels.heatmap
    return heatmap.ravel()[:: max(1, heatmap.size // PIXELS)].copy()
