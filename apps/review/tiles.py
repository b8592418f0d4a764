"""Images and maps as pyramids of tiles, so that a browser can zoom to native pixels.

A pyramid has the array itself and halves of it, down to one that is a single tile. Tiles hold the
values and no colours: window, colours and opacity are the browser's own.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anodetect.errors import RunError
from anodetect.types import Bools, Floats

from . import display, known, progress
from .display import Case, Channels, Window

SIDE = 512  # pixels of a tile's side
OUTLINED = 2048  # pixels of the longer side of the mask that outlines are drawn around
Values = NDArray[Any]


@dataclass(frozen=True)
class Pyramid:
    """The levels [C, h, w] of an array, the smallest first, all of one type: uint8, uint16, int16
    or float32."""

    levels: tuple[Values, ...]

    @property
    def kind(self) -> str:
        """Return the type of the values as NumPy writes it, little end first: "|u1" …"""
        return self.levels[0].dtype.newbyteorder("<").str

    @property
    def nbytes(self) -> int:
        return sum(level.nbytes for level in self.levels)

    def tile(self, level: int, column: int, row: int) -> bytes:
        """Return the values [C, h, w] of one tile; raise RunError where there is none."""
        if not 0 <= level < len(self.levels) or min(column, row) < 0:
            raise RunError("there is no such tile")
        rows = np.s_[row * SIDE : (row + 1) * SIDE]
        columns = np.s_[column * SIDE : (column + 1) * SIDE]
        values = self.levels[level][:, rows, columns]
        if not values.size:
            raise RunError("there is no such tile")
        return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


@dataclass(frozen=True)
class Tiled:
    """A case ready for the browser: the pyramids of its layers by name ("image", "heatmap",
    "reconstruction", "difference"), the masks to outline, the windows of its image, and the files
    that this was put together from, if it is not one. `found` says how many of its regions count.

    `size` is height and width in pixels. Each pixel of a mask stands for `block` × `block` of the
    image. All is empty where there is no image; `notes` say why.
    """

    size: tuple[int, int]
    layers: Mapping[str, Pyramid]
    block: int
    masks: Mapping[str, Bools]
    windows: Mapping[str, Window]
    notes: tuple[str, ...]
    channels: Channels = ()
    found: str = ""

    @property
    def nbytes(self) -> int:
        masks = sum(mask.nbytes for mask in self.masks.values())
        return masks + sum(layer.nbytes for layer in self.layers.values())


def tiled(case: Case, *, hidden: bool) -> Tiled:
    """Return a case in tiles; `hidden` leaves out all that reveals the score or the truth."""
    image, notes = case.image, () if hidden else case.notes
    if image is None:
        return Tiled((0, 0), {}, 1, {}, {}, notes)

    heatmap = None if hidden else case.heatmap
    with ThreadPoolExecutor(1) as beside:  # large ones take a second each
        coming = None if heatmap is None else beside.submit(pyramid, heatmap[None], "max")
        layers = {"image": pyramid(image, "mean")}
    masks: dict[str, Bools] = {}
    block = display.factor(image.shape, OUTLINED)
    if not hidden:
        if coming is not None:
            layers["heatmap"] = coming.result()
        kept = {"reconstruction": case.reconstruction, "difference": display.difference(case)}
        for name, picture in kept.items():
            if picture is not None:
                grey = picture if picture.ndim == 2 else picture[..., 0]
                layers[name] = Pyramid((grey[None],))
        for name, mask in (("contours", case.found), ("truth", case.mask)):
            if mask is not None:
                masks[name] = _any(mask, block)

    size = (image.shape[1], image.shape[2])
    found = known.regions_text(masks["contours"], block) if "contours" in masks else ""
    channels = case.channels
    windows = channels[0].windows if channels else display.windows(image, stated=case.stated)
    return Tiled(size, layers, block, masks, windows, notes, channels, found)


def pyramid(values: Floats, how: Literal["mean", "max"]) -> Pyramid:
    """Return the pyramid of [C, H, W]; a pixel of a level is the mean or the maximum of four.

    Means of whole numbers are rounded, so that all levels have the type of the array.
    """
    levels = [compact(values)]
    done, whole = 1.0, 1 + 4 / 3  # in passes over the array: one above, then 1 + 1/4 + 1/16 …
    while max(levels[0].shape[1:]) > SIDE:
        progress.reached(progress.PYRAMID, done / whole)
        done += 4.0 ** (1 - len(levels))
        levels.insert(0, _halved(levels[0], how))
    return Pyramid(tuple(levels))


def _any(mask: Bools, block: int) -> Bools:
    """Return [H, W] as [⌈H / block⌉, ⌈W / block⌉], True where any pixel of a block is."""
    rows, columns = -mask.shape[0] % block, -mask.shape[1] % block
    padded = np.pad(mask, ((0, rows), (0, columns)))
    height, width = padded.shape[0] // block, padded.shape[1] // block
    return np.asarray(padded.reshape(height, block, width, block).any((1, 3)))


def _halved(values: Values, how: Literal["mean", "max"]) -> Values:
    """Return [C, H, W] as [C, ⌈H / 2⌉, ⌈W / 2⌉]; a maximum is NaN only where all four are."""
    rows, columns = values.shape[1] % 2, values.shape[2] % 2
    if rows or columns:
        values = np.pad(values, ((0, 0), (0, rows), (0, columns)), mode="edge")
    top, bottom = values[:, ::2], values[:, 1::2]
    if how == "max":
        higher = np.fmax(top, bottom)
        return np.fmax(higher[..., ::2], higher[..., 1::2])

    if values.dtype == np.float32:
        total = np.add(top, bottom)
        return np.asarray((total[..., ::2] + total[..., 1::2]) / 4, np.float32)
    total = np.add(top, bottom, dtype=np.int16 if values.dtype == np.uint8 else np.int32)
    return ((total[..., ::2] + total[..., 1::2] + 2) >> 2).astype(values.dtype)


def compact(values: Floats) -> Values:
    """Return values in fewer bytes where they are whole numbers of an 8- or 16-bit image."""
    low, high = values.min(), values.max()
    for kind in (np.uint8, np.uint16, np.int16):
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:  # False where any is NaN
            whole = values.astype(kind)
            if (whole == values).all():
                return whole
            break
    return np.asarray(values, np.float32)


def outline(tiled_case: Tiled, name: str) -> list[list[float]]:
    """Return the closed lines around a mask, each as x, y, x, y … in pixels of the image from its
    upper left corner; none where nothing is marked.

    Raises RunError where the case has no such mask.
    """
    mask = tiled_case.masks.get(name)
    if mask is None:
        raise RunError(f"there is no {name}")
    return lines_around(mask, tiled_case.block)


def lines_around(mask: Bools, block: int = 1) -> list[list[float]]:
    """Return the closed lines around what is True in [h, w], each as x, y, x, y … from the upper
    left corner; each of its pixels stands for `block` × `block`."""
    points = display.outlines(mask, block) + 0.5

    lines: list[list[float]] = []
    gaps = np.flatnonzero(np.isnan(points[:, 0])).tolist()
    start = 0
    for gap in gaps:
        if gap > start:
            lines.append(points[start:gap].ravel().round(2).tolist())
        start = gap + 1
    return lines
