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
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from anodetect.errors import ImageError

Affine = NDArray[np.float64]
Index = tuple[int, int, int]
PLANES = {
    "axial": "SPL",
    "coronal": "PIL",
    "sagittal": "LIP",
}  # where slices, rows and columns run to
OPPOSITE = dict(zip("LRPASI", "RLAPIS", strict=True))
FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])  # between RAS+ (NIfTI) and LPS+ (DICOM)
SAME_SPACING = 0.99
MIN_SIDE = 8  # pixels of an image or slice


@dataclass(frozen=True)
class Geometry:
    """A source array [I, J, K] and the plane it is sliced along.

    `affine` takes an index (i, j, k, 1) of the source to LPS+ millimetres. `axes` are the source's
    axes that become D, H and W; `flipped` those of D, H, W that run against the source's.
    """

    shape: Index
    affine: Affine
    plane: str
    axes: Index
    flipped: tuple[bool, bool, bool]

    def to_slices(self, array: NDArray[Any]) -> NDArray[Any]:
        """[..., I, J, K] → a view [..., D, H, W]."""
        rest = array.ndim - 3
        ordered = array.transpose(*range(rest), *(rest + axis for axis in self.axes))
        return ordered[(..., *self._steps())]

    def to_source(self, volume: NDArray[Any]) -> NDArray[Any]:
        """[..., D, H, W] → a view [..., I, J, K]."""
        rest = volume.ndim - 3
        return volume[(..., *self._steps())].transpose(
            *range(rest), *(rest + a for a in np.argsort(self.axes))
        )

    def source_index(self, place: tuple[float, float, float]) -> tuple[float, float, float]:
        """(d, h, w) → (i, j, k)."""
        index = [0.0, 0.0, 0.0]
        for at, axis, flipped in zip(place, self.axes, self.flipped, strict=True):
            index[axis] = self.shape[axis] - 1 - at if flipped else at
        return index[0], index[1], index[2]

    def inside(self, index: tuple[float, float, float]) -> tuple[float, float, float]:
        """(i, j, k) → (d, h, w)."""
        d, h, w = (
            self.shape[axis] - 1 - index[axis] if flipped else index[axis]
            for axis, flipped in zip(self.axes, self.flipped, strict=True)
        )
        return d, h, w

    def position(self, place: tuple[float, float, float]) -> tuple[float, float, float]:
        """(d, h, w) → LPS+ millimetres."""
        x, y, z = self.affine[:3] @ (*self.source_index(place), 1.0)
        return float(x), float(y), float(z)

    def centre(self, number: int) -> tuple[float, float, float]:
        """LPS+ millimetres of the middle of slice `number`."""
        _, height, width = self.sides
        return self.position((number, (height - 1) / 2, (width - 1) / 2))

    @property
    def sides(self) -> Index:
        """(D, H, W)."""
        depth, height, width = (self.shape[axis] for axis in self.axes)
        return depth, height, width

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from slice to slice, row to row, column to column."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        depth, height, width = (float(lengths[axis]) for axis in self.axes)
        return depth, height, width

    def _steps(self) -> tuple[slice, slice, slice]:
        d, h, w = (slice(None, None, -1 if flipped else 1) for flipped in self.flipped)
        return d, h, w


def along(shape: Index, affine: Affine, plane: str = "auto") -> Geometry:
    """The geometry of a source sliced along a plane; "auto" is the plane with the finest pixels,
    axial where equal, of those whose slices have MIN_SIDE pixels on each side.

    An oblique source is sliced along its own axes, in the plane they are the nearest to. ImageError
    if the affine cannot be inverted.
    """
    check_affine(affine)
    toward = io_orientation(
        affine
    )  # for each axis of the source: world axis, and whether it runs with or against it
    source_of = {int(world): axis for axis, (world, _) in enumerate(toward)}
    if plane == "auto":
        plane = _finest_plane(source_of, shape, affine)
    letters = PLANES[plane]
    axes = [source_of["LPS".index(_positive(letter))] for letter in letters]
    flipped = [
        bool(toward[axis, 1] < 0) == (letter in "LPS")
        for axis, letter in zip(axes, letters, strict=True)
    ]
    d, h, w = axes
    return Geometry(shape, affine, plane, (d, h, w), (flipped[0], flipped[1], flipped[2]))


def _finest_plane(source_of: dict[int, int], shape: Index, affine: Affine) -> str:
    """The pixels of a plane are the finer, the coarser the spacing across it."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    normals = {
        plane: source_of["LPS".index(_positive(letters[0]))] for plane, letters in PLANES.items()
    }
    large = {
        plane: normal
        for plane, normal in normals.items()
        if min(np.delete(shape, normal)) >= MIN_SIDE
    }
    across = {plane: lengths[normal] for plane, normal in (large or normals).items()}
    return next(
        plane for plane, length in across.items() if length >= SAME_SPACING * max(across.values())
    )


def _positive(letter: str) -> str:
    return letter if letter in "LPS" else OPPOSITE[letter]


def edges(plane: str) -> dict[str, str]:
    """The letters at the edges of a slice: left, right, top and bottom."""
    rows, columns = PLANES[plane][1], PLANES[plane][2]
    return {"left": OPPOSITE[columns], "right": columns, "top": OPPOSITE[rows], "bottom": rows}


def check_affine(affine: Affine) -> None:
    """ImageError if an affine does not say where voxels are."""
    if not np.isfinite(affine).all():
        raise ImageError(
            "the affine holds NaN or infinite values; it does not say where voxels are"
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths <= 0).any():
        raise ImageError("a voxel spacing of zero; mend the header")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise ImageError("the affine cannot be inverted: two axes of the volume point the same way")
