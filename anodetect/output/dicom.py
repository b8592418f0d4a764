"""Maps of DICOM series as DICOM: a Parametric Map of floats, a Segmentation of what exceeds the
threshold, a segment for each finding, and where there are findings a Structured Report that
measures them (TID 1500).

They lie in the source's frame of reference, have its planes, reference its instances, and name the
algorithm and the model. With a pseudonym they carry it and none of the source's text, dates or
names; its UIDs remain, without which no viewer could place a map on the scan.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from anodetect.data.dicom import Series
from anodetect.errors import RunError
from anodetect.imaging.preprocess import Prepared
from anodetect.output.formats import Kind, OutputFiles
from anodetect.output.volumes import VolumeMap
from anodetect.types import Floats

RESEARCH = "Research use only, not for diagnosis"
# with a segment and measurements of their own, those with the highest peaks; the rest share a
# segment
FINDINGS = 20
UNSCORED = -1.0  # in floats, which are never negative where scored
AI = ("123110", "DCM", "Artificial Intelligence")
ABNORMAL_STRUCTURE = ("49755003", "SCT", "Morphologically Abnormal Structure")
ABNORMALITY = ("263679003", "SCT", "Abnormality")
PEAK, NO_UNITS = ("126031", "DCM", "Peak Value Within ROI"), ("1", "UCUM", "no units")
VOLUME, CUBIC = ("118565006", "SCT", "Volume"), ("mm3", "UCUM", "cubic millimeter")
PLACES = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "Modality", "Rows", "Columns", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "NumberOfFrames",
    "SpacingBetweenSlices", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence", "DimensionOrganizationSequence", "PositionReferenceIndicator",
    "SamplesPerPixel",
)  # fmt: skip
PATIENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def write(shown: VolumeMap, files: OutputFiles) -> None:
    """Write the heatmap as a Parametric Map, its findings as a Segmentation and, where there are
    any, as a Structured Report. RunError if the volume did not come from DICOM."""
    volume, model = shown.volume, shown.model
    if not isinstance(volume.volume.origin, Series):
        raise RunError("no DICOM map: the source is not DICOM; ask for nifti")

    datasets: dict[Kind, Dataset] = {}
    try:
        source, order = _source(volume, shown.pseudonym)
        segments, found = findings(shown.heatmap, shown.above(), volume)
        datasets["map"] = _map(shown.heatmap, volume, source, order, model)
        datasets["mask"] = _segmentation(segments, len(found), volume, source, order, model)
        if found:
            evidence = [datasets["mask"], datasets["map"], *source]
            datasets["report"] = _report(found, evidence, model)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # An attribute that the source should have is missing or wrong.
        raise RunError(f"no DICOM map: {error}") from None

    for kind, dataset in datasets.items():
        with files.open(kind) as file:
            dataset.save_as(file, enforce_file_format=True)


@dataclass(frozen=True)
class Finding:
    """A connected region above the threshold: its highest anomaly value, and its volume in cubic
    millimetres."""

    peak: float
    volume: float


def findings(
    heatmap: Floats, above: NDArray[np.bool_], volume: Prepared
) -> tuple[NDArray[np.uint8], list[Finding]]:
    """Number the connected regions of `above` [D, H, W] from 1, highest peak first; after FINDINGS
    of them all others have the same number."""
    parts, count = ndimage.label(above)
    if not count:
        return np.zeros(above.shape, np.uint8), []
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(heatmap, parts, numbers)
    order = np.argsort(-np.asarray(peaks), kind="stable")
    place = np.zeros(count + 1, np.uint8)
    place[1 + order] = np.minimum(np.arange(count), FINDINGS) + 1
    voxel = abs(float(np.linalg.det(volume.geometry.affine[:3, :3])))
    sizes = np.bincount(parts.ravel())[1:]
    found = [Finding(float(peaks[n]), round(float(sizes[n]) * voxel, 3)) for n in order[:FINDINGS]]
    return place[parts], found


def _map(
    heatmap: Floats, volume: Prepared, source: list[Dataset], order: list[int], model: str
) -> Dataset:
    """A heatmap [D, H, W] as a Parametric Map of floats."""
    import highdicom as hd

    values = np.nan_to_num(volume.geometry.to_source(heatmap), nan=UNSCORED)[order]
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
    made: Dataset = hd.pm.ParametricMap(
        source_images=source,
        pixel_array=np.ascontiguousarray(values, np.float32),
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        contains_recognizable_visual_features=False,
        content_label="ANOMALY",
        content_description=RESEARCH,
        series_description="anodetect anomaly map",
        contributing_equipment=[_equipment(model)],
        **_common(),
        **_device(),
    )
    made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = UNSCORED
    made.Laterality = ""  # the whole patient's; the checker wants it said
    return made


def _segmentation(
    segments: NDArray[np.uint8],
    found: int,
    volume: Prepared,
    source: list[Dataset],
    order: list[int],
    model: str,
) -> Dataset:
    """Return findings [D, H, W], numbered from 1, as a binary Segmentation; the first `found` have
    a name of their own."""
    import highdicom as hd

    algorithm = hd.AlgorithmIdentificationSequence(
        name="anodetect",
        family=hd.sr.CodedConcept(*AI),
        version=version("anodetect"),
        parameters={"model SHA-256": model},
    )
    count = max(1, int(segments.max()))
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=_label(number)
            if number <= found
            else "other findings"
            if found
            else "anomaly",
            segmented_property_category=hd.sr.CodedConcept(*ABNORMAL_STRUCTURE),
            segmented_property_type=hd.sr.CodedConcept(*ABNORMALITY),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number in range(1, count + 1)
    ]
    made: Dataset = hd.seg.Segmentation(
        source_images=source,
        pixel_array=np.ascontiguousarray(volume.geometry.to_source(segments)[order]),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        content_label="ANOMALY",
        content_description=RESEARCH,
        series_description="anodetect above the anomaly threshold",
        omit_empty_frames=bool(found),
        **_common(),
        **_device(),
    )
    return made


def _report(found: list[Finding], evidence: list[Dataset], model: str) -> Dataset:
    """Measurements of each finding, referring to its segment in the Segmentation, which is the
    first of `evidence`; the last is of the source."""
    import highdicom as hd

    segmentation, series = (
        evidence[0],
        hd.sr.SourceSeriesForSegmentation(evidence[-1].SeriesInstanceUID),
    )
    algorithm = hd.sr.AlgorithmIdentification(
        name="anodetect",
        version=version("anodetect"),
        parameters=[f"model SHA-256: {model}"],
        family=hd.sr.CodedConcept(*AI),
        manufacturer="anodetect",
    )
    groups = [
        hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(
                uid=generate_uid(), identifier=_label(number)
            ),
            referenced_segment=hd.sr.ReferencedSegment(
                segmentation.SOPClassUID, segmentation.SOPInstanceUID, number, source_series=series
            ),
            finding_category=hd.sr.CodedConcept(*ABNORMAL_STRUCTURE),
            finding_type=hd.sr.CodedConcept(*ABNORMALITY),
            algorithm_id=algorithm,
            measurements=[
                hd.sr.Measurement(
                    hd.sr.CodedConcept(*PEAK), finding.peak, hd.sr.CodedConcept(*NO_UNITS)
                ),
                hd.sr.Measurement(
                    hd.sr.CodedConcept(*VOLUME), finding.volume, hd.sr.CodedConcept(*CUBIC)
                ),
            ],
        )
        for number, finding in enumerate(found, start=1)
    ]
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        generate_uid(),
        name="anodetect",
        manufacturer_name="anodetect",
        model_name=version("anodetect"),
    )
    observer = hd.sr.ObserverContext(hd.sr.CodedConcept("121007", "DCM", "Device"), device)
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=hd.sr.CodedConcept("126000", "DCM", "Imaging Measurement Report"),
    )
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    comment = hd.sr.TextContentItem(
        hd.sr.CodedConcept("121106", "DCM", "Comment"), RESEARCH, contains
    )
    report[0].ContentSequence.append(comment)
    made: Dataset = hd.sr.ComprehensiveSR(
        evidence=evidence,
        content=report[0],
        is_complete=True,
        series_description="anodetect findings",
        **_common(),
    )
    made.ManufacturerModelName, made.SoftwareVersions = "anodetect", version("anodetect")
    return made


def _label(number: int) -> str:
    return f"finding {number}"


def _equipment(model: str) -> Any:
    """What made a Parametric Map, which has no place for an algorithm otherwise."""
    import highdicom as hd

    return hd.ContributingEquipment(
        manufacturer="anodetect",
        purpose_of_reference=hd.sr.CodedConcept("109102", "DCM", "Processing Equipment"),
        manufacturer_model_name="anodetect",
        software_versions=version("anodetect"),
        contribution_description=(
            f"anomaly detection (artificial intelligence) by the model with SHA-256 {model}"
        ),
    )


def _common() -> dict[str, Any]:
    return {
        "series_instance_uid": generate_uid(),
        "series_number": 9000,
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": "anodetect",
    }


def _device() -> dict[str, Any]:
    return {
        "manufacturer_model_name": "anodetect",
        "software_versions": version("anodetect"),
        "device_serial_number": "none",
    }


def _source(volume: Prepared, pseudonym: str) -> tuple[list[Dataset], list[int]]:
    """The source's headers as far as highdicom needs them, and the volume's slices in the order of
    their frames."""
    series: Series = volume.volume.origin
    order = [0] * len(series.numbers)
    for place, number in enumerate(series.numbers):
        order[number] = place
    return [_named(header, pseudonym) for header in series.headers], order


def _named(header: Dataset, pseudonym: str) -> Dataset:
    """A source's header as it is, or only its places and UIDs, with the pseudonym for a name."""
    kept = Dataset()
    for tag in PLACES if pseudonym else header.keys():
        if tag in header:
            kept.add(header[tag])
    for tag in PATIENT:
        if tag not in kept:
            setattr(
                kept, tag, {"PatientName": f"{pseudonym}^", "PatientID": pseudonym}.get(tag, "")
            )
    kept.file_meta = FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return kept
