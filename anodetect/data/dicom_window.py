"""The window in which a DICOM image is meant to be looked at: its VOI LUT (PS3.3, C.11.2)."""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi

from anodetect.data.dicom import Series
from anodetect.data.dicom_pixels import has_unit, is_rescaled
from anodetect.data.volumes import Volume

TAIL = 0.01  # share of a table's range of outputs that counts as black, and as white

Window = tuple[float, float]  # the native values that are black and white


def window_of(header: Dataset, frame: int = 0) -> Window | None:
    """Return the native values, as `dicom.decode` returns them, that are to be black and white;
    None if the header does not say, or not validly.

    Of several windows the first one counts. A table (VOI LUT) becomes the window of the values
    between which it rises.
    """
    group = _group_of(header, frame)
    try:
        span = _stated(group) or _of_table(group)
        if span is not None and header.get("PhotometricInterpretation") == "MONOCHROME1":
            span = _mirrored(span, header)
    except Exception:  # pydicom raises any kind of error on odd values
        return None

    if span is None or not np.isfinite(span).all() or span[1] <= span[0]:
        return None
    return span


def window_of_volume(volume: Volume) -> Window | None:
    """Return the window that a DICOM series states for the slice in its middle; None for a volume
    of another source, or if its header does not say."""
    if not isinstance(volume.origin, Series):
        return None
    middle = len(volume.origin.headers) // 2
    return window_of(volume.origin.headers[middle], volume.origin.numbers[middle])


def _group_of(header: Dataset, frame: int) -> Dataset:
    """Return the data set that holds the window of a frame."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for group in (*frames[frame : frame + 1], *shared[:1]):
        if group.get("FrameVOILUTSequence"):
            found: Dataset = group.FrameVOILUTSequence[0]
            return found
    return header


def _stated(group: Dataset) -> Window | None:
    """Return the ends of a window that is given as its centre and width."""
    if group.get("WindowCenter") is None or group.get("WindowWidth") is None:
        return None
    centre, width = _first(group.WindowCenter), _first(group.WindowWidth)

    if (group.get("VOILUTFunction") or "LINEAR") == "LINEAR":  # PS3.3, C.11.2.1.2.1
        half = (width - 1) / 2
        return centre - 0.5 - half, centre - 0.5 + half
    return centre - width / 2, centre + width / 2


def _first(value: object) -> float:
    values = np.atleast_1d(np.asarray(value, np.float64))
    return float(values[0])


def _of_table(group: Dataset) -> Window | None:
    """Return the values between which a table rises, but for its flat ends."""
    if not group.get("VOILUTSequence"):
        return None
    count, first, _ = (int(number) for number in group.VOILUTSequence[0].LUTDescriptor)

    inputs = np.arange(first, first + (count or 2**16))
    shown = np.asarray(apply_voi(inputs, group), np.float64)
    low, high = shown[0], shown[-1]
    black = inputs[shown > low + TAIL * (high - low)]
    white = inputs[shown >= high - TAIL * (high - low)]
    return float(black[0]), float(white[0])


def _mirrored(span: Window, header: Dataset) -> Window | None:
    """Return a window for stored values that were mirrored because the lowest ones are white; None
    where how they became native ones is a table."""
    if has_unit(header):
        return span
    if header.get("ModalityLUTSequence"):
        return None

    signed, bits = int(header.get("PixelRepresentation", 0)), int(header.BitsStored)
    slope, intercept = 1.0, 0.0
    if is_rescaled(header):
        slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
    whole = slope * (-1 if signed else 2**bits - 1) + 2 * intercept
    return whole - span[1], whole - span[0]
