"""The two places that a NIfTI header may give a volume, sform and qform, and which of them readers
take.

Here the sform counts wherever it is set, as for nibabel, FSL and SPM. ITK, and with it 3D Slicer
and SimpleITK, takes the sform only if it is not sheared and either is in the scanner's coordinates
or there is no qform. It takes the distances of voxels from `pixdim` in any case.
"""

from itertools import product
from typing import Any

import numpy as np

from anodetect.data.geometry import Affine

# Codes of metre and micrometre, in millimetres; other codes count as millimetres.
UNITS = {1: 1e3, 3: 1e-3}
SCANNER = 1  # the code of coordinates as the scanner gave them
SHEARED = 1e-4  # cosine between two axes, from which on ITK calls them sheared
APART = 0.1  # of the smallest distance of voxels: places that differ by less are the same
READERS = "ITK (3D Slicer, SimpleITK)"


def unit_of(header: Any) -> float:
    """Return the millimetres of the unit in which a NIfTI header has its lengths."""
    return UNITS.get(int(header["xyzt_units"]) & 7, 1.0)


def itk_form(header: Any) -> str:
    """Return which of "sform" and "qform" ITK takes from a NIfTI header that has one of them; "" if
    it does not open such a file."""
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    usable = sform_code > 0 and not _is_sheared(header.get_sform())
    if usable and (qform_code == 0 or sform_code == SCANNER):
        return "sform"
    return "qform" if qform_code > 0 else ""


def itk_affine(header: Any) -> Affine:
    """Return the matrix from an index to RAS+, in the header's unit, that ITK takes from a NIfTI
    header that it opens."""
    is_sform = itk_form(header) == "sform"
    affine: Affine = header.get_sform() if is_sform else header.get_qform()
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    own = affine.copy()
    own[:3, :3] *= np.abs(np.asarray(header["pixdim"][1:4], float)) / lengths
    return own


def note_of_forms(header: Any) -> str:
    """Return in words how the places differ that readers take from a NIfTI header, "" if they do
    not."""
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    taken: Affine = header.get_sform()
    is_place = np.isfinite(taken).all() and np.linalg.norm(taken[:3, :3], axis=0).all()
    if sform_code == 0 or len(header.get_data_shape()) < 3 or not is_place:
        return ""  # where it is no place, reading the file says so

    try:
        of_qform = _distance(header, taken, header.get_qform()) if qform_code else 0.0
    except ValueError:
        return f"the quaternion of its qform is no rotation; the sform counts, {READERS} may fail"
    form = itk_form(header)
    if not form:
        return f"its sform is sheared and it has no qform: {READERS} opens neither it nor its maps"
    limit = APART * float(np.linalg.norm(taken[:3, :3], axis=0).min())
    if of_qform > limit:
        return (
            f"its sform and qform differ by up to {of_qform * unit_of(header):.3g} mm; the sform "
            f"counts, as for nibabel, and {READERS} takes the {form}; its maps have both"
        )
    if _distance(header, taken, itk_affine(header)) > limit:
        return f"its sform has other distances of voxels than pixdim, which {READERS} takes"
    return ""


def _is_sheared(affine: Affine) -> bool:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not lengths.all():
        return True
    directions = affine[:3, :3] / lengths
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() >= SHEARED)


def _distance(header: Any, one: Affine, other: Affine) -> float:
    """Return the largest distance between the places that two matrices give a corner, in the
    header's unit."""
    ends = [(0, side - 1) for side in header.get_data_shape()[:3]]
    corners = np.array([(*corner, 1) for corner in product(*ends)], float)
    return float(np.linalg.norm(corners @ (one - other)[:3].T, axis=1).max())
