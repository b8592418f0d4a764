"""DICOM: which files make up a series, and a series or a multi-frame file → a volume with its place
in the patient.

Frames are ordered along their common normal by position, whatever order, names or instance numbers
they come with. Where they do not lie at even distances on a straight line, each keeps its own
place. Duplicates are refused with the reason. Stored values
become native ones by rescale slope and intercept or modality LUT: of CT Hounsfield units.
"""

import gzip
import io
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)

from anodetect.data.dicom_frames import (
    Frame,
    frame_count,
    frames,
    image_type,
    is_pictures,
    numbers_of,
    part_of,
    with_groups,
)
from anodetect.data.dicom_head import Headline, is_derived, no_image_of, words_of
from anodetect.data.dicom_mosaic import (
    apart,
    is_mosaic,
    mosaic_frames,
    slice_header,
    slice_shape,
)
from anodetect.data.dicom_pixels import is_coloured, native, without_padding
from anodetect.data.dicom_stacks import (
    SAME_PLACE,
    chosen,
    normal_of,
    numbers_in_space,
    stacks_of,
)
from anodetect.data.dicom_units import check_hounsfield, check_scaled_alike, note_of_units
from anodetect.data.dicom_views import laterality_of, view_of
from anodetect.data.formats import DICOM_MAGIC, GZIP
from anodetect.data.patients import names_patient
from anodetect.data.reading import AS_IT_IS, Reading
from anodetect.data.uneven import line_through
from anodetect.data.volumes import MAX_VOXELS, Volume, checked
from anodetect.errors import ImageError
from anodetect.types import Floats
from anodetect.words import amount

META_START = b"\x02\x00\x00\x00UL\x04\x00"  # of a file without its preamble
# Of a file that is a bare data set: the first attributes of group 8.
BARE_STARTS = (
    b"\x08\x00\x00\x00\x04\x00\x00\x00", b"\x08\x00\x00\x00UL\x04\x00",
    b"\x08\x00\x05\x00", b"\x08\x00\x08\x00",
)  # fmt: skip
META = 4096  # the bytes in which a file says how it is written
HEADLINE_TAGS = [
    "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID",
    "ImagePositionPatient", "ImageOrientationPatient", "SOPClassUID", "SOPInstanceUID", "Rows",
    "NumberOfFrames", "Modality", "ImageType", "SeriesDescription", "Manufacturer",
    "ConcatenationUID", "ImageLaterality", "Laterality", "ViewPosition", "ViewCodeSequence",
]  # fmt: skip
# Modalities of objects that are no images to learn from or to judge, and what they are called.
NO_IMAGES = {
    "SEG": "DICOM segmentations",
    "RTSTRUCT": "DICOM contours and doses",
    "RTDOSE": "DICOM contours and doses",
    "RTPLAN": "DICOM contours and doses",
    "SR": "DICOM reports and notes",
    "PR": "DICOM reports and notes",
    "KO": "DICOM reports and notes",
    "DOC": "DICOM reports and notes",
    "REG": "DICOM reports and notes",
}
# Multi-frame CT, MR and PET, also those that were made of single frames.
ENHANCED = (
    "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2", "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.3", "1.2.840.10008.5.1.4.1.1.4.4", "1.2.840.10008.5.1.4.1.1.130",
    "1.2.840.10008.5.1.4.1.1.128.1",
)  # fmt: skip
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
# What all files of a series have in common, and what a reason calls it.
ALIKE = (
    ("SamplesPerPixel", "numbers of channels"),
    ("PhotometricInterpretation", "photometric interpretations"),
    ("FrameOfReferenceUID", "frames of reference"),
)
PIXELS, FIRST_PIXELS = 0x7FE00010, 0x7FE00007  # the last attribute that is read

# pydicom warns of values that it finds odd but can read: no reason to refuse an image, and nothing
# for the terminal.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.")


# -- Which files make up a series ------------------------------------------------------------------


def headline(path: Path) -> Headline:
    """Read a file's headline. That of a file that cannot be read is empty; reading the file will
    say why."""
    try:
        return _headline(path) if path.is_file() else Headline()
    except Exception:  # pydicom raises any kind of error on damaged files
        return Headline()


