"""Heatmaps as files: float32 TIFF in the image's own grid, an 8-bit overlay PNG on the model's
fixed scale, a mask."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
from contourpy import LineType, contour_generator
from imagecodecs import PNG, png_encode
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from anodetect.errors import RunError
from anodetect.output.formats import OutputFiles, Written, write_files
from anodetect.record.rows import Region
from anodetect.types import Bools, Floats

COLOURS = "inferno"
MOST_REGIONS = 100  # of one image
BAND = 2**22  # pixels coloured at a time
OPAQUE = 0.85  # the heatmap's colours, where they are highest
OPACITIES = [round(OPAQUE * value) for value in range(256)]
HUFFMAN_ONLY, UP = PNG.STRATEGY.HUFFMAN_ONLY, PNG.FILTER.UP
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageMap:
    """What there is to write of an image: its heatmap [H, W], NaN where not scored, the image
    itself [C, H, W] in native units, the ends of the colour scale, and the threshold of pixels."""

    heatmap: Floats
    image: Floats
    scale: tuple[float, float]
    threshold: float


def write(
    stem: Path,
    formats: Sequence[str],
    heatmap: Floats,
    image: Floats,
    scale: tuple[float, float],
    threshold: float,
) -> list[Written]:
    """Write an image's heatmap beside the name `stem` in each of the formats that images have."""
    return write_files(stem, formats, "image", ImageMap(heatmap, image, scale, threshold))


def write_map(shown: ImageMap, files: OutputFiles) -> None:
    """Write the heatmap's values as a TIFF without compression, which any reader can read; floats
    hardly compress."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, shown.heatmap, metadata=None)
    with files.open("map") as file:
        file.write(buffer.getvalue())


def read_map(path: Path) -> Floats:
    """Return the values [H, W] that `write_map` wrote; RunError if the file is damaged."""
    try:
        values: Floats = np.asarray(tifffile.imread(path), np.float32)
    except Exception as error:  # tifffile raises whatever it likes on damaged files
        raise RunError(f"{path.name} is damaged ({type(error).__name__})") from None
    if values.ndim != 2:
        raise RunError(f"{path.name} is damaged: not a map of one value per pixel")
    return values


def write_overlay(shown: ImageMap, files: OutputFiles) -> None:
    """Write the image with the heatmap over it as a PNG of 8 bits."""
    picture = overlay(shown.image, shown.heatmap, shown.scale)
    # imagecodecs is four times as fast as Pillow, for files of the same size.
    content = png_encode(picture, level=1, strategy=HUFFMAN_ONLY, filter=UP)
    with files.open("picture") as file:
        file.write(content)


def write_mask(shown: ImageMap, files: OutputFiles) -> None:
    """Write where the heatmap exceeds the threshold as a black and white PNG."""
    above = shown.heatmap > shown.threshold  # never where it is NaN
    buffer = io.BytesIO()
    Image.fromarray(above).save(buffer, "png")
    with files.open("mask") as file:
        file.write(buffer.getvalue())


def regions(heatmap: Floats, threshold: float) -> list[Region]:
    """Return the parts of a heatmap [H, W] that exceed `threshold`, the highest peaks first."""
    values = np.nan_to_num(heatmap, nan=-np.inf)
    above = values > threshold
    if not above.any():
        return []
    labels, _ = ndimage.label(above, np.ones((3, 3)))
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[place] == number
        rows, columns = place
        outer = max(outlines(inside), key=len) + np.array([columns.start + 0.5, rows.start + 0.5])
        width, height = columns.stop - columns.start, rows.stop - rows.start
        region = Region(
            segmentation=(tuple(outer.round(1).ravel().tolist()),),
            area=int(inside.sum()),
            bbox=(columns.start, rows.start, width, height),
            score=float(values[place][inside].max()),
        )
        found.append(region)
    return sorted(found, key=lambda region: region.score, reverse=True)[:MOST_REGIONS]


def outlines(inside: Bools) -> list[NDArray[np.float64]]:
    """Closed lines [N, 2] of x, y around what is True in [H, W], holes too; pixel centres lie at
    whole numbers."""
    padded = np.pad(inside, 1).astype(np.float32)
    lines = contour_generator(z=padded, line_type=LineType.Separate).lines(0.5)
    return [np.asarray(line) - 1 for line in lines]


def contrast(image: Floats) -> tuple[float, float]:
    """The values of an image [C, H, W] to show black and white: percentiles 1 and 99.5."""
    step = max(
        1, min(image.shape[1:]) // 128
    )  # every so manieth row and column is enough to see the range by
    low, high = np.percentile(image[:, ::step, ::step], (1, 99.5))
    return float(low), float(high)


def grey(image: Floats, window: tuple[float, float]) -> Picture:
    """Return an image [C, H, W] in native units as RGB bytes [H, W, 3], black and white at the ends
    of the window."""
    return np.moveaxis(np.broadcast_to(stretched(image, window), (3, *image.shape[1:])), 0, -1)


def colour(heatmap: Floats, scale: tuple[float, float], colours: str = COLOURS) -> Picture:
    """A heatmap [H, W] on the model's fixed scale → RGB bytes [H, W, 3]; `colours` is a map of
    matplotlib's."""
    return palette(colours)[stretched(heatmap, scale)]


