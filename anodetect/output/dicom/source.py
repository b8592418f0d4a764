"""The headers of a source, as DICOM files that are made of it need them.

With a pseudonym they keep where voxels lie, UIDs, without which no viewer could place a map on the
scan, the side of the body and whether pixels were compressed with loss; none of the source's text,
dates or names.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    MRImageStorage,
    generate_uid,
)

from anodetect.data.dicom import Series
from anodetect.data.dicom_frames import functional_groups
from anodetect.output.dicom import codes
from anodetect.output.dicom.codes import coded
from anodetect.output.dicom.values import conforming

SIDES = ("L", "R", "B", "U")  # left, right, both, unpaired
SERIES_APART, HUGE_SERIES = 100, 10**7  # a number has at most 31 bits
WITHOUT_SERIES = 9000  # the number before those of series whose source has none

# Attributes that a header keeps with a pseudonym
PLACES = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "Modality", "Rows", "Columns", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "PositionReferenceIndicator", "SamplesPerPixel", "PatientOrientation", "Laterality",
    "ImageLaterality", "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)  # fmt: skip
# Attributes that only files of several frames have
MULTI_FRAME = (
    "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence", "DimensionOrganizationSequence",
)  # fmt: skip
LOSSY = (
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
# Ways in which pixels may be stored that always lose something, and the methods they use
LOSSY_SYNTAXES = {
    JPEGBaseline8Bit: "ISO_10918_1", JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
}  # fmt: skip
IDENTITY_REMOVED = (
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
)  # fmt: skip
METHOD = "anodetect: all removed but places and UIDs, patient renamed"
PATIENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """A frame of a multi-frame file: the file's class and instance, and the frame's number from
    1."""

    storage: str
    instance: str
    frame: int


@dataclass(frozen=True)
class SourceHeaders:
    """The header of an image, or of each slice of a volume, as far as highdicom needs it, as if it
    were a file of its own.

    `references` are the frames that stand behind instances that are none. `series` is the number of
    the source's series, 0 if it has none. `laterality` is the side of the body, as DICOM names it,
    "" where that is not said.
    """

    headers: list[Dataset]
    references: dict[str, Reference]
    series: int = 0
    laterality: str = ""

    def series_number(self, place: int) -> int:
        """Return the number of the series at this place, from 1, of those that are made of the
        source: higher than the source's, and another one for each."""
        if self.series <= 0:
            return WITHOUT_SERIES + place
        apart = SERIES_APART if self.series < HUGE_SERIES else 1
        return apart * self.series + place

    def carry_loss(self, dataset: Dataset) -> None:
        """Let a file of pixels say that the source's were compressed with loss, if any were."""
        for header in self.headers:
            if header.get(LOSSY[0]) != "01":
                continue
            for tag in LOSSY:
                if tag in header:
                    dataset[tag] = copy(header[tag])
            return


def image_header(header: Dataset, pseudonym: str) -> SourceHeaders:
    """Return the header of an image as that of a source."""
    return SourceHeaders([_named(header, pseudonym)], {}, *_series_and_side([header]))


def source_headers(series: Series, pseudonym: str) -> SourceHeaders:
    """Return the headers of a volume's slices as those of a source."""
    headers: list[Dataset] = []
    references: dict[str, Reference] = {}
    groups: dict[int, list[Dataset]] = {}  # of each file, whose header all of its slices share
    for header, number in zip(series.headers, series.numbers, strict=True):
        named = _named(header, pseudonym)
        if "PerFrameFunctionalGroupsSequence" in header:
            instance = generate_uid()
            storage, named.SOPClassUID = str(header.SOPClassUID), MRImageStorage
            references[instance] = Reference(storage, str(header.SOPInstanceUID), number + 1)
            named.SOPInstanceUID = instance
            if id(header) not in groups:
                groups[id(header)] = functional_groups(header)
            _place(named, groups[id(header)][number])
        headers.append(named)
    for named in headers:  # to the last digit, which scanners do not always write
        named.ImageOrientationPatient = headers[0].ImageOrientationPatient
    _name_space(headers)
    return SourceHeaders(headers, references, *_series_and_side(series.headers))


def _name_space(headers: Sequence[Dataset]) -> None:
    """Give a name to the space in which the slices of a series lie where none of them names it: the
    same for all files that are made of the series."""
    if any(header.get("FrameOfReferenceUID") for header in headers):
        return
    source = str(headers[0].SeriesInstanceUID)
    name = generate_uid(entropy_srcs=[source, "frame of reference"])
    for header in headers:
        header.FrameOfReferenceUID = name


def _series_and_side(headers: Iterable[Dataset]) -> tuple[int, str]:
    """Return the highest number of a series, and the side of the body."""
    number, side = 0, ""
    for header in headers:
        number = max(number, _whole(header.get("SeriesNumber")))
        side = side or str(header.get("ImageLaterality") or header.get("Laterality") or "")
        shared = header.get("SharedFunctionalGroupsSequence") or ()
        frames = header.get("PerFrameFunctionalGroupsSequence") or ()
        for group in (*shared[:1], *frames[:1]):
            for anatomy in group.get("FrameAnatomySequence") or ():
                side = side or str(anatomy.get("FrameLaterality") or "")
    return number, side if side in SIDES else ""


def _whole(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:  # "None", or no number
        return 0


def _place(named: Dataset, group: Dataset) -> None:
    """Let a header say itself where a frame lies, in place of its functional groups."""
    for tag in MULTI_FRAME:
        if tag in named:
            delattr(named, tag)
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        named.add(group[tag])
    named.SliceThickness = group.get("SliceThickness", 1)


def refer_to_frames(dataset: Dataset, references: Mapping[str, Reference]) -> None:
    """Put frames in the place of the instances that stood for them, and each file once into lists
    of files."""
    for element in dataset:
        if element.VR != "SQ":
            continue
        kept: dict[str, Dataset] = {}
        for number, item in enumerate(element.value):
            refer_to_frames(item, references)
            found = references.get(str(item.get("ReferencedSOPInstanceUID", "")))
            if found is None:
                kept[str(number)] = item
                continue
            item.ReferencedSOPClassUID = found.storage
            item.ReferencedSOPInstanceUID = found.instance
            if element.keyword == "SourceImageSequence" or dataset.get("ValueType") == "IMAGE":
                item.ReferencedFrameNumber = found.frame
                kept[str(number)] = item
            else:
                kept.setdefault(found.instance, item)
        if len(kept) < len(element.value):
            element.value = DicomSequence(kept.values())


def _named(header: Dataset, pseudonym: str) -> Dataset:
    """Return a source's header as it is, or with a pseudonym only its places and UIDs, and the
    pseudonym for the patient's name."""
    kept = Dataset()
    for tag in PLACES if pseudonym else header.keys():
        if tag in header:
            kept.add(conforming(header[tag]))  # a copy, which may be changed

    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if LOSSY[0] not in kept and syntax in LOSSY_SYNTAXES:
        kept.LossyImageCompression = "01"
        kept.LossyImageCompressionMethod = LOSSY_SYNTAXES[syntax]

    names = {"PatientName": f"{pseudonym}^", "PatientID": pseudonym}
    for tag in PATIENT:
        if tag not in kept:
            setattr(kept, tag, names.get(tag, ""))
    if pseudonym:
        kept.PatientIdentityRemoved, kept.DeidentificationMethod = "YES", METHOD
        kept.DeidentificationMethodCodeSequence = [coded(each) for each in codes.DEIDENTIFIED]

    kept.file_meta = FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return kept
