"""A Segmentation of the regions that count, with a segment for each finding."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from anodetect.output.dicom import codes, findings
from anodetect.output.dicom.findings import Finding
from anodetect.output.dicom.shared import CREATOR, RESEARCH, device, instance
from anodetect.output.dicom.source import SourceHeaders

OTHERS = "other findings"
MARKED = "marked by reviewers"
NOT_CLAIMED = "above the threshold, not flagged"


@dataclass(frozen=True)
class _Segment:
    """A segment's name, the identifier of what it marks, and the codes of its category and type."""

    label: str
    uid: str
    category: codes.Code = codes.ABNORMAL_STRUCTURE
    type: codes.Code = codes.ABNORMALITY


def segmentation(
    numbered: NDArray[np.uint8], found: list[Finding], source: SourceHeaders, model: str
) -> Dataset:
    """Return regions [frames, rows, columns], numbered from 1, as a binary Segmentation; those that
    were `found` have a name and an identifier of their own. Without findings all regions share a
    segment that calls them none."""
    import highdicom as hd

    if not found:
        numbered = np.minimum(numbered, 1)
    algorithm = hd.AlgorithmIdentificationSequence(
        name="anodetect",
        family=hd.sr.CodedConcept(*codes.AI),
        version=version("anodetect"),
        parameters={"model SHA-256": model},
    )
    descriptions = []
    for number, segment in enumerate(_segments(int(numbered.max()), found), start=1):
        descriptions.append(_description(number, segment, algorithm))

    dataset: Dataset = hd.seg.Segmentation(
        source_images=source.headers,
        pixel_array=np.ascontiguousarray(numbered),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        content_label="ANOMALY",
        content_description=RESEARCH,
        content_creator_name=CREATOR,
        series_description="anodetect above the anomaly threshold",
        omit_empty_frames=bool(numbered.any()),
        **instance(source.series_number(2)),
        **device(),
    )
    source.carry_loss(dataset)
    _name_side(dataset, source.laterality)
    return dataset


def marked_segmentation(inside: NDArray[np.bool_], source: SourceHeaders) -> Dataset:
    """Return what reviewers marked [frames, rows, columns] as a binary Segmentation of one segment,
    which was drawn by hand."""
    import highdicom as hd

    described = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=MARKED,
        segmented_property_category=hd.sr.CodedConcept(*codes.ABNORMAL_STRUCTURE),
        segmented_property_type=hd.sr.CodedConcept(*codes.ABNORMALITY),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        tracking_uid=generate_uid(),
        tracking_id=MARKED,
    )
    dataset: Dataset = hd.seg.Segmentation(
        source_images=source.headers,
        pixel_array=np.ascontiguousarray(inside.astype(np.uint8)),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[described],
        content_label="MARKED",
        content_description=RESEARCH,
        content_creator_name=CREATOR,
        series_description=f"anodetect {MARKED}",
        omit_empty_frames=bool(inside.any()),
        **instance(source.series_number(4)),
        **device(),
    )
    source.carry_loss(dataset)
    _name_side(dataset, source.laterality)
    return dataset


def _name_side(dataset: Dataset, laterality: str) -> None:
    """Let all segments say which side of the body they are on, if the source says it. A series may
    not, unless it also says which part of the body it shows."""
    if laterality not in codes.SIDES:
        return
    for segment in dataset.SegmentSequence:
        region = codes.coded(codes.ENTIRE_BODY)
        region.AnatomicRegionModifierSequence = [codes.coded(codes.SIDES[laterality])]
        segment.AnatomicRegionSequence = [region]


def _segments(highest: int, found: list[Finding]) -> list[_Segment]:
    """Return the segments of numbers up to the highest."""
    if not found:
        own = codes.SPATIAL_CONCEPT, codes.ABOVE
        return [_Segment(NOT_CLAIMED, generate_uid(), *own)]

    segments = []
    for number, finding in enumerate(found, start=1):
        segments.append(_Segment(findings.label(number), finding.uid))
    if highest > len(found):
        segments.append(_Segment(OTHERS, generate_uid()))
    return segments


def _description(number: int, segment: _Segment, algorithm: Any) -> Any:
    import highdicom as hd

    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=hd.sr.CodedConcept(*segment.category),
        segmented_property_type=hd.sr.CodedConcept(*segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=segment.uid,
        tracking_id=segment.label,
    )
