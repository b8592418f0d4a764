"""The bytes of a mask's image as what the annotator marked, where that is not what its colours say.

In an image with a palette a pixel is the number of a class, and class 0 is the background whatever
its colour; only of one in plain black and white the white is marked. Where the background is
transparent, what is not was drawn. In a TIFF in which the lowest value is white the highest one is
shown black, and is the background.
"""

import io
from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from anodetect.data.formats import FORMATS
from anodetect.data.images import check_size
from anodetect.data.orientation import TAG, UPRIGHT, upright
from anodetect.types import Bools

PALETTES = ("P", "PA")
WITH_ALPHA = ("LA", "RGBA")
NEVER_FILLED = ("BMP", "DIB")  # formats whose alpha may be 0 everywhere and mean nothing
HALF = 127  # an alpha of 8 bits above it counts as opaque
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


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
        return _of_palette(values, image.getpalette() or [])
    if image.format in NEVER_FILLED and not values[..., -1].any():
        return np.asarray(values[..., :-1].any(-1))
    return _with_alpha(values[..., :-1], values[..., -1])


def _of_palette(classes: NDArray[np.uint8], palette: Sequence[int]) -> Bools:
    """Return where classes [H, W] are not 0; of two whose colours are black and white, where they
    are white. `palette` is red, green and blue of each class, one after the other."""
    used = {int(number) for number in np.unique(classes)}
    entries = used if len(used) == 2 else used | {0}
    colours = {tuple(palette[3 * number : 3 * number + 3]): number for number in entries}
    if len(entries) == 2 and set(colours) == {BLACK, WHITE}:
        return np.asarray(classes == colours[WHITE])
    return np.asarray(classes != 0)


def _with_alpha(colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> Bools:
    """Return where a mask [H, W, C] with an alpha [H, W] is marked.

    If what is not transparent has one colour, or is less than half of the image, it was drawn on a
    transparent background, and all of it counts. Else what is opaque and not black counts.
    """
    drawn = alpha > 0
    if not drawn.all():
        found = colours[drawn]
        if 2 * drawn.sum() < drawn.size or (found == found[:1]).all():
            return np.asarray(drawn)
    return np.asarray(colours.any(-1) & (alpha > HALF))


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
