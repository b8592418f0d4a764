"""One image file → float32 [C, H, W] in native units, C 1 or 3; a volume → [C, I, J, K] and where
it lies.

The file's own bit depth is kept.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
import tifffile
from imagecodecs import png_decode
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from anodetect.data import dicom
from anodetect.data.geometry import MIN_SIDE, Geometry
from anodetect.data.scan import Record, suffix_of
from anodetect.data.volumes import MAX_VOXELS, Volume, decode_nifti, decode_nrrd, same_grid
from anodetect.errors import ImageError
from anodetect.types import Bools, Floats

MAX_PIXELS = 2**27
MAX_BYTES = 8 * MAX_VOXELS + 2**24  # the largest volume, not compressed, and its header
warnings.filterwarnings(
    "ignore", category=Image.DecompressionBombWarning
)  # Pillow's limit is lower than MAX_PIXELS
Array = NDArray[np.generic]
MAX_CHANNELS = 4
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A record's bytes and their hash, not decoded yet."""

    record: Record
    contents: tuple[bytes, ...]  # one file, or those of a DICOM series in the order of its slices
    sha256: str

    def decode(self, component: int | None = None) -> Floats | Volume:
        """An image or a volume; ImageError with the reason if it cannot be used. Of a 4-D file the
        component that the record names, else `component`."""
        component = component if self.record.component is None else self.record.component
        if dicom.is_dicom(self.record.path):
            decoded = _tried(lambda: dicom.decode(self.contents))
            return decoded if isinstance(decoded, Volume) else _checked(decoded)
        suffix, content = suffix_of(self.record.path), self.contents[0]
        if not content:
            raise ImageError("the file is empty")
        if suffix in _VOLUME_DECODERS:
            return _tried(lambda: _VOLUME_DECODERS[suffix](content, component))
        return decode_image(content, suffix)


def read_source(record: Record) -> Source:
    """A record's bytes; ImageError with the reason if there are none to be had."""
    contents = [read_bytes(path) for path in record.files or (record.path,)]
    if len(contents) > 1:
        contents = _tried(lambda: dicom.in_order(contents))
    return Source(record, tuple(contents), digest(*contents))


def supplied_foreground(record: Record, volume: Volume) -> Bools | None:
    """The foreground [I, J, K] the manifest names for a volume, if any; ImageError if it does not
    lie on its grid."""
    return None if record.foreground is None else _mask_on(record.foreground, volume, "foreground")


def volume_mask(path: Path, volume: Volume, geometry: Geometry) -> Bools:
    """A volume's ground truth [D, H, W]; ImageError if it does not lie on its grid."""
    return np.asarray(geometry.to_slices(_mask_on(path, volume, "mask")))


def _mask_on(path: Path, volume: Volume, what: str) -> Bools:
    decoded = read_source(Record(path.name, path)).decode()
    if not isinstance(decoded, Volume) or not same_grid(decoded, volume):
        raise ImageError(f"its {what} {path.name} does not lie on the same grid")
    return np.asarray((decoded.voxels != 0).any(0))


def read_image(path: Path) -> Floats:
    """Read a PNG, JPEG, BMP, TIFF or NPY file; ImageError with the reason if it cannot be used.

    NPY and TIFF arrays are [H, W], [H, W, C] or [C, H, W] with C 1 or 3. Palettes become their
    colours and an alpha channel is dropped if it is opaque everywhere; CMYK, transparency and
    animations are refused.
    """
    return decode_image(read_bytes(path), path.suffix)


def decode_image(content: bytes, suffix: str) -> Floats:
    """`read_image` for bytes already in memory; `suffix` names the format."""
    if not content:
        raise ImageError("the file is empty")
    decode = _DECODERS.get(suffix.lower())
    if decode is None:
        raise ImageError(f"unknown image format {suffix!r}")
    return _checked(_channels_first(_tried(lambda: decode(content))))


