"""Volumes of which each voxel has several components: colours are read as what they are, and of any
other vector one component is chosen.

Files often say no more than that there are components. Three or four of 8 bits are taken for RGB
and RGBA, as programs that show colours store them; displacements and tensors have other types.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.data.images import TRANSPARENT, is_opaque
from anodetect.errors import ImageError
from anodetect.types import Floats

COUNTS = (3, 4)  # components of RGB and of RGBA
NIFTI_VECTORS = (1004, 1005, 1006, 1007, 2003, 2004)  # intents: matrices, vectors and colours
NIFTI_BYTES = 2  # the code of whole numbers of 8 bits, without a sign


def as_colours(components: NDArray[Any]) -> Floats:
    """Return the colours [3, I, J, K] of voxels [I, J, K, 3 or 4] in RGB or RGBA; ImageError if
    some are transparent. An alpha that is 0 everywhere was never filled in."""
    alpha = components[..., 3:]
    if alpha.any() and not is_opaque(alpha):
        raise ImageError(TRANSPARENT)
    return np.moveaxis(components[..., :3], -1, 0).astype(np.float32)


def is_vector_nifti(header: Any) -> bool:
    """Return whether each voxel of a NIfTI has components: along its fifth axis, as its intent
    says."""
    sides = header.get_data_shape()
    is_fifth = len(sides) == 5 and int(sides[3]) == 1
    return is_fifth and int(header["intent_code"]) in NIFTI_VECTORS


def is_coloured_nifti(header: Any) -> bool:
    """Return whether the components of a NIfTI are taken for colours."""
    is_bytes = int(header["datatype"]) == NIFTI_BYTES
    return is_vector_nifti(header) and is_bytes and header.get_data_shape()[4] in COUNTS
