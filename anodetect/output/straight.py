"""Volumes on orthogonal grids of even slices, as most readers of NIfTI need them.

Slices of a series may lie at uneven distances, or be shifted against each other, as those of a
tilted gantry. Each slice is placed where it lies in the common plane, and between slices values are
linear. Where a grid's slice has the place of one of the source's and the shift is whole pixels,
values are exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from anodetect.data.dicom import Series
from anodetect.data.geometry import Affine
from anodetect.data.uneven import SAME, Doubles, EvenGrid, distances_of, even_grid, normal_of
from anodetect.data.volumes import Volume
from anodetect.types import Floats

LARGEST_SHIFT = 0.1  # of a pixel by which slices may be shifted and still count as straight
PERPENDICULAR = 1e-3  # the cosine of two axes that are still perpendicular


@dataclass(frozen=True)
class StraightGrid:
    """An orthogonal grid [slices, rows, columns] for a volume whose own is not.

    `affine` takes its indices to LPS+ millimetres. `across` is the source's axis across its slices,
    `shifts` [n, 2] are the rows and columns of the grid by which the source's slices lie in it.
    """

    affine: Affine
    shape: tuple[int, int, int]
    across: int
    slices: EvenGrid
    shifts: Doubles
    is_sheared: bool

    @property
    def note(self) -> str:
        """Return in words what was done."""
        done = f"resampled to even slices {self.slices.step:.3g} mm apart"
        return f"{done}, as slices are sheared against each other" if self.is_sheared else done

    def planes(self, values: Floats) -> Iterator[Floats]:
        """Yield the slices [rows, columns] of values [I, J, K] of the source, NaN beyond its
        slices."""
        values = np.moveaxis(values, self.across, 0)
        placed: dict[int, Floats] = {}  # the last two slices of the source in the grid's plane
        for index in self.slices.in_own.tolist():
            before = int(index)
            needed = (before,) if index == before else (before, before + 1)
            kept = {number: placed[number] for number in needed if number in placed}
            for number in needed:
                if number not in kept:
                    kept[number] = self._placed(values[number], self.shifts[number])
            placed = kept

            plane = placed[before]
            if len(needed) == 2:
                share = np.float32(index - before)
                plane = (1 - share) * plane + share * placed[before + 1]
            yield plane

    def _placed(self, plane: Floats, shift: Doubles) -> Floats:
        """Return a slice [J, K] of the source in the plane [rows, columns] of the grid."""
        rows = _shifted(plane, float(shift[0]), self.shape[1])
        return _shifted(rows.T, float(shift[1]), self.shape[2]).T


def straight_grid(volume: Volume) -> StraightGrid | None:
    """Return an orthogonal grid for a volume; None if its own is orthogonal, or if no two of its
    axes are perpendicular, so that there are no slices."""
    across = _axis_across(volume)
    if across is None:
        return None

    in_plane = [axis for axis in range(3) if axis != across]
    affine = volume.affine[:, [across, *in_plane, 3]]
    counts = [volume.voxels.shape[1 + axis] for axis in (across, *in_plane)]
    places = volume.places
    if places is None:
        places = affine[:3, 3] + np.arange(counts[0])[:, None] * affine[:3, 0]

    beside, rows, columns = places - places[0], affine[:3, 1], affine[:3, 2]
    shifts = np.stack([beside @ rows / (rows @ rows), beside @ columns / (columns @ columns)], 1)
    is_sheared = float(np.abs(shifts).max()) > LARGEST_SHIFT
    if not is_sheared:
        shifts = np.zeros_like(shifts)
    if not is_sheared and volume.places is None:
        return None

    slices = even_grid(distances_of(places, affine))
    first = np.floor(shifts.min(0) + SAME)
    more = np.ceil(shifts.max(0) - first - SAME)
    straight = affine.copy()
    straight[:3, 0] = normal_of(affine) * slices.step
    straight[:3, 3] = places[0] + first[0] * rows + first[1] * columns
    shape = (len(slices), counts[1] + int(more[0]), counts[2] + int(more[1]))
    return StraightGrid(straight, shape, across, slices, shifts - first, is_sheared)


def _axis_across(volume: Volume) -> int | None:
    """Return the axis of a volume across slices whose rows and columns are perpendicular: of DICOM
    the first one, else the one with the largest step; None if there is none."""
    if min(volume.voxels.shape[1:]) < 2:
        return None
    if isinstance(volume.origin, Series) or volume.places is not None:
        return 0

    steps = np.linalg.norm(volume.affine[:3, :3], axis=0)
    directions = volume.affine[:3, :3] / steps
    found = []
    for axis in range(3):
        one, other = np.delete(directions, axis, 1).T
        if abs(one @ other) <= PERPENDICULAR:
            found.append(axis)
    return max(found, key=lambda axis: float(steps[axis]), default=None)


def _shifted(plane: Floats, offset: float, length: int) -> Floats:
    """Return a plane [n, K] at `offset` along the first axis of one [length, K], linear between two
    rows, NaN where it is not."""
    whole = int(np.floor(offset + SAME))
    share = np.float32(max(offset - whole, 0.0))
    found = np.full((length, plane.shape[1]), np.nan, np.float32)
    found[whole : whole + len(plane)] = plane
    if share < SAME:
        return found

    later = np.full_like(found, np.nan)
    later[whole + 1 : whole + 1 + len(plane)] = plane
    return (1 - share) * found + share * later
