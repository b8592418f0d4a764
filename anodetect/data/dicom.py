"""DICOM: which files make up a series, and a series or a multi-frame file → a volume with its place
in the patient.

Frames are ordered along their common normal by position, whatever order, names or instance numbers
they come with. What does not make a regular grid (gaps, duplicates, mixed orientations or sizes) is
refused with the reason. Stored values become native ones by rescale slope and intercept or modality
LUT: of CT Hounsfield units.
"""

import io
import re
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, SegmentationStorage

from anodetect.data import dicom_codecs
from anodetect.data.pseudonyms import pseudonym
from anodetect.data.volumes import MAX_VOXELS, Volume, checked
from anodetect.errors import ImageError
from anodetect.types import Floats

SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
PREFIX, META = (
    slice(128, 132),
    4096,
)  # where a file says that it is DICOM, and in which bytes how it is written
SAME_DIRECTION, SAME_PLACE, EVEN = 1e-3, 1e-3, 0.05  # cosines; mm; share of the spacing
TOMOGRAPHIC = ("CT", "MR", "PT")  # modalities whose images have a place in the patient

# What pydicom finds odd about values it can read is no reason to refuse an image, and not for the
# terminal.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.")


# -- Which files make up a series ------------------------------------------------------------------


@dataclass(frozen=True)
class Headline:
    """What tells whose image a file is and which others belong to it; `series` is "" of one that
    stands alone. `frames` is 0 of what is no image, such as a report."""

    series: str
    patient: str
    frames: int = 1


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix, or where it has none, or numbers as in a UID, by its
    prefix."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if path.name == "DICOMDIR" or not re.fullmatch(r"(\.\d+)?", suffix):
        return False
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return file.read(132)[PREFIX] == b"DICM"
    except OSError:
        return False


def headline(path: Path) -> Headline:
    """Of a file that cannot be read nothing is known; reading it will say why."""
    try:
        return _headline(path) if path.is_file() else Headline("", "")
    except Exception:  # damaged files raise whatever they like
        return Headline("", "")


