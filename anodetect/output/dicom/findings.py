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

    peaks, sizes = np.zeros(count), np.zeros(count)
    voxels = np.broadcast_to(volume.geometry.voxel_volumes, mask.shape)
    for number, box in enumerate(ndimage.find_objects(parts)):
        inside = parts[box] == number + 1
        peaks[number], sizes[number] = heatmap[box][inside].max(), voxels[box][inside].sum()

    order = np.argsort(-peaks, kind="stable")
    number_of = np.zeros(count + 1, np.uint8)
    number_of[1 + order] = np.minimum(np.arange(count), FINDINGS) + 1

    found = []
    for n in order[:FINDINGS]:
        found.append(Finding(float(peaks[n]), round(float(sizes[n]), 3), generate_uid()))
    return number_of[parts], found


def label(number: int) -> str:
    return f"finding {number}"
