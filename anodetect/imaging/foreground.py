"""Foregrounds: the part of an image or a volume above a flat background. NumPy and SciPy only."""

import numpy as np
from scipy import ndimage

from anodetect.errors import ImageError
from anodetect.imaging import segments
from anodetect.types import Bools, Floats

# A background is flat if this share of all pixels lies below this share of the range of values
# (measured: .38 to .66 in LGG FLAIR, less than .02 in tiles and cells).
FLAT_SHARE, FLAT_LEVEL = 0.2, 0.05
LOW, HIGH = 1.0, 99.5  # percentiles of values that become -1 and 1
# A value is an exact background if at least this share of the border has it, and it lies at least
# this share of the range of all other values from both ends: no threshold can tell it from them.
BORDER_SHARE, FROM_ENDS = 0.9, 0.1
ENOUGH = 10**6  # values for percentiles
SAMPLED, SPARE = 64, 8  # one of so many values is sampled, and a guess lies so many lower
COARSE = 128  # pixels: a volume's foreground is found on slices reduced to about this side


def has_flat_background(image: Floats) -> bool:
    """Return whether a fifth or more of the pixels of [C, H, W] is nearly at the lowest value, as
    around a head in MRI, or has the exact value of a background."""
    background = exact_background(image)
    if background is not None:
        return bool((image == background).mean() >= FLAT_SHARE)
    share = (image <= _background_level(image)).all(0).mean()
    return bool(share >= FLAT_SHARE and image.max() > image.min())


def foreground(image: Floats) -> Bools:
    """Return the largest connected part [H, W] of an image [C, H, W] above a flat background.

    Specks are removed and holes are filled. Everything is foreground if nothing would be left.
    """
    background = exact_background(image)
    if background is None:
        above = np.asarray((image > _background_level(image)).any(0))
    else:
        above = np.asarray(image[0] != background)
    opened = _opened(above)
    if not opened.any():
        return np.ones(image.shape[1:], bool)
    return segments.largest_filled(opened)


def volume_foreground(slices: Floats) -> Bools:
    """Return the largest connected part [D, H, W] of a volume [C, D, H, W] above a threshold.

    Specks are removed and holes of slices are filled. It is found on slices reduced to about COARSE
    pixels. The threshold is halfway between Otsu's and the background, which is the median of the
    values below Otsu's. Otsu's alone takes dark tissue for background: in the train part of
    lgg_flair its Dice with the foregrounds of single slices is .82, that of the threshold halfway
    .95. Where there is an exact background, all else is above it. ImageError if all voxels have one
    value.
    """
    step = -(-max(slices.shape[2:]) // COARSE)
    coarse = slices[:, :, ::step, ::step].max(0)
    background = exact_background(slices)
    above = _above_threshold(coarse) if background is None else coarse != background

    opened = _opened(above)
    largest = _largest_part(opened if opened.any() else above)
    inside = np.stack([segments.filled(plane) for plane in largest])
    full: Bools = inside.repeat(step, 1).repeat(step, 2)[:, : slices.shape[2], : slices.shape[3]]
    return full


def exact_background(planes: Floats) -> float | None:
    """Return the value of a background in the middle of the others, as around a brain that was cut
    out and then scaled to mean 0: almost all of the border of planes [1, ..., H, W] has exactly
    this value. None if there is no such value; one near the lowest is found by a threshold."""
    if len(planes) > 1:
        return None
    rows, columns = planes[..., [0, -1], :].ravel(), planes[..., [0, -1]].ravel()
    values, counts = np.unique(np.concatenate([rows, columns]), return_counts=True)
    most = int(counts.argmax())
    if counts[most] < BORDER_SHARE * counts.sum():
        return None
    background = float(values[most])
    if not planes.min() < background < planes.max():
        return None
    rest = planes[planes != background]
    some = rest[:: max(1, rest.size // ENOUGH)]
    low, high = quantiles(some, (LOW, HIGH))
    margin = FROM_ENDS * (high - low)
    return background if low + margin <= background <= high - margin else None


def _above_threshold(coarse: Floats) -> Bools:
    """Return where values [D, H, W] lie above a threshold halfway between the background and
    Otsu's; ImageError if all have one value."""
    some = coarse[::2, ::2, ::2] if min(coarse.shape) > 8 else coarse  # enough for a histogram
    usual = np.minimum(some, np.percentile(some, HIGH))  # the few brightest would stretch it
    if usual.min() == usual.max():  # unless there is nothing else
        usual = coarse
    if usual.min() == usual.max():
        raise ImageError("no foreground")

    upper = otsu(usual)
    above: Bools = coarse > (np.median(some[some <= upper]) + upper) / 2
    return above


def otsu(values: Floats) -> float:
    """Return the threshold that parts values into two classes with the largest variance between
    them (Otsu 1979)."""
    counts, bounds = np.histogram(values, 256)
    middles = (bounds[:-1] + bounds[1:]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(bounds[1 + np.nanargmax(between)])


def quantiles(values: Floats, percents: tuple[float, ...]) -> list[float]:
    """Return what `np.percentile` does, many times as fast, and every image needs it."""
    last = values.size - 1
    places = np.array(percents) / 100 * last
    below = np.minimum(places.astype(int), last)
    above = np.minimum(below + 1, last)

    highest = _highest(values.ravel(), int(below.min()))
    fewer = values.size - highest.size
    ordered = np.partition(highest, np.union1d(below, above) - fewer)
    low, high = ordered[below - fewer].astype(float), ordered[above - fewer].astype(float)
    return (low + (high - low) * (places - below)).tolist()  # type: ignore[no-any-return]


def _highest(values: Floats, rank: int) -> Floats:
    """Return those of the values [n] whose rank is at least this one, and perhaps some more: where
    these are few, few are to be ordered."""
    some = values[::SAMPLED]
    place = rank * len(some) // values.size - SPARE
    if place <= len(some) // 2:
        return values
    least = np.partition(some, place)[place]
    kept = values[values >= least]
    left_out = np.count_nonzero(values < least)  # NaN, which ranks highest, is in neither
    return kept if left_out <= rank and left_out + kept.size == values.size else values


def _background_level(image: Floats) -> float:
    """Return the value below which pixels may be a flat background."""
    low, (high,) = float(image.min()), quantiles(image, (HIGH,))
    return low + FLAT_LEVEL * (high - low)


def _largest_part(mask: Bools) -> Bools:
    """Return the largest connected part of a mask [D, H, W]."""
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    some = parts[:, ::2, ::2]  # a quarter is enough to compare their sizes
    sizes = np.bincount(some.ravel(), minlength=count + 1)
    return np.asarray(parts == 1 + sizes[1:].argmax())


def _opened(mask: Bools) -> Bools:
    """Return a mask [..., H, W] without the places that no cross of five pixels fits into.

    It equals `ndimage.binary_opening` in each plane, and is ten times as fast.
    """
    *rest, height, width = mask.shape
    padded = np.zeros((*rest, height + 4, width + 4), bool)
    padded[..., 2:-2, 2:-2] = mask
    return _over_cross(np.logical_or, _over_cross(np.logical_and, padded))


def _over_cross(combine: np.ufunc, mask: Bools) -> Bools:
    """Return a mask [..., H + 2, W + 2] combined over each pixel and its four neighbours, [..., H,
    W]."""
    middle = mask[..., 1:-1, 1:-1]
    rows = combine(mask[..., :-2, 1:-1], mask[..., 2:, 1:-1])
    columns = combine(mask[..., 1:-1, :-2], mask[..., 1:-1, 2:])
    return np.asarray(combine(middle, combine(rows, columns)))
