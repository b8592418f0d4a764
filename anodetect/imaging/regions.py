"""Regions of interest: the part of an image that is learned and scored. NumPy only.

A run may have one for all of its images, which all have its size; a manifest may name one for each
image. What lies outside does not count: pixels there are replaced before anything looks at them.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.data import readers
from anodetect.errors import ConfigError, ImageError
from anodetect.types import Bools, Floats


@dataclass(frozen=True)
class RegionOfInterest:
    """The region of a run, bool [H, W], and the SHA-256 of the file that it was read from."""

    sha256: str
    inside: Bools

    def summary(self) -> dict[str, Any]:
        """Return the hash and the size for JSON."""
        height, width = self.inside.shape
        return {"sha256": self.sha256, "height": height, "width": width}

    def state(self) -> dict[str, Any]:
        """Return the region for JSON."""
        packed = zlib.compress(np.packbits(self.inside).tobytes(), 9)
        return self.summary() | {"bits": base64.b64encode(packed).decode()}


@dataclass(frozen=True)
class Region:
    """Where one image counts, bool [H, W]. With `exact` that is its foreground; else a foreground
    is still to be found inside."""

    inside: Bools
    exact: bool = False


def read_roi(path: Path) -> RegionOfInterest:
    """Read a region of interest from a mask; ConfigError if it cannot be read or marks nothing."""
    try:
        sha256 = readers.digest(readers.read_bytes(path))
        inside = readers.read_mask(path)
    except ImageError as error:
        raise ConfigError(f"--roi {path}: {error}") from None
    if not inside.any():
        raise ConfigError(f"--roi {path}: it marks nothing; what counts is white")
    return RegionOfInterest(sha256, inside)


def roi_of(state: Mapping[str, Any] | None) -> RegionOfInterest | None:
    """Return the region whose `state` this was; None for None. ValueError if it is damaged."""
    if state is None:
        return None
    height, width = int(state["height"]), int(state["width"])
    try:
        packed = zlib.decompress(base64.b64decode(state["bits"]))
    except zlib.error:
        raise ValueError("the region of interest is damaged") from None
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=height * width)
    return RegionOfInterest(str(state["sha256"]), bits.reshape(height, width).astype(bool))


def region_of(
    shape: tuple[int, int], roi: RegionOfInterest | None, supplied: Bools | None
) -> Region | None:
    """Return where an image of this shape counts: inside the run's region and the foreground that a
    manifest names for it; None if it is everywhere.

    ImageError if the run's region has another size, or nothing is left.
    """
    if roi is None and supplied is None:
        return None
    if roi is not None and roi.inside.shape != shape:
        (height, width), (high, wide) = shape, roi.inside.shape
        raise ImageError(
            f"{width}×{height} pixels, but the region of interest (--roi) has {wide}×{high}"
        )

    inside = np.ones(shape, bool) if supplied is None else supplied
    if roi is not None:
        inside = inside & roi.inside
    if not inside.any():
        raise ImageError("nothing of it lies in its foreground or region of interest")
    return Region(inside, exact=supplied is not None)


def filled(image: Floats, region: Region, *, with_lowest: bool) -> Floats:
    """Return an image [C, H, W] in which pixels outside its region have the median of those inside,
    or the lowest of their values."""
    values = image[:, region.inside]
    fill = values.min(1) if with_lowest else np.median(values, axis=1)
    return np.where(region.inside, image, fill[:, None, None].astype(np.float32))