def _headline(path: Path) -> Headline:
    header = _start_of_header(path)
    issuer = str(header.get("IssuerOfPatientID") or "")
    patient = str(header.get("PatientID") or "").rstrip("\0")
    series = str(header.get("SeriesInstanceUID") or "")
    named = names_patient(patient)
    if not named:
        issuer, patient = "", str(header.get("StudyInstanceUID") or series)

    is_image = header.get("Rows") and header.get("SOPClassUID") != SegmentationStorage
    count = int(header.get("NumberOfFrames") or 1) if is_image else 0
    return Headline(
        series=_volume_of(header, count, issuer, patient),
        study=str(header.get("StudyInstanceUID") or ""),
        instance=str(header.get("SOPInstanceUID") or ""),
        issuer=issuer,
        patient=patient.rstrip("\0"),
        names_patient=named,
        frames=count,
        no_image=_no_image(header, count),
        derived=is_derived(image_type(header), str(header.get("Modality") or "")),
        modality=str(header.get("Modality") or ""),
        description=" ".join(words_of(str(header.get("SeriesDescription") or ""))),
        maker=str(header.get("Manufacturer") or "").strip(),
        place=_place(header),
        quantity=part_of(header),
        view=view_of(header),
        laterality=laterality_of(header),
    )


def _place(header: Dataset) -> tuple[float, ...]:
    """Return the position [3] of a single image with the directions of its rows and columns [6]; ()
    without valid ones."""
    try:
        position = numbers_of(header, "ImagePositionPatient")
        directions = numbers_of(header, "ImageOrientationPatient")
    except (ImageError, KeyError):  # reading the file says why
        return ()
    valid = position.shape == (3,) and directions.shape == (6,)
    return (*position.tolist(), *directions.tolist()) if valid else ()


def _volume_of(header: Dataset, count: int, issuer: str, patient: str) -> str:
    """Return what files of one volume have in common: series, study and patient. Some programs give
    images of several patients the same UID of their series. "" for a file that stands alone."""
    series = _series_of(header, count)
    if not series:
        return ""
    return "\0".join((series, str(header.get("StudyInstanceUID") or ""), issuer, patient.strip()))


def _series_of(header: Dataset, count: int) -> str:
    """Return the UID of a file's series, or of a multi-frame file its concatenation; "" for a file
    that stands alone."""
    if count > 1:
        return str(header.get("ConcatenationUID") or "")
    placed = "ImagePositionPatient" in header or header.get("SOPClassUID") in ENHANCED
    return str(header.get("SeriesInstanceUID") or "") if placed else ""


def _no_image(header: Dataset, count: int) -> str:
    """Return what a file is if it is no image to learn from or to judge, else ""."""
    modality, storage = str(header.get("Modality", "")), header.get("SOPClassUID")
    if modality in NO_IMAGES or storage == SegmentationStorage:
        return NO_IMAGES.get(modality, NO_IMAGES["SEG"])
    if storage == PARAMETRIC_MAP:
        return "DICOM parametric maps"
    if not count and storage and _is_no_image(UID(str(storage))):
        return "DICOM objects without pixels"

    return no_image_of(image_type(header), str(header.get("SeriesDescription") or ""))


def _is_no_image(storage: UID) -> bool:
    """Return whether a storage class is none of images. One that the standard does not have may be
    the beginning of another, of a file that was cut off."""
    is_cut = storage.name == storage and not storage.is_private
    return not is_cut and "Image" not in storage.name


def _start_of_header(path: Path) -> Dataset:
    """Read the attributes that a headline is made of."""
    with path.open("rb") as file:
        start = file.read(META)
    if _is_deflated(start) or not DICOM_MAGIC.matches(start):  # gzipped, or without a preamble
        return parse(path.read_bytes())
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADLINE_TAGS)


# -- One file --------------------------------------------------------------------------------------


def parse(content: bytes, *, pixels: bool = False) -> Dataset:
    """Return a file's data set; ImageError if it is not DICOM, or inflates to more than an image
    may have. The file may be gzipped."""
    if content.startswith(GZIP):
        content = _gunzipped(content)
    if content.startswith(META_START):
        content = bytes(128) + DICOM_MAGIC.value + content
    is_bare = content.startswith(BARE_STARTS)
    if not is_bare and not DICOM_MAGIC.matches(content):
        raise ImageError("not a DICOM file (no DICM prefix)")
    if _is_deflated(content):
        _check_inflated(content)
    try:
        stream = io.BytesIO(content)
        dataset = read_partial(stream, _behind(PIXELS if pixels else FIRST_PIXELS), force=is_bare)
    except InvalidDicomError:
        raise ImageError("not a DICOM file (no DICM prefix)") from None

    if is_bare:  # as DICOM was written before there were files of it
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.buffer = None  # else a header would keep the whole file in memory
    return dataset


