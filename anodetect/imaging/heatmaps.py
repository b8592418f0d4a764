"""From a raw anomaly map to a smooth one, and from a map to an image score. NumPy and SciPy only."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from anodetect.config import Pooling
from anodetect.types import Bools, Floats


def smooth(maps: Floats, foreground: Bools, sigma: float | Sequence[float]) -> Floats:
    """Gaussian smoothing of [N, H, W], or of [N, D, H, W] with a `sigma` for each axis, in which
    pixels outside the foreground neither give nor receive."""
    widths = (0.0, sigma, sigma) if isinstance(sigma, (int, float)) else (0.0, *sigma)
    if not any(widths):
        return np.where(foreground, maps, 0).astype(np.float32)
    weight = ndimage.gaussian_filter(foreground.astype(np.float32), widths)
    total = ndimage.gaussian_filter(np.where(foreground, maps, 0).astype(np.float32), widths)
    return np.where(foreground, total / np.maximum(weight, 1e-6), 0).astype(np.float32)


def counted(foreground: Bools, erode: int) -> Bools:
    """The foreground without its rim, which lies in the plane of slices; the whole foreground where
    nothing would be left. [N, H, W] or [N, D, H, W]"""
    if erode == 0:
        return foreground
    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), erode)
    core = ndimage.binary_erosion(
        foreground, np.expand_dims(disc, tuple(range(foreground.ndim - 2))), border_value=1
    )
    empty = ~core.any(tuple(range(1, foreground.ndim)), keepdims=True)
    return np.where(empty, foreground, core)


def pool(maps: Floats, foreground: Bools, config: Pooling) -> Floats:
    """Image scores [N]: the mean of the `top` share of counted pixels, at least one, over their
    median^`relative`."""
    scores = np.zeros(len(maps), np.float32)
    for n, (values, inside) in enumerate(zip(maps, counted(foreground, config.erode), strict=True)):
        kept = values[inside] if inside.any() else values.ravel()
        count = max(1, round(config.top * kept.size))
        peak = np.partition(kept, kept.size - count)[-count:].mean(dtype=np.float64)
        scores[n] = (
            peak / max(float(np.median(kept)), 1e-6) ** config.relative if config.relative else peak
        )
    return scores


def finish(maps: Floats, foreground: Bools, config: Pooling) -> tuple[Floats, Floats]:
    """Raw maps → (image scores [N], smoothed heatmaps [N, H, W])."""
    heatmaps = smooth(maps, foreground, config.smooth)
    return pool(heatmaps, foreground, config), heatmaps


def block_means(maps: Floats, side: int) -> Floats:
    """[..., H, W] → means over blocks, [..., H / side, W / side]."""
    *rest, height, width = maps.shape
    blocks: Floats = maps.reshape(*rest, height // side, side, width // side, side).mean((-3, -1))
    return blocks
