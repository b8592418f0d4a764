"""Images, foregrounds and volumes on other grids."""

import numpy as np
from PIL import Image

from anodetect.types import Bools, Floats


def on_grid(foreground: Bools, side: int) -> Bools:
    """Return a foreground [H, W] on a square grid [side, side]; all of it if nothing would be
    left."""
    if foreground.all():
        return np.ones((side, side), bool)
    inside = resize(foreground[None].astype(np.float32), side, side)[0] >= 0.5
    # A foreground too small for the grid must not make an image look normal.
    return inside if inside.any() else np.ones_like(inside)


def resize(image: Floats, height: int, width: int) -> Floats:
    """Return float32 [C, H, W] as [C, height, width]: bilinear, averaging where it shrinks."""
    if image.shape[1:] == (height, width):
        return image
    planes = [
        Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in image
    ]
    return np.stack([np.asarray(plane, dtype=np.float32) for plane in planes])


def resize_depth(volume: Floats, depth: int) -> Floats:
    """Return float32 [C, D, H, W] with `depth` slices: linear, averaging where it shrinks."""
    if volume.shape[1] == depth:
        return volume
    channels = []
    for channel in volume:
        rows_first = np.moveaxis(channel, 1, 0)  # [H, D, W]
        channels.append(np.moveaxis(resize(rows_first, depth, channel.shape[2]), 0, 1))
    return np.stack(channels)