def _headline(path: Path) -> Headline:
    tags = [
        "SeriesInstanceUID",
        "StudyInstanceUID",
        "PatientID",
        "IssuerOfPatientID",
        "ImagePositionPatient",
    ]
    tags += ["SOPClassUID", "Rows", "NumberOfFrames"]
    with path.open("rb") as file:
        deflated = _is_deflated(file.read(META))
    if deflated:
        header = parse(path.read_bytes())
    else:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
    issuer, patient, study, series = (
        str(header.get(tag) or "")
        for tag in ("IssuerOfPatientID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    )
    is_image = header.get("Rows") and header.get("SOPClassUID") != SegmentationStorage
    count = int(header.get("NumberOfFrames") or 1) if is_image else 0
    alone = "ImagePositionPatient" not in header or count > 1
    # A patient without an identifier is told apart by study, or by series.
    known = f"{issuer}\0{patient}" if patient else f"\0{study or series}"
    return Headline("" if alone else series, known.rstrip("\0"), count)


def group_of(found: Headline, *, keep_identifiers: bool) -> str:
    """The patient's pseudonym, or what identifies the patient; "" if nothing does."""
    if not found.patient:
        return ""
    return (
        found.patient.rpartition("\0")[2]
        if keep_identifiers
        else pseudonym(*found.patient.split("\0"))
    )


# -- One file --------------------------------------------------------------------------------------


def parse(content: bytes, *, pixels: bool = False) -> Dataset:
    """A file's data set; ImageError if it is none, or inflates to more than an image may have."""
    if content[PREFIX] != b"DICM":
        raise ImageError("not a DICOM file (no DICM prefix)")
    if _is_deflated(content):
        _check_inflated(content)
    try:
        dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not pixels)
    except InvalidDicomError as error:
        raise ImageError(f"not a DICOM file ({error})") from None
    dataset.buffer = None  # else a header would keep the whole file in memory
    return dataset


def _is_deflated(content: bytes) -> bool:
    """Whether all behind the meta information is deflated, which pydicom would inflate whatever
    comes out."""
    return DeflatedExplicitVRLittleEndian.encode() in content[:META]


def _check_inflated(content: bytes) -> None:
    if content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise ImageError("deflated, and its meta information does not say where it ends")
    start = 144 + int.from_bytes(content[140:144], "little")
    body, inflate, total = content[start:], zlib.decompressobj(-zlib.MAX_WBITS), 0
    while body and not inflate.eof:
        total += len(inflate.decompress(body, 2**20))
        body = inflate.unconsumed_tail
        if total > 4 * MAX_VOXELS:
            raise ImageError(f"it inflates to more than {4 * MAX_VOXELS} bytes")


@dataclass(frozen=True)
class Frame:
    """One frame of one file, and where it lies: LPS+ millimetres of its first pixel, directions of
    rows and columns [6], and millimetres between rows and between columns."""

    file: int
    number: int
    position: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float


def frames(header: Dataset, file: int) -> list[Frame]:
    """The frames of a file; none if they have no place in the patient. ImageError if there is no
    image."""
    name = UID(str(header.get("SOPClassUID", ""))).name or "no SOP class"
    if not header.get("Rows") or not header.get("Columns"):
        raise ImageError(f"no pixels ({name})")
    if header.get("SOPClassUID") == SegmentationStorage:
        raise ImageError("a segmentation, not an image")
    count = int(header.get("NumberOfFrames") or 1)
    size = int(header.Rows) * int(header.Columns) * count * int(header.get("SamplesPerPixel", 1))
    if not 0 < size <= MAX_VOXELS:
        raise ImageError(
            f"{header.Columns} × {header.Rows} × {count} is more than {MAX_VOXELS} voxels, or none"
        )
    groups = _functional_groups(header)
    if groups:
        if len(groups) != count:
            raise ImageError(f"{count} frames, but {len(groups)} are described")
        found = [_frame(group, file, number) for number, group in enumerate(groups)]
    else:
        found = [_frame(header, file, 0)] if count == 1 else []
    places = [frame for frame in found if frame is not None]
    if len(places) < len(found) and (places or header.get("Modality") in TOMOGRAPHIC):
        raise ImageError(
            "no place in the patient (image position, orientation or pixel spacing is missing)"
        )
    if not places and count > 1:
        raise ImageError(
            f"{count} frames without a place in the patient; a volume or single images are expected"
        )
    return places


def _functional_groups(header: Dataset) -> list[Dataset]:
    """For each frame of a multi-frame image one flat data set of its own and the shared attributes."""
    flat = []
    for own in header.get("PerFrameFunctionalGroupsSequence") or ():
        merged = Dataset()
        for group in (*(header.get("SharedFunctionalGroupsSequence") or ()), own):
            for element in group:
                if element.VR == "SQ" and len(element.value) == 1:
                    merged.update(element.value[0])
        flat.append(merged)
    return flat


def _frame(header: Dataset, file: int, number: int) -> Frame | None:
    lacking = [
        t
        for t in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        if not header.get(t)
    ]
    if lacking:
        return None
    position = np.array(header.ImagePositionPatient, np.float64)
    directions = np.array(header.ImageOrientationPatient, np.float64)
    rows, columns = (float(value) for value in header.PixelSpacing)
    if (
        position.shape != (3,)
        or directions.shape != (6,)
        or not (np.isfinite(position).all() and np.isfinite(directions).all())
    ):
        raise ImageError("image position or orientation is no place in the patient")
    if not (rows > 0 and columns > 0):
        raise ImageError(f"pixel spacing {rows:g} × {columns:g} mm; mend the header")
    row, column = directions[:3], directions[3:]
    if (
        abs(np.linalg.norm(row) - 1) > 0.01
        or abs(np.linalg.norm(column) - 1) > 0.01
        or abs(row @ column) > 0.01
    ):
        raise ImageError("the image orientation is not two perpendicular directions")
    thickness = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1)
    return Frame(file, number, position, directions, (rows, columns), abs(thickness) or 1.0)


