"""The hash of a file's decoded pixels: the same for copies in another format, compression or order
of a volume's axes."""

import numpy as np

from anodetect.data.volumes import Volume
from anodetect.types import Floats, content_digest

EIGHT_TO_SIXTEEN = 257  # 255 times it is 65535


def content_hash(content: Floats | Volume, sample_type: str = "") -> str:
    """Return the hash of an image [C, H, W] or of a volume's voxels as hexadecimal digits.

    Equal channels count as one. Values of 16 bits that are all multiples of 257 count as the 8 bits
    they were made from. Voxels are hashed in the order of axial slices.
    """
    if isinstance(content, Volume):
        values = content.geometry("axial").to_slices(content.voxels)
    else:
        values = content
    return content_digest(as_hashed(values, sample_type)).hex()


def as_hashed(values: Floats, sample_type: str) -> Floats:
    """Return the values of an image [C, ...] that are hashed: the same array, unless equal channels
    or values of 8 bits stand for less."""
    if len(values) == 3 and (values[1:] == values[:1]).all():
        values = values[:1]
    if sample_type == "uint16" and _was_eight_bits(values):
        values = values / np.float32(EIGHT_TO_SIXTEEN)
    return values


def _was_eight_bits(values: Floats) -> bool:
    """Return whether all values [C, H, W] are multiples of 257."""
    if (values[:, :1] % EIGHT_TO_SIXTEEN).any():  # most images end here
        return False
    return not (values % EIGHT_TO_SIXTEEN).any()
