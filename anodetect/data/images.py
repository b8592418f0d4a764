"""The bytes of one image file as an array in the file's own bit depth.

An array is [H, W], [H, W, C] or [C, H, W]. ImageError says why an image is refused. What libraries
raise on damaged files is left to `readers`, which gives the reason.
"""

import io
import warnings

import numpy as np
import tifffile
from imagecodecs import png_decode
from numpy.typing import NDArray
from PIL import Image

from anodetect.errors import ImageError

MAX_PIXELS = 2**27
MAX_CHANNELS = 4
PNG_START = b"\x89PNG\r\n\x1a\n"
Array = NDArray[np.generic]

# Pillow warns from fewer pixels on than MAX_PIXELS.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode_with_pillow(content: bytes) -> Array:
    """Decode any image that Pillow knows; palettes become colours."""
    with Image.open(io.BytesIO(content)) as image:
        _check_size(image.width, image.height)
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise ImageError(
                f"animated or multi-page ({frames} frames); one image per file is expected"
            )
        if image.mode == "CMYK":
            raise ImageError("CMYK colours; convert to RGB or grey")

        if image.mode == "1":
            return np.asarray(image.convert("L"))
        if image.mode in ("P", "PA"):
            opaque = "transparency" not in image.info and image.mode != "PA"
            return np.asarray(image.convert("RGB" if opaque else "RGBA"))
        if image.mode in ("YCbCr", "LAB", "HSV"):
            return np.asarray(image.convert("RGB"))
        return np.asarray(image)


def decode_png(content: bytes) -> Array:
    """Decode a PNG of 1 to 16 bits."""
    # Pillow reduces 16-bit colour to 8 bits. Byte 24 of a PNG is its bit depth, bytes 16 to 23 are
    # its width and height.
    if content[:8] == PNG_START and len(content) > 26 and content[24] == 16:
        width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
        _check_size(width, height)
        return np.asarray(png_decode(content))
    return decode_with_pillow(content)


def decode_tiff(content: bytes) -> Array:
    """Decode a TIFF of one page, of integers or floats; where white is 0, values are inverted."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        if len(file.pages) > 1:
            raise ImageError(
                f"multi-page ({len(file.pages)} pages); one image per file is expected"
            )
        page = file.pages.first
        _check_size(page.imagewidth, page.imagelength)
        channels = page.samplesperpixel * page.imagedepth
        if channels > MAX_CHANNELS:
            raise ImageError(f"{channels} channels; one or three are expected")
        if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
            raise ImageError("CMYK colours; convert to RGB or grey")
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise ImageError("palette TIFF; convert to RGB or grey")

        array = np.asarray(file.asarray())
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
            array = (2**page.bitspersample - 1 - array.astype(np.int64)).astype(np.float64)
        return array


def decode_npy(content: bytes) -> Array:
    """Decode a NumPy array of numbers; pickled objects are never opened."""
    stream = io.BytesIO(content)
    read_header = np.lib.format.read_array_header_2_0
    if np.lib.format.read_magic(stream) == (1, 0):
        read_header = np.lib.format.read_array_header_1_0
    shape, _, dtype = read_header(stream)

    if dtype.kind not in "uifb":
        raise ImageError(f"array of type {dtype}; numbers are expected")
    if len(shape) >= 2:
        _check_size(*sorted(shape)[-2:])
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}×{height} is more than {MAX_PIXELS} pixels")


def channels_first(array: Array) -> Array:
    """Return an array as [C, H, W] with C 1 or 3; ImageError if it has other channels or is partly
    transparent."""
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.shape[-1] in (1, 2, 3, 4):
        return _without_alpha(np.moveaxis(array, -1, 0))
    if array.ndim == 3 and array.shape[0] in (1, 3):
        return array
    raise ImageError(f"array of shape {array.shape}; expected one or three channels")


def _without_alpha(array: Array) -> Array:
    if len(array) in (1, 3):
        return array
    alpha = array[-1]
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    if (alpha != opaque).any():
        raise ImageError("partly transparent; flatten it onto a background")
    return array[:-1]
