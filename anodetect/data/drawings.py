"""Drawings of an annotator on one image, outline by outline, and the pixels that they mark.

A pixel is marked if its centre lies inside: pixel (row, column) covers x from column to column + 1
and y from row to row + 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anodetect.errors import ImageError
from anodetect.types import Bools

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Disc:
    """A disc, its centre (x, y) and radius in pixels."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Stamp:
    """A small mask [H, W] whose first pixel is that in row `top` and column `left`."""

    top: int
    left: int
    mask: Bools


@dataclass(frozen=True)
class Drawing:
    """The shapes drawn on an image of `size` (rows, columns), None if the size is not known.

    `polygons` are points (x, y) [n, 2] in pixels, or with `relative` in shares of the image's
    sides. `runs` are lengths [n] of runs of pixels column after column, the first not marked.
    """

    size: tuple[int, int] | None = None
    polygons: tuple[Points, ...] = ()
    relative: bool = False
    discs: tuple[Disc, ...] = ()
    runs: tuple[NDArray[np.int64], ...] = ()
    stamps: tuple[Stamp, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True if nothing is drawn."""
        return not (self.polygons or self.discs or self.runs or self.stamps)

    def marked(self, shape: tuple[int, int]) -> Bools:
        """Return the marked pixels, bool [H, W] of this shape; ImageError if the drawing is of an
        image of another size."""
        if self.size is not None and self.size != shape:
            raise ImageError(f"its size {self.size} is not the image's {shape}")

        mask = np.zeros(shape, bool)
        for points in self.polygons:
            _fill(mask, points * shape[::-1] if self.relative else points)
        for disc in self.discs:
            rows, columns = np.ogrid[: shape[0], : shape[1]]
            distance = (columns + 0.5 - disc.x) ** 2 + (rows + 0.5 - disc.y) ** 2
            mask |= distance <= disc.radius**2
        for runs in self.runs:
            mask |= _unrolled(runs, shape)
        for stamp in self.stamps:
            _press(mask, stamp)
        return mask


def _fill(mask: Bools, points: Points) -> None:
    """Mark the pixels of `mask` whose centres lie in a polygon (x, y) [n, 2]."""
    from matplotlib.path import Path as Outline

    height, width = mask.shape
    left, top = np.clip(np.floor(points.min(0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0)), 0, (width, height)).astype(int)
    if left >= right or top >= bottom:
        return

    x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
    outline = Outline(np.vstack([points, points[:1]]), closed=True)
    inside = outline.contains_points(np.column_stack([x.ravel(), y.ravel()]))
    mask[top:bottom, left:right] |= inside.reshape(x.shape)


def _unrolled(runs: NDArray[np.int64], shape: tuple[int, int]) -> Bools:
    """Return the mask [H, W] of lengths of runs; ImageError if they do not fill it."""
    if (runs < 0).any() or runs.sum() != shape[0] * shape[1]:
        raise ImageError(f"its runs do not fill an image of {shape[1]}×{shape[0]} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(shape, order="F")


def _press(mask: Bools, stamp: Stamp) -> None:
    """Mark where a stamp is marked; what lies beyond the image is left out."""
    top, left = max(0, stamp.top), max(0, stamp.left)
    part = stamp.mask[top - stamp.top :, left - stamp.left :]
    part = part[: max(0, mask.shape[0] - top), : max(0, mask.shape[1] - left)]
    mask[top : top + part.shape[0], left : left + part.shape[1]] |= part
