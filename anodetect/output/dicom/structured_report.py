"""The decision over an image or volume, and the measurements of its findings, as a Structured
Report (TID 1500).

A report claims what was flagged, and nothing else. It says so where nothing was found, and where
nothing was decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from anodetect.output.about import About
from anodetect.output.dicom import codes, findings
from anodetect.output.dicom.findings import Finding
from anodetect.output.dicom.shared import RESEARCH, algorithm, instance
from anodetect.output.dicom.source import SourceHeaders
from anodetect.record.rows import Region
from anodetect.stats.decision import Decision


@dataclass(frozen=True)
class Outline:
    """A region of an image, or of the frame with this number from 1 of a file of several."""

    region: Region
    frame: int | None = None


def report_of_volume(
    found: Sequence[Finding],
    segmentation: Dataset,
    heatmap: Dataset,
    source: SourceHeaders,
    about: About,
) -> Dataset:
    """Return the report of a volume, whose findings are segments of the Segmentation."""
    groups = _volume_groups(found, segmentation, source, about.model)
    evidence = [segmentation, heatmap, *source.headers]
    return _report(groups, evidence, source, about)


def report_of_image(
    outlines: Sequence[Outline], capture: Dataset, source: SourceHeaders, about: About
) -> Dataset:
    """Return the report of an image, whose findings are outlines in the image. It refers to the
    capture that shows them."""
    groups = _image_groups(outlines, source.headers[0], about.model)
    evidence = [source.headers[0], capture]  # the patient is taken from the first
    return _report(groups, evidence, source, about, illustration=capture)


def _report(
    groups: list[Any],
    evidence: list[Dataset],
    source: SourceHeaders,
    about: About,
    illustration: Dataset | None = None,
) -> Dataset:
    """Return the decision and a group of measurements for each finding as a document."""
    import highdicom as hd

    report = hd.sr.MeasurementReport(
        observation_context=_observer(),
        procedure_reported=hd.sr.CodedConcept(*codes.PROCEDURE),
        imaging_measurements=[_decision_group(about), *groups],
        title=hd.sr.CodedConcept(*codes.REPORT_TITLE),
    )
    content, contains = report[0].ContentSequence, hd.sr.RelationshipTypeValues.CONTAINS
    if illustration is not None:
        instance_of = (illustration.SOPClassUID, illustration.SOPInstanceUID)
        name = hd.sr.CodedConcept(*codes.ILLUSTRATION)
        content.append(hd.sr.ImageContentItem(name, *instance_of, relationship_type=contains))
    for text in (statement(about.decision, len(groups)), RESEARCH):
        name = hd.sr.CodedConcept(*codes.COMMENT)
        content.append(hd.sr.TextContentItem(name, text, contains))

    dataset: Dataset = hd.sr.ComprehensiveSR(
        evidence=evidence,
        content=report[0],
        is_complete=True,
        series_description="anodetect findings",
        **instance(source.series_number(3)),
    )
    dataset.ManufacturerModelName = "anodetect"
    dataset.SoftwareVersions = version("anodetect")
    return dataset


# -- Decision --------------------------------------------------------------------------------------


def statement(decision: Decision | None, count: int) -> str:
    """Return in words what was decided, with so many findings."""
    if decision is None or decision.p_value is None:
        return "Not decided: the model has no calibration images. Nothing is claimed."
    if decision.flagged is None:
        return (
            "Not decided by itself: at a false-discovery rate flags depend on all images of a "
            "scoring, and stand in its tables. Nothing is claimed."
        )

    at = f"at a false-alarm rate of {decision.rule.rate:g}, p = {decision.p_value:.4g}"
    if not decision.flagged:
        return f"Nothing found: not flagged {at}."
    if not count:
        return f"Flagged {at}. No region exceeds the threshold of regions."
    return f"Flagged {at}. Findings: {count}."


def _decision_group(about: About) -> Any:
    """Return the score, its p-value, the rate and the threshold of the decision, and the decision
    itself, as a group of measurements of the whole image or volume."""
    import highdicom as hd

    decision, measured, verdict = about.decision, [], codes.UNDECIDED
    if decision is not None:
        rate = codes.FALSE_DISCOVERIES if decision.rule.by_fdr else codes.FALSE_ALARMS
        values = (
            (codes.SCORE, decision.score),
            (codes.P_VALUE, decision.p_value),
            (rate, decision.rule.rate),
            (codes.THRESHOLD, decision.threshold),
        )
        for name, value in values:
            if value is not None and np.isfinite(value):
                measured.append(_measurement(name, value, codes.NO_UNITS))
        if decision.flagged is not None:
            verdict = codes.FLAGGED if decision.flagged else codes.NOT_FLAGGED

    evaluation = hd.sr.QualitativeEvaluation(
        hd.sr.CodedConcept(*codes.DECISION), hd.sr.CodedConcept(*verdict)
    )
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(generate_uid(), "decision"),
        algorithm_id=algorithm(about.model),
        measurements=measured,
        qualitative_evaluations=[evaluation],
    )


# -- Findings --------------------------------------------------------------------------------------


def _volume_groups(
    found: Sequence[Finding], segmentation: Dataset, source: SourceHeaders, model: str
) -> list[Any]:
    """Return a group of measurements for each finding: its peak and its volume."""
    import highdicom as hd

    series = hd.sr.SourceSeriesForSegmentation(source.headers[-1].SeriesInstanceUID)
    instance_of = (segmentation.SOPClassUID, segmentation.SOPInstanceUID)

    groups = []
    for number, finding in enumerate(found, start=1):
        group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=_identifier(number, finding.uid),
            referenced_segment=hd.sr.ReferencedSegment(*instance_of, number, source_series=series),
            finding_category=hd.sr.CodedConcept(*codes.ABNORMAL_STRUCTURE),
            finding_type=hd.sr.CodedConcept(*codes.ABNORMALITY),
            algorithm_id=algorithm(model),
            measurements=[
                _measurement(codes.PEAK, finding.peak, codes.NO_UNITS),
                _measurement(codes.VOLUME, finding.volume, codes.CUBIC),
            ],
        )
        groups.append(group)
    return groups


def _image_groups(outlines: Sequence[Outline], header: Dataset, model: str) -> list[Any]:
    """Return a group of measurements for each region of an image or frame: its outline, its peak
    and its area, in square millimetres where pixels have a size in the patient."""
    import highdicom as hd

    area, unit = 1.0, codes.PIXELS
    if header.get("PixelSpacing"):
        area, unit = float(np.prod(np.asarray(header.PixelSpacing, float))), codes.SQUARE
    instance_of = (header.SOPClassUID, header.SOPInstanceUID)

    groups = []
    for number, outline in enumerate(outlines, start=1):
        region = outline.region
        frames = None if outline.frame is None else [outline.frame]
        drawn = hd.sr.ImageRegion(
            graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
            graphic_data=np.reshape(region.segmentation[0], (-1, 2)),
            source_image=hd.sr.SourceImageForRegion(*instance_of, frames),
        )
        group = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=_identifier(number, generate_uid()),
            referenced_region=drawn,
            finding_category=hd.sr.CodedConcept(*codes.ABNORMAL_STRUCTURE),
            finding_type=hd.sr.CodedConcept(*codes.ABNORMALITY),
            algorithm_id=algorithm(model),
            measurements=[
                _measurement(codes.PEAK, region.score, codes.NO_UNITS),
                _measurement(codes.AREA, round(region.area * area, 3), unit),
            ],
        )
        groups.append(group)
    return groups


def _identifier(number: int, uid: str) -> Any:
    import highdicom as hd

    return hd.sr.TrackingIdentifier(uid=uid, identifier=findings.label(number))


def _measurement(name: codes.Code, value: float, unit: codes.Code) -> Any:
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
    observer = hd.sr.ObserverContext(hd.sr.CodedConcept(*codes.DEVICE), device)
    return hd.sr.ObservationContext(observer_device_context=observer)
