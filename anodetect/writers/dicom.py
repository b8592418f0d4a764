"""Maps of DICOM series as DICOM: a Parametric Map of floats and a Segmentation of what exceeds the threshold.

Both lie in the source's frame of reference, have its planes, reference its instances, and name the algorithm. With a
pseudonym they carry it and none of the source's text, dates or names; its UIDs remain, without which no viewer could
place a map on the scan.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from anodetect.data.dicom import Series
from anodetect.data.preprocess import Prepared
from anodetect.errors import RunError
from anodetect.files import atomic
from anodetect.types import Floats

RESEARCH = "Research use only, not for diagnosis"
UNSCORED = -1.0  # in floats, which are never negative where scored
PLACES = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Rows",
    "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "NumberOfFrames",
    "SpacingBetweenSlices", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence", "DimensionOrganizationSequence", "PositionReferenceIndicator", "SamplesPerPixel",
)  # fmt: skip
PATIENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def write(stem: Path, heatmap: Floats, above: NDArray[np.bool_], volume: Prepared, pseudonym: str) -> list[Path]:
    """Both files of a volume; RunError if it did not come from DICOM."""
    if not isinstance(volume.volume.origin, Series):
        raise RunError("no DICOM map: the source is not DICOM; ask for nifti")
    paths = [stem.with_name(f"{stem.name}_heatmap.dcm"), stem.with_name(f"{stem.name}_segmentation.dcm")]
    try:
        write_map(paths[0], heatmap, volume, pseudonym)
        write_segmentation(paths[1], above, volume, pseudonym)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # attributes that the source should have
        raise RunError(f"no DICOM map: {error}") from None
    return paths


def write_map(path: Path, heatmap: Floats, volume: Prepared, pseudonym: str) -> None:
    """A heatmap [D, H, W] as a Parametric Map of floats."""
    import highdicom as hd

    source, order = _source(volume, pseudonym)
    values = np.nan_to_num(volume.geometry.to_source(heatmap), nan=UNSCORED)[order]
    high = max(float(values.max()), 1e-6)
    window = hd.VOILUTTransformation(window_center=high / 2, window_width=high, voi_lut_function="LINEAR_EXACT")
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="anomaly",
        lut_explanation="Anomaly value, higher is less like normal",
        unit=hd.sr.CodedConcept("1", "UCUM", "no units"),
        value_range=(float(values.min()), high),
        slope=1.0,
        intercept=0.0,
    )
    made = hd.pm.ParametricMap(
        source_images=source,
        pixel_array=np.ascontiguousarray(values, np.float32),
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        contains_recognizable_visual_features=False,
        content_label="ANOMALY",
        content_description=RESEARCH,
        series_description="anodetect anomaly map",
        **_common(),
    )
    made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = UNSCORED
    made.Laterality = ""  # the whole patient's; the checker wants it said
    _save(path, made)


def write_segmentation(path: Path, above: NDArray[np.bool_], volume: Prepared, pseudonym: str) -> None:
    """What exceeds the threshold, bool [D, H, W], as a binary Segmentation."""
    import highdicom as hd

    source, order = _source(volume, pseudonym)
    algorithm = hd.AlgorithmIdentificationSequence(
        name="anodetect",
        family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
        version=version("anodetect"),
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="anomaly",
        segmented_property_category=hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
        segmented_property_type=hd.sr.CodedConcept("263679003", "SCT", "Abnormality"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    made = hd.seg.Segmentation(
        source_images=source,
        pixel_array=np.ascontiguousarray(volume.geometry.to_source(above)[order]),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        content_label="ANOMALY",
        content_description=RESEARCH,
        series_description="anodetect above the anomaly threshold",
        omit_empty_frames=bool(above.any()),
        **_common(),
    )
    _save(path, made)


def _common() -> dict[str, Any]:
    return {
        "series_instance_uid": generate_uid(),
        "series_number": 9000,
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": "anodetect",
        "manufacturer_model_name": "anodetect",
        "software_versions": version("anodetect"),
        "device_serial_number": "none",
    }


def _source(volume: Prepared, pseudonym: str) -> tuple[list[Dataset], list[int]]:
    """The source's headers as far as highdicom needs them, and the volume's slices in the order of their frames."""
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
            setattr(kept, tag, {"PatientName": f"{pseudonym}^", "PatientID": pseudonym}.get(tag, ""))
    kept.file_meta = FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return kept


def _save(path: Path, made: Dataset) -> None:
    with atomic(path, durable=False) as file:
        made.save_as(file, enforce_file_format=True)
