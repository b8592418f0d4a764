"""An image's heatmap as files: its values as float32 TIFF in the image's own grid, an 8-bit overlay
on the model's fixed scale as JPEG or PNG, and a mask."""

import io
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image

from anodetect.errors import RunError
from anodetect.output.about import About
from anodetect.output.formats import OutputFiles
from anodetect.output.pictures import Picture, jpeg, overlay
from anodetect.output.png import encode_mask, encode_picture
from anodetect.stats.mask_rule import MaskRule, Regions
from anodetect.types import Bools, Floats

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SIZES = 64  # of images, whose headers are kept
QUALITY, LONGEST = 90, 65535  # of overlays as JPEG, and pixels on their longest side
LARGEST_COMPRESSED = 2**31  # bytes of the values in a smaller file


@dataclass(frozen=True)
class ImageMap:
    """All that is written about an image: its heatmap [H, W], NaN where not scored, the image
    itself [C, H, W] in native units, the ends of the colour scale, and the rule of masks.

    `window` are the values that are black and white in pictures; None for the image's own contrast.
    `header` is that of its file, if it is DICOM. `about` is what DICOM files say beside the map.
    """

    heatmap: Floats
    image: Floats
    scale: tuple[float, float]
    rule: MaskRule
    window: tuple[float, float] | None = None
    header: "Dataset | None" = None
    about: About = field(default_factory=About)

    @cached_property
    def regions(self) -> Regions:
        """All regions of the heatmap, also those that do not count."""
        return self.rule.regions(self.heatmap)

    @property
    def mask(self) -> Bools:
        """Where the heatmap has regions that count [H, W]; never where it is NaN."""
        return self.rule.mask(self.heatmap, lambda: self.regions)


def write_map(shown: ImageMap, files: OutputFiles) -> None:
    """Write the heatmap's values as a TIFF without compression, which any reader can read; floats
    hardly compress."""
    heatmap = np.ascontiguousarray(shown.heatmap, np.float32)
    files.write("map", _header(*heatmap.shape), heatmap.data)


@lru_cache(SIZES)
def _header(height: int, width: int) -> bytes:
    """Return what stands before the values in a TIFF of a map of this size; it is always the
    same."""
    buffer, values = io.BytesIO(), np.zeros((height, width), np.float32)
    tifffile.imwrite(buffer, values, metadata=None)
    return buffer.getvalue().removesuffix(values.tobytes())


def read_map(path: Path) -> Floats:
    """Return the values [H, W] that `write_map` wrote; RunError if the file is damaged."""
    values = _read_tiff(path)
    if values.ndim != 2:
        raise RunError(f"{path.name} is damaged: not a map of one value per pixel")
    return values


def write_stack(file: IO[bytes], values: Floats) -> None:
    """Write values [I, J, K] as a TIFF of I pages, without compression."""
    with tifffile.TiffWriter(file) as pages:
        for page in values:
            pages.write(np.ascontiguousarray(page), metadata=None, contiguous=True)


def read_stack(path: Path) -> Floats:
    """Return the values [I, J, K] that `write_stack` wrote; RunError if the file is damaged."""
    values = _read_tiff(path)
    if values.ndim != 3:
        raise RunError(f"{path.name} is damaged: not a stack of slices")
    return values


def _read_tiff(path: Path) -> Floats:
    """Return the values in a TIFF; RunError if it is damaged, or small and says it is huge: maps
    are not compressed."""
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            if 4 * series.size > max(path.stat().st_size, LARGEST_COMPRESSED):
                raise OverflowError
            return np.asarray(series.asarray(), np.float32)
    except Exception as error:  # tifffile raises whatever it likes on damaged files
        raise RunError(f"{path.name} is damaged ({type(error).__name__})") from None


def write_jpeg(shown: ImageMap, files: OutputFiles) -> None:
    """Write the image with the heatmap over it as a JPEG; of one that is too long for the format
    every n-th row and column."""
    picture = _overlay(shown)
    step = -(-max(picture.shape) // LONGEST)
    note = f"reduced to 1/{step} of their size, as a JPEG is at most {LONGEST} pixels long"
    part = np.ascontiguousarray(picture[::step, ::step])
    files.write("picture", jpeg(part, QUALITY), note=note if step > 1 else "")


def write_png(shown: ImageMap, files: OutputFiles) -> None:
    """Write the image with the heatmap over it as a PNG of 8 bits."""
    files.write("picture", encode_picture(_overlay(shown)))


def _overlay(shown: ImageMap) -> Picture:
    return overlay(shown.image, shown.heatmap, shown.scale, shown.window)


def write_mask(shown: ImageMap, files: OutputFiles) -> None:
    """Write where the heatmap has regions that count as a black and white PNG."""
    files.write("mask", encode_mask(shown.mask))


def read_mask(path: Path) -> Bools:
    """Return the mask [H, W] that `write_mask` wrote."""
    with Image.open(path, formats=["PNG"]) as picture:
        return np.asarray(picture) > 0
