"""Mosaics of Siemens and United Imaging: all slices of a volume side by side in one picture.

How many slices there are, and where they lie, stands in private attributes only. Without them a
mosaic is refused.

Siemens' header (CSA) says on which side of the first slice the others lie. The place that the file
names is that of the corner of a slice as large as the whole picture, around the same middle.
United Imaging lists the place of each slice.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from anodetect.data.dicom_frames import Frame, frame_of, image_type
from anodetect.errors import ImageError
from anodetect.types import Floats

GRID, GRID_CREATOR, PLACES = 0x65, "Image Private Header", 0x51  # of United Imaging
# Where scanners with software XA say that a picture is a mosaic, if its image type does not.
XA, XA_CREATORS, XA_TYPE, XA_GROUP = 0x21, ("SIEMENS MR SDI 02", "SIEMENS MR SDS 01"), 0x75, 0xFE
CSA, CREATOR, IMAGE = 0x29, "SIEMENS CSA HEADER", 0x10  # where the private header stands
MR, MR_CREATOR, COUNT = 0x19, "SIEMENS MR HEADER", 0x0A  # where some scanners repeat the count
MOST = 4096  # slices of a volume, and values of the private header
# Of the private header: how many entries there are; of each name, multiplicity, type, and number of
# values; of a value two lengths, of which one counts.
START, TAG, ITEM = struct.Struct("<I4x"), struct.Struct("<64si4s4xi4x"), struct.Struct("<2i8x")
SECOND = b"SV10"  # how the second kind of header (CSA2) begins; the first has no such beginning
Values = Mapping[str, Sequence[float]]
NO_PLACE = (
    "a mosaic of slices with no place in the patient (image position, orientation or pixel spacing "
    "is missing)"
)
NO_HEADER = "a mosaic of slices without the private header that says"
EXPORT_AGAIN = (
    "export it again as enhanced DICOM or in single slices, or with its private attributes; what "
    "converts it as it is has to guess"
)
# Enhanced files have a frame for each slice, unless a sequence puts slices together by itself.
LEAVE_OUT = "an enhanced file holds it, so the sequence made it, as navigators do; leave it out"


def is_mosaic(header: Dataset) -> bool:
    """Return whether a file of one frame is a mosaic, as its image type or the scanner's count of
    slices says."""
    if int(header.get("NumberOfFrames") or 1) > 1:
        return False
    kinds = image_type(header)
    if "MOSAIC" in kinds or "VFRAME" in kinds:
        return True
    return _scanners_count(header) > 1 or "MOSAIC" in _scanners_type(header)


def mosaic_frames(header: Dataset, file: int) -> list[Frame]:
    """Return the slices of a mosaic, which has the number `file` in its series, as frames of their
    own; ImageError if it does not say where they lie."""
    count, normal = _count(header), _private_header(header).get("SliceNormalVector", [])
    listed = _listed(header)
    if not listed and len(normal) != 3:
        raise ImageError(
            f"{NO_HEADER} in which direction they follow each other; {_what_to_do(header)}"
        )
    if listed:
        return _listed_frames(header, listed, file)
    whole = frame_of(header, file, 0, header)
    if whole is None:
        raise ImageError(f"{NO_PLACE}; {_what_to_do(header)}")

    across = np.cross(whole.directions[:3], whole.directions[3:])
    if abs(np.array(normal) @ across) < 0.99:
        raise ImageError("a mosaic whose slices do not follow each other along their normal")
    step = across * whole.thickness * np.sign(np.array(normal) @ across)
    spare = (np.array([header.Rows, header.Columns]) - slice_shape(header)) / 2
    first = whole.position + whole.directions[3:] * spare[0] * whole.spacing[0]
    first = first + whole.directions[:3] * spare[1] * whole.spacing[1]
    whole = replace(whole, size=slice_shape(header))
    return [replace(whole, number=n, position=first + n * step) for n in range(count)]


def _listed_frames(header: Dataset, listed: Sequence[Dataset], file: int) -> list[Frame]:
    """Return the slices of a mosaic whose places it lists."""
    found = []
    for number, item in enumerate(listed):
        own = Dataset()
        own.update(header)
        if "ImagePositionPatient" in own:
            del own.ImagePositionPatient  # of the first slice, or of the picture
        own.update(item)
        frame = frame_of(own, file, number, header)
        if frame is None:
            raise ImageError(f"{NO_PLACE}; {_what_to_do(header)}")
        found.append(replace(frame, size=slice_shape(header)))
    return found


def _what_to_do(header: Dataset) -> str:
    """Return what to do about a mosaic that does not say where its slices lie."""
    return LEAVE_OUT if "PerFrameFunctionalGroupsSequence" in header else EXPORT_AGAIN


def slice_header(header: Dataset, frame: Frame) -> Dataset:
    """Return the header of a mosaic as if one of its slices were a file of its own."""
    own = Dataset()
    own.update(header)
    own.file_meta = header.file_meta
    for tag in ("Rows", "Columns", "ImagePositionPatient"):  # which both would share
        del own[tag]
    own.Rows, own.Columns = slice_shape(header)
    own.ImagePositionPatient = [f"{value:.8g}" for value in frame.position]
    return own


def slice_shape(header: Dataset) -> tuple[int, int]:
    """Return the rows and columns of a file's frames, or of the slices of a mosaic."""
    rows, columns = int(header.get("Rows", 1)), int(header.get("Columns", 1))
    if not is_mosaic(header):
        return rows, columns
    down, across = _grid(header)
    return rows // down, columns // across


