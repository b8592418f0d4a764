"""The bytes of one image file as an array in the file's own bit depth, as it is shown.

An array is [H, W], [H, W, C] or [C, H, W]. Images are upright: the orientation that a file names is
applied. ImageError says why an image is refused. What libraries raise on damaged files is left to
`readers`, which gives the reason. TIFF is in tiff.py.
"""

import ctypes
import io
import re
import struct
import warnings
from typing import Any

import numpy as np
from imagecodecs import PngError, jpeg2k_decode, png_decode
from numpy.typing import NDArray
from PIL import Image

from anodetect.data.orientation import of_exif, upright
from anodetect.errors import ImageError

MAX_PIXELS = 2**27
PNG_START = b"\x89PNG\r\n\x1a\n"
SEVERAL_PICTURES = ("MPO",)  # formats whose first picture is the image, and others are previews
PALETTE = 3  # the type of colour of a PNG
CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000
SYCC = b"colr\x01\0\0\0\0\0\x12"  # the box that says so of a JPEG 2000's colours
TRANSPARENT = "partly transparent; flatten it onto a background"
Array = NDArray[np.generic]

# Pillow warns from fewer pixels on than MAX_PIXELS.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


# -- By Pillow -------------------------------------------------------------------------------------


def decode_with_pillow(content: bytes) -> Array:
    """Decode any image that Pillow knows; palettes become colours, or grey if they are grey."""
    with Image.open(io.BytesIO(content)) as image:
        check_size(image.width, image.height)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in SEVERAL_PICTURES:
            raise ImageError(
                f"animated or multi-page ({frames} frames); one image per file is expected"
            )
        if image.mode == "CMYK":
            raise ImageError("CMYK colours; convert to RGB or grey")

        array = _pixels(image)
        # A PNG may say it behind the pixels, which are read by now.
        return upright(array, of_exif(image.info.get("exif")))


def _pixels(image: Image.Image) -> Array:
    """Return an opened image's pixels, as RGB or grey of 8 bits or in its own depth."""
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if image.mode in ("P", "PA"):
        opaque = "transparency" not in image.info and image.mode != "PA"
        return grey_if_equal(np.asarray(image.convert("RGB" if opaque else "RGBA")))
    if image.mode in ("YCbCr", "LAB", "HSV"):
        return np.asarray(image.convert("RGB"))
    return np.asarray(image)


def grey_if_equal(colours: Array) -> Array:
    """Return the colours [H, W, 3] or [H, W, 4] of a palette as they are; as grey [H, W], or with
    alpha [H, W, 2], if the channels are equal everywhere."""
    if (colours[..., :3] != colours[..., :1]).any():
        return colours
    return colours[..., 0] if colours.shape[-1] == 3 else colours[..., [0, 3]]


def decode_bmp(content: bytes) -> Array:
    """Decode a BMP; an alpha that is 0 everywhere was never filled in, and the image is opaque."""
    array = decode_with_pillow(content)
    if array.ndim == 3 and array.shape[-1] == 4 and not array[..., 3].any():
        return array[..., :3]
    return array


def decode_webp(content: bytes) -> Array:
    """Decode a WebP; one that was grey is grey again. WebP has no grey, and with loss it returns
    red and blue that are equal and green that is the same or one less."""
    array = decode_with_pillow(content)
    if array.ndim != 3 or array.shape[-1] != 3:
        return array
    red, green, blue = np.moveaxis(array.astype(np.int16), -1, 0)
    was_grey = (red == blue).all() and ((red == green) | (red == green + 1)).all()
    return array[..., 1] if was_grey else array


# -- PNG -------------------------------------------------------------------------------------------


