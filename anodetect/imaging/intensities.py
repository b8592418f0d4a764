"""The values of an image: ranges that become -1 to 1, and what an image is like in two numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from anodetect.imaging.foreground import HIGH, LOW, foreground, has_flat_background, quantiles
from anodetect.imaging.planes import absent, comparable
from anodetect.imaging.regions import Region, filled
from anodetect.types import Bools, Floats

SAMPLE_PIXELS = 512  # about as many values of an image stand for it when a range is learned
DEVIATIONS = 3  # between the mean and the values that become -1 and 1
Range = tuple[float, float]  # native values that become -1 and 1


@dataclass(frozen=True)
class ImageSample:
    """A small sample of one image, from which a model learns about values.

    `values` and `inner_values` are values of all pixels and of the foreground, evenly spread.
    `sample_type` is the type they are stored in, such as "uint8", "" where values have units of
    their own. `channels` are the samples of the channels of an image that has several files, None
    for those that are absent.
    """

    coloured: bool
    flat_background: bool
    values: Floats
    inner_values: Floats
    sample_type: str = ""
    channels: tuple["ImageSample | None", ...] = ()

    def scaled(self, factor: float) -> "ImageSample":
        """Return the sample of the image multiplied by a factor."""
        if factor == 1:
            return self
        scale = np.float32(factor)
        return replace(self, values=self.values * scale, inner_values=self.inner_values * scale)


@dataclass(frozen=True)
class Traits:
    """Two numbers that do not depend on how ill a patient is: the share of an image's pixels that
    is foreground, 0 to 1, and the median of the scaled foreground, about -1 to 1."""

    share: float
    brightness: float


def sample_of(image: Floats, sample_type: str = "", region: Region | None = None) -> ImageSample:
    """Return the sample of an image [C, H, W] in native units, of its region only."""
    if region is not None:
        return _sample_inside(image, sample_type, region)
    return ImageSample(
        coloured=to_channels(image, 1) is None,
        flat_background=has_flat_background(image),
        values=_spread(image.ravel()),
        inner_values=_spread(image[:, foreground(image)].ravel()),
        sample_type=sample_type,
    )


def _sample_inside(image: Floats, sample_type: str, region: Region) -> ImageSample:
    values = image[:, None, region.inside]  # [C, 1, n]
    inner = region.inside
    if not region.exact:
        inner = foreground(filled(image, region, with_lowest=True)) & region.inside
    if not inner.any():
        inner = region.inside
    return ImageSample(
        coloured=to_channels(values, 1) is None,
        flat_background=has_flat_background(values),
        values=_spread(values.ravel()),
        inner_values=_spread(image[:, inner].ravel()),
        sample_type=sample_type,
    )


def sample_of_channels(
    image: Floats, planes: Sequence[int], region: Region | None = None
) -> ImageSample:
    """Return the sample of an image [C, H, W] whose channels have so many planes each, in units of
    their own."""
    where = np.ones(image.shape[1:], bool) if region is None else region.inside
    inner = where
    if region is None or not region.exact:
        whole = image if region is None else filled(image, region, with_lowest=True)
        found = foreground(comparable(whole)) & where
        inner = found if found.any() else where

    channels: list[ImageSample | None] = []
    start = 0
    for count in planes:
        channel = image[start : start + count]
        start += count
        if absent(channel).any():
            channels.append(None)
            continue
        values, inner_values = (
            _spread(channel[:, where].ravel()),
            _spread(channel[:, inner].ravel()),
        )
        channels.append(ImageSample(count > 1, False, values, inner_values))

    flat = has_flat_background(comparable(image)[:, None, where])
    nothing = np.zeros(0, np.float32)
    return ImageSample(False, flat, nothing, nothing, channels=tuple(channels))


def traits_of(scaled: Floats, inside: Bools) -> Traits:
    """Return the traits of a scaled image [C, H, W] with its foreground [H, W]."""
    return Traits(float(inside.mean()), quantiles(scaled[:, inside], (50.0,))[0])


def to_channels(image: Floats, channels: int) -> Floats | None:
    """Return the image [C, H, W] with 1 or 3 channels; None if colour would be lost."""
    if len(image) == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    return image[:1] if (image == image[:1]).all() else None


def range_of(values: Floats) -> Range:
    """Return the lowest and highest of the values but for a few, at least 1 apart if they are
    equal."""
    low, high = quantiles(values, (LOW, HIGH))
    return low, high if high > low else low + 1.0


def deviations_of(values: Floats) -> Range:
    """Return the values three standard deviations below and above the mean, at least 1 apart if all
    are equal."""
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    low, high = mean - DEVIATIONS * deviation, mean + DEVIATIONS * deviation
    return low, high if high > low else low + 1.0


def volume_values(slices: Floats, inside: Bools) -> Floats:
    """Return the foreground values of every other slice, row and column of a volume [C, D, H, W];
    of all of them if that leaves none."""
    some = slices[:, ::2, ::2, ::2][:, inside[::2, ::2, ::2]]
    return some if some.size else slices[:, inside]


def _spread(values: Floats) -> Floats:
    """Return about SAMPLE_PIXELS of the values, as a copy, so that the image itself can go."""
    return values[:: max(1, values.size // SAMPLE_PIXELS)].copy()
