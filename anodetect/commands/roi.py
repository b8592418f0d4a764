"""The region of interest of a command: the run's own, or another one that was given."""

from pathlib import Path

import numpy as np

from anodetect.errors import RunError, one_line
from anodetect.imaging.regions import RegionOfInterest, read_roi, roi_of
from anodetect.record.runs import Run
from anodetect.types import Reporter

OTHER_ROI = (
    "the run was calibrated {} this region of interest: p-values, thresholds and flags do not hold "
    "for it; give it a calibration with `anodetect calibrate --roi`"
)


def own_roi(run: Run) -> RegionOfInterest | None:
    """Return the region of interest of a run, None if it has none; RunError if its model file does
    not say it as it should."""
    try:
        return roi_of(run.header.preprocess.get("roi"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run.path}: not a usable model ({one_line(error)})") from None


def other_roi(run: Run, path: Path | None, reporter: Reporter) -> RegionOfInterest | None:
    """Return the region of interest in a file, with a warning; None without a file, or if it is
    that of the run. ConfigError if it cannot be read."""
    if path is None:
        return None
    roi, own = read_roi(path), own_roi(run)
    if own is not None and np.array_equal(own.inside, roi.inside):
        return None
    reporter.warn(OTHER_ROI.format("without" if own is None else "with another one than"))
    return roi
