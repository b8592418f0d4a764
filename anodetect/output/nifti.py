"""Maps of volumes as NIfTI, float32 or a mask of bytes, in exactly the geometry of the source.
Where that is not orthogonal, or slices are uneven, maps are resampled onto a straight grid.

From a NIfTI source's header only the fields that place the voxels are taken over, bit for bit: no
description, file name or extension, which may name the patient.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike, NDArray

from anodetect.data.geometry import FLIP_XY, Affine
from anodetect.data.volumes import decode_nifti
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.output.formats import OutputFiles
from anodetect.output.images import write_stack
from anodetect.output.straight import LARGEST_SHIFT, StraightGrid, straight_grid
from anodetect.output.volumes import VolumeMap
from anodetect.types import Bools, Floats

PLACED = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
SCANNER = 1  # the code of coordinates as the scanner gave them
BY = "by anodetect; research use only"


def write_map(shown: VolumeMap, files: OutputFiles) -> None:
    """Write the heatmap's values, float32 in the grid of the source.

    Where readers of NIfTI do not open that grid, or NIfTI cannot hold it, the map is resampled, and
    a TIFF has the exact values in the source's own slices.
    """
    grid = _grid_for(shown)
    if grid is None:
        with files.open("map") as file:
            write(file, shown.heatmap, shown.volume, f"anomaly heatmap {BY}")
        return

    values = shown.volume.geometry.to_source(shown.heatmap)
    with files.open("slices") as file:
        write_stack(file, values)
    with files.open("map", f"{grid.note}; the TIFF beside it has the source's slices") as file:
        _write_planes(file, grid, grid.planes(values), np.float32, f"resampled heatmap {BY}")


def write_mask(shown: VolumeMap, files: OutputFiles) -> None:
    """Write where the heatmap has regions that count, bytes of 0 and 1, in the grid of the map."""
    grid = _grid_for(shown)
    if grid is None:
        mask = shown.mask.astype(np.uint8)
        with files.open("mask") as file:
            write(file, mask, shown.volume, f"above the anomaly threshold {BY}")
        return

    planes = _mask_planes(shown, grid)
    with files.open("mask", grid.note) as file:
        _write_planes(file, grid, planes, np.uint8, f"above the anomaly threshold {BY}")


def _mask_planes(shown: VolumeMap, grid: StraightGrid) -> Iterator[Bools]:
    """Yield the planes of a mask in another grid: where the resampled map exceeds the low value of
    regions, and a region that counts has a share in it."""
    to_source, low = shown.volume.geometry.to_source, shown.rule.measure.low
    shares = grid.planes(to_source(shown.mask.astype(np.float32)))
    for plane, share in zip(grid.planes(to_source(shown.heatmap)), shares, strict=True):
        yield (plane > low) & (share > 0)


def read_map(path: Path) -> Floats:
    """Return the values [I, J, K] that `write_map` wrote, in the order of the source."""
    return np.asarray(decode_nifti(path.read_bytes(), holes=True).voxels[0])


def read_mask(path: Path) -> Bools:
    """Return the mask [I, J, K] that `write_mask` wrote, in the file's order."""
    return read_map(path) > 0


def _grid_for(shown: VolumeMap) -> StraightGrid | None:
    """Return the grid onto which a map is resampled; None where it keeps the source's, as that of a
    NIfTI, and a sheared one that was asked for."""
    source = shown.volume.source
    keeps_shear = shown.exact_grid and source.places is None
    if keeps_shear or isinstance(source.origin, nib.Nifti1Header):
        return None
    return straight_grid(source)


def write(file: IO[bytes], values: NDArray[Any], volume: PreparedVolume, description: str) -> None:
    """Write a map [D, H, W] in the order of the source; `description` is at most 79 bytes."""
    source = volume.geometry.to_source(values)
    header = header_like(volume)
    header.set_data_shape(source.shape[: _dimensions(volume)])
    planes = (source[..., number] for number in range(source.shape[2]))
    _write(file, header, planes, source.dtype, description)


def _write_planes(
    file: IO[bytes],
    grid: StraightGrid,
    planes: Iterable[NDArray[Any]],
    dtype: DTypeLike,
    description: str,
) -> None:
    """Write the slices [rows, columns] of a grid as a NIfTI [columns, rows, slices]."""
    header = nib.Nifti1Header()
    header.set_data_shape(grid.shape[::-1])
    _place(header, grid.affine[:, [2, 1, 0, 3]])
    _write(file, header, (plane.T for plane in planes), dtype, description)


def _write(
    file: IO[bytes],
    header: Any,
    planes: Iterable[NDArray[Any]],
    dtype: DTypeLike,
    description: str,
) -> None:
    """Write a header and the slices [I, J] along the last axis, one at a time, so that no second
    copy is needed."""
    header.set_data_dtype(dtype)
    header["descrip"] = description.encode()
    header["vox_offset"] = header.single_vox_offset
    header.write_to(file)
    file.write(bytes(header.single_vox_offset - file.tell()))  # no extensions
    for plane in planes:
        file.write(np.asarray(plane, header.get_data_dtype()).tobytes(order="F"))


def _dimensions(volume: PreparedVolume) -> int:
    """Return how many axes the map's file has: two for a source that is a slice with two."""
    origin = volume.source.origin
    is_slice = isinstance(origin, nib.Nifti1Header) and len(origin.get_data_shape()) == 2
    return 2 if is_slice else 3


def header_like(volume: PreparedVolume) -> Any:
    """Return a header that places voxels as that of the source; for DICOM or an NRRD it says
    the same in NIfTI's terms, RAS+, and of pictures that they lie nowhere."""
    origin = volume.source.origin
    if isinstance(origin, nib.Nifti1Header):
        kind = nib.Nifti2Header if isinstance(origin, nib.Nifti2Header) else nib.Nifti1Header
        header = kind(endianness=origin.endianness)
        for name in PLACED:
            header[name] = origin[name]
        return header

    header = nib.Nifti1Header()
    header.set_data_shape(volume.geometry.shape)
    if volume.is_pictures:  # no code says that they lie anywhere
        header.set_zooms(np.linalg.norm(volume.geometry.affine[:3, :3], axis=0))
        return header
    _place(header, volume.geometry.affine)
    return header


def _place(header: Any, affine: Affine) -> None:
    """Let a header say where voxels lie, for an affine of LPS+ millimetres."""
    world = FLIP_XY @ affine
    header.set_sform(world, SCANNER)
    header.set_qform(world, SCANNER, strip_shears=True)
    # A qform cannot hold a sheared matrix, as of a tilted gantry: then no viewer may use it.
    off = np.abs(header.get_qform() - world) @ (*header.get_data_shape(), 1)
    if off.max() > LARGEST_SHIFT * np.linalg.norm(affine[:3, :3], axis=0).min():
        header["qform_code"] = 0
    header.set_xyzt_units("mm")
