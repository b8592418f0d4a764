"""Images and heatmaps as colours to look at, as RGB bytes [H, W, 3].

Heatmaps are shown on the model's fixed scale, never on a scale of their own.
"""

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from imagecodecs import jpeg8_encode
from numpy.typing import NDArray
from PIL import Image

from anodetect.imaging.planes import split
from anodetect.types import Floats

COLOURS = "inferno"
BAND = 2**22  # pixels coloured at a time
OPAQUE = 0.85  # opacity of the heatmap's colours at the upper end of the scale
OPACITIES = [round(OPAQUE * value) for value in range(256)]
SAMPLED = 128  # rows and columns that a window is chosen by
STRIP_GAP = 6  # pixels
Picture = NDArray[np.uint8]


def contrast(image: Floats) -> tuple[float, float]:
    """Return the values of an image [C, H, W] to show black and white: percentiles 1 and 99.5."""
    step = max(1, min(image.shape[1:]) // SAMPLED)
    low, high = np.percentile(image[:, ::step, ::step], (1, 99.5))
    return float(low), float(high)


def grey(image: Floats, window: tuple[float, float]) -> Picture:
    """Return an image [C, H, W] in native units, black and white at the ends of the window."""
    return np.moveaxis(np.broadcast_to(stretched(image, window), (3, *image.shape[1:])), 0, -1)


def colour(heatmap: Floats, scale: tuple[float, float], colours: str = COLOURS) -> Picture:
    """Return a heatmap [H, W] on the model's fixed scale; `colours` names a map of matplotlib's."""
    return palette(colours)[stretched(heatmap, scale)]


def overlay(
    image: Floats,
    heatmap: Floats,
    scale: tuple[float, float],
    window: tuple[float, float] | None = None,
) -> Picture:
    """Return an image [C, H, W] with the heatmap [H, W] over it, the more opaque the higher the
    value. The image is black and white at the ends of the window, by default of its own
    contrast."""
    window = contrast(image) if window is None else window
    picture = np.empty((*heatmap.shape, 3), np.uint8)

    # In bands, so that a huge image needs no huge intermediates.
    rows = max(1, BAND // heatmap.shape[1])
    for start in range(0, len(heatmap), rows):
        band = np.s_[start : start + rows]
        planes, places = stretched(image[:, band], window), stretched(heatmap[band], scale)
        picture[band] = _coloured(planes, places)
    return picture


def _coloured(planes: Picture, places: Picture) -> Picture:
    """Return planes [C, h, w] under the colours of places on the scale [h, w]."""
    rows = places.astype(np.uint16) << 8
    blended = _blended()
    if len(planes) == 1:
        return np.asarray(np.take(blended, rows | planes[0], axis=0))
    channels = [
        np.take(blended[:, channel], rows | planes[channel % len(planes)]) for channel in range(3)
    ]
    return np.stack(channels, axis=-1)


@cache
def _blended() -> Picture:
    """Return what a value from 0 to 255 becomes under the colour of a place on the scale, as red,
    green or blue: [256 × place + value, 3]."""
    values = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    places = Image.fromarray(np.ascontiguousarray(values.T))
    opacity = places.point(OPACITIES)
    places.putpalette(palette(COLOURS).tobytes())
    under = Image.merge("RGB", [Image.fromarray(values)] * 3)
    blended = Image.composite(places.convert("RGB"), under, opacity)
    return np.asarray(blended).reshape(-1, 3)


def stretched(values: Floats, span: tuple[float, float]) -> Picture:
    """Return where values lie between the ends of a span, 0 to 255; 0 where they are NaN."""
    low, high = span
    factor = np.float32(255 / max(high - low, 1e-9))
    shown = values - np.float32(low)
    shown *= factor
    np.clip(shown, 0, 255, out=shown)
    if np.isnan(shown.min(initial=0)):
        np.nan_to_num(shown, copy=False, nan=0.0)
    return shown.astype(np.uint8)


@cache
def palette(colours: str) -> Picture:
    """Return the 256 colours of one of matplotlib's colour maps as RGB bytes [256, 3]."""
    # matplotlib takes long to import, and scoring begins without it.
    from anodetect.output.drawing import colormaps

    return np.asarray(colormaps[colours](np.arange(256), bytes=True)[:, :3])


def case_strip(
    image: Floats,
    heatmap: Floats,
    reconstruction: Floats | None,
    scale: tuple[float, float],
    side: int = 200,
    planes: Sequence[int] = (),
) -> bytes:
    """Return image, overlay and reconstruction side by side as one JPEG, `side` pixels each;
    without a reconstruction two panels. Channels with so many `planes` each are below each
    other."""
    restored = [] if reconstruction is None else split(reconstruction, planes)
    rows: list[Picture] = []
    for number, channel in enumerate(split(image, planes)):
        window = contrast(channel)
        panels = [_levels(channel, window), overlay(channel, heatmap, scale, window)]
        if restored:
            panels.append(_levels(restored[number], window))
        rows.append(_side_by_side(panels, side))
    return jpeg(below_each_other(rows), 80)


def _levels(image: Floats, window: tuple[float, float]) -> Picture:
    """Return `grey` without the colours of an image that has none, [H, W]."""
    return stretched(image[0], window) if len(image) == 1 else grey(image, window)


def _side_by_side(panels: Sequence[Picture], side: int) -> Picture:
    """Return panels [H, W, 3], or [H, W] of one colour, in one row, each `side` pixels high and
    wide."""
    row = np.full((side, len(panels) * (side + STRIP_GAP) - STRIP_GAP, 3), 255, np.uint8)
    for number, panel in enumerate(panels):
        resized = Image.fromarray(panel).resize((side, side), Image.Resampling.BILINEAR)
        start = number * (side + STRIP_GAP)
        place, colours = row[:, start : start + side], np.asarray(resized)
        for channel in range(3):  # several times as fast as all at once
            place[..., channel] = colours[..., channel] if panel.ndim == 3 else colours
    return row


def below_each_other(rows: Sequence[Picture]) -> Picture:
    """Return pictures of one width below each other."""
    gap = np.full((STRIP_GAP, rows[0].shape[1], 3), 255, np.uint8)
    parts: list[Picture] = []
    for row in rows:
        parts += [gap, row]
    return np.concatenate(parts[1:], axis=0)


def thumbnail(image: Floats, side: int) -> bytes:
    """Return an image [C, H, W] in its own contrast as a JPEG of at most `side` pixels a side."""
    small = Image.fromarray(grey(image, contrast(image)))
    small.thumbnail((side, side))
    return jpeg(np.asarray(small), 80)


def jpeg(picture: Picture, quality: int) -> bytes:
    """Return a picture as the bytes of a JPEG file."""
    return bytes(jpeg8_encode(picture, level=quality))


def png(picture: Picture) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()
