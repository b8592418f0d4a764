"""Defects planted in normal images: choices are made with them, and the detection limit is measured
with them, since no real defect may be used.

A defect changes the pixels of an image in native units, before anything else looks at them. So
pixels, features and tiles are judged by the same defects. Each has a kind, a size and a contrast.

    scratch   a thin curved line, brighter or darker
    blob      an irregular spot with a soft edge, brighter or darker
    lesion    a smooth bump that fades out, brighter or darker
    shift     an ellipse or a rectangle with a hard edge, brighter or darker
    swap      a patch cut from elsewhere in a normal image (CutPaste, Li et al., CVPR 2021)
    missing   a part that is gone: filled with what its rim shows
    noise     a patch with noise on it
    blur      a patch that is blurred
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from anodetect.imaging.intensities import range_of, to_channels
from anodetect.imaging.sample_types import full_scale
from anodetect.types import Bools, Floats

KINDS = ("scratch", "blob", "lesion", "shift", "swap", "missing", "noise", "blur")
SWAP = "swap"
SIZES = (0.01, 0.3)  # of a defect that is drawn: shares of the image's shorter side
CONTRASTS = (0.05, 0.8)  # shares of the range of the image's values
RANGE_PIXELS = 64  # about as many rows and columns of an image are looked at to find its range
HALF = 0.5  # a pixel is marked as defective from this share of the defect's full effect on
WAVES = (2, 3, 4, 5)  # of the outline of an irregular spot, for one turn around it

Grid = tuple[Floats, Floats]  # rows and columns from a defect's centre, [h, 1] and [1, w]
Window = tuple[slice, slice]
Source = tuple[Floats, Bools]  # a normal image [C, H, W] and its foreground [H, W]


@dataclass(frozen=True)
class Defect:
    """A defect to plant. `size` is the largest extent, as a share of the image's shorter side.

    `contrast` is the change in values, as a share of the range of the image's own foreground (1st
    to 99th percentile). Of swapped, missing and blurred parts it is the most that the root mean
    square of the change may be: they change what there is to change, which may be less.
    """

    kind: str
    size: float
    contrast: float


@dataclass(frozen=True)
class PlantedImage:
    """An image [C, H, W] with a defect in it, and the mask [H, W] of the defect.

    `change` is the root mean square of the change in the mask, as a share of the range of values.
    """

    image: Floats
    defect: Defect
    mask: Bools
    change: float


@dataclass(frozen=True)
class ValueLimits:
    """The values that an image may have: `low` to `high` in steps of `step`, 0 for any value."""

    low: float = -np.inf
    high: float = np.inf
    step: float = 0.0


ANY_VALUE = ValueLimits()


def limits_of(sample_type: str, factor: float = 1.0) -> ValueLimits:
    """Return the limits of images stored in a type, such as "uint8", whose values were multiplied
    by a factor; none for floats, and where values have units of their own ("")."""
    if not sample_type or np.dtype(sample_type).kind not in "ui":
        return ANY_VALUE
    low = float(np.iinfo(sample_type).min)
    return ValueLimits(low * factor, full_scale(sample_type) * factor, factor)


def draw_defect(seed: int, kinds: tuple[str, ...] = KINDS) -> Defect:
    """Return a random defect: any kind is as likely as another, and small sizes and contrasts are
    as likely as large ones."""
    rng = np.random.default_rng([seed, 0])
    kind = str(rng.choice(kinds))
    return Defect(kind, _log_uniform(rng, SIZES), _log_uniform(rng, CONTRASTS))


def plant(
    image: Floats,
    foreground: Bools,
    defect: Defect,
    *,
    seed: int,
    other: Source | None = None,
    limits: ValueLimits = ANY_VALUE,
) -> PlantedImage:
    """Return a copy of an image [C, H, W] with a defect at a random place of its foreground [H, W].

    Nothing outside the foreground changes, unless that is empty: then all of it counts. A swapped
    patch is cut from `other`, a normal image with its foreground, or from the image itself where
    there is none, or it is too small or of another number of channels. Where there is no room to be
    brighter, it is darker, and the other way round. Grey stays grey in three channels.
    """
    rng = np.random.default_rng([seed, 1])
    inside = foreground if foreground.any() else np.ones_like(foreground)
    diameter = max(1.0, defect.size * min(inside.shape))
    centre = _place(rng, inside)
    window = _window(centre, 1.25 * diameter + 3, inside.shape)
    grid = _grid(centre, window)

    weight = SHAPES[defect.kind](rng, grid, diameter) * inside[window]
    old = image[:, *window]
    span = _span(image, inside)
    if defect.kind in REPLACED:
        source = _source(rng, (image, inside), other, window)
        new = REPLACED[defect.kind](old, weight, diameter, source)
        new = _limited(old, new, weight, defect.contrast * span)
    elif defect.kind == "noise":
        new = old + defect.contrast * span * _noise(rng, old)
    else:
        lowest = max(limits.low, float(image.min()))
        amount = defect.contrast * span
        new = old + _signed(rng, old, weight, amount, (lowest, limits.high)) * _tint(rng, image)

    changed = _allowed(old + weight * (new - old), image, limits)
    changed = np.where(weight > 0, changed, old)
    planted = np.array(image, np.float32)
    planted[:, *window] = changed
    mask = np.zeros(inside.shape, bool)
    mask[window] = weight >= HALF * weight.max()
    difference = (changed - old)[:, mask[window]]
    change = float(np.sqrt(np.mean(np.square(difference, dtype=np.float64)))) / span
    return PlantedImage(planted, defect, mask, change)


# -- Places ----------------------------------------------------------------------------------------


def _place(rng: np.random.Generator, inside: Bools) -> tuple[int, int]:
    """Return the row and column of a random pixel of a foreground [H, W]."""
    places = np.flatnonzero(inside)
    row, column = divmod(int(places[rng.integers(places.size)]), inside.shape[1])
    return row, column


def _window(centre: tuple[int, int], reach: float, shape: tuple[int, ...]) -> Window:
    """Return the rows and columns up to `reach` pixels from a place in an image of a shape."""
    (row, column), reach = centre, int(np.ceil(reach))
    height, width = shape
    rows = slice(max(0, row - reach), min(height, row + reach + 1))
    return rows, slice(max(0, column - reach), min(width, column + reach + 1))


def _grid(centre: tuple[int, int], window: Window) -> Grid:
    rows, columns = window
    y = np.arange(rows.start, rows.stop, dtype=np.float32) - centre[0]
    x = np.arange(columns.start, columns.stop, dtype=np.float32) - centre[1]
    return y[:, None], x[None]


def _turned(rng: np.random.Generator, grid: Grid, diameter: float) -> Grid:
    """Return a grid turned at random, in radii of a spot that is up to twice as long as wide."""
    (y, x), angle = grid, rng.uniform(0, np.pi)
    along = (np.cos(angle) * x + np.sin(angle) * y) / (diameter / 2)
    across = (np.cos(angle) * y - np.sin(angle) * x) / (diameter / 2)
    return along, across * np.float32(rng.uniform(1, 2))


# -- Shapes: the weight [h, w] of a defect, 0 to 1 -------------------------------------------------


def _spot(rng: np.random.Generator, grid: Grid, diameter: float, edge: float) -> Floats:
    """Return an irregular spot; `edge` is the width of its edge in radii, at least a pixel."""
    along, across = _turned(rng, grid, diameter)
    angle = np.arctan2(across, along)
    outline = np.ones_like(angle)
    for waves in WAVES:
        outline += rng.uniform(-0.3, 0.3) / waves * np.cos(waves * angle + rng.uniform(0, 7))
    distance = np.hypot(along, across) / outline
    return _falling(distance.astype(np.float32), max(edge, 2 / diameter))


def _soft_spot(rng: np.random.Generator, grid: Grid, diameter: float) -> Floats:
    return _spot(rng, grid, diameter, rng.uniform(0.2, 0.8))


def _hard_spot(rng: np.random.Generator, grid: Grid, diameter: float) -> Floats:
    return _spot(rng, grid, diameter, 0.0)


def _bump(rng: np.random.Generator, grid: Grid, diameter: float) -> Floats:
    """Return a Gaussian of which half the height is as wide as `diameter`."""
    along, across = _turned(rng, grid, diameter)
    bump: Floats = np.exp(np.log(0.5) * (along**2 + across**2))
    return np.where(bump < 0.02, np.float32(0), bump)


def _part(rng: np.random.Generator, grid: Grid, diameter: float) -> Floats:
    """Return an ellipse or a rectangle with a hard edge."""
    along, across = _turned(rng, grid, diameter)
    distance: Floats
    if rng.random() < 0.5:
        distance = np.hypot(along, across)
    else:
        distance = np.maximum(abs(along), abs(across)) * np.float32(np.sqrt(1.25))
    return _falling(distance, 2 / diameter)


def _line(rng: np.random.Generator, grid: Grid, length: float) -> Floats:
    """Return a line that bends, 1 pixel to 6 % of its length wide."""
    y, x = grid
    steps = np.linspace(-length / 2, length / 2, 2 + round(2 * length))
    heading = rng.uniform(0, 2 * np.pi) + rng.uniform(-1.5, 1.5) * steps / length
    pace = steps[1] - steps[0]
    line_y, line_x = np.cumsum(np.sin(heading)) * pace, np.cumsum(np.cos(heading)) * pace
    middle = len(steps) // 2
    rows = np.rint(line_y - line_y[middle] - y[0, 0]).astype(np.int64)
    columns = np.rint(line_x - line_x[middle] - x[0, 0]).astype(np.int64)

    apart = np.ones((y.size, x.size), bool)
    within = (rows >= 0) & (rows < y.size) & (columns >= 0) & (columns < x.size)
    apart[rows[within], columns[within]] = False
    width = max(1.0, length * rng.uniform(0.02, 0.06))
    distance = ndimage.distance_transform_edt(apart)
    line: Floats = np.clip((width + 1) / 2 - distance, 0, 1).astype(np.float32)
    return line


def _falling(distance: Floats, edge: float) -> Floats:
    """Return 1 inside and 0 outside of where a distance is 1, and a slope of this width between."""
    weight: Floats = np.clip(0.5 + (1 - distance) / np.float32(edge), 0, 1).astype(np.float32)
    return weight


Shape = Callable[[np.random.Generator, Grid, float], Floats]
SHAPES: dict[str, Shape] = {
    "scratch": _line,
    "blob": _soft_spot,
    "lesion": _bump,
    "shift": _part,
    SWAP: _hard_spot,
    "missing": _hard_spot,
    "noise": _soft_spot,
    "blur": _soft_spot,
}


# -- Changes: the values [C, h, w] of a defect where its weight is 1 -------------------------------


def _swapped(old: Floats, weight: Floats, diameter: float, source: Floats) -> Floats:
    return source


def _filled(old: Floats, weight: Floats, diameter: float, source: Floats) -> Floats:
    """Return what is interpolated from around a part, with a Gaussian as wide as half of it."""
    around = (weight == 0).astype(np.float32)
    sigma = diameter / 4
    share = ndimage.gaussian_filter(around, sigma) + np.float32(1e-6)
    total = ndimage.gaussian_filter(old * around, (0, sigma, sigma))
    level = (old * around).sum((1, 2)) / max(float(around.sum()), 1.0)
    # Far from the rim the mean of all that is around counts.
    filled: Floats = (total + np.float32(1e-6) * level[:, None, None]) / share
    return filled.astype(np.float32)


def _blurred(old: Floats, weight: Floats, diameter: float, source: Floats) -> Floats:
    sigma = max(0.8, diameter / 6)
    blurred: Floats = ndimage.gaussian_filter(old, (0, sigma, sigma))
    return blurred


Replace = Callable[[Floats, Floats, float, Floats], Floats]
REPLACED: dict[str, Replace] = {SWAP: _swapped, "missing": _filled, "blur": _blurred}


def _source(rng: np.random.Generator, own: Source, other: Source | None, window: Window) -> Floats:
    """Return a patch as large as a window, around a random place of another image's foreground."""
    image, inside = own
    height, width = inside[window].shape
    if other is not None:
        same, there = to_channels(other[0], len(image)), other[1]
        if same is not None and there.shape[0] >= height and there.shape[1] >= width:
            image, inside = same, there if there.any() else np.ones_like(there)

    row, column = _place(rng, inside)
    top = min(max(0, row - height // 2), inside.shape[0] - height)
    left = min(max(0, column - width // 2), inside.shape[1] - width)
    patch: Floats = image[:, top : top + height, left : left + width]
    return patch[:, :: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


def _limited(old: Floats, new: Floats, weight: Floats, most: float) -> Floats:
    """Return new values, nearer to the old ones if the root mean square of their change is more
    than `most`."""
    square = np.square(new - old, dtype=np.float64).mean(0)
    change = np.sqrt(np.average(square, weights=weight)) if weight.any() else 0.0
    return new if change <= most else old + np.float32(most / change) * (new - old)


def _noise(rng: np.random.Generator, old: Floats) -> Floats:
    """Return noise [C, h, w] of deviation 1 with a grain of up to two pixels; grey if `old` is."""
    channels = 1 if (old == old[:1]).all() else len(old)
    noise = rng.standard_normal((channels, *old.shape[1:]), np.float32)
    grain = rng.uniform(0, 1)
    noise = ndimage.gaussian_filter(noise, (0, grain, grain))
    noise = noise / max(float(noise.std()), 1e-6)
    return np.broadcast_to(noise, old.shape)


def _signed(
    rng: np.random.Generator,
    old: Floats,
    weight: Floats,
    amount: float,
    limits: tuple[float, float],
) -> float:
    """Return the amount with a random sign; with the other one where there is no room for half of
    it between the limits, and more room on the other side."""
    sign = float(rng.choice([-1, 1]))
    level = float(np.average(old.mean(0), weights=weight)) if weight.any() else float(old.mean())
    room = {-1.0: level - limits[0], 1.0: limits[1] - level}
    if room[sign] < amount / 2 and room[-sign] > room[sign]:
        sign = -sign
    return sign * amount


def _tint(rng: np.random.Generator, image: Floats) -> Floats:
    """Return how much each channel changes [C, 1, 1], the most by 1; all alike in grey images and
    in every other colour image."""
    tint = np.ones((len(image), 1, 1), np.float32)
    coloured = to_channels(image, 1) is None
    if coloured and rng.random() < 0.5:
        drawn = rng.uniform(0.1, 1, tint.shape)
        tint = (drawn / drawn.max()).astype(np.float32)
    return tint


def _allowed(values: Floats, image: Floats, limits: ValueLimits) -> Floats:
    """Return values within the limits; below an image's lowest value nothing has a meaning where
    there are none."""
    low = limits.low if np.isfinite(limits.low) else float(image.min())
    if limits.step:
        values = np.rint(values / np.float32(limits.step)) * np.float32(limits.step)
    return np.clip(values, low, limits.high).astype(np.float32)


def _span(image: Floats, inside: Bools) -> float:
    """Return the range of the values of an image's foreground, from a sample of its pixels."""
    step = max(1, min(inside.shape) // RANGE_PIXELS)
    some = image[:, ::step, ::step][:, inside[::step, ::step]]
    low, high = range_of(some if some.size else image[:, inside])
    return high - low


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    low, high = limits
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
