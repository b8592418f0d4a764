"""The logarithms of scores and map values: what they are on normal images, and distances from that
in their deviations. NumPy only."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from anodetect.imaging.quiet import LEAST_SPREAD, TINY
from anodetect.types import Batch, Detector, Floats

HIGHEST = 80.0  # of a logarithm: the exponential of more does not fit a float32


class NormalScores(NamedTuple):
    """Mean and standard deviation of log scores and of log map values of normal images."""

    mean: float
    deviation: float
    map_mean: float
    map_deviation: float


def scored_values(
    detector: Detector, batch: Batch, parts: Iterable[slice]
) -> tuple[Floats, Floats]:
    """Return a trained detector's scores of the images in these rows, and the values of their maps
    that count."""
    scores, places = [], []
    for rows in parts:
        part, seeds = batch[rows], np.arange(rows.start, rows.stop, dtype=np.uint64)
        scored = detector.score(part, seeds=seeds)
        scores.append(scored.image)
        places.append(scored.heatmap[part.foreground])
    return np.concatenate(scores), np.concatenate(places)


def moments_of(scores: Sequence[Floats], places: Sequence[Floats]) -> NormalScores:
    """Return the moments of parts of scores, and of parts of the map values that count."""
    return NormalScores(*_moments(scores), *_moments(places))


def z_scores(values: Floats, mean: float, deviation: float) -> Floats:
    """Return z: the logarithms of scores or maps, in deviations of normal ones."""
    logs = np.log(np.maximum(values, TINY)).astype(np.float64)
    z: Floats = ((logs - mean) / deviation).astype(np.float32)
    return z


def exponential(logs: Floats) -> Floats:
    """Return the exponentials of logarithms, which are bounded to fit a float32."""
    values: Floats = np.exp(np.clip(logs, -HIGHEST, HIGHEST)).astype(np.float32)
    return values


def _moments(parts: Sequence[Floats]) -> tuple[float, float]:
    """Return mean and standard deviation of the logarithms of values, the latter bounded below."""
    logs = np.log(np.maximum(np.concatenate(parts), TINY), dtype=np.float64)
    return float(logs.mean()), max(float(logs.std()), LEAST_SPREAD)
