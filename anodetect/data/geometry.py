"""Where a volume's voxels lie in the patient, and in which order a detector sees them.

World coordinates are DICOM's: millimetres, x toward the patient's Left, y toward Posterior, z
toward Superior (LPS+). Inside, a volume is [D, H, W]: slices, rows, columns of a plane, each
running the same way whatever the source,

    axial     slices toward S, rows toward P, columns toward L
    coronal   slices toward P, rows toward I, columns toward L
    sagittal  slices toward L, rows toward I, columns toward P

so that a slice looks as a radiologist expects it: the patient's right on the left of an axial
picture. Between source and inside lie a permutation and flips of axes and nothing else: every voxel
keeps its value and finds its way back.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.data.uneven import (
    Doubles,
    EvenGrid,
    distances_of,
    even_grid,
    extents,
    largest_shift,
    place_at,
)
from anodetect.errors import ImageError

Affine = NDArray[np.float64]
Index = tuple[int, int, int]
# Where slices, rows and columns run to.
PLANES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
FRAMES = "frames"  # in place of a plane: pictures without a place in the patient
OPPOSITE = dict(zip("LRPASI", "RLAPIS", strict=True))
FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])  # between RAS+ (NIfTI) and LPS+ (DICOM)
SAME_SPACING = 0.99
MIN_SIDE = 8  # pixels of an image or slice


@dataclass(frozen=True)
class Geometry:
    """A source array [I, J, K] and the plane it is sliced along.

    `affine` takes an index (i, j, k, 1) of the source to LPS+ millimetres. `axes` are the source's
    axes that become D, H and W; `flipped` those of D, H, W that run against the source's. Where
    slices along the source's first axis do not lie at even distances on a straight line, `places`
    [I, 3] are those of their first voxels, and the affine goes from the first to the last of them.
    """

    shape: Index
    affine: Affine
    plane: str
    axes: Index
    flipped: tuple[bool, bool, bool]
    places: Doubles | None = None

    def to_slices(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view [..., D, H, W] of an array [..., I, J, K]."""
        rest = array.ndim - 3
        ordered = array.transpose(*range(rest), *np.add(rest, self.axes))
        return ordered[(..., *self._steps())]

    def to_source(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a view [..., I, J, K] of an array [..., D, H, W]."""
        rest = volume.ndim - 3
        back = rest + np.argsort(self.axes)
        return volume[(..., *self._steps())].transpose(*range(rest), *back)

    def source_index(self, place: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return the index (i, j, k) of the source at a place (d, h, w) of the slices."""
        index = [0.0, 0.0, 0.0]
        for at, axis, flipped in zip(place, self.axes, self.flipped, strict=True):
            index[axis] = self.shape[axis] - 1 - at if flipped else at
        return index[0], index[1], index[2]

    def inside(self, index: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return the place (d, h, w) in the slices of an index (i, j, k) of the source."""
        place = [index[axis] for axis in self.axes]
        for number, side in enumerate(self.sides):
            if self.flipped[number]:
                place[number] = side - 1 - place[number]
        return place[0], place[1], place[2]

    def position(self, place: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return the LPS+ millimetres of a place (d, h, w) in the slices."""
        i, j, k = self.source_index(place)
        if self.places is None:
            x, y, z = self.affine[:3] @ (i, j, k, 1.0)
        else:
            x, y, z = place_at(self.places, i) + self.affine[:3, 1:3] @ (j, k)
        return float(x), float(y), float(z)

    def centre(self, number: int) -> tuple[float, float, float]:
        """Return the LPS+ millimetres of the middle of slice `number`."""
        _, height, width = self.sides
        return self.position((number, (height - 1) / 2, (width - 1) / 2))

    @property
    def sides(self) -> Index:
        """Return the number of slices, rows and columns (D, H, W)."""
        depth, height, width = self.axes
        return self.shape[depth], self.shape[height], self.shape[width]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Return the millimetres from slice to slice, row to row and column to column."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        depth, height, width = self.axes
        return float(lengths[depth]), float(lengths[height]), float(lengths[width])

    @property
    def voxel_volumes(self) -> Doubles:
        """Return the cubic millimetres of voxels, broadcast to [D, H, W]: of slices at uneven
        distances a voxel reaches half of the way to both neighbours."""
        if self.places is None:
            return np.full((1, 1, 1), abs(np.linalg.det(self.affine[:3, :3])))
        area = np.linalg.norm(np.cross(self.affine[:3, 1], self.affine[:3, 2]))
        of_slices = area * extents(distances_of(self.places, self.affine))
        return self.to_slices(of_slices.reshape(-1, 1, 1))

    # -- Uneven slices -------------------------------------------------------------------------

    @cached_property
    def even(self) -> EvenGrid | None:
        """An even grid along the uneven axis, in the direction of D, H or W; None where slices are
        even."""
        if self.places is None:
            return None
        distances = distances_of(self.places, self.affine)
        if self.flipped[self.uneven_axis]:
            distances = distances[-1] - distances[::-1]
        return even_grid(distances)

    @property
    def uneven_axis(self) -> int:
        """Return which of D, H, W (0, 1, 2) runs across slices that may be uneven."""
        return self.axes.index(0)

    @property
    def even_sides(self) -> Index:
        """Return D, H and W after the uneven one has become even."""
        sides = list(self.sides)
        if self.even is not None:
            sides[self.uneven_axis] = len(self.even)
        return sides[0], sides[1], sides[2]

    @property
    def even_spacing(self) -> tuple[float, float, float]:
        """Return the spacing after uneven slices have become even."""
        spacing = list(self.spacing)
        if self.even is not None:
            spacing[self.uneven_axis] = self.even.step
        return spacing[0], spacing[1], spacing[2]

    def evened(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Return values in which axis D, H or W (0, 1, 2), the third, second or last one of the
        array, is even."""
        if self.even is None or axis != self.uneven_axis:
            return values
        return self.even.to_even(values, axis - 3)

    def unevened(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Return values that `evened` made even at the slices' own places."""
        if self.even is None or axis != self.uneven_axis:
            return values
        return self.even.to_own(values, axis - 3)

    def check_aligned(self) -> None:
        """Raise ImageError if slices are shifted against each other by more than half of a pixel:
        then they make up no other plane, and nothing of three dimensions."""
        if self.places is None:
            return
        shift = largest_shift(self.places, self.affine)
        finest = float(np.linalg.norm(self.affine[:3, 1:3], axis=0).min())
        if shift > finest / 2:
            raise ImageError(
                f"its slices are shifted against each other by up to {shift:.1f} mm; only a model "
                "of its own plane, slice by slice, can score them (train without --axis and --dims "
                "3)"
            )

    def _steps(self) -> tuple[slice, slice, slice]:
        d, h, w = np.where(self.flipped, -1, 1).tolist()
        return slice(None, None, d), slice(None, None, h), slice(None, None, w)


def along(
    shape: Index, affine: Affine, plane: str = "auto", places: Doubles | None = None
) -> Geometry:
    """Return the geometry of a source sliced along a plane; "auto" is the plane with the finest
    pixels, axial where equal, of those whose slices have MIN_SIDE pixels on each side.

    An oblique source is sliced along its own axes, in the plane they are the nearest to. `places`
    [I, 3] are those of uneven slices. Pictures, FRAMES, stay as they are in the source. ImageError
    if the affine cannot be inverted.
    """
    from nibabel.orientations import io_orientation  # takes a while, and images do not need it

    check_affine(affine)
    if plane == FRAMES:
        return Geometry(shape, affine, plane, (0, 1, 2), (False, False, False))
    # For each axis of the source: the world axis, and 1 or -1 if it runs with or against it.
    toward = io_orientation(affine)
    source_of = {int(world): axis for axis, (world, _) in enumerate(toward)}
    if plane == "auto":
        plane = _finest_plane(source_of, shape, affine)

    axes, flipped = [], []
    for letter in PLANES[plane]:
        axis = source_of["LPS".index(_positive(letter))]
        axes.append(axis)
        flipped.append(bool(toward[axis, 1] < 0) == (letter in "LPS"))
    d, h, w = axes
    return Geometry(shape, affine, plane, (d, h, w), (flipped[0], flipped[1], flipped[2]), places)


def in_plane(geometry: Geometry, plane: str) -> Geometry:
    """Return the geometry of the same source sliced along another plane; raise ImageError where it
    has no such plane, as pictures have no place in the patient."""
    if plane == geometry.plane:
        return geometry
    if plane not in PLANES or geometry.plane == FRAMES:
        raise ImageError(f"it has no {plane} slices")
    return along(geometry.shape, geometry.affine, plane, geometry.places)


def _finest_plane(source_of: dict[int, int], shape: Index, affine: Affine) -> str:
    """Return the plane with the finest pixels, that is with the coarsest spacing across it."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    across: dict[str, float] = {}
    large: dict[str, float] = {}
    for plane, letters in PLANES.items():
        normal = source_of["LPS".index(_positive(letters[0]))]
        across[plane] = lengths[normal]
        if min(np.delete(shape, normal)) >= MIN_SIDE:
            large[plane] = lengths[normal]

    across = large or across
    coarsest = max(across.values())
    return next(plane for plane, length in across.items() if length >= SAME_SPACING * coarsest)


def _positive(letter: str) -> str:
    return letter if letter in "LPS" else OPPOSITE[letter]


def edges(plane: str) -> dict[str, str]:
    """Return the letters at the edges of a slice: left, right, top and bottom; "" for pictures."""
    if plane == FRAMES:
        return dict.fromkeys(("left", "right", "top", "bottom"), "")
    rows, columns = PLANES[plane][1], PLANES[plane][2]
    return {"left": OPPOSITE[columns], "right": columns, "top": OPPOSITE[rows], "bottom": rows}


def check_affine(affine: Affine) -> None:
    """Raise ImageError if an affine does not say where voxels are."""
    if not np.isfinite(affine).all():
        raise ImageError(
            "the affine holds NaN or infinite values; it does not say where voxels are"
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths <= 0).any():
        raise ImageError("a voxel spacing of zero; correct the header")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise ImageError("the affine cannot be inverted: two axes of the volume point the same way")
