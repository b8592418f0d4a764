"""Where each frame of a DICOM file lies in the patient, and what tells it from other frames of the
same place.

Attributes of multi-frame images are read from the functional group that the standard defines for
them. Other groups, private ones above all, hold attributes of the same names that mean something
else.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, SegmentationStorage

from anodetect.data.dicom_head import PARTS, TOMOGRAPHIC
from anodetect.data.volumes import MAX_VOXELS
from anodetect.errors import ImageError
from anodetect.words import amount

TOMOGRAMS = ("RECON TOMO", "RECON GATED TOMO")  # of nuclear medicine
PLACE_TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
# Functional groups (PS3.3, C.7.6.16.2 and C.8.13.5) and the attributes that are read from each.
MACROS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameContentSequence": ("StackID", "TemporalPositionIndex", "FrameAcquisitionNumber"),
    "MRImageFrameTypeSequence": ("ComplexImageComponent",),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionGradientDirectionSequence"),
    "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime",),
}
# What frames of the same place may differ in, in the order in which it is looked for: what it is
# called, and the attribute in single-frame and in multi-frame images.
TRAITS = (
    ("part", "ComplexImageComponent", "ComplexImageComponent"),
    ("echo", "EchoTime", "EffectiveEchoTime"),
    ("b", "DiffusionBValue", "DiffusionBValue"),
    ("direction", "DiffusionGradientOrientation", "DiffusionGradientDirectionSequence"),
    ("time", "TemporalPositionIdentifier", "TemporalPositionIndex"),
    ("trigger", "TriggerTime", "NominalCardiacTriggerDelayTime"),
    ("inversion", "InversionTime", "InversionTime"),
    ("kernel", "ConvolutionKernel", "ConvolutionKernel"),
    ("stack", "StackID", "StackID"),
    ("acquisition", "AcquisitionNumber", "FrameAcquisitionNumber"),
)


EXACT, ROUNDED = 1e-4, 0.05  # of the length of directions: as it should be, and as few digits leave


@dataclass(frozen=True)
class Frame:
    """One frame of one file, and where it lies: LPS+ millimetres of its first pixel, directions of
    rows and columns [6], and millimetres between rows and between columns. `size` counts the rows
    and columns of its file.

    `traits` are its values of TRAITS, "" where it has none. `instance` is the number of its file in
    the series, as the scanner counted. With `localizer` it shows where others lie.
    """

    file: int
    number: int
    position: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float
    traits: tuple[str, ...] = ("",) * len(TRAITS)
    instance: int = 0
    localizer: bool = False
    size: tuple[int, int] = (0, 0)


def frames(header: Dataset, file: int) -> list[Frame]:
    """Return the frames of a file, which has the number `file` in its series; none if they have no
    place in the patient. ImageError if there is no image."""
    count = frame_count(header)
    groups = functional_groups(header)
    if groups and len(groups) != count:
        described = amount(len(groups), "is", "are")
        raise ImageError(f"{amount(count, 'frame')}, but {described} described")
    if not groups and count == 1:
        groups = [header]

    found = [frame_of(group, file, number, header) for number, group in enumerate(groups)]
    places = [frame for frame in found if frame is not None]
    tomographic = header.get("Modality") in TOMOGRAPHIC
    if len(places) < max(len(found), count) and (places or tomographic):
        raise ImageError(
            "no place in the patient (image position, orientation or pixel spacing is missing)"
        )
    if not places and count > 1:
        raise ImageError(
            f"{count} frames without a place in the patient, which are no volume; "
            "train --frames takes each for an image"
        )
    return places


def is_pictures(header: Dataset) -> bool:
    """Return whether a file has several frames and is of a modality whose frames need not be slices
    of a volume, such as ultrasound, angiography or OCT."""
    several = int(header.get("NumberOfFrames") or 1) > 1
    return several and header.get("Modality") not in TOMOGRAPHIC


def with_groups(header: Dataset) -> Dataset:
    """Return the header of a reconstructed tomogram of nuclear medicine with a functional group for
    each frame, which says where it lies; any other header, also of one that does not say where its
    frames lie, as it is.

    There one detector has the place of the first slice, and the sign of SpacingBetweenSlices says
    on which side of it the others follow (PS3.3, C.8.4.15).
    """
    kinds = image_type(header)[2:3]
    slices = _whole_numbers(header.get("SliceVector"))
    detectors = header.get("DetectorInformationSequence") or ()
    is_tomogram = header.get("Modality") == "NM" and kinds and kinds[0] in TOMOGRAMS
    if not is_tomogram or not slices or not detectors or "SpacingBetweenSlices" not in header:
        return header
    first = Dataset()
    for tag in PLACE_TAGS:
        source = header if tag == "PixelSpacing" else detectors[0]
        if tag not in source:
            return header
        first.add(source[tag])
    start = frame_of(first, 0, 0, header)
    assert start is not None

    step = np.cross(start.directions[:3], start.directions[3:])
    step = step * number_of(header, "SpacingBetweenSlices")
    times = _whole_numbers(header.get("TimeSlotVector"))
    placed = Dataset()
    placed.update(header)
    if hasattr(header, "file_meta"):
        placed.file_meta = header.file_meta
    del placed.SpacingBetweenSlices  # which both would share; its sign has been read
    placed.SharedFunctionalGroupsSequence = [_shared_group(header, detectors[0])]
    groups = []
    for number, place in enumerate(slices):
        time = times[number] if len(times) == len(slices) else None
        groups.append(_group_at(start.position + (place - 1) * step, time))
    placed.PerFrameFunctionalGroupsSequence = groups
    return placed


def _shared_group(header: Dataset, detector: Dataset) -> Dataset:
    """Return what all slices of a tomogram have in common as a functional group."""
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = detector.ImageOrientationPatient
    measures.PixelSpacing = header.PixelSpacing
    measures.SpacingBetweenSlices = abs(number_of(header, "SpacingBetweenSlices"))
    measures.SliceThickness = header.get("SliceThickness") or measures.SpacingBetweenSlices
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    return shared


def _group_at(position: NDArray[np.float64], time: int | None) -> Dataset:
    """Return the functional group of a slice at a place, and of a time if it has one."""
    group, place, content = Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient = [f"{value:.8g}" for value in position]
    group.PlanePositionSequence = [place]
    if time is not None:
        content.TemporalPositionIndex = time
    group.FrameContentSequence = [content]
    return group


def _whole_numbers(value: object) -> list[int]:
    """Return the whole numbers of an attribute that has one for each frame; [] if it has none."""
    parts = value if isinstance(value, list | MultiValue) else [value]
    return [part for part in parts if isinstance(part, int)]


def frame_count(header: Dataset) -> int:
    """Return how many frames a file has; ImageError if it has no pixels, or too many."""
    if not header.get("Rows") or not header.get("Columns"):
        raise ImageError(without_pixels(header))
    if header.get("SOPClassUID") == SegmentationStorage:
        raise ImageError("a segmentation, not an image")

    count = int(header.get("NumberOfFrames") or 1)
    size = int(header.Rows) * int(header.Columns) * count * int(header.get("SamplesPerPixel", 1))
    if not 0 < size <= MAX_VOXELS:
        raise ImageError(
            f"{header.Columns} × {header.Rows} × {count} is more than {MAX_VOXELS} voxels, or none"
        )
    return count


def without_pixels(header: Dataset) -> str:
    """Return the reason to refuse a file that has no pixels."""
    if 0 in (header.get("Rows"), header.get("Columns")):
        return f"an empty image, {header.get('Columns')} × {header.get('Rows')} pixels"
    storage = str(header.get("SOPClassUID") or "")
    name = UID(storage).name
    has_some = name == storage or "Image" in name  # an unknown class, or one of images
    return f"no pixels ({name or 'no SOP class'})" + ("; it may be cut off" if has_some else "")


def functional_groups(header: Dataset) -> list[Dataset]:
    """Return for each frame of a multi-frame image one flat data set of its attributes in MACROS,
    its own before those that all frames share."""
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    flat = []
    for own in header.get("PerFrameFunctionalGroupsSequence") or ():
        merged = Dataset()
        for macro, attributes in MACROS.items():
            items: list[Dataset] = list(own.get(macro) or shared.get(macro) or [])
            for tag in attributes if len(items) == 1 else ():
                if tag in items[0]:
                    merged.add(items[0][tag])
        flat.append(merged)
    return flat


def frame_of(group: Dataset, file: int, number: int, header: Dataset) -> Frame | None:
    """Return a frame from its attributes and its file's `header`, None if it has no place in the
    patient; ImageError if the place is not valid."""
    if not all(group.get(tag) for tag in PLACE_TAGS):
        return None

    position = numbers_of(group, "ImagePositionPatient")
    directions = numbers_of(group, "ImageOrientationPatient")
    complete = position.shape == (3,) and directions.shape == (6,)
    if not complete or not (np.isfinite(position).all() and np.isfinite(directions).all()):
        raise ImageError("image position or orientation is no place in the patient")

    spacing = numbers_of(group, "PixelSpacing")
    if spacing.shape != (2,):
        raise ImageError("PixelSpacing is not two numbers; correct the header")
    rows, columns = spacing.tolist()
    if not (rows > 0 and columns > 0):
        raise ImageError(f"pixel spacing {rows:g} × {columns:g} mm; correct the header")

    lengths = np.linalg.norm(directions.reshape(2, 3), axis=1)
    if np.abs(lengths - 1).max() > ROUNDED or abs(directions[:3] @ directions[3:]) > 0.01:
        raise ImageError("the image orientation is not two perpendicular directions")
    if np.abs(lengths - 1).max() > EXACT:
        directions = directions / np.repeat(lengths, 3)

    thickness = 1.0
    for tag in ("SliceThickness", "SpacingBetweenSlices"):
        if group.get(tag):
            thickness = abs(number_of(group, tag))
    return Frame(
        file=file,
        number=number,
        position=position,
        directions=directions,
        spacing=(rows, columns),
        thickness=thickness or 1.0,
        traits=_traits(group, header),
        instance=_instance_number(header),
        localizer="LOCALIZER" in image_type(header),
        size=(int(header.get("Rows", 0)), int(header.get("Columns", 0))),
    )


def numbers_of(header: Dataset, tag: str) -> NDArray[np.float64]:
    """Return the values of an attribute, [n] or of a single one []; ImageError if they are no
    numbers."""
    try:
        return np.asarray(header[tag].value, np.float64)
    except (TypeError, ValueError):  # what they are instead is the file's affair
        raise ImageError(f"{tag} is not a number; correct the header") from None


def number_of(header: Dataset, tag: str) -> float:
    """Return the value of an attribute; ImageError if it is not one number."""
    found = numbers_of(header, tag)
    if found.ndim or not np.isfinite(found):
        raise ImageError(f"{tag} is not a number; correct the header")
    return float(found)


def image_type(header: Dataset) -> list[str]:
    """Return the values of the image type in capitals; [] if there is none."""
    value = header.get("ImageType") or ()
    parts = (value,) if isinstance(value, str) else value
    return [str(part).strip().upper() for part in parts]


def _traits(group: Dataset, header: Dataset) -> tuple[str, ...]:
    """Return a frame's values of TRAITS as text, numbers rounded to three digits after the
    point."""
    found = []
    for name, single, several in TRAITS:
        value = group.get(single if group is header else several)
        if value is None:  # what all frames share may stand in the header itself
            value = header.get(single)
        if several.endswith("Sequence") and group is not header:
            value = value[0].get(single) if value else None
        text = _as_text(value)
        if name == "part":
            text = PARTS.get(text.upper(), "") or part_of(header)
        found.append(text)

    return tuple(found)


def part_of(header: Dataset) -> str:
    """Return which part of a complex number the image type names, "" if none."""
    for value in image_type(header)[2:]:
        if value in PARTS:
            return PARTS[value]
    return ""


def _as_text(value: object) -> str:
    """Return a value as short text that names may contain; "" for none."""
    if value is None or value == "":
        return ""
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    words = []
    for part in parts:
        try:
            words.append(f"{round(float(str(part)), 3):g}")
        except ValueError:
            words.append(" ".join(str(part).split()))
    return " ".join(words)


def _instance_number(header: Dataset) -> int:
    try:
        return int(header.get("InstanceNumber") or 0)
    except (TypeError, ValueError):
        return 0