def decode_png(content: bytes) -> Array:
    """Decode a PNG of 1 to 16 bits. What it says of gamma and colour profiles is ignored."""
    chunks = _png_chunks(content)
    header = chunks.get(b"IHDR", b"")
    if len(header) < 13:
        return decode_with_pillow(content)  # which says what is wrong

    # Pillow reduces 16-bit colour to 8 bits, and takes longer for 8 bits.
    width, height, bits, colour_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", header)
    is_plain = bits == 8 and colour_type != PALETTE and not interlaced
    if bits < 16 and not (is_plain and chunks.keys().isdisjoint((b"tRNS", b"acTL"))):
        array = decode_with_pillow(content)
        _check_transparent_value(array, chunks.get(b"tRNS", b""), bits, colour_type)
        return array

    check_size(width, height)
    frames = int.from_bytes(chunks.get(b"acTL", b"")[:4], "big")
    if frames > 1:
        raise ImageError(f"animated ({frames} frames); one image per file is expected")
    try:
        array = np.asarray(png_decode(content))
    except PngError:
        # imagecodecs 2026.3 loses a reference to None with every error; when none is left, Python
        # before 3.12 aborts.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(None))
        if bits == 16:
            raise
        return decode_with_pillow(content)  # which says what is wrong, or reads it all the same
    return upright(array, of_exif(chunks.get(b"eXIf")))


def _png_chunks(content: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a PNG that are not pixels by their names, of equal ones the last."""
    chunks: dict[bytes, bytes] = {}
    place = len(PNG_START)
    while content.startswith(PNG_START) and place + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        if name != b"IDAT":
            chunks[name] = content[place + 8 : place + 8 + length]
        place += length + 12
    return chunks


def _check_transparent_value(array: Array, chunk: bytes, bits: int, colour_type: int) -> None:
    """Raise ImageError if a grey or RGB image of up to 8 bits has pixels of the value that its tRNS
    chunk calls transparent. Those of palettes are checked as alpha."""
    channels = {0: 1, 2: 3}.get(colour_type, 0)
    if not channels or len(chunk) < 2 * channels:
        return
    stored = np.array(struct.unpack_from(f">{channels}H", chunk)) & (2**bits - 1)
    value = stored * 255 // (2**bits - 1)  # as pixels of fewer bits are
    if (array.reshape(*array.shape[:2], channels) == value).all(-1).any():
        raise ImageError(TRANSPARENT)


# -- JPEG 2000 -------------------------------------------------------------------------------------


def decode_jpeg2000(content: bytes) -> Array:
    """Decode a JPEG 2000; samples of other than 8 bits keep their values."""
    start = content.find(CODESTREAM)
    if start < 0 or len(content) < start + 43:
        return decode_with_pillow(content)  # which says what is wrong
    if content[start + 42] == 7:  # unsigned, 8 bits
        return decode_with_pillow(content)

    # Pillow stretches other samples to 8 or 16 bits.
    right, bottom, left, top = struct.unpack_from(">4I", content, start + 8)
    check_size(right - left, bottom - top)
    if SYCC in content[:start]:
        raise ImageError("YCC colours of more than 8 bits; convert to RGB or grey")
    return np.asarray(jpeg2k_decode(content))


# -- Portable any-map ------------------------------------------------------------------------------

PNM_FIELD = rb"(?:\s|#[^\n]*\n)+(\d+)"
PNM_HEADER = re.compile(rb"P([1-6])" + PNM_FIELD + PNM_FIELD)
PNM_MOST = re.compile(PNM_FIELD)


def decode_pnm(content: bytes) -> Array:
    """Decode a PBM, PGM or PPM, as text or binary, of 1 to 16 bits. Values of fewer than 8 bits are
    stretched to 8, all others stay what they are."""
    header = PNM_HEADER.match(content)
    if header is None:
        raise ImageError("not a readable image")
    kind, width, height = (int(field) for field in header.groups())
    check_size(width, height)
    end, most, channels = header.end(), 1, 3 if kind in (3, 6) else 1

    if kind not in (1, 4):
        field = PNM_MOST.match(content, end)
        most = int(field[1]) if field else 0
        if field is None or not 0 < most < 65536:
            raise ImageError("its highest value is not between 1 and 65535")
        end = field.end()

    body = content[end + 1 :]
    if kind == 4:
        return _packed_bits(body, width, height)
    shape = (height, width, channels) if channels > 1 else (height, width)
    array = _samples(body, most, width * height * channels, kind).reshape(shape)
    if array.max() > most:
        raise ImageError(f"values above {most}, the highest that its header allows")
    if kind == 1:
        return np.where(array, np.uint8(0), np.uint8(255))
    return stretched(array, most) if most < 255 else array


def _packed_bits(body: bytes, width: int, height: int) -> Array:
    """Return the pixels of a binary PBM, where 1 is black."""
    row_bytes = -(-width // 8)
    if len(body) < row_bytes * height:
        raise ImageError("damaged or unreadable (it ends too early)")
    rows = np.frombuffer(body, np.uint8, row_bytes * height).reshape(height, row_bytes)
    return np.where(np.unpackbits(rows, axis=1)[:, :width], np.uint8(0), np.uint8(255))


def _samples(body: bytes, most: int, count: int, kind: int) -> Array:
    """Return `count` samples of up to `most`, from text or from bytes, as uint8 or uint16."""
    dtype = np.dtype(np.uint8 if most < 256 else ">u2")
    if kind > 3:
        if len(body) < count * dtype.itemsize:
            raise ImageError("damaged or unreadable (it ends too early)")
        return np.frombuffer(body, dtype, count).astype(dtype.newbyteorder("="))

    text = re.sub(rb"#[^\n]*", b"", body)
    fields = re.findall(rb"[01]" if kind == 1 else rb"\d+", text)
    if len(fields) < count:
        raise ImageError("damaged or unreadable (it ends too early)")
    return np.array(fields[:count], np.int64).astype(dtype.newbyteorder("="))


# -- NumPy -----------------------------------------------------------------------------------------


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
        check_size(*sorted(shape)[-2:])
    array = np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    if array.ndim == 3 and array.shape[-1] in (2, 4) and not is_opaque(array[..., -1]):
        channels = array.shape[-1]
        raise ImageError(f"array of shape {shape}, {channels} channels; one or three are expected")
    return array


# -- What all have in common -----------------------------------------------------------------------


def check_size(width: int, height: int) -> None:
    """Raise ImageError for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}×{height} is more than {MAX_PIXELS} pixels")