def overlay(image: Floats, heatmap: Floats, scale: tuple[float, float]) -> Picture:
    """The image with the heatmap over it, the more opaque the higher the value."""
    window = contrast(image)
    picture = np.empty((*heatmap.shape, 3), np.uint8)
    rows = max(1, BAND // heatmap.shape[1])
    for start in range(
        0, len(heatmap), rows
    ):  # in bands, so that a huge image needs no huge intermediates
        band = np.s_[start : start + rows]
        picture[band] = _glazed(stretched(image[:, band], window), stretched(heatmap[band], scale))
    return picture


def _glazed(planes: Picture, position: Picture) -> Picture:
    """Planes [C, h, w] under colours that stand for places on the scale [h, w] → RGB [h, w, 3]."""
    under = Image.merge(
        "RGB", [Image.fromarray(planes[channel % len(planes)]) for channel in range(3)]
    )
    colours = Image.fromarray(position)
    colours.putpalette(palette(COLOURS).tobytes())
    opacity = Image.fromarray(position).point(OPACITIES)
    return np.asarray(Image.composite(colours.convert("RGB"), under, opacity))


def stretched(values: Floats, span: tuple[float, float]) -> Picture:
    """Where values lie between the ends of a span, 0 to 255; 0 where there is none."""
    low, high = span
    shown = (np.nan_to_num(values, nan=low) - np.float32(low)) * np.float32(
        255 / max(high - low, 1e-9)
    )
    return np.asarray(np.clip(shown, 0, 255), np.uint8)


@cache
def palette(colours: str) -> Picture:
    """A colour map's 256 colours as RGB bytes [256, 3]."""
    from matplotlib import colormaps  # here, because scoring is to begin at once

    return np.asarray(colormaps[colours](np.arange(256), bytes=True)[:, :3])


def case_strip(
    image: Floats,
    heatmap: Floats,
    reconstruction: Floats | None,
    scale: tuple[float, float],
    side: int = 200,
) -> bytes:
    """image | overlay | reconstruction as one JPEG, `side` pixels each; without a reconstruction
    two panels."""
    window = contrast(image)
    panels = [grey(image, window), overlay(image, heatmap, scale)]
    if reconstruction is not None:
        panels.append(grey(reconstruction, window))
    resized = [
        np.asarray(Image.fromarray(panel).resize((side, side), Image.Resampling.BILINEAR))
        for panel in panels
    ]
    gap = np.full((side, 6, 3), 255, np.uint8)
    row = [resized[0]] + [part for panel in resized[1:] for part in (gap, panel)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(row, axis=1)).save(buffer, "jpeg", quality=80)
    return buffer.getvalue()
