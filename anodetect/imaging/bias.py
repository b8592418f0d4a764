"""Slow changes of brightness in volumes, as the coils of an MRI scanner cause them."""

import numpy as np
from scipy import ndimage

from anodetect.imaging.foreground import COARSE
from anodetect.imaging.resize import resize
from anodetect.types import Bools, Floats


def remove_bias(
    slices: Floats, inside: Bools, width: float, spacing: tuple[float, float, float]
) -> Floats:
    """Return slices [C, D, H, W] divided by their local mean over the foreground [D, H, W], times
    the mean over all of it.

    The local mean is weighted with a Gaussian of `width` millimetres; `spacing` is the distance of
    slices, rows and columns in millimetres.
    """
    step = max(1, -(-max(inside.shape[1:]) // COARSE))
    coarse = np.s_[:, ::step, ::step]
    sigma = (width / spacing[0], width / spacing[1] / step, width / spacing[2] / step)
    weight = ndimage.gaussian_filter(inside[coarse].astype(np.float32), sigma)

    channels = []
    for channel in slices:
        values = np.where(inside[coarse], channel[coarse], 0).astype(np.float32)
        total = ndimage.gaussian_filter(values, sigma)
        mean = float(channel[inside].mean())
        field = np.where(weight > 0.01, total / np.maximum(weight, 0.01), mean) / (mean or 1.0)

        planes = [resize(plane[None].astype(np.float32), *inside.shape[1:])[0] for plane in field]
        full = np.stack(planes)
        channels.append(np.where(full > 0.05, channel / np.maximum(full, 0.05), channel))
    return np.stack(channels)
