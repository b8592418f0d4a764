"""Compressed DICOM pixels through imagecodecs, as a plugin of pydicom's.

pydicom itself decodes RLE, Pillow 8-bit JPEG. The rest (JPEG lossless and 12-bit, JPEG-LS, JPEG
2000, HTJ2K) has one decoder here whatever else is installed, so that a score does not depend on
that.
"""

import re
import struct

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner

from anodetect.errors import ImageError

NAME = "imagecodecs"
DECODERS = {
    uid.JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    uid.JPEGLossless: imagecodecs.jpeg8_decode,
    uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
    uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    uid.JPEG2000: imagecodecs.jpeg2k_decode,
    uid.HTJ2KLossless: imagecodecs.htj2k_decode,
    uid.HTJ2KLosslessRPCL: imagecodecs.htj2k_decode,
    uid.HTJ2K: imagecodecs.htj2k_decode,
}
JPEG_START, JPEG2000_SIZE = b"\xff\xd8", b"\xff\x4f\xff\x51"
START_OF_FRAME = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # then length, precision, rows, columns
DECODER_DEPENDENCIES = dict.fromkeys(DECODERS, ("imagecodecs",))  # pydicom asks for it


def is_available(syntax: str) -> bool:
    """Part of pydicom's interface for plugins."""
    return syntax in DECODERS


def plugin(syntax: uid.UID) -> str:
    """Return the name of the plugin that decodes a transfer syntax, "" for any; ImageError if there
    is none."""
    if syntax in DECODERS:
        decoder = get_decoder(syntax)
        if NAME not in decoder.available_plugins:
            decoder.add_plugin(NAME, (__name__, "decode_frame"))
        return NAME
    try:
        known = get_decoder(syntax).is_available
    except NotImplementedError:  # so pydicom says that it knows no decoder for it
        known = False
    if not known:
        raise ImageError(
            f"pixels in a transfer syntax that cannot be decoded ({syntax.name}); convert it"
        )
    return {uid.JPEGBaseline8Bit: "pillow", uid.RLELossless: "pydicom"}.get(syntax, "")


def decode_frame(content: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one frame for pydicom; ImageError if the compressed image has another size than the
    header says."""
    sides, expected = codestream_sides(content), (runner.rows, runner.columns)
    if sides != expected:
        raise ImageError(f"compressed pixels of {sides} in an image of {expected} rows and columns")

    pixels = np.ascontiguousarray(DECODERS[runner.transfer_syntax](content))
    if not runner.get_option("pixel_representation") and pixels.min() < 0:
        raise ImageError("compressed pixels below 0 in an image that says it has none")
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    if pixels.ndim == 3:
        runner.set_option("planar_configuration", 0)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
    return bytearray(pixels.tobytes())


def reason_in(error: RuntimeError) -> str:
    """Return the reason of `decode_frame` in what pydicom makes of its error; "" for an error of
    another decoder, which may quote the file."""
    found = re.search(r"compressed pixels [^\n]*", str(error))
    return found.group() if found else ""


def codestream_sides(content: bytes) -> tuple[int, int]:
    """Return the rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream says it has, before
    anything is allocated for them."""
    start = content.find(JPEG2000_SIZE)
    if start >= 0 and not content.startswith(JPEG_START):
        # The markers, then length, capabilities, right, lower, left and top.
        right, lower, left, top = struct.unpack_from(">4I", content, start + 8)
        return lower - top, right - left

    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker, length, _, rows, columns = struct.unpack_from(">BHBHH", content, at + 1)
        if marker in START_OF_FRAME:
            return rows, columns
        at += 2 + length
    raise ImageError("compressed pixels that do not say their size")