def stretched(array: Array, most: int) -> Array:
    """Return values from 0 to `most`, fewer than 8 bits have, as 8 bits, as viewers show them."""
    return ((array.astype(np.int64) * 255 + most // 2) // most).astype(np.uint8)


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
    if not is_opaque(array[-1]):
        raise ImageError(TRANSPARENT)
    return array[:-1]


def is_opaque(alpha: NDArray[Any]) -> bool:
    """Return whether an alpha channel has the highest value of its type everywhere, of floats
    1."""
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    return bool((alpha == opaque).all())


def as_float32(array: Array) -> NDArray[np.float32]:
    """Return values as float32; ImageError if they are complex, or if that would lose levels: an
    integer that it cannot hold, or numbers of 64 bits that lie close together and far from 0."""
    if array.dtype.kind not in "uifb":
        raise ImageError(f"values of type {array.dtype}; numbers are expected, such as magnitudes")
    values = np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.kind in "ui" and array.dtype.itemsize > 2:
        exact = (values.astype(np.float64) == array.astype(np.float64)).all()
        if array.dtype.itemsize == 8:
            exact = exact and np.abs(array.astype(np.float64)).max() < 2**53
    elif array.dtype == np.float64 and array.size and np.isfinite(array).all():
        low, high = float(array.min()), float(array.max())
        exact = low == high or high - low > max(abs(low), abs(high)) * 2.0**-15
    else:
        exact = True

    if not exact:
        raise ImageError(
            f"{array.dtype} values around {float(array.max()):g} lie closer together than 32-bit "
            "floats tell apart; subtract an offset, or save them with 16 bits"
        )
    return values