@dataclass(frozen=True)
class Series:
    """The headers, without pixels, of what a volume was made from, and which of their frames each
    slice is."""

    headers: tuple[Dataset, ...]
    numbers: tuple[int, ...]


# -- A series --------------------------------------------------------------------------------------


def in_order(contents: Sequence[bytes]) -> list[bytes]:
    """A series' files in the order of their slices; as they are where that is not known."""
    if len(contents) == 1:
        return list(contents)
    try:
        found = [frames(parse(content), file) for file, content in enumerate(contents)]
    except ImageError:
        return list(contents)
    if any(len(each) != 1 for each in found):
        return list(contents)
    return [contents[frame.file] for frame in _sorted([each[0] for each in found])]


def decode(contents: Sequence[bytes]) -> Volume | Floats:
    """A series' files, or a single one's, in the order of their slices → a volume [C, K, R, C]; an
    image that lies nowhere, such as a radiograph, is [C, H, W]. ImageError with the reason if it
    cannot be used."""
    headers = [parse(content) for content in contents]
    places = [frame for file, header in enumerate(headers) for frame in frames(header, file)]
    if not places:
        if len(contents) > 1:
            raise ImageError(f"{len(contents)} images without a place in the patient are no volume")
        return np.ascontiguousarray(_native(parse(contents[0], pixels=True))[:, 0])
    _check_alike(headers)
    places = _sorted(places)
    affine = _affine(places)
    rows, columns, samples = (
        int(headers[0].get(tag, 1)) for tag in ("Rows", "Columns", "SamplesPerPixel")
    )
    coloured = samples == 3 or headers[0].get("PhotometricInterpretation") == "PALETTE COLOR"
    shape = (3 if coloured else 1, len(places), rows, columns)
    if np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise ImageError(f"{' × '.join(map(str, shape[1:]))} is more than {MAX_VOXELS} voxels")
    voxels = np.empty(shape, np.float32)
    for file in dict.fromkeys(frame.file for frame in places):  # one file's pixels at a time
        native = _native(parse(contents[file], pixels=True))
        for slot, frame in enumerate(places):
            if frame.file == file:
                voxels[:, slot] = native[:, frame.number]
    single = len(contents) == 1
    series = Series(
        tuple(headers) if single else tuple(headers[frame.file] for frame in places),
        tuple(frame.number if single else place for place, frame in enumerate(places)),
    )
    return checked(Volume(voxels, affine, str(headers[0].get("Modality", "")), series))


def _check_alike(headers: Sequence[Dataset]) -> None:
    for tag, what in (
        ("Rows", "sizes"),
        ("Columns", "sizes"),
        ("SamplesPerPixel", "numbers of channels"),
        ("PhotometricInterpretation", "photometric interpretations"),
        ("FrameOfReferenceUID", "frames of reference"),
    ):
        values = {str(header.get(tag, "")) for header in headers}
        if len(values) > 1:  # reasons land in tables, where a source's UIDs have no place
            said = tag if tag.endswith("UID") else f"{tag}: {', '.join(sorted(values)[:3])}"
            raise ImageError(f"images of different {what} in one series ({said})")


def _sorted(places: Iterable[Frame]) -> list[Frame]:
    """Frames along their common normal; ImageError if they have none."""
    places = list(places)
    first = places[0]
    for frame in places:
        if np.abs(frame.directions - first.directions).max() > SAME_DIRECTION:
            raise ImageError("images of different orientations in one series")
        if not np.allclose(frame.spacing, first.spacing, rtol=1e-3):
            raise ImageError("images of different pixel spacings in one series")
    return sorted(places, key=lambda frame: float(frame.position @ _normal(first)))


def _normal(frame: Frame) -> NDArray[np.float64]:
    return np.asarray(np.cross(frame.directions[:3], frame.directions[3:]))


