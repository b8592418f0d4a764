"""Planted defects: choices on tune normals are made with them, since no real defect may be used."""

import numpy as np
from scipy import ndimage

from anodetect.types import Bools, Floats


def plant(images: Floats, foreground: Bools, *, seed: int) -> Floats:
    """Return a copy of [N, C, H, W], about [-1, 1], with one soft irregular blob in each image's
    foreground.

    A third is brighter or darker by .2 to .8, a third is cut from elsewhere in another image
    (CutPaste, Li et al., CVPR 2021), a third is blurred and shifted in brightness. The radius is 3
    to 30 % of the side; small ones are as likely as large ones.
    """
    rng = np.random.default_rng(seed)
    planted = np.array(images, dtype=np.float32)
    for n, inside in enumerate(foreground):
        blend = _blob(rng, inside if inside.any() else np.ones_like(inside))
        change = rng.integers(3)
        if change == 0:
            new = images[n] + rng.choice([-1, 1]) * rng.uniform(0.2, 0.8)
        elif change == 1:
            shift = tuple(rng.integers(-side // 4, side // 4 + 1) for side in inside.shape)
            new = np.roll(images[rng.integers(len(images))], shift, (1, 2))
        else:
            sigma = inside.shape[0] / 20
            blurred = ndimage.gaussian_filter(images[n], (0, sigma, sigma))
            new = blurred + rng.choice([-1, 1]) * rng.uniform(0, 0.4)

        planted[n] = images[n] * (1 - blend) + new * blend
    return planted


def _blob(rng: np.random.Generator, inside: Bools) -> Floats:
    """Return the weight [H, W] of a blob with its centre in the foreground, 0 outside it."""
    side = inside.shape[0]
    rows, columns = np.indices(inside.shape)
    y, x = rng.choice(np.argwhere(inside))
    wobble = ndimage.gaussian_filter(rng.standard_normal(inside.shape), side / 24)
    radius = side * np.exp(rng.uniform(np.log(0.03), np.log(0.3)))
    shape = (np.hypot(rows - y, columns - x) / radius + 0.35 * wobble / wobble.std() < 1) & inside
    softness = side / 64 * rng.uniform(0.5, 2)
    return ndimage.gaussian_filter(shape.astype(np.float32), softness)
