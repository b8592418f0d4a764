"""A DICOM Segmentation as the truth of a volume: frames are placed by their positions.

What any of its segments marks is marked. Nothing is interpolated: a segmentation with other pixels
than the volume's is refused.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import SegmentationStorage

from anodetect.data import dicom, dicom_frames
from anodetect.data.uneven import indices_of
from anodetect.data.volumes import MAX_VOXELS, Volume
from anodetect.errors import ImageError
from anodetect.types import Bools
from anodetect.words import amount

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
OFF_GRID = "its mask does not lie on the same grid"
NEAR = 0.06  # share of a voxel by which a pixel may lie beside it; slices may be as uneven


def marked_voxels(content: bytes, volume: Volume) -> Bools:
    """Return what a Segmentation marks of a volume, bool [I, J, K]; ImageError if it is none, of
    another patient's space, or not on the volume's grid."""
    header = dicom.parse(content, pixels=True)
    if header.get("SOPClassUID") not in (SegmentationStorage, LABEL_MAP_STORAGE):
        raise ImageError("its mask is DICOM, but no segmentation")
    _check_space(header, volume)

    truth = np.zeros(volume.voxels.shape[1:], bool)
    groups = dicom_frames.functional_groups(header)
    frames = _marked_frames(header, len(groups))
    for number, group in enumerate(groups):
        rows, columns = np.nonzero(frames[number])
        if not len(rows):
            continue
        place = dicom_frames.frame_of(group, 0, number, header)
        if place is None:
            raise ImageError("its mask has a frame without a place in the patient")
        voxels = _voxels_of(place, rows, columns, volume)
        if (voxels < 0).any() or (voxels >= truth.shape).any():
            raise ImageError(OFF_GRID)
        truth[tuple(voxels.T)] = True
    return truth


def _check_space(header: Dataset, volume: Volume) -> None:
    """Raise ImageError if positions of both are known to be measured from different points."""
    if not isinstance(volume.origin, dicom.Series):
        return
    own = header.get("FrameOfReferenceUID")
    other = volume.origin.headers[0].get("FrameOfReferenceUID")
    if own and other and own != other:
        raise ImageError("its mask is a segmentation in another frame of reference")


def _marked_frames(header: Dataset, count: int) -> Bools:
    """Return where frames are marked [frames, rows, columns]; of a fractional segmentation from
    the middle of its values on."""
    rows, columns = int(header.get("Rows", 0)), int(header.get("Columns", 0))
    described = int(header.get("NumberOfFrames") or 1)
    if described != count:
        raise ImageError(
            f"its mask has {amount(described, 'frame')}, but {amount(count, 'is', 'are')} described"
        )
    if not 0 < rows * columns * count <= MAX_VOXELS:
        raise ImageError(f"its mask has more than {MAX_VOXELS} voxels, or none")

    values = pixel_array(header).reshape(count, rows, columns)
    if header.get("SegmentationType") == "FRACTIONAL":
        return np.asarray(2 * values.astype(np.int64) > int(header.MaximumFractionalValue))
    return np.asarray(values != 0)


def _voxels_of(
    place: dicom_frames.Frame,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    volume: Volume,
) -> NDArray[np.int64]:
    """Return the voxels [n, 3] of a frame's pixels; ImageError if they lie between voxels."""
    world = place.position
    world = world + rows[:, None] * place.spacing[0] * place.directions[3:]
    world = world + columns[:, None] * place.spacing[1] * place.directions[:3]
    index: NDArray[np.float64]
    if volume.places is None:
        from_world = np.linalg.inv(volume.affine)
        index = world @ from_world[:3, :3].T + from_world[:3, 3]
    else:
        index = indices_of(world, volume.places, volume.affine)
    voxels: NDArray[np.int64] = np.rint(index).astype(np.int64)
    if np.abs(index - voxels).max() > NEAR:
        raise ImageError(OFF_GRID)
    return voxels
