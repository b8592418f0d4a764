"""The choice of a run's `RegionMeasure`: the low value and the statistic that outline planted
defects best, at a threshold that clean tune images set. Calibration and test take no part in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anodetect.stats.mask_rule import STATISTICS, Parts, RegionMeasure, Statistic, parts_above
from anodetect.types import Bools, Floats

Doubles = NDArray[np.float64]
Place = tuple[float, Statistic]  # the share of pixels below a low value, and a statistic

# Shares of the pixels of clean tune images that lie below the low values to choose from.
SHARES = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
USUAL: "Place" = (0.99, "mass")  # what is taken unless another measure is clearly better
CLEAR = 2.0  # standard errors of a difference in mean Dice that count
LEAST_DEFECTS = 16  # planted images; fewer decide nothing
PIXELS = 2**14  # about as many values of each map are looked at to find the low values
CALIBRATED_LIKE = 0.05  # the share of clean tune images that may have a region


@dataclass(frozen=True)
class ChosenMeasure:
    """The measure that was chosen, the mean Dice of planted defects with it, and how many there
    were; NaN and 0 if nothing could be compared. A `share` of the pixels of clean tune images lies
    below its low value."""

    measure: RegionMeasure
    dice: float
    planted: int
    share: float

    def on(self, clean: Sequence[Floats]) -> RegionMeasure:
        """Return the same measure for another model, whose maps of its own clean tune images are
        `clean`."""
        (low,) = _quantiles(clean, [self.share])
        return RegionMeasure(low, self.measure.statistic)

    def sentence(self) -> str:
        """Return the choice in words."""
        what = f"regions above {self.measure.low:.4g} count by their {self.measure.statistic}"
        if not self.planted:
            return f"masks: {what} (not compared: too few planted defects)"
        return f"masks: {what} (mean Dice of {self.planted} planted defects: {self.dice:.3f})"


class MeasureChoice:
    """Compares measures on clean maps and on maps of images with planted defects.

    `clean` are the maps [H, W] of normal tune images, NaN where they do not count.
    """

    def __init__(self, clean: Sequence[Floats]) -> None:
        self.lows = dict(zip(SHARES, _quantiles(clean, SHARES), strict=True))
        self._clean: dict[Place, list[float]] = {}
        self._defects: dict[Place, list[_Outcomes]] = {}
        for share, low in self.lows.items():
            for statistic in STATISTICS:
                self._clean[share, statistic] = []
                self._defects[share, statistic] = []
            for heatmap in clean:
                parts = parts_above(heatmap, low)
                for statistic in STATISTICS:
                    highest = parts.strengths[statistic].max(initial=-np.inf)
                    self._clean[share, statistic].append(float(highest))
        self.planted = 0

    def add(self, heatmap: Floats, mask: Bools) -> None:
        """Add the map [H, W] of an image with a planted defect, and the mask of the defect."""
        if not mask.any():
            return
        self.planted += 1
        for share, low in self.lows.items():
            parts = parts_above(heatmap, low)
            for statistic in STATISTICS:
                self._defects[share, statistic].append(_outcomes(parts, statistic, mask))

    def best(self) -> ChosenMeasure:
        """Return the measure with the highest mean Dice. The usual one is taken unless that one is
        clearly better, and after too few defects."""
        if self.planted < LEAST_DEFECTS:
            return ChosenMeasure(self._measure(USUAL), float("nan"), 0, USUAL[0])

        dice = {place: self._dice(place) for place in self._defects}
        best = max(dice, key=lambda place: float(dice[place].mean()))
        gain = dice[best] - dice[USUAL]
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        if gain.mean() <= CLEAR * error:
            best = USUAL
        mean = float(dice[best].mean())
        return ChosenMeasure(self._measure(best), mean, self.planted, best[0])

    def _measure(self, place: Place) -> RegionMeasure:
        share, statistic = place
        return RegionMeasure(self.lows[share], statistic)

    def _dice(self, place: Place) -> Doubles:
        """Return the Dice of each planted image at the threshold of clean ones."""
        least = _threshold(np.array(self._clean[place]))
        return np.array([each.dice(least) for each in self._defects[place]])


@dataclass(frozen=True)
class _Outcomes:
    """The parts of a map, each with its strength, its pixels and those of them in the mask, and the
    pixels of the mask."""

    strengths: Doubles
    pixels: NDArray[np.int64]
    hits: NDArray[np.int64]
    defect: int

    def dice(self, least: float) -> float:
        kept = self.strengths > least
        return float(2 * self.hits[kept].sum() / (self.pixels[kept].sum() + self.defect))


def _outcomes(parts: Parts, statistic: Statistic, mask: Bools) -> _Outcomes:
    strengths = parts.strengths[statistic]
    pixels = np.bincount(parts.labels.ravel(), minlength=len(strengths) + 1)[1:]
    hits = np.bincount(parts.labels[mask], minlength=len(strengths) + 1)[1:]
    return _Outcomes(strengths, pixels, hits, int(mask.sum()))


def _threshold(highest: Doubles) -> float:
    """Return the strength that a share CALIBRATED_LIKE of clean images exceeds, as a calibration of
    images would; the highest of all where there are too few."""
    allowed = max(0, int(CALIBRATED_LIKE * (len(highest) + 1) + 1e-9) - 1)
    return float(np.sort(highest)[::-1][allowed]) if len(highest) else float("inf")


def _quantiles(clean: Sequence[Floats], shares: Sequence[float]) -> list[float]:
    """Return the map values at `shares`, over all images together, as a map can have them; 0
    without any."""
    if not clean:
        return [0.0] * len(shares)
    some = []
    for heatmap in clean:
        values = heatmap[~np.isnan(heatmap)]
        some.append(values[:: max(1, len(values) // PIXELS)])
    lows = np.quantile(np.concatenate(some), shares).astype(np.float32)
    return [float(low) for low in lows]
