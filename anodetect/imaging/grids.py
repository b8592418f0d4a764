"""Grids of voxels in millimetres, and values of one grid at the places of another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anodetect.data.geometry import Affine, Index
from anodetect.types import Bools, Floats

SAME = 1e-6  # voxels: the distance to a voxel from which on a place is that voxel
REACH = 0.5  # voxels: as far beyond the middle of the outermost one a grid reaches


@dataclass(frozen=True)
class Grid:
    """Voxels [I, J, K]; `affine` takes an index (i, j, k, 1) to LPS+ millimetres."""

    shape: Index
    affine: Affine

    @property
    def spacing(self) -> NDArray[np.float64]:
        """The millimetres between voxels along each axis [3]."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    def places(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the LPS+ millimetres [n, 3] of indices [n, 3]."""
        return np.asarray(indices @ self.affine[:3, :3].T + self.affine[:3, 3])


def cubes(grid: Grid, side: float, directions: NDArray[np.float64] | None = None) -> Grid:
    """Return a grid of cubes of `side` mm with the same middle that covers another one, to half a
    cube. Its axes are the columns of `directions` [3, 3]; by default they run as those of the other
    grid, made perpendicular if they are sheared."""
    if directions is None:
        u, _, v = np.linalg.svd(grid.affine[:3, :3] / grid.spacing)
        directions = u @ v

    last = np.array(grid.shape) - 1
    ends = [(-REACH, end + REACH) for end in last]
    corners = np.stack(np.meshgrid(*ends), -1).reshape(-1, 3)
    along = grid.places(corners) @ directions
    low, high = along.min(0), along.max(0)
    counts = np.maximum(1, np.rint((high - low) / side - SAME)).astype(int)

    affine = np.eye(4)
    affine[:3, :3] = directions * side
    affine[:3, 3] = directions @ ((low + high) / 2 - (counts - 1) * side / 2)
    i, j, k = counts.tolist()
    return Grid((i, j, k), affine)


def sampled(
    values: Floats,
    source: Grid,
    grid: Grid,
    to_source: Affine | None = None,
    *,
    nearest: bool = False,
    fill: float | None = None,
) -> Floats:
    """Return values [I, J, K] of the grid `source` at the voxels of another grid, linear between
    voxels, or those of the nearest ones.

    `to_source` takes millimetres of the other grid to those of the source, which are the same by
    default. Beyond the source's outermost voxels stands `fill`, by default their own values. At
    places of voxels values are exact.
    """
    world = np.eye(4) if to_source is None else to_source
    matrix = np.linalg.inv(source.affine) @ world @ grid.affine
    if source.shape == grid.shape and np.allclose(matrix, np.eye(4), rtol=0, atol=SAME / 1000):
        return values.astype(np.float32)

    _, rows, columns = grid.shape
    plane = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    in_plane = np.tensordot(matrix[:3, 1:3], plane, 1) + matrix[:3, 3].reshape(3, 1, 1)
    last = np.array(source.shape).reshape(3, 1, 1) - 1

    found = np.empty(grid.shape, np.float32)
    for number in range(grid.shape[0]):
        index = in_plane + number * matrix[:3, 0].reshape(3, 1, 1)
        whole = np.rint(index)
        index = whole if nearest else np.where(np.abs(index - whole) < SAME, whole, index)
        found[number] = ndimage.map_coordinates(values, index, order=1, mode="nearest")
        if fill is not None:
            beyond = (index < -REACH - SAME) | (index > last + REACH + SAME)
            found[number][beyond.any(0)] = fill
    return found


def sampled_mask(mask: Bools, source: Grid, grid: Grid, to_source: Affine | None = None) -> Bools:
    """Return where at least half of what surrounds a voxel of another grid lies in a mask
    [I, J, K]; nowhere beyond its grid."""
    share = sampled(mask.astype(np.float32), source, grid, to_source, fill=0.0)
    return np.asarray(share >= 0.5)


def sampled_map(
    values: Floats, source: Grid, grid: Grid, to_source: Affine, *, nearest: bool = False
) -> Floats:
    """Return a map [I, J, K] with NaN at the voxels of another grid, as `sampled`; NaN where more
    than half of what surrounds a voxel is NaN or lies beyond the map."""
    known = np.isfinite(values)
    if nearest:
        return sampled(values, source, grid, to_source, nearest=True, fill=float("nan"))

    weights = sampled(known.astype(np.float32), source, grid, to_source, fill=0.0)
    sums = sampled(np.where(known, values, np.float32(0)), source, grid, to_source, fill=0.0)
    enough = weights >= 0.5
    found = np.full_like(sums, np.nan)
    found[enough] = sums[enough] / weights[enough]
    return found


def smoothed(values: Floats, spacing: NDArray[np.float64], side: float) -> Floats:
    """Return values [I, J, K] smoothed along the axes whose spacing is finer than cubes of `side`
    mm, so that nothing finer than these is sampled; the others stay as they are."""
    ratio = np.maximum(side / spacing, 1.0)
    widths = np.sqrt(ratio**2 - 1) / 2.355  # full width at half maximum
    if (widths < 0.1).all():
        return values
    return np.asarray(ndimage.gaussian_filter(values, np.where(widths < 0.1, 0, widths)))
