"""Parts of a mask, found by its segments: what is True without a gap in one row.

A mask has few segments, so this is several times as fast as labelling every pixel. Parts are
connected over edges, not over corners, as `ndimage.label` connects them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anodetect.types import Bools

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """The segments of a mask: their first places and those behind their last [n], in order.

    Places count from row to row of a mask that has `width` columns, the last of which is False, so
    that no segment goes on into the next row.
    """

    starts: Places
    ends: Places
    width: int

    @property
    def lengths(self) -> Places:
        """The number of pixels of each segment [n]."""
        return self.ends - self.starts

    def parts(self) -> Places:
        """Return the part of each segment [n], named by the number of its first one."""
        # It touches those in the next row that begin before its end and end behind its start.
        first = np.searchsorted(self.ends, self.starts + self.width, "right")
        behind = np.searchsorted(self.starts, self.ends + self.width, "left")
        counts = np.maximum(behind - first, 0)
        upper = np.repeat(np.arange(len(counts)), counts)
        lower = np.arange(len(upper)) + np.repeat(first - np.cumsum(counts) + counts, counts)
        return _joined(len(counts), upper, lower)

    def some(self, wanted: Bools) -> "Segments":
        """Return those of the segments [n] that are wanted."""
        return Segments(self.starts[wanted], self.ends[wanted], self.width)

    def mask(self, height: int) -> Bools:
        """Return the mask [height, width] of these segments, with the column that is False."""
        turns = np.stack([self.starts, self.ends], 1).ravel()
        lengths = np.diff(turns, prepend=0, append=height * self.width)
        values = np.arange(len(lengths)) % 2 == 1
        return np.repeat(values, lengths).reshape(height, self.width)


def segments_of(mask: Bools) -> Segments:
    """Return the segments of a mask [H, W], with a column more that is False."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 1), bool)
    padded[:, :-1] = mask
    flat = np.concatenate([[False], padded.ravel()])
    turns = np.flatnonzero(flat[1:] != flat[:-1])
    return Segments(turns[::2], turns[1::2], padded.shape[1])


def largest_part(mask: Bools) -> Bools:
    """Return the largest part of a mask [H, W] in which something is True; of equal ones that which
    comes first."""
    return _largest(segments_of(mask)).mask(len(mask))[:, :-1]


def filled(mask: Bools) -> Bools:
    """Return a mask [H, W] without holes, as `ndimage.binary_fill_holes` does."""
    return _without_holes(segments_of(mask), len(mask))


def largest_filled(mask: Bools) -> Bools:
    """Return `filled` of `largest_part`."""
    return _without_holes(_largest(segments_of(mask)), len(mask))


def _largest(found: Segments) -> Segments:
    """Return the segments of the largest part."""
    parts = found.parts()
    return found.some(parts == np.bincount(parts, found.lengths).argmax())


def _without_holes(found: Segments, height: int) -> Bools:
    """Return the mask [height, width] of segments, without the column that is False and without
    holes."""
    # A frame that is not in the mask joins all that lies outside; the last column stays False.
    width = found.width + 2
    rows = np.arange(height + 2) * width
    starts = np.concatenate([rows, _framed(found.ends, found.width)])
    ends = np.concatenate([rows + width - 1, _framed(found.starts, found.width)])
    outside = Segments(np.sort(starts), np.sort(ends), width)

    reached = outside.some(outside.parts() == 0).mask(height + 2)
    return np.logical_not(reached[1:-1, 1:-2])


def _framed(places: Places, width: int) -> Places:
    """Return places in a mask of `width` columns in one with a row before it, a column before it
    and one behind it."""
    return (places // width + 1) * (width + 2) + places % width + 1


def _joined(count: int, first: Places, second: Places) -> Places:
    """Return for each of `count` nodes the lowest that it is connected with, by edges from `first`
    to `second`."""
    root = np.arange(count)
    while True:
        one, other = root[first], root[second]
        if (one == other).all():
            return root
        # The higher root of every edge is hung below the lower one; then all chains are shortened.
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while (root[root] != root).any():
            root = root[root]
