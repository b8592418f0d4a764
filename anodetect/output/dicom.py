"""Maps of DICOM series as DICOM: a Parametric Map of floats, a Segmentation of what exceeds the
threshold, a segment for each finding, and where there are findings a Structured Report that
measures them (TID 1500).

They lie in the source's frame of reference, have its planes, reference its instances, and name the
algorithm and the model. With a pseudonym they carry it and none of the source's text, dates or
names; its UIDs remain, without which no viewer could place a map on the scan.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy import ndimage

from anodetect.data.dicom import Series
from anodetect.data.dicom_frames import functional_groups
from anodetect.errors import RunError
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.output.formats import Kind, OutputFiles
from anodetect.output.volumes import VolumeMap
from anodetect.types import Floats

CREATOR = "anodetect^software"  # a name has two parts
RESEARCH = "Research use only, not for diagnosis"
# So many findings, those with the highest peaks, have a segment and measurements of their own; the
# others share a segment.
FINDINGS = 20
UNSCORED = -1.0  # stands for NaN; values are never negative where scored

# Codes: value, scheme, meaning
Code = tuple[str, str, str]
AI = ("123110", "DCM", "Artificial Intelligence")
ABNORMAL_STRUCTURE = ("49755003", "SCT", "Morphologically Abnormal Structure")
ABNORMALITY = ("263679003", "SCT", "Abnormality")
ENTIRE_BODY = ("38266002", "SCT", "Entire body")
PEAK, NO_UNITS = ("126031", "DCM", "Peak Value Within ROI"), ("1", "UCUM", "no units")
VOLUME, CUBIC = ("118565006", "SCT", "Volume"), ("mm3", "UCUM", "cubic millimeter")
DEVICE = ("121007", "DCM", "Device")
COMMENT = ("121106", "DCM", "Comment")
PROCESSING = ("109102", "DCM", "Processing Equipment")
PROCEDURE = ("363679005", "SCT", "Imaging procedure")
REPORT_TITLE = ("126000", "DCM", "Imaging Measurement Report")

# Attributes that are taken over from the source: where its voxels lie, and UIDs
PLACES = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "Modality", "Rows", "Columns", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "PositionReferenceIndicator", "SamplesPerPixel",
)  # fmt: skip
# Attributes that only files of several frames have
MULTI_FRAME = (
    "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence", "DimensionOrganizationSequence",
)  # fmt: skip
PATIENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def write(shown: VolumeMap, files: OutputFiles) -> None:
    """Write the heatmap as a Parametric Map, its findings as a Segmentation and, where there are
    any, as a Structured Report. RunError if the volume did not come from DICOM."""
    volume, model = shown.volume, shown.model
    if not isinstance(volume.source.origin, Series):
        raise RunError("no DICOM map: the source is not DICOM; ask for nifti")

    datasets: dict[Kind, Dataset] = {}
    try:
        source = _source_headers(volume.source.origin, shown.pseudonym)
        segments, found = findings(shown.heatmap, shown.above(), volume)
        values = volume.geometry.to_source(shown.heatmap)
        numbered = volume.geometry.to_source(segments)
        datasets["map"] = _parametric_map(values, source, model)
        datasets["mask"] = _segmentation(numbered, found, source, model)
        if found:
            datasets["report"] = _report(found, datasets["mask"], datasets["map"], source, model)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # An attribute that the source should have is missing or wrong.
        raise RunError(f"no DICOM map: {error}") from None

    for kind, dataset in datasets.items():
        if source.references:
            _refer_to_frames(dataset, source.references)
        with files.open(kind) as file:
            dataset.save_as(file, enforce_file_format=True)


# -- Source ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A frame of a multi-frame file: the file's class and instance, and the frame's number from
    1."""

    storage: str
    instance: str
    frame: int


@dataclass(frozen=True)
class SourceHeaders:
    """The header of each slice of a volume, as far as highdicom needs it, as if it were a file of
    its own. `references` are the frames that stand behind instances that are none."""

    headers: list[Dataset]
    references: dict[str, Reference]


def _source_headers(series: Series, pseudonym: str) -> SourceHeaders:
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
    return SourceHeaders(headers, references)


def _place(named: Dataset, group: Dataset) -> None:
    """Let a header say itself where a frame lies, in place of its functional groups."""
    for tag in MULTI_FRAME:
        if tag in named:
            delattr(named, tag)
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        named.add(group[tag])
    named.SliceThickness = group.get("SliceThickness", 1)


def _refer_to_frames(dataset: Dataset, references: Mapping[str, Reference]) -> None:
    """Put frames in the place of the instances that stood for them, and each file once into lists
    of files."""
    for element in dataset:
        if element.VR != "SQ":
            continue
        kept: dict[str, Dataset] = {}
        for number, item in enumerate(element.value):
            _refer_to_frames(item, references)
            found = references.get(str(item.get("ReferencedSOPInstanceUID", "")))
            if found is None:
                kept[str(number)] = item
                continue
            item.ReferencedSOPClassUID = found.storage
            item.ReferencedSOPInstanceUID = found.instance
            if element.keyword == "SourceImageSequence":
                item.ReferencedFrameNumber = found.frame
                kept[str(number)] = item
            else:
                kept.setdefault(found.instance, item)
        if len(kept) < len(element.value):
            element.value = Sequence(kept.values())


