"""Padding: what a CT holds where nothing was reconstructed, outside the scanner's circle."""

import numpy as np

from anodetect.types import Floats

AIR = -1024.0  # Hounsfield units; nothing is less dense than air, of about -1000
SURELY_PADDING = -1200.0  # noise of air does not reach it
ALONE = 0.9  # the share of such voxels that have one of few values
FEW = 3


def padding_as_air(slices: Floats, *, hounsfield: bool) -> Floats:
    """Return a volume [C, D, H, W] in which padding has the lowest value that is not padding.

    In Hounsfield units padding is what lies below AIR. Where units are not known, they are taken
    for Hounsfield's if values far below air are but a few ones, as padding is and noise is not.
    """
    if slices.min() >= AIR:
        return slices
    if not hounsfield and not _looks_padded(slices):
        return slices

    below = slices < AIR
    if below.all():
        return slices
    lowest = slices.min(where=~below, initial=np.inf)
    return np.where(below, lowest, slices)


def _looks_padded(slices: Floats) -> bool:
    """Return whether values far below air are but a few ones."""
    far = slices[slices < SURELY_PADDING]
    if not far.size:
        return False
    _, counts = np.unique(far, return_counts=True)
    return bool(np.sort(counts)[-FEW:].sum() >= ALONE * far.size)
