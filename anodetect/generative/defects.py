"""Planted defects: what choices on tune normals are made with, where no real defect may be looked at."""

import numpy as np
from scipy import ndimage

from anodetect.types import Bools, Floats


def plant(images: Floats, foreground: Bools, *, seed: int) -> Floats:
    """A copy of [N, C, H, W], about [-1, 1], with one soft elliptic defect in each image's foreground.

    A third is brighter or darker by .2 to .8, a third is cut from elsewhere in another image (CutPaste, Li et
    al., CVPR 2021), a third is blurred and shifted in brightness. Long half-axis 4 to 20 % of the side.
    """
    rng = np.random.default_rng(seed)
    planted = np.array(images, dtype=np.float32)
    for n, inside in enumerate(foreground):
        blend = _ellipse(rng, inside if inside.any() else np.ones_like(inside))
        change = rng.integers(3)
        if change == 0:
            new = images[n] + rng.choice([-1, 1]) * rng.uniform(0.2, 0.8)
        elif change == 1:
            shift = tuple(rng.integers(-side // 4, side // 4 + 1) for side in inside.shape)
            new = np.roll(images[rng.integers(len(images))], shift, (1, 2))
        else:
            sigma = inside.shape[0] / 20
            new = ndimage.gaussian_filter(images[n], (0, sigma, sigma)) + rng.choice([-1, 1]) * rng.uniform(0, 0.4)
        planted[n] = images[n] * (1 - blend) + new * blend
    return planted


def _ellipse(rng: np.random.Generator, inside: Bools) -> Floats:
    rows, columns = np.indices(inside.shape)
    y, x = rng.choice(np.argwhere(inside))
    angle = rng.uniform(0, np.pi)
    length = inside.shape[0] * np.exp(rng.uniform(np.log(0.04), np.log(0.2)))
    width = length * np.exp(rng.uniform(np.log(0.15), 0))
    along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    shape = ((along / length) ** 2 + (across / width) ** 2 < 1) & inside
    return ndimage.gaussian_filter(shape.astype(np.float32), 1.0)
