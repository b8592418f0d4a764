"""From a map to a mask: which of its regions count.

A region is an 8-connected part of a map above a low value. What counts is its strength, one of
three statistics of its pixels:

    peak   their highest value
    mass   the sum of what they exceed the low value by, over the number of pixels of the image
    size   their number, over the number of pixels of the image

Each slice of a volume has regions of its own. So slices are compared with slices, also where the
calibration knows slices alone, and a region is not shown in slices where it is weak.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anodetect.types import Bools, Floats

Doubles = NDArray[np.float64]
Box = tuple[slice, slice]  # rows and columns
Statistic = Literal["peak", "mass", "size"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


@dataclass(frozen=True)
class Parts:
    """The parts of a map [H, W] above a low value: `labels` [H, W] numbers them from 1, 0 is no
    part. `strengths` has the three statistics [parts] of each. All of them lie in `box`."""

    labels: NDArray[np.integer]
    strengths: Mapping[Statistic, Doubles]
    box: Box


@dataclass(frozen=True)
class Regions:
    """The regions of a map or of all slices of a volume: `labels` [(D,) H, W] numbers them from 1,
    0 is no region, and `strengths` [regions] says how strong each is. All of them lie in `box`,
    None for everywhere."""

    labels: NDArray[np.integer]
    strengths: Doubles
    box: Box | None = None

    def stronger(self, least: float) -> Bools:
        """Return the mask [(D,) H, W] of the regions whose strength exceeds `least`."""
        kept = np.append(False, self.strengths > least)
        if self.box is None:
            return np.take(kept, self.labels)
        mask = np.zeros(self.labels.shape, bool)
        mask[self.box] = np.take(kept, self.labels[self.box])
        return mask

    def boxes(self) -> list[Box]:
        """Return the box around each region of a map [H, W]."""
        rows, columns = self.box or (slice(0, None), slice(0, None))
        found: list[Box] = []
        if not len(self.strengths):
            return found
        for high, wide in ndimage.find_objects(self.labels[rows, columns]):
            vertical = slice(rows.start + high.start, rows.start + high.stop)
            horizontal = slice(columns.start + wide.start, columns.start + wide.stop)
            found.append((vertical, horizontal))
        return found


@dataclass(frozen=True)
class RegionMeasure:
    """The low value above which a map has regions, and the statistic that is their strength."""

    low: float
    statistic: Statistic

    def regions(self, heatmap: Floats) -> Regions:
        """Return the regions of a map [(D,) H, W]; NaN belongs to none."""
        if heatmap.ndim == 2:
            parts = parts_above(heatmap, self.low)
            return Regions(parts.labels, parts.strengths[self.statistic], parts.box)

        labels, strengths = np.zeros(heatmap.shape, np.int64), [np.zeros(0)]
        count = 0
        for number, values in enumerate(heatmap):
            parts = parts_above(values, self.low)
            labels[number] = np.where(parts.labels > 0, parts.labels + count, 0)
            strengths.append(parts.strengths[self.statistic])
            count += len(strengths[-1])
        return Regions(labels, np.concatenate(strengths))

    def highest(self, heatmap: Floats) -> float:
        """Return the strength of the strongest region of a map [H, W]; of one without regions a
        value that any region exceeds."""
        none = self.low if self.statistic == "peak" else 0.0
        return float(parts_above(heatmap, self.low).strengths[self.statistic].max(initial=none))

    def as_json(self) -> dict[str, Any]:
        """Return the measure as JSON values."""
        return {"low": self.low, "statistic": self.statistic}


@dataclass(frozen=True)
class MaskRule:
    """The regions of a map that count: those whose strength by a measure exceeds `least`."""

    measure: RegionMeasure
    least: float

    @property
    def by_pixels(self) -> bool:
        """True if every region counts, so that the low value alone decides."""
        return self.measure.statistic == "peak" and self.least <= self.measure.low

    def regions(self, heatmap: Floats) -> Regions:
        """Return all regions of a map [(D,) H, W], also those that do not count."""
        return self.measure.regions(heatmap)

    def mask(self, heatmap: Floats, regions: Callable[[], Regions] | None = None) -> Bools:
        """Return where a map [(D,) H, W] has regions that count; never where it is NaN. `regions`
        returns those of the map, if they are known."""
        if self.by_pixels:
            return np.asarray(heatmap > self.measure.low)
        if not np.isfinite(self.least) and self.least > 0:
            return np.zeros(heatmap.shape, bool)
        found = self.regions(heatmap) if regions is None else regions()
        return found.stronger(self.least)

    def is_like(self, other: "MaskRule") -> bool:
        """Return whether another rule is the same but for the last bits of its numbers."""
        own, others = (self.measure.low, self.least), (other.measure.low, other.least)
        alike = self.measure.statistic == other.measure.statistic
        return alike and bool(np.isclose(own, others).all())

    def as_json(self) -> dict[str, Any]:
        """Return the rule as JSON values; infinity is not yet null."""
        return self.measure.as_json() | {"least": self.least}


def pixel_rule(threshold: float) -> MaskRule:
    """Return the rule of releases without regions: all that exceeds a threshold counts."""
    return MaskRule(RegionMeasure(threshold, "peak"), threshold)


def measure_of(content: Mapping[str, Any] | None) -> RegionMeasure | None:
    """Return the measure that `RegionMeasure.as_json` wrote, in which an infinite value may be
    null; None for None.

    KeyError, TypeError or ValueError if it wrote something else.
    """
    if content is None:
        return None
    low = content["low"]
    if content["statistic"] not in STATISTICS:
        raise ValueError(f"{content['statistic']!r} is no strength of a region")
    return RegionMeasure(float("inf") if low is None else float(low), content["statistic"])


def rule_of(content: Mapping[str, Any] | None) -> MaskRule | None:
    """Return the rule that `MaskRule.as_json` wrote, in which an infinite strength may be null;
    None for None. Raises as `measure_of`."""
    measure = measure_of(content)
    if content is None or measure is None:
        return None
    least = content["least"]
    return MaskRule(measure, float("inf") if least is None else float(least))


def parts_above(heatmap: Floats, low: float) -> Parts:
    """Return the parts of a map [H, W] above a low value; NaN belongs to none."""
    above = heatmap > low
    labels = np.zeros(heatmap.shape, np.int32)
    place = _smallest_box(above)
    count = ndimage.label(above[place], np.ones((3, 3)), output=labels[place])
    inside, near = labels[place] > 0, heatmap[place]
    numbers, excess = labels[place][inside] - 1, near[inside].astype(np.float64) - low

    peaks = np.full(count, -np.inf)
    np.maximum.at(peaks, numbers, near[inside].astype(np.float64))
    strengths: dict[Statistic, Doubles] = {
        "peak": peaks,
        "mass": np.bincount(numbers, excess, count) / heatmap.size,
        "size": np.bincount(numbers, minlength=count) / heatmap.size,
    }
    return Parts(labels, strengths, place)


def _smallest_box(mask: Bools) -> Box:
    """Return the smallest box that holds all of a mask [H, W]: few pixels are above a low value,
    and the others need no look."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