def apart(native: Floats, header: Dataset) -> Floats:
    """Return the slices of a mosaic [C, 1, R, C] as [C, frames, rows, columns]; the frames of any
    other file as they are."""
    if not is_mosaic(header):
        return native
    down, across = _grid(header)
    rows, columns = slice_shape(header)

    tiles = native.reshape(len(native), down, rows, across, columns).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(len(native), down * across, rows, columns)[:, : _count(header)]


def _grid(header: Dataset) -> tuple[int, int]:
    """Return how many slices lie below and beside each other; ImageError if the picture cannot be
    divided so."""
    count = _count(header)
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across) if _listed(header) else across
    if header.Rows % down or header.Columns % across:
        raise ImageError(
            f"a mosaic of {count} slices, but {header.Columns} × {header.Rows} pixels cannot be "
            f"divided into {across} × {down}"
        )
    return down, across


def _count(header: Dataset) -> int:
    """Return how many slices a mosaic holds; ImageError if it does not say it."""
    listed = _listed(header)
    if listed:
        return len(listed)
    named = _private_header(header).get("NumberOfImagesInMosaic", [])
    (found, *_) = [*named, _scanners_count(header)]
    if not 1 <= found <= MOST:
        raise ImageError(f"{NO_HEADER} how many there are; {_what_to_do(header)}")
    return int(found)


def _listed(header: Dataset) -> Sequence[Dataset]:
    """Return an item for each slice with its place, as United Imaging lists them; () if there are
    none."""
    try:
        items = header.private_block(GRID, GRID_CREATOR)[PLACES].value
    except KeyError:
        return ()
    return items if isinstance(items, DicomSequence) else ()


def _scanners_type(header: Dataset) -> Sequence[str]:
    """Return the values of the image type that scanners with software XA write beside the
    standard's, into the file or into the first of its functional groups; () without one."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    for group in (header, *frames[:1], *shared[:1]):
        for creator in XA_CREATORS:
            for inner in (group, *_private(group, creator, XA_GROUP)):
                found = _private(inner, creator, XA_TYPE)
                if found:
                    return [str(value).strip().upper() for value in found]
    return ()


def _private(group: object, creator: str, element: int) -> Sequence[object]:
    """Return the values of a private attribute of software XA; () without it."""
    if not isinstance(group, Dataset):
        return ()
    try:
        value = group.private_block(XA, creator)[element].value
    except KeyError:
        return ()
    return [value] if isinstance(value, str) else value or ()


def _scanners_count(header: Dataset) -> float:
    """Return how many slices there are by the attribute that some scanners write beside the private
    header; 0 without it."""
    try:
        return float(header.private_block(MR, MR_CREATOR)[COUNT].value)
    except (KeyError, TypeError, ValueError):
        return 0.0


def _private_header(header: Dataset) -> Values:
    """Return the numbers of the private header by their names; {} if there is none, or another kind
    of it."""
    try:
        content = header.private_block(CSA, CREATOR)[IMAGE].value
        return _csa_numbers(bytes(content))
    except (KeyError, TypeError, ValueError, struct.error):  # none, or damaged
        return {}


def _csa_numbers(content: bytes) -> Values:
    """Return the values of a header that are numbers, by their names. struct.error if it is cut
    off.

    In the first kind of header (CSA1) lengths have the first entry's number of values added.
    """
    is_second = content.startswith(SECOND)
    place = len(SECOND) + 4 if is_second else 0
    (count,) = START.unpack_from(content, place)
    if count > MOST:
        return {}

    found: dict[str, list[float]] = {}
    place += START.size
    _, _, _, added = TAG.unpack_from(content, place)
    for _ in range(count):
        name, _, _, items = TAG.unpack_from(content, place)
        place += TAG.size
        if not 0 <= items <= MOST:
            return {}
        numbers = found.setdefault(name.partition(b"\0")[0].decode("ascii", "replace"), [])
        for _ in range(items):
            longer, length = ITEM.unpack_from(content, place)
            length = length if is_second else longer - added
            if length < 0:
                return {}
            place += ITEM.size
            text = content[place : place + length].partition(b"\0")[0]
            place += length + -length % 4
            try:
                numbers.append(float(text))
            except ValueError:  # a text, or no value
                continue
    return found
