"""Maps of volumes as NIfTI, float32 or a mask of bytes, in exactly the geometry of the source.

From a NIfTI source's header only the fields that place the voxels are taken over, bit for bit: no
description, file name or extension, which may name the patient.
"""

from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from anodetect.data.geometry import FLIP_XY
from anodetect.data.volumes import decode_nifti
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.output.formats import OutputFiles
from anodetect.output.volumes import VolumeMap
from anodetect.types import Floats

PLACED = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
SCANNER = 1  # the code of coordinates as the scanner gave them
SAME_PLACE = 0.01  # mm
BY = "by anodetect; research use only"


def write_map(shown: VolumeMap, files: OutputFiles) -> None:
    """Write the heatmap's values, float32 in the grid of the source."""
    with files.open("map") as file:
        write(file, shown.heatmap, shown.volume, f"anomaly heatmap {BY}")


def write_mask(shown: VolumeMap, files: OutputFiles) -> None:
    """Write where the heatmap exceeds the threshold, bytes of 0 and 1 in the grid of the source."""
    above = shown.above().astype(np.uint8)
    with files.open("mask") as file:
        write(file, above, shown.volume, f"above the anomaly threshold {BY}")


def read_map(path: Path) -> Floats:
    """Return the values [I, J, K] that `write_map` wrote, in the order of the source."""
    return np.asarray(decode_nifti(path.read_bytes(), holes=True).voxels[0])


def write(file: IO[bytes], values: NDArray[Any], volume: PreparedVolume, description: str) -> None:
    """Write a map [D, H, W] in the order of the source; `description` is at most 79 bytes."""
    source = volume.geometry.to_source(values)

    header = header_like(volume)
    header.set_data_dtype(source.dtype)
    header.set_data_shape(source.shape[: _dimensions(volume)])
    header["descrip"] = description.encode()
    header["vox_offset"] = header.single_vox_offset

    header.write_to(file)
    file.write(bytes(header.single_vox_offset - file.tell()))  # no extensions
    for number in range(source.shape[2]):  # a slice at a time, so that no second copy is needed
        file.write(np.asarray(source[..., number], header.get_data_dtype()).tobytes(order="F"))


def _dimensions(volume: PreparedVolume) -> int:
    """Return how many axes the map's file has: two for a source that is a slice with two."""
    origin = volume.source.origin
    is_slice = isinstance(origin, nib.Nifti1Header) and len(origin.get_data_shape()) == 2
    return 2 if is_slice else 3


def header_like(volume: PreparedVolume) -> Any:
    """Return a header that places voxels as that of the source; for DICOM or an NRRD it says
    the same in NIfTI's terms, RAS+."""
    origin = volume.source.origin
    if isinstance(origin, nib.Nifti1Header):
        kind = nib.Nifti2Header if isinstance(origin, nib.Nifti2Header) else nib.Nifti1Header
        header = kind(endianness=origin.endianness)
        for name in PLACED:
            header[name] = origin[name]
        return header

    header = nib.Nifti1Header()
    header.set_data_shape(volume.geometry.shape)
    affine = FLIP_XY @ volume.geometry.affine
    header.set_sform(affine, SCANNER)
    header.set_qform(affine, SCANNER, strip_shears=True)
    # A qform cannot hold a sheared matrix, as of a tilted gantry: then no viewer may use it.
    if (np.abs(header.get_qform() - affine) @ (*volume.geometry.shape, 1)).max() > SAME_PLACE:
        header["qform_code"] = 0
    header.set_xyzt_units("mm")
    return header