def _affine(places: Sequence[Frame]) -> NDArray[np.float64]:
    """From an index (slice, row, column) to LPS+ millimetres; ImageError if slices are not evenly
    spaced."""
    first, last = places[0], places[-1]
    step = _normal(first) * first.thickness
    if len(places) > 1:
        _check_even(places)
        step = (last.position - first.position) / (len(places) - 1)
        straight = first.position + np.arange(len(places))[:, None] * step
        off = np.abs(np.stack([frame.position for frame in places]) - straight).max()
        if off > EVEN * np.linalg.norm(step):
            raise ImageError(f"slices are shifted against each other by up to {off:.2f} mm")
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.directions[3:] * first.spacing[0]
    affine[:3, 2] = first.directions[:3] * first.spacing[1]
    affine[:3, 3] = first.position
    return affine


def _check_even(places: Sequence[Frame]) -> None:
    along = np.array([frame.position @ _normal(places[0]) for frame in places])
    steps = np.diff(along)
    if (double := int((steps < SAME_PLACE).sum())) > 0:
        raise ImageError(
            f"{double} of {len(places)} images lie at the place of another; keep one image of each slice"
        )
    usual = float(np.median(steps))
    for before, step in zip(along, steps, strict=False):
        if step > 1.5 * usual:
            raise ImageError(
                f"{round(step / usual) - 1} slices are missing between {before:.1f} and {before + step:.1f} mm "
                "along the series"
            )
    if np.abs(steps - usual).max() > EVEN * usual:
        raise ImageError(
            f"slices are unevenly spaced, by {steps.min():.2f} to {steps.max():.2f} mm"
        )


# -- Pixels ----------------------------------------------------------------------------------------


def _native(dataset: Dataset) -> Floats:
    """All frames in native units, float32 [C, N, R, C]."""
    syntax: UID | None = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ImageError("no transfer syntax: how its pixels are stored is not said")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageError(f"no pixels ({UID(str(dataset.get('SOPClassUID', ''))).name})")
    decoder = dicom_codecs.plugin(syntax)
    if not syntax.is_encapsulated and "PixelData" in dataset:
        _check_length(dataset)
    stored = pixel_array(dataset, decoding_plugin=decoder)
    interpretation = dataset.get("PhotometricInterpretation")
    if interpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    count = int(dataset.get("NumberOfFrames") or 1)
    coloured = interpretation == "PALETTE COLOR" or int(dataset.get("SamplesPerPixel", 1)) == 3
    values = stored.reshape(
        count, *stored.shape[-3 if coloured else -2 :][:2], 3 if coloured else 1
    )
    if interpretation == "MONOCHROME1" and not _has_unit(dataset):
        values = _inverted(values, dataset)
    if not coloured:
        values = _rescaled(values, dataset)
    return np.moveaxis(np.asarray(values, np.float32), -1, 0)


def _check_length(dataset: Dataset) -> None:
    expected = get_expected_length(dataset)
    if len(dataset.PixelData) not in (expected, expected + expected % 2):
        raise ImageError(f"{len(dataset.PixelData)} bytes of pixels, {expected} are expected")


def _has_unit(dataset: Dataset) -> bool:
    """Whether values are Hounsfield units, which stay what they are however they are to be shown."""
    types = {str(each.get("RescaleType", "")) for each in (dataset, *_functional_groups(dataset))}
    return dataset.get("Modality") == "CT" or "HU" in types


def _inverted(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Of MONOCHROME1 the lowest value is white: stored values are mirrored in the range they may
    have."""
    signed, bits = int(dataset.get("PixelRepresentation", 0)), int(dataset.BitsStored)
    return (-1 if signed else 2**bits - 1) - values.astype(np.int64)


def _rescaled(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Stored values [N, R, C, 1] → native units, of multi-frame images frame by frame."""
    groups = _functional_groups(dataset)
    if not any("RescaleSlope" in group for group in groups):
        return np.asarray(apply_modality_lut(values, dataset))
    scaled = np.empty(values.shape, np.float32)
    for number, group in enumerate(groups):
        scaled[number] = apply_modality_lut(values[number], group)
    return scaled
