"""The bytes of a mask's image as what the annotator marked, where that is not what its colours say.

In an image with a palette a pixel is the number of a class, and class 0 is the background whatever
its colour. Where a mask is transparent, nothing was drawn.
"""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anodetect.data.images import MAX_PIXELS
from anodetect.errors import ImageError
from anodetect.types import Bools

PALETTES = ("P", "PA")
WITH_ALPHA = ("LA", "RGBA")
NEVER_FILLED = ("BMP", "DIB")  # formats whose alpha may be 0 everywhere and mean nothing
HALF = 127  # an alpha of 8 bits above it counts as opaque


def marked_in(content: bytes) -> Bools | None:
    """Return where a mask with a palette or with transparent places is marked, bool [H, W]; None
    for any other image. ImageError if it has more than MAX_PIXELS."""
    try:
        image = Image.open(io.BytesIO(content))
    except (UnidentifiedImageError, ValueError):
        return None

    with image:
        if image.mode not in PALETTES + WITH_ALPHA or getattr(image, "n_frames", 1) > 1:
            return None
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"more than {MAX_PIXELS} pixels")
        upright = ImageOps.exif_transpose(image)
        values = np.asarray(upright)

    if image.mode == "P":
        return np.asarray(values != 0)
    if image.format in NEVER_FILLED and not values[..., -1].any():
        return np.asarray(values[..., :-1].any(-1))
    classes, alpha = values[..., :-1], values[..., -1]
    return np.asarray(classes.any(-1) & (alpha > HALF))
