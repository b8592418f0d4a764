"""The pixels of a DICOM file in native units: decoded, in colours, without padding, and scaled as
the header says. A header that does not say how its pixels are stored is refused with the reason.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID

from anodetect.data import dicom_codecs
from anodetect.data.dicom_frames import functional_groups, number_of, without_pixels
from anodetect.data.volumes import FIXED_UNITS
from anodetect.errors import ImageError
from anodetect.types import Floats

PIXEL_TAGS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# What a header must say of its pixels, the last two of integers only.
DESCRIBED = (
    "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated",
    "BitsStored", "PixelRepresentation",
)  # fmt: skip
# Kinds of pixels that can be read, and how many samples each has.
SAMPLES = {
    "MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3,
    "YBR_FULL_422": 3, "YBR_ICT": 3, "YBR_RCT": 3,
}  # fmt: skip


def native(dataset: Dataset) -> Floats:
    """Return all frames of a file in native units, float32 [C, frames, rows, columns], NaN where
    the file says that pixels are padding."""
    syntax: UID | None = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ImageError("no transfer syntax: how its pixels are stored is not said")
    if not any(name in dataset for name in PIXEL_TAGS):
        raise ImageError(without_pixels(dataset))
    decoder = dicom_codecs.plugin(syntax)
    _check_description(dataset)
    if not syntax.is_encapsulated and "PixelData" in dataset:
        _check_length(dataset)

    below = _bits_below(dataset, syntax)
    if below:
        dataset.BitsStored = dataset.HighBit + 1
    try:
        stored = pixel_array(dataset, decoding_plugin=decoder)
    except RuntimeError as error:
        reason = dicom_codecs.reason_in(error)
        raise ImageError(reason or "compressed pixels that are damaged or cut off") from None
    except (ValueError, StopIteration):
        raise ImageError("pixels that are not as the header says, or too few frames") from None
    if below:
        dataset.BitsStored = dataset.HighBit + 1 - below
        stored = stored >> below
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    count = int(dataset.get("NumberOfFrames") or 1)
    if is_coloured(dataset):
        values = stored.reshape(count, *stored.shape[-3:-1], 3)
    else:
        values = stored.reshape(count, *stored.shape[-2:], 1)
        padding = _padding(values, dataset)
        if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not has_unit(dataset):
            values = _inverted(values, dataset)
        values = _rescaled(values, dataset)
        if padding is not None:
            values = np.where(padding, np.float32(np.nan), values)
    return np.moveaxis(np.asarray(values, np.float32), -1, 0)


def _check_description(dataset: Dataset) -> None:
    """Raise ImageError if a header does not say how its pixels are stored, contradicts itself, or
    names a kind of pixels that cannot be read."""
    integers = "PixelData" in dataset
    for tag in DESCRIBED if integers else DESCRIBED[:3]:
        if dataset.get(tag) is None:
            raise ImageError(f"{tag} is missing: how its pixels are stored is not said")
    kind = str(dataset.PhotometricInterpretation)
    count = SAMPLES.get(kind)
    if count is None:
        raise ImageError(f"PhotometricInterpretation is none of {', '.join(SAMPLES)}; convert it")
    if dataset.SamplesPerPixel != count:
        raise ImageError(f"{kind} with {dataset.SamplesPerPixel} samples per pixel; it has {count}")

    if integers and not 0 < dataset.BitsStored <= dataset.BitsAllocated:
        raise ImageError(
            f"{dataset.BitsStored} bits stored of {dataset.BitsAllocated}; correct the header"
        )
    tables = [f"{each}PaletteColorLookupTable" for each in ("Red", "Green", "Blue")]
    for table in tables if kind == "PALETTE COLOR" else ():
        if f"{table}Descriptor" not in dataset:
            raise ImageError(f"{kind} without {table}Descriptor: which colours it has is not said")


def _bits_below(dataset: Dataset, syntax: UID) -> int:
    """Return how many bits below those of a pixel hold nothing of it. Some headers name a highest
    bit that pixels do not reach: then what is below is not empty, and 0 is returned."""
    stored, high = dataset.get("BitsStored"), dataset.get("HighBit")
    if syntax.is_encapsulated or stored is None or high is None or "PixelData" not in dataset:
        return 0
    below, allocated = int(high) + 1 - int(stored), int(dataset.BitsAllocated)
    if below <= 0 or int(high) >= allocated or allocated not in (8, 16, 32):
        return 0
    order = "<" if syntax.is_little_endian else ">"
    pixels = np.frombuffer(dataset.PixelData, f"{order}u{allocated // 8}")
    return 0 if (pixels & (2**below - 1)).any() else below


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Return where stored values are padding (PixelPaddingValue, PixelPaddingRangeLimit, and those
    of floats); None if a file does not say, or no pixel is."""
    if stored.dtype.kind == "f":
        return _float_padding(stored, dataset)
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limits = np.iinfo(stored.dtype)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = []
    for end in (value, value if limit is None else limit):
        # Some write an unsigned number where pixels are signed, or the other way round.
        number = int(end)
        size = 2 ** int(dataset.BitsAllocated)
        number -= size if number > limits.max else 0
        number += size if number < limits.min else 0
        ends.append(number)

    found = (stored >= min(ends)) & (stored <= max(ends))
    return found if found.any() else None