def _behind(last: int) -> Callable[[BaseTag, str | None, int], bool]:
    """Return the function that says whether an attribute stands behind another one."""
    return lambda tag, vr, length: tag > last


def _gunzipped(content: bytes) -> bytes:
    """Return a gzipped file's bytes; ImageError if they are more than an image may have."""
    most = 4 * MAX_VOXELS
    inflated = gzip.GzipFile(fileobj=io.BytesIO(content)).read(most + 1)
    if len(inflated) > most:
        raise ImageError(f"it inflates to more than {most} bytes")
    return inflated


def _is_deflated(content: bytes) -> bool:
    """Return whether all behind the meta information is deflated; pydicom would inflate it, however
    large it becomes."""
    return DeflatedExplicitVRLittleEndian.encode() in content[:META]


def _check_inflated(content: bytes) -> None:
    """Raise ImageError if a deflated file inflates to more than an image may have."""
    if content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise ImageError("deflated, and its meta information does not say where it ends")
    start = 144 + int.from_bytes(content[140:144], "little")
    body, total = content[start:], 0
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    while body and not inflate.eof:
        total += len(inflate.decompress(body, 2**20))
        body = inflate.unconsumed_tail
        if total > 4 * MAX_VOXELS:
            raise ImageError(f"it inflates to more than {4 * MAX_VOXELS} bytes")


def header_of(path: Path) -> Dataset:
    """Return a file's header without its pixels; ImageError if it cannot be read."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ImageError(error.strerror or "unreadable") from None


@dataclass(frozen=True)
class Series:
    """The header, without pixels, of the file that each slice of a volume was made from, and the
    number of its frame in that file."""

    headers: tuple[Dataset, ...]
    numbers: tuple[int, ...]


# -- A series --------------------------------------------------------------------------------------


def in_order(contents: Sequence[bytes]) -> list[bytes]:
    """Return a series' files in the order of their slices; as they are where that is not known."""
    try:
        found = [_frames_of(parse(content), file) for file, content in enumerate(contents)]
    except ImageError:
        return list(contents)
    if any(len(each) != 1 for each in found):
        return list(contents)

    order: dict[int, None] = {}  # of files, each once
    for stack in stacks_of([each[0] for each in found]):
        order.update(dict.fromkeys(frame.file for frame in stack.frames))
    order.update(dict.fromkeys(range(len(contents))))
    return [contents[file] for file in order]


def decode(contents: Sequence[bytes], reading: Reading = AS_IT_IS) -> Volume | Floats:
    """Return the volume [C, slices, rows, columns] of a series' files or of a multi-frame file,
    given in the order of their slices; of a series of several volumes the one that `reading` names
    or numbers. An image without a place in the patient, such as a radiograph, is [C, H, W].
    ImageError with the reason if it cannot be used."""
    headers = [with_groups(parse(content)) for content in contents]
    if reading.frames and len(headers) == 1 and is_pictures(headers[0]):
        return _pictures(contents[0], headers[0])
    found: list[Frame] = []
    for file, header in enumerate(headers):
        found += _frames_of(header, file)

    if not found:
        if len(contents) > 1:
            raise ImageError(f"{len(contents)} images without a place in the patient are no volume")
        found_pixels = native(parse(contents[0], pixels=True))
        return without_padding(np.ascontiguousarray(found_pixels[:, 0]))

    otherwise = ""
    if len(headers) == 1 and is_pictures(headers[0]):
        otherwise = "; train --frames takes each frame for an image"
    places = chosen(stacks_of(found), reading.component, otherwise).frames
    files = list(dict.fromkeys(frame.file for frame in places))
    _check_alike([headers[file] for file in files])
    affine, own_places = _grid(places)
    voxels = _voxels(contents, headers[files[0]], places)

    series = _series(headers, places)
    modality = str(headers[files[0]].get("Modality", ""))
    check_scaled_alike([headers[file] for file in files])
    if modality == "CT":
        check_hounsfield(headers[files[0]], voxels)
    note = note_of_units(headers, places)
    return checked(Volume(voxels, affine, modality, series, own_places, note=note))


