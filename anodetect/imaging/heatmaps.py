"""From raw anomaly maps to smooth ones, and from maps to image scores. NumPy and SciPy only."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from anodetect.config import Pooling
from anodetect.types import Bools, Floats


def smooth(maps: Floats, foreground: Bools, sigma: float | Sequence[float]) -> Floats:
    """Return smoothed maps: [N, H, W], or [N, D, H, W] with a `sigma` for each axis.


    `sigma` is in pixels of the map. Pixels outside the foreground neither give nor receive; they
    are 0.
    """
    widths = (0.0, sigma, sigma) if isinstance(sigma, (int, float)) else (0.0, *sigma)
    if not any(widths):
        return np.where(foreground, maps, 0).astype(np.float32)

    weight = ndimage.gaussian_filter(foreground.astype(np.float32), widths)
    total = ndimage.gaussian_filter(np.where(foreground, maps, 0).astype(np.float32), widths)
    return np.where(foreground, total / np.maximum(weight, 1e-6), 0).astype(np.float32)


def counted(foreground: Bools, erode: int) -> Bools:
    """Return the foreground [N, H, W] or [N, D, H, W] without its rim of `erode` pixels.

    The rim lies in the plane of slices. Where nothing would be left, the whole foreground counts.
    """
    if erode == 0:
        return foreground

    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), erode)
    disc = np.expand_dims(disc, tuple(range(foreground.ndim - 2)))
    core = ndimage.binary_erosion(foreground, disc, border_value=1)
    empty = ~core.any(tuple(range(1, foreground.ndim)), keepdims=True)
    return np.where(empty, foreground, core)


def pool(maps: Floats, foreground: Bools, config: Pooling) -> Floats:
    """Return image scores [N]: the mean of the highest values of each map over their
    median^`relative`.

    The highest values are the share `top` of the pixels that count, at least one.
    """
    scores = np.zeros(len(maps), np.float32)
    for n, (values, inside) in enumerate(zip(maps, counted(foreground, config.erode), strict=True)):
        kept = values[inside] if inside.any() else values.ravel()
        count = max(1, round(config.top * kept.size))
        score = np.partition(kept, kept.size - count)[-count:].mean(dtype=np.float64)
        if config.relative:
            score = score / max(float(np.median(kept)), 1e-6) ** config.relative
        scores[n] = score
    return scores


def finish(maps: Floats, foreground: Bools, config: Pooling) -> tuple[Floats, Floats]:
    """Return image scores [N] and smoothed heatmaps [N, H, W] of raw maps [N, H, W]."""
    heatmaps = smooth(maps, foreground, config.smooth)
    return pool(heatmaps, foreground, config), heatmaps


def block_means(maps: Floats, side: int) -> Floats:
    """Return means over blocks, [..., H / side, W / side], of maps [..., H, W]."""
    *rest, height, width = maps.shape
    blocks: Floats = maps.reshape(*rest, height // side, side, width // side, side).mean((-3, -1))
    return blocks
