"""A calibration that was read from a file: whether its parts fit each other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.stats.calibration import Calibration


def check_calibration(calibration: Calibration) -> Calibration:
    """Return the calibration; ValueError if its lists are not of one length, or groups no texts."""
    count = len(calibration.groups)
    if not all(isinstance(group, str) for group in calibration.groups):
        raise ValueError("the names of calibration groups are no texts")
    parts: dict[str, NDArray[Any]] = {"scores": calibration.scores, "peaks": calibration.peaks}
    if calibration.strengths is not None:
        parts["strengths"] = calibration.strengths
    if calibration.folds is not None:
        parts["folds"] = calibration.folds
        if not np.issubdtype(calibration.folds.dtype, np.integer):
            raise ValueError("the folds of the calibration are no whole numbers")
    for name, values in parts.items():
        if values.shape != (count,):
            raise ValueError(f"the calibration has {count} groups, but {values.shape} {name}")
    return calibration
