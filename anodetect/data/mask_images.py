"""The bytes of a mask's image as what the annotator marked, where that is not what its colours say.

In an image with a palette a pixel is the number of a class, and class 0 is the background whatever
its colour. Where a mask is transparent, nothing was drawn. In a TIFF in which the lowest value is
white the highest one is shown black, and is the background.
"""

import io

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from anodetect.data.formats import FORMATS
from anodetect.data.images import check_size
from anodetect.data.orientation import TAG, UPRIGHT, upright
from anodetect.types import Bools

PALETTES = ("P", "PA")
WITH_ALPHA = ("LA", "RGBA")
NEVER_FILLED = ("BMP", "DIB")  # formats whose alpha may be 0 everywhere and mean nothing
HALF = 127  # an alpha of 8 bits above it counts as opaque


def marked_in(content: bytes) -> Bools | None:
    """Return where a mask with a palette, with transparent places or with white as its lowest value
    is marked, bool [H, W]; None for any other image. ImageError if it has more than MAX_PIXELS."""
    if any(magic.matches(content) for magic in FORMATS["tiff"].magic):
        inverted = _inverted(content)
        if inverted is not None:
            return inverted
    try:
        image = Image.open(io.BytesIO(content))
    except (UnidentifiedImageError, ValueError):
        return None

    with image:
        if image.mode not in PALETTES + WITH_ALPHA or getattr(image, "n_frames", 1) > 1:
            return None
        check_size(image.width, image.height)
        upright = ImageOps.exif_transpose(image)
        values = np.asarray(upright)

    if image.mode == "P":
        return np.asarray(values != 0)
    if image.format in NEVER_FILLED and not values[..., -1].any():
        return np.asarray(values[..., :-1].any(-1))
    classes, alpha = values[..., :-1], values[..., -1]
    return np.asarray(classes.any(-1) & (alpha > HALF))


def _inverted(content: bytes) -> Bools | None:
    """Return where a TIFF of one page is marked whose lowest value is white (MinIsWhite); None for
    any other."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages.first
        if page.photometric != tifffile.PHOTOMETRIC.MINISWHITE or len(file.pages) > 1:
            return None
        check_size(page.imagewidth, page.imagelength)
        values = np.asarray(page.asarray())
        orientation = page.tags.get(TAG)

    if values.ndim != 2:
        return None
    values = upright(values, UPRIGHT if orientation is None else int(orientation.value))
    if values.dtype.kind in "ub" and values.min() == values.max():
        black = 2**page.bitspersample - 1
        return np.full(values.shape, int(values.flat[0]) != black)
    return np.asarray(values < values.max())