def _frames_of(header: Dataset, file: int) -> list[Frame]:
    """Return the frames of a file, which has the number `file` in its series, or the slices of a
    mosaic."""
    return mosaic_frames(header, file) if is_mosaic(header) else frames(header, file)


def _series(headers: Sequence[Dataset], places: Sequence[Frame]) -> Series:
    """Return what maps of these frames refer to."""
    own, numbers = [], []
    for frame in places:
        header = headers[frame.file]
        tiled = is_mosaic(header)
        own.append(slice_header(header, frame) if tiled else header)
        numbers.append(0 if tiled else frame.number)
    return Series(headers=tuple(own), numbers=tuple(numbers))


def _pictures(content: bytes, header: Dataset) -> Volume:
    """Return the frames of a file as pictures, slices of a volume that has no place in the
    patient."""
    count = frame_count(header)
    voxels = without_padding(native(parse(content, pixels=True)))

    affine = np.eye(4)[[2, 1, 0, 3]]  # a millimetre from frame to frame
    for tag in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = numbers_of(header, tag) if header.get(tag) else np.zeros(0)
        if spacing.shape == (2,) and (spacing > 0).all():
            affine[1, 1], affine[0, 2] = spacing
            break
    series = Series(headers=(header,) * count, numbers=tuple(range(count)))
    modality = str(header.get("Modality", ""))
    return Volume(np.ascontiguousarray(voxels), affine, modality, series, is_pictures=True)


def _voxels(contents: Sequence[bytes], header: Dataset, places: Sequence[Frame]) -> Floats:
    """Return the pixels of all frames in native units, float32 [C, slices, rows, columns].

    `header` is that of the first file. Only one file's pixels are in memory beside the result.
    """
    channels = 3 if is_coloured(header) else 1
    shape = (channels, len(places), *slice_shape(header))
    if np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise ImageError(f"{' × '.join(map(str, shape[1:]))} is more than {MAX_VOXELS} voxels")

    voxels = np.empty(shape, np.float32)
    for file in dict.fromkeys(frame.file for frame in places):
        dataset = parse(contents[file], pixels=True)
        parts = apart(native(dataset), dataset)
        for slot, frame in enumerate(places):
            if frame.file == file:
                voxels[:, slot] = parts[:, frame.number]
    return without_padding(voxels)


def _check_alike(headers: Sequence[Dataset]) -> None:
    """Raise ImageError if the files of a series differ in what they must have in common."""
    for tag, what in ALIKE:
        values = {str(header.get(tag, "")) for header in headers}
        if len(values) > 1:  # reasons land in tables, where a source's UIDs have no place
            said = tag if tag.endswith("UID") else f"{tag}: {', '.join(sorted(values)[:3])}"
            raise ImageError(f"images of different {what} in one series ({said})")


def _grid(places: Sequence[Frame]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the matrix from an index (slice, row, column) to LPS+ millimetres, and the positions
    [n, 3] of slices that are not evenly spaced on a line, else None; ImageError if two slices lie
    at the same place."""
    first = places[0]
    origin, step = first.position, normal_of(first) * first.thickness
    own_places = None
    if len(places) > 1:
        _check_apart(places)
        origin, step, own_places = line_through(np.stack([frame.position for frame in places]))

    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.directions[3:] * first.spacing[0]
    affine[:3, 2] = first.directions[:3] * first.spacing[1]
    affine[:3, 3] = origin
    return affine, own_places


def in_space(series: Series) -> Series | None:
    """Return the frames of a file in the order of their places; None if these are not those of one
    volume, or not said."""
    header = series.headers[0]
    try:
        numbers = numbers_in_space(frames(header, 0))
    except ImageError:  # some or all have no place
        return None
    if not numbers:
        return None
    return Series(headers=(header,) * len(numbers), numbers=tuple(numbers))


def _check_apart(places: Sequence[Frame]) -> None:
    """Raise ImageError if slices lie at the same place."""
    along = np.array([frame.position @ normal_of(places[0]) for frame in places])
    double = int((np.diff(along) < SAME_PLACE).sum())
    if double:
        of = f"of {len(places)} images"
        raise ImageError(
            f"{amount(double, f'{of} lies', f'{of} lie')} at the place of another; "
            "keep one image of each slice"
        )
