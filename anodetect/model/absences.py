"""Scores of images that lack some of their channels, made comparable with those of whole images.

    S′ = exp(m + d · (log S − m_A) / d_A)

m and d are mean and standard deviation of the log scores of tune images, m_A and d_A those of the
same images without the channels A; and so for maps, place by place. With fewer channels a mean over
channels is less even, and channels are not equally well known to a model: without this, normal
images that lack a channel are flagged far more or far less often than others.

It is learned for each set of channels that may be absent, the smallest first, up to MOST_SETS.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.errors import DataError, ImageError
from anodetect.imaging.log_scores import (
    NormalScores,
    exponential,
    moments_of,
    scored_values,
    z_scores,
)
from anodetect.imaging.standardise import MICRO_BATCH
from anodetect.types import Batch, Bools, Detector, Scores
from anodetect.words import amount

MOST_SETS = 62  # of absent channels: all of six channels, pairs and single ones of more
MOST_IMAGES, LEAST_IMAGES = 64, 16  # to compare; the latter however little time there is

Absent = tuple[int, ...]  # numbers of channels


@dataclass(frozen=True)
class Absences:
    """The moments of scores and maps of normal images, of `whole` ones and `without` some channels,
    which have so many `planes` each."""

    planes: tuple[int, ...]
    whole: NormalScores
    without: Mapping[Absent, NormalScores]

    def comparable(self, scores: Scores, lacking: Bools) -> Scores:
        """Return scores of images in which those that lack some planes, `lacking` [N, C], are on
        the scale of whole ones; ImageError if one lacks channels that were never absent."""
        image, heatmap = np.array(scores.image), np.array(scores.heatmap)
        starts = np.cumsum((0, *self.planes))[:-1]
        for row in np.flatnonzero(lacking.any(1)).tolist():
            absent = tuple(np.flatnonzero(lacking[row, starts]).tolist())
            if absent not in self.without:
                channels = amount(len(absent), "channel is", "channels are")
                raise ImageError(f"{channels} absent; train without so many")

            own, whole = self.without[absent], self.whole
            z = z_scores(image[row], own.mean, own.deviation)
            image[row] = exponential(whole.mean + whole.deviation * z)
            places = heatmap[row] > 0
            z = z_scores(heatmap[row][places], own.map_mean, own.map_deviation)
            heatmap[row][places] = exponential(whole.map_mean + whole.map_deviation * z)
        return replace(scores, image=image, heatmap=heatmap)

    def state(self) -> dict[str, Any]:
        """Return it for JSON."""
        without = []
        for absent, normal in self.without.items():
            without.append([list(absent), list(normal)])
        return {"planes": list(self.planes), "whole": list(self.whole), "without": without}


def absences_of(state: Mapping[str, Any]) -> Absences:
    """Return what `Absences.state` was of."""
    without = {}
    for absent, normal in state["without"]:
        without[tuple(map(int, absent))] = NormalScores(*map(float, normal))
    whole = NormalScores(*map(float, state["whole"]))
    return Absences(tuple(map(int, state["planes"])), whole, without)


def learn_absences(
    detector: Detector, tune: Batch, planes: Sequence[int], value: float, seconds: float | None
) -> Absences:
    """Return what a trained detector makes of tune images without some channels, of so many
    `planes` each, in whose place there is a `value`. That takes so many `seconds`, if there is a
    limit. DataError if no tune image has all channels."""
    rows = np.arange(len(tune)) if tune.absent is None else np.flatnonzero(~tune.absent.any(1))
    if len(rows) == 0:
        raise DataError("--allow-missing: none of the normal images to tune with has all channels")
    sets = sets_of(len(planes))
    rows = _spread(rows, MOST_IMAGES)
    _scored(detector, tune[rows[:1]])  # the first one may take longer
    started = time.monotonic()
    whole = _scored(detector, tune[rows])
    if seconds is not None:
        each = (time.monotonic() - started) / len(rows)
        affordable = max(LEAST_IMAGES, int(seconds / (each * (1 + len(sets)))))
        if affordable < len(rows):
            rows = _spread(rows, affordable)
            whole = _scored(detector, tune[rows])

    without = {}
    for absent in sets:
        without[absent] = _scored(detector, _lacking(tune[rows], planes, absent, value))
    return Absences(tuple(planes), whole, without)


def sets_of(channels: int) -> list[Absent]:
    """Return the sets of so many channels that may be absent: all but that of all channels, or
    those of up to as many channels that there are MOST_SETS of them at most."""
    found: list[Absent] = []
    for size in range(1, channels):
        if found and len(found) + comb(channels, size) > MOST_SETS:
            break
        found += combinations(range(channels), size)
    return found


def _lacking(batch: Batch, planes: Sequence[int], absent: Absent, value: float) -> Batch:
    """Return copies of images without some channels."""
    lacking = np.repeat(np.isin(np.arange(len(planes)), absent), planes)
    images = np.array(batch.images)
    images[:, lacking] = value
    return replace(batch, images=images, absent=np.tile(lacking, (len(batch), 1)))


def _scored(detector: Detector, batch: Batch) -> NormalScores:
    """Return what scores and maps of images are."""
    parts = [rows for rows, _ in batch.parts(MICRO_BATCH)]
    scores, places = scored_values(detector, batch, parts)
    return moments_of([scores], [places])


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return up to `most` of these rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)]