def _named(header: Dataset, pseudonym: str) -> Dataset:
    """Return a source's header as it is, or with a pseudonym only its places and UIDs, and the
    pseudonym for the patient's name."""
    kept = Dataset()
    for tag in PLACES if pseudonym else header.keys():
        if tag in header:
            kept.add(copy(header[tag]))  # else what is changed here would change the source

    names = {"PatientName": f"{pseudonym}^", "PatientID": pseudonym}
    for tag in PATIENT:
        if tag not in kept:
            setattr(kept, tag, names.get(tag, ""))

    kept.file_meta = FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return kept


# -- Findings --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A connected region above the threshold: its highest anomaly value, its volume in cubic
    millimetres, and the identifier by which all files call it."""

    peak: float
    volume: float
    uid: str


def findings(
    heatmap: Floats, above: NDArray[np.bool_], volume: PreparedVolume
) -> tuple[NDArray[np.uint8], list[Finding]]:
    """Number the connected regions of `above` [D, H, W] from 1, highest peak first, and measure
    them. After FINDINGS of them all others have the same number and are not measured."""
    parts, count = ndimage.label(above)
    if not count:
        return np.zeros(above.shape, np.uint8), []

    peaks = ndimage.maximum(heatmap, parts, np.arange(1, count + 1))
    order = np.argsort(-np.asarray(peaks), kind="stable")
    number_of = np.zeros(count + 1, np.uint8)
    number_of[1 + order] = np.minimum(np.arange(count), FINDINGS) + 1

    voxel = abs(float(np.linalg.det(volume.geometry.affine[:3, :3])))
    sizes = np.bincount(parts.ravel())[1:]
    found = []
    for n in order[:FINDINGS]:
        volume_of_it = round(float(sizes[n]) * voxel, 3)
        found.append(Finding(float(peaks[n]), volume_of_it, generate_uid()))
    return number_of[parts], found


def _label(number: int) -> str:
    return f"finding {number}"


# -- Parametric Map and Segmentation ---------------------------------------------------------------


def _parametric_map(heatmap: Floats, source: SourceHeaders, model: str) -> Dataset:
    """Return a heatmap [frames, rows, columns] as a Parametric Map of floats."""
    import highdicom as hd

    values = np.nan_to_num(heatmap, nan=UNSCORED)
    high = max(float(values.max()), 1e-6)
    window = hd.VOILUTTransformation(
        window_center=high / 2, window_width=high, voi_lut_function="LINEAR_EXACT"
    )
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="anomaly",
        lut_explanation="Anomaly value, higher is less like normal",
        unit=hd.sr.CodedConcept(*NO_UNITS),
        value_range=(float(values.min()), high),
        slope=1.0,
        intercept=0.0,
    )

    dataset: Dataset = hd.pm.ParametricMap(
        source_images=source.headers,
        pixel_array=np.ascontiguousarray(values, np.float32),
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        contains_recognizable_visual_features=False,
        content_label="ANOMALY",
        content_description=RESEARCH,
        content_creator_name=CREATOR,
        series_description="anodetect anomaly map",
        contributing_equipment=[_equipment(model)],
        **_instance(),
        **_device(),
    )
    dataset.FloatPixelPaddingValue = dataset.FloatPixelPaddingRangeLimit = UNSCORED
    _name_anatomy(dataset)
    _put_in_order(dataset)
    return dataset


def _name_anatomy(dataset: Dataset) -> None:
    """Say in general which part of the body frames show. Some readers fail without it."""
    region, anatomy = Dataset(), Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = ENTIRE_BODY
    anatomy.AnatomicRegionSequence, anatomy.FrameLaterality = [region], "U"
    dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]


def _put_in_order(dataset: Dataset) -> None:
    """Let frames follow each other along the normal of their rows and columns. highdicom writes
    them the other way round, and some readers take the order for granted."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    directions = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, np.float64)
    normal = np.cross(directions[:3], directions[3:])
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    along = []
    for group in groups:
        along.append(np.array(group.PlanePositionSequence[0].ImagePositionPatient) @ normal)

    order = np.argsort(along, kind="stable")
    for number, row in enumerate(order, start=1):
        groups[row].FrameContentSequence[0].DimensionIndexValues = [number]
    dataset.PerFrameFunctionalGroupsSequence = [groups[row] for row in order]
    frames = np.frombuffer(dataset.FloatPixelData, np.uint8).reshape(len(groups), -1)
    dataset.FloatPixelData = frames[order].tobytes()


