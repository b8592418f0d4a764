"""The bytes of a TIFF as an array in the file's own bit depth, as it is shown."""

import io
import math
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from anodetect.data.images import Array, check_size, grey_if_equal, is_opaque, stretched
from anodetect.data.orientation import TAG, UPRIGHT, upright
from anodetect.errors import ImageError

MAX_CHANNELS = 4
COLOURS = {
    tifffile.PHOTOMETRIC.SEPARATED: "CMYK",
    tifffile.PHOTOMETRIC.CIELAB: "LAB",
    tifffile.PHOTOMETRIC.ICCLAB: "LAB",
    tifffile.PHOTOMETRIC.ITULAB: "LAB",
}
JPEGS = (6, 7, 34892)  # compressions that are decoded to RGB
ALPHAS = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
YCBCR_TAGS = (529, 532)  # coefficients, and the values of black and white
USUAL_YCBCR = (
    (299, 1000, 587, 1000, 114, 1000),
    (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1),
)


def decode_tiff(content: bytes) -> Array:
    """Decode the one picture of a TIFF, of integers or floats. Reduced pictures and masks beside it
    are passed over. Where white is 0, integers are inverted in the range of their type."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = _picture(file)
        check_size(page.imagewidth, page.imagelength)
        channels = page.samplesperpixel * page.imagedepth
        if channels > MAX_CHANNELS:
            raise ImageError(f"{channels} channels; one or three are expected")
        _check_colours(page)

        _check_alone(file, page)
        array = np.asarray(page.asarray())
        if array.ndim == 3 and page.axes == "SYX":
            array = np.moveaxis(array, 0, -1)
        if array.ndim == 2 or array.shape[-1] <= MAX_CHANNELS:
            orientation = page.tags.get(TAG)
            array = upright(array, UPRIGHT if orientation is None else int(orientation.value))
        _check_last_channel(array, page)
        return _shown(array, page)


def _check_alone(file: tifffile.TiffFile, page: Any) -> None:
    """Raise ImageError if the only page of a file is the first of a stack that has one header."""
    if len(file.pages) > 1 or page is not file.pages.first:
        return
    count = math.prod(file.series[0].shape) // max(1, math.prod(page.shape))
    if count > 1:
        raise ImageError(f"multi-page ({count} pages); one image per file is expected")


def _check_last_channel(array: Array, page: Any) -> None:
    """Raise ImageError if a second or fourth channel holds values and is not said to be alpha."""
    channels = page.samplesperpixel
    if channels not in (2, 4) or array.ndim != 3 or is_opaque(array[..., -1]):
        return
    if not any(kind in ALPHAS for kind in page.extrasamples):
        raise ImageError(
            f"{channels} channels, and the last one is not said to be transparency; "
            "one or three are expected"
        )


def _picture(file: tifffile.TiffFile) -> Any:
    """Return the page of full resolution; ImageError if there are several."""
    pages = list(file.pages)
    pictures = [page for page in pages if not _is_beside(page)]
    if not pictures:  # a preview comes first, and the picture is below it
        below = [each for page in pages for each in (page.pages or ())]
        pictures = [page for page in below if not _is_beside(page)]
    if len(pictures) > 1:
        raise ImageError(f"multi-page ({len(pictures)} pages); one image per file is expected")
    return pictures[0] if pictures else file.pages.first


def _is_beside(page: Any) -> bool:
    """Return whether a page is a smaller version or a mask of another one."""
    return bool(page.is_reduced or page.is_mask)


def _check_colours(page: Any) -> None:
    """Raise ImageError for colours that are neither grey nor RGB nor become them plainly."""
    kinds, photometric = tifffile.PHOTOMETRIC, page.photometric
    plain = (kinds.MINISWHITE, kinds.MINISBLACK, kinds.RGB, kinds.PALETTE, kinds.YCBCR)
    if photometric not in plain:
        name = COLOURS.get(photometric, getattr(photometric, "name", str(photometric)))
        raise ImageError(f"{name} colours; convert to RGB or grey")

    if photometric == kinds.YCBCR and page.compression not in JPEGS:
        usual = page.bitspersample == 8 and page.samplesperpixel == 3 and not page.is_subsampled
        for number in YCBCR_TAGS:
            tag = page.tags.get(number)
            usual = usual and (tag is None or tuple(tag.value) in USUAL_YCBCR)
        if not usual:
            raise ImageError("YCbCr colours in an unusual coding; convert to RGB or grey")


def _shown(array: Array, page: Any) -> Array:
    """Return the samples of a page as grey or RGB, as a viewer shows them."""
    kinds, photometric = tifffile.PHOTOMETRIC, page.photometric
    if photometric == kinds.PALETTE:
        return _coloured(array, page)
    if photometric == kinds.YCBCR and page.compression not in JPEGS:
        return _from_ycbcr(array)
    if photometric == kinds.MINISWHITE:
        array = _inverted(array, page.bitspersample)
    if array.dtype == np.bool_ or (array.dtype == np.uint8 and page.bitspersample < 8):
        return stretched(array, 2**page.bitspersample - 1)
    return array


def _inverted(array: Array, bits: int) -> Array:
    """Return integers mirrored in the range of their bits; ImageError for floats, which have
    none."""
    if array.dtype == np.bool_:
        return np.logical_not(array)
    if array.dtype.kind not in "ui":
        raise ImageError(
            "white is 0 (MinIsWhite) in values that are not whole numbers; save it as MinIsBlack"
        )
    ends = 2**bits - 1 if array.dtype.kind == "u" else -1  # the lowest value plus the highest
    return (ends - array.astype(np.int64)).astype(array.dtype)


def _coloured(array: Array, page: Any) -> Array:
    """Return the colours of a palette [H, W, 3], or [H, W] if they are grey."""
    if array.ndim != 2 or page.colormap is None:
        raise ImageError("a palette with further channels; convert to RGB or grey")
    colours = np.asarray(page.colormap, np.uint16)
    # Entries have 16 bits, which programs fill from 8 in three ways.
    if not (colours % 257).any():
        colours = (colours // 257).astype(np.uint8)
    elif colours.max() < 256:
        colours = colours.astype(np.uint8)
    elif not (colours % 256).any():
        colours = (colours // 256).astype(np.uint8)
    return grey_if_equal(np.moveaxis(colours[:, array.astype(np.int64)], 0, -1))


def _from_ycbcr(array: Array) -> Array:
    """Return RGB of plain YCbCr [H, W, 3] of 8 bits."""
    bands = [Image.fromarray(np.ascontiguousarray(array[..., band])) for band in range(3)]
    return np.asarray(Image.merge("YCbCr", bands).convert("RGB"))