def _tried(decode: Callable[[], T]) -> T:
    """What decoding gives; ImageError with the reason if it fails."""
    try:
        return decode()
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise ImageError("not a readable image") from None
    except MemoryError:
        raise ImageError("does not fit into memory") from None
    except (
        Exception
    ) as error:  # decoders raise whatever they like on damaged files; the reason is kept
        raise ImageError(
            f"damaged or unreadable ({type(error).__name__}: {' '.join(str(error).split())[:200] or 'no details'})"
        ) from None


def read_mask(path: Path) -> Bools:
    """A ground-truth mask, bool [H, W]: True where any channel is not zero."""
    return np.asarray((read_image(path) != 0).any(0))


def read_bytes(path: Path) -> bytes:
    """A file's bytes; ImageError with the reason if there are none to be had."""
    try:
        if not path.is_file():
            raise ImageError("no such file" if not path.exists() else "not a regular file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ImageError(f"{size} bytes are more than any image has that is read, {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or "unreadable") from None


def digest(*contents: bytes) -> str:
    """SHA-256 of bytes, one after the other."""
    state = sha256()
    for content in contents:
        state.update(content)
    return state.hexdigest()


def _decode_pillow(content: bytes) -> Array:
    with Image.open(io.BytesIO(content)) as image:
        _check_size(image.width, image.height)
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise ImageError(
                f"animated or multi-page ({frames} frames); one image per file is expected"
            )
        if image.mode == "CMYK":
            raise ImageError("CMYK colours; convert to RGB or grey")
        if image.mode in ("1", "P", "PA"):
            opaque = "transparency" not in image.info and image.mode != "PA"
            return np.asarray(
                image.convert("L" if image.mode == "1" else "RGB" if opaque else "RGBA")
            )
        if image.mode in ("YCbCr", "LAB", "HSV"):
            return np.asarray(image.convert("RGB"))
        return np.asarray(image)


def _decode_png(content: bytes) -> Array:
    # Pillow reduces 16-bit colour to 8 bits; byte 24 of a PNG is its bit depth and byte 25 its
    # colour type.
    if content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 26 and content[24] == 16:
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        _check_size(width, height)
        return np.asarray(png_decode(content))
    return _decode_pillow(content)


def _decode_tiff(content: bytes) -> Array:
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        if len(file.pages) > 1:
            raise ImageError(
                f"multi-page ({len(file.pages)} pages); one image per file is expected"
            )
        page = file.pages.first
        _check_size(page.imagewidth, page.imagelength)
        if page.samplesperpixel * page.imagedepth > MAX_CHANNELS:
            raise ImageError(
                f"{page.samplesperpixel * page.imagedepth} channels; one or three are expected"
            )
        if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
            raise ImageError("CMYK colours; convert to RGB or grey")
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise ImageError("palette TIFF; convert to RGB or grey")
        array = np.asarray(file.asarray())
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
            array = (2**page.bitspersample - 1 - array.astype(np.int64)).astype(np.float64)
        return array


def _decode_npy(content: bytes) -> Array:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(stream)
    if dtype.kind not in "uifb":
        raise ImageError(f"array of type {dtype}; numbers are expected")
    if len(shape) >= 2:
        _check_size(*sorted(shape)[-2:])
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}×{height} is more than {MAX_PIXELS} pixels")


def _channels_first(array: Array) -> Array:
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


def _checked(array: Array) -> Floats:
    height, width = array.shape[1:]
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{width}×{height} pixels; at least {MIN_SIDE}×{MIN_SIDE} are needed")
    image = np.ascontiguousarray(array, dtype=np.float32)
    bad = image.size - int(np.isfinite(image).sum())
    if bad:
        raise ImageError(f"{bad} pixels are NaN or infinite")
    return image


_DECODERS: dict[str, Callable[[bytes], Array]] = {
    ".png": _decode_png,
    ".jpg": _decode_pillow,
    ".jpeg": _decode_pillow,
    ".bmp": _decode_pillow,
    ".tif": _decode_tiff,
    ".tiff": _decode_tiff,
    ".npy": _decode_npy,
}
_VOLUME_DECODERS: dict[str, Callable[[bytes, int | None], Volume]] = {
    ".nii": decode_nifti,
    ".nii.gz": decode_nifti,
    ".nrrd": decode_nrrd,
}