def _segmentation(
    segments: NDArray[np.uint8], found: list[Finding], source: SourceHeaders, model: str
) -> Dataset:
    """Return findings [frames, rows, columns], numbered from 1, as a binary Segmentation; those
    that were `found` have a name and an identifier of their own."""
    import highdicom as hd

    algorithm = hd.AlgorithmIdentificationSequence(
        name="anodetect",
        family=hd.sr.CodedConcept(*AI),
        version=version("anodetect"),
        parameters={"model SHA-256": model},
    )
    labels = [_label(number) for number in range(1, len(found) + 1)]
    uids = [finding.uid for finding in found]
    if not found or int(segments.max()) > len(found):
        labels.append("other findings" if found else "anomaly")
        uids.append(generate_uid())
    descriptions = []
    for number, (label, uid) in enumerate(zip(labels, uids, strict=True), start=1):
        description = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=hd.sr.CodedConcept(*ABNORMAL_STRUCTURE),
            segmented_property_type=hd.sr.CodedConcept(*ABNORMALITY),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=uid,
            tracking_id=label,
        )
        descriptions.append(description)

    dataset: Dataset = hd.seg.Segmentation(
        source_images=source.headers,
        pixel_array=np.ascontiguousarray(segments),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        content_label="ANOMALY",
        content_description=RESEARCH,
        content_creator_name=CREATOR,
        series_description="anodetect above the anomaly threshold",
        omit_empty_frames=bool(found),
        **_instance(),
        **_device(),
    )
    return dataset


# -- Structured Report -----------------------------------------------------------------------------


def _report(
    found: list[Finding], segmentation: Dataset, heatmap: Dataset, source: SourceHeaders, model: str
) -> Dataset:
    """Return the measurements of each finding, which refer to its segment in the Segmentation."""
    import highdicom as hd

    report = hd.sr.MeasurementReport(
        observation_context=_observer(),
        procedure_reported=hd.sr.CodedConcept(*PROCEDURE),
        imaging_measurements=_measurements(found, segmentation, source, model),
        title=hd.sr.CodedConcept(*REPORT_TITLE),
    )
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    comment = hd.sr.TextContentItem(hd.sr.CodedConcept(*COMMENT), RESEARCH, contains)
    report[0].ContentSequence.append(comment)

    dataset: Dataset = hd.sr.ComprehensiveSR(
        evidence=[segmentation, heatmap, *source.headers],
        content=report[0],
        is_complete=True,
        series_description="anodetect findings",
        **_instance(),
    )
    dataset.ManufacturerModelName = "anodetect"
    dataset.SoftwareVersions = version("anodetect")
    return dataset


def _measurements(
    found: list[Finding], segmentation: Dataset, source: SourceHeaders, model: str
) -> list[Any]:
    """Return a group of measurements for each finding: its peak and its volume."""
    import highdicom as hd

    algorithm = hd.sr.AlgorithmIdentification(
        name="anodetect",
        version=version("anodetect"),
        parameters=[f"model SHA-256: {model}"],
        family=hd.sr.CodedConcept(*AI),
        manufacturer="anodetect",
    )
    series = hd.sr.SourceSeriesForSegmentation(source.headers[-1].SeriesInstanceUID)
    instance = (segmentation.SOPClassUID, segmentation.SOPInstanceUID)

    groups = []
    for number, finding in enumerate(found, start=1):
        values = (PEAK, finding.peak, NO_UNITS), (VOLUME, finding.volume, CUBIC)
        group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(
                uid=finding.uid, identifier=_label(number)
            ),
            referenced_segment=hd.sr.ReferencedSegment(*instance, number, source_series=series),
            finding_category=hd.sr.CodedConcept(*ABNORMAL_STRUCTURE),
            finding_type=hd.sr.CodedConcept(*ABNORMALITY),
            algorithm_id=algorithm,
            measurements=[_measurement(*each) for each in values],
        )
        groups.append(group)
    return groups


def _measurement(name: Code, value: float, unit: Code) -> Any:
    import highdicom as hd

    return hd.sr.Measurement(hd.sr.CodedConcept(*name), value, hd.sr.CodedConcept(*unit))


def _observer() -> Any:
    """Return this program as the device that observed."""
    import highdicom as hd

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        generate_uid(),
        name="anodetect",
        manufacturer_name="anodetect",
        model_name=version("anodetect"),
    )
    observer = hd.sr.ObserverContext(hd.sr.CodedConcept(*DEVICE), device)
    return hd.sr.ObservationContext(observer_device_context=observer)


# -- What all have in common -----------------------------------------------------------------------


def _equipment(model: str) -> Any:
    """Return this program with the model as the equipment that contributed to a Parametric Map,
    which has no other place for an algorithm."""
    import highdicom as hd

    return hd.ContributingEquipment(
        manufacturer="anodetect",
        purpose_of_reference=hd.sr.CodedConcept(*PROCESSING),
        manufacturer_model_name="anodetect",
        software_versions=version("anodetect"),
        contribution_description=(
            f"anomaly detection (artificial intelligence) by the model with SHA-256 {model}"
        ),
    )


def _instance() -> dict[str, Any]:
    """Return the attributes of a new file in a series of its own."""
    return {
        "series_instance_uid": generate_uid(),
        "series_number": 9000,
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": "anodetect",
    }


def _device() -> dict[str, Any]:
    """Return the attributes of the program that made a file."""
    return {
        "manufacturer_model_name": "anodetect",
        "software_versions": version("anodetect"),
        "device_serial_number": "none",
    }
