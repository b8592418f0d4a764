"""A volume on the grid of another one that has the same voxels in another order.

Programs write a mask with its axes in their own order and direction (RAS, LPS). That is a
permutation and flips of axes, and no voxel changes its value. Anything else, such as another
spacing, is no such order: nothing is interpolated. Where the slices of the other volume do not lie
at even distances, each of them must have its place among those of the mask.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from anodetect.data.volumes import Volume, same_grid
from anodetect.errors import ImageError

NEAR = 0.06  # share of a voxel by which a voxel may lie beside another one


def on_grid_of(volume: Volume, other: Volume) -> Volume | None:
    """Return a volume with its voxels in the order of `other`; None if they do not lie in the same
    places, to a hundredth of a millimetre."""
    if same_grid(volume, other):
        return volume
    found = _order(volume, other)
    if found is None:
        return None

    axes, flipped = found
    voxels = volume.voxels.transpose(0, *(axis + 1 for axis in axes))
    steps = [slice(None, None, -1 if flip else 1) for flip in flipped]
    reordered = replace(
        volume,
        voxels=voxels[:, *steps],
        affine=volume.affine @ _index_matrix(axes, flipped, volume.voxels.shape[1:]),
    )
    return reordered if same_grid(reordered, other) else None


def at_places_of(volume: Volume, other: Volume) -> Volume:
    """Return a volume's voxels at the places of `other`, whose slices are uneven; ImageError if
    rows and columns do not run along axes of the volume, or some slices have no place in it."""
    assert other.places is not None
    to_index = np.linalg.inv(volume.affine)
    starts = other.places @ to_index[:3, :3].T + to_index[:3, 3]
    in_plane = to_index[:3, :3] @ other.affine[:3, 1:3]  # index steps of a row, of a column
    whole = np.rint(in_plane).astype(np.int64)
    if not np.allclose(in_plane, whole, atol=0.01) or (np.abs(whole).sum(0) != 1).any():
        raise ImageError("has rows and columns of its own")

    sides = np.array(volume.voxels.shape[1:])
    _, count, height, width = other.voxels.shape
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    offsets = rows * whole[:, 0] + columns * whole[:, 1]  # [H, W, 3]
    found = np.empty((len(volume.voxels), count, height, width), np.float32)
    for number, start in enumerate(starts):
        nearest = np.rint(start).astype(np.int64)
        index = nearest + offsets
        if np.abs(start - nearest).max() > NEAR or (index < 0).any() or (index >= sides).any():
            raise ImageError(f"has nothing at the place of slice {number}")
        i, j, k = np.moveaxis(index, -1, 0)
        found[:, number] = volume.voxels[:, i, j, k]
    return replace(other, voxels=found)


def _order(volume: Volume, other: Volume) -> tuple[list[int], list[bool]] | None:
    """Return for each axis of `other` the axis of `volume` that runs along it, and whether against
    it; None if axes do not run along each other."""
    try:
        turn = np.linalg.solve(volume.affine[:3, :3], other.affine[:3, :3])
    except np.linalg.LinAlgError:
        return None
    nearest = np.rint(turn)
    if not np.allclose(turn, nearest, atol=0.01):
        return None

    sizes = np.abs(nearest)
    if (sizes.sum(0) != 1).any() or (sizes.sum(1) != 1).any():
        return None
    axes = [int(axis) for axis in sizes.argmax(0)]
    flipped = [bool(nearest[axis, number] < 0) for number, axis in enumerate(axes)]
    return axes, flipped


def _index_matrix(
    axes: list[int], flipped: list[bool], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return the matrix from an index of the new order to one of the old, whose sides are
    `shape`."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for number, (axis, flip) in enumerate(zip(axes, flipped, strict=True)):
        matrix[axis, number] = -1 if flip else 1
        matrix[axis, 3] = shape[axis] - 1 if flip else 0
    return matrix
