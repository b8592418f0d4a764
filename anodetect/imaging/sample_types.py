"""Images of one scene that are stored in types of different ranges, as 8 and 16 bits.

Values mean the same in all files as long as nothing speaks against it. Where they evidently do not,
and their shares of the types' ranges do, they are scaled by these ranges.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anodetect.errors import DataError, ImageError
from anodetect.imaging.foreground import HIGH, quantiles
from anodetect.imaging.intensities import ImageSample
from anodetect.types import Floats

SAME = 0.4  # the largest difference, as a share of the larger one, of images of one scene
APART = 16.0  # ranges that differ by a smaller factor are not told apart, as uint16 and int16
NEAR = 4.0  # the largest factor between the highest values of an image and of those learned from


def full_scale(sample_type: str) -> float:
    """Return the highest value of a type; of floats 1."""
    dtype = np.dtype(sample_type)
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


@dataclass(frozen=True)
class SampleTypes:
    """The types that a model has learned from: the one whose values it takes, and for every type
    the factor by which values are multiplied. `reference` is "" if no type is known."""

    reference: str = ""
    factors: Mapping[str, float] = field(default_factory=dict)

    def factor(
        self, image: Floats, sample_type: str, high: float, *, accept_any: bool = False
    ) -> float:
        """Return the factor for an image. That of a type which was not learned from is 1, or that
        of the types' ranges, whichever brings its highest values near to `high`, the learned ones.
        If neither does, it is 1 with `accept_any`, else an ImageError is raised."""
        if not self.reference or not sample_type or sample_type in self.factors:
            return self.factors.get(sample_type, 1.0)
        by_range = full_scale(self.reference) / full_scale(sample_type)
        (own,) = quantiles(image, (HIGH,))
        if not _far_apart(by_range) or own <= 0 or high <= 0:
            return 1.0

        def distance(factor: float) -> float:
            return abs(float(np.log(own * factor / high)))

        nearest = min((1.0, by_range), key=distance)
        if distance(nearest) <= np.log(NEAR):
            return nearest
        if accept_any or np.dtype(sample_type).kind not in "ui":
            return 1.0
        raise ImageError(
            f"{sample_type} values up to {own:g}, but the model has learned from {self.reference} "
            f"values up to {high:g}; convert it to the bit depth of the training images "
            "(--accept-different scores it as it is)"
        )


def learn_sample_types(samples: Mapping[str, ImageSample]) -> SampleTypes:
    """Return the types of images, by their names, and how their values are brought together.

    DataError, naming two files, if values of types of different ranges agree neither as they are
    nor as shares of their ranges.
    """
    by_type: dict[str, dict[str, ImageSample]] = {}
    for name, sample in samples.items():
        if sample.sample_type:
            by_type.setdefault(sample.sample_type, {})[name] = sample
    if not by_type:
        return SampleTypes()

    reference = max(by_type, key=lambda each: (full_scale(each), each))
    known = _values(by_type[reference].values())
    factors = {}
    for sample_type, found in by_type.items():
        by_range = full_scale(reference) / full_scale(sample_type)
        values = _values(found.values())
        if not _far_apart(by_range) or _agree(values, known):
            factors[sample_type] = 1.0
        elif _agree(by_range * values, known):
            factors[sample_type] = by_range
        else:
            first, other = next(iter(found)), next(iter(by_type[reference]))
            raise DataError(
                f"{first} has {sample_type} values and {other} {reference} ones, which agree "
                "neither as they are nor as shares of their ranges; convert all images to one bit "
                "depth"
            )
    return SampleTypes(reference, factors)


def are_apart(types: Iterable[str]) -> bool:
    """Return whether some of these types have ranges that can be told apart."""
    scales = [full_scale(each) for each in types]
    return bool(scales) and _far_apart(max(scales) / min(scales))


def _far_apart(factor: float) -> bool:
    """Return whether two ranges with this factor between them can be told apart."""
    return factor >= APART or factor <= 1 / APART


def _values(samples: Iterable[ImageSample]) -> NDArray[np.float64]:
    """Return the values of samples in one array."""
    return np.concatenate([sample.values for sample in samples]).astype(np.float64)


def _agree(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return whether two sets of values are about equally large: by their mean square, and by the
    highest but for a few."""
    for first, second in (
        (np.sqrt(np.mean(one**2)), np.sqrt(np.mean(other**2))),
        (np.percentile(np.abs(one), HIGH), np.percentile(np.abs(other), HIGH)),
    ):
        if abs(first - second) > SAME * max(first, second):
            return False
    return True
