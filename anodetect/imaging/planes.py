"""The planes of images whose channels are several files, each in units of its own. NumPy only.

A channel has one plane, or three if its file is coloured. A channel that is absent is NaN
everywhere in native units, and background when it is scaled.
"""

from collections.abc import Sequence

import numpy as np

from anodetect.data.channels import Channels
from anodetect.data.readers import DecodedChannel
from anodetect.errors import ImageError
from anodetect.imaging.foreground import ENOUGH, HIGH, exact_background, quantiles
from anodetect.types import Bools, Floats


def arranged(
    pixels: Floats,
    found: Sequence[DecodedChannel],
    channels: Channels | None,
    planes: Sequence[int],
) -> Floats:
    """Return the planes [C, ...] of an image or volume as a model of these channels expects them,
    `planes` of each, or as they are where that is not known yet.

    ImageError if the channels are others, or one is coloured where the model has learned from grey
    ones.
    """
    if channels is None and not found:
        return pixels
    if channels is None:
        raise ImageError(
            f"{len(found)} files as channels, but the model was trained on single files"
        )
    if not found:
        raise ImageError(f"a single file, but the model was trained on {channels.described()}")
    names = tuple(each.name for each in found)
    if names != channels.names:
        raise ImageError(f"channels {', '.join(names)}; trained on {', '.join(channels.names)}")
    if not planes:
        return pixels

    parts, start = [], 0
    for channel, wanted in zip(found, planes, strict=True):
        part = pixels[start : start + channel.planes]
        start += channel.planes
        if channel.planes > wanted:
            raise ImageError(f"{channel.name} is coloured, but the model was trained on grey ones")
        parts.append(part if channel.planes == wanted else np.repeat(part, wanted, axis=0))
    return np.concatenate(parts)


def absent(pixels: Floats) -> Bools:
    """Return which planes [C, ...] are of channels that are absent [C]."""
    return np.array([bool(np.isnan(plane.flat[0])) for plane in pixels])


def split(pixels: Floats, planes: Sequence[int]) -> list[Floats]:
    """Return the channels [c, ...] of pixels [C, ...] that have so many planes each, to be shown:
    one that is absent is 0. Without `planes` that is all of it."""
    if not planes:
        return [pixels]
    channels, start = [], 0
    for count in planes:
        channel = pixels[start : start + count]
        start += count
        channels.append(np.zeros_like(channel) if absent(channel).any() else channel)
    return channels


def leading(pixels: Floats, planes: Sequence[int]) -> Floats:
    """Return the first channel [c, ...] of pixels [C, ...] that is there; without `planes` all."""
    start = 0
    for count in planes:
        channel = pixels[start : start + count]
        start += count
        if not absent(channel).any():
            return channel
    return pixels


def comparable(pixels: Floats) -> Floats:
    """Return the planes [C, ...] that are there with values from 0, their lowest, to about 1, so
    that one threshold suits all of them. Where a plane has an exact background, all else is 1."""
    planes = []
    for plane in pixels[~absent(pixels)]:
        background = exact_background(plane[None])
        if background is not None:
            planes.append((plane != background).astype(np.float32))
            continue
        some = plane[(..., *[slice(None, None, 1 + (plane.size > ENOUGH))] * 2)]
        low, high = quantiles(some, (0.0, HIGH))
        scale = high - low if high > low else 1.0
        planes.append(((plane - np.float32(low)) / np.float32(scale)).astype(np.float32))
    return np.stack(planes)
