"""`pixels`: a detector models the image itself, on a square grid."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from anodetect.config import Config
from anodetect.types import Bools, Floats


class PixelsConfig(Config):
    """`size` is the side of the grid in pixels."""

    size: int = Field(default=128, ge=16, le=4096)


class Pixels:
    """Image → grid, and map → image grid."""

    Config = PixelsConfig

    def __init__(self, config: PixelsConfig) -> None:
        self.config = config

    def encode(self, image: Floats, foreground: Bools) -> tuple[Floats, Bools]:
        """Scaled image [C, H, W] and foreground [H, W] → the same on the grid, [C, size, size] and [size, size]."""
        side = self.config.size
        return resize(image, side, side), on_grid(foreground, side)

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """There is nothing to learn."""

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """There is nothing to load."""

    def shown(
        self, image: Floats, encoded: Floats, heatmap: Floats, reconstruction: Floats | None
    ) -> tuple[Floats, Floats, Floats | None]:
        """Image, heatmap and reconstruction for a person to look at: as they are."""
        return encoded, heatmap, reconstruction

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """A map on the grid [size, size] → on the image's own grid [H, W]."""
        resized: Floats = resize(heatmap[None], *shape)[0]
        return resized


def on_grid(foreground: Bools, side: int) -> Bools:
    """A foreground [H, W] on a square grid [side, side]."""
    if foreground.all():
        return np.ones((side, side), bool)
    inside = resize(foreground[None].astype(np.float32), side, side)[0] >= 0.5
    # A foreground too small for the grid must not make an image look normal: then everything counts.
    return inside if inside.any() else np.ones_like(inside)


def resize(image: Floats, height: int, width: int) -> Floats:
    """Resample float32 [C, H, W], bilinear, averaging where it shrinks."""
    if image.shape[1:] == (height, width):
        return image
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in image]
    return np.stack([np.asarray(plane, dtype=np.float32) for plane in planes])


def resize_depth(volume: Floats, depth: int) -> Floats:
    """Resample float32 [C, D, H, W] along D, linear, averaging where it shrinks."""
    if volume.shape[1] == depth:
        return volume
    return np.stack([np.moveaxis(resize(np.moveaxis(c, 1, 0), depth, c.shape[2]), 0, 1) for c in volume])
