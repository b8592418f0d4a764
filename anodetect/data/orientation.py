"""The orientation that Exif and TIFF give an image: how its rows and columns are shown."""

import struct
from typing import Any

from numpy.typing import NDArray

TAG = 0x0112
UPRIGHT = 1
TYPES = {3: "H", 4: "I"}  # of the value: SHORT, as Exif has it, and LONG, as some programs do
MARK = b"Exif\0\0"  # before the TIFF header, in JPEG and in some WebP files


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an array [H, W] or [H, W, C] as it is shown; orientations other than 2 to 8 leave it.

    From 5 on rows and columns change places.
    """
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def of_exif(exif: bytes | None) -> int:
    """Return the orientation in a block of Exif; UPRIGHT if there is none, or it is damaged."""
    content = (exif or b"").removeprefix(MARK)
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        return UPRIGHT
    try:
        return _of_directory(content, order)
    except struct.error:
        return UPRIGHT


def _of_directory(content: bytes, order: str) -> int:
    """Return the orientation in the first directory of a TIFF header; struct.error if it ends too
    early."""
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    for number in range(count):
        place = start + 2 + 12 * number
        tag, kind = struct.unpack_from(f"{order}HH", content, place)
        if tag == TAG and kind in TYPES:
            (value,) = struct.unpack_from(f"{order}{TYPES[kind]}", content, place + 8)
            return int(value)
    return UPRIGHT