def _float_padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Return where stored floats are padding; None if a file does not say, or no pixel is."""
    prefix = "DoubleFloat" if "DoubleFloatPixelData" in dataset else "Float"
    value = dataset.get(f"{prefix}PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get(f"{prefix}PixelPaddingRangeLimit")
    ends = float(value), float(value if limit is None else limit)
    found = (stored >= min(ends)) & (stored <= max(ends))
    return found if found.any() else None


def without_padding(values: Floats) -> Floats:
    """Return values in which padding, NaN, has become the lowest of the others; ImageError if there
    are no others."""
    padding = np.isnan(values)
    if not padding.any():
        return values
    if padding.all():
        raise ImageError("all pixels are padding (PixelPaddingValue)")
    values[padding] = np.fmin.reduce(values, axis=None)
    return values


def is_coloured(header: Dataset) -> bool:
    """Return whether an image has three channels, directly or by its palette."""
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return True
    return int(header.get("SamplesPerPixel", 1)) == 3


def _check_length(dataset: Dataset) -> None:
    """Raise ImageError if there are not as many bytes of pixels as the header says."""
    expected, found = get_expected_length(dataset), len(dataset.PixelData or b"")
    if found not in (expected, expected + expected % 2):
        raise ImageError(f"{found} bytes of pixels, {expected} are expected")


def has_unit(dataset: Dataset) -> bool:
    """Return whether values are Hounsfield units, which stay what they are however they are to be
    shown."""
    types = {str(each.get("RescaleType", "")) for each in (dataset, *functional_groups(dataset))}
    return dataset.get("Modality") in FIXED_UNITS or "HU" in types


def _inverted(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Return stored values mirrored in the range they may have: the lowest value of MONOCHROME1 is
    white."""
    signed, bits = int(dataset.get("PixelRepresentation", 0)), int(dataset.BitsStored)
    return (-1 if signed else 2**bits - 1) - values.astype(np.int64)


def _rescaled(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Return stored values [frames, rows, columns, 1] in native units, frame by frame: a copy of
    all of them as float64 would be large."""
    groups = functional_groups(dataset)
    if not any(map(is_rescaled, groups)):
        groups = [dataset] * len(values)
    scaled = np.empty(values.shape, np.float32)
    for number, group in enumerate(groups):
        if group.get("ModalityLUTSequence"):
            scaled[number] = apply_modality_lut(values[number].astype(np.int64), group)
        elif is_rescaled(group):
            slope = number_of(group, "RescaleSlope")
            scaled[number] = values[number] * slope + number_of(group, "RescaleIntercept")
        else:
            scaled[number] = values[number]
    return scaled


def is_rescaled(header: Dataset) -> bool:
    """Return whether a header has the slope and the intercept by which stored values become native
    ones. Where one of them is missing or empty, the other means nothing."""
    return all(header.get(tag) is not None for tag in ("RescaleSlope", "RescaleIntercept"))
