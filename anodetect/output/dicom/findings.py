"""The connected regions of a mask, and their measures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import generate_uid
from scipy import ndimage

from anodetect.imaging.preprocess import PreparedVolume
from anodetect.types import Floats

# So many findings, those with the highest peaks, have a segment and measurements of their own; the
# others share a segment.
FINDINGS = 20


@dataclass(frozen=True)
class Finding:
    """A connected region of a mask: its highest anomaly value, its volume in cubic
    millimetres, and the identifier by which all files call it."""

    peak: float
    volume: float
    uid: str


def find_findings(
    heatmap: Floats, mask: NDArray[np.bool_], volume: PreparedVolume
) -> tuple[NDArray[np.uint8], list[Finding]]:
    """Number the connected regions of `mask` [D, H, W] from 1, highest peak first, and measure
    them. After FINDINGS of them all others have the same number and are not measured."""
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        return np.zeros(mask.shape, np.uint8), []

    peaks = ndimage.maximum(heatmap, parts, np.arange(1, count + 1))
    order = np.argsort(-np.asarray(peaks), kind="stable")
    number_of = np.zeros(count + 1, np.uint8)
    number_of[1 + order] = np.minimum(np.arange(count), FINDINGS) + 1

    voxel = abs(float(np.linalg.det(volume.geometry.affine[:3, :3])))
    sizes = np.bincount(parts.ravel())[1:]
    found = []
    for n in order[:FINDINGS]:
        volume_of_it = round(float(sizes[n]) * voxel, 3)
        found.append(Finding(float(peaks[n]), volume_of_it, generate_uid()))
    return number_of[parts], found


def label(number: int) -> str:
    return f"finding {number}"
