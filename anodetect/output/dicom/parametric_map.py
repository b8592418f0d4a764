"""A heatmap as a Parametric Map of floats."""

import numpy as np
from pydicom.dataset import Dataset

from anodetect.output.dicom import codes
from anodetect.output.dicom.shared import CREATOR, RESEARCH, device, equipment, instance
from anodetect.output.dicom.source import SourceHeaders
from anodetect.types import Floats

UNSCORED = -1.0  # stands for NaN; values are never negative where scored


def parametric_map(heatmap: Floats, source: SourceHeaders, model: str) -> Dataset:
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
        unit=hd.sr.CodedConcept(*codes.NO_UNITS),
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
        contributing_equipment=[equipment(model)],
        **instance(source.series_number(1)),
        **device(),
    )
    dataset.FloatPixelPaddingValue = dataset.FloatPixelPaddingRangeLimit = UNSCORED
    source.carry_loss(dataset)
    _name_anatomy(dataset, source.laterality)
    _put_in_order(dataset)
    return dataset


def _name_anatomy(dataset: Dataset, laterality: str) -> None:
    """Say in general which part of the body frames show, and on which side. Some readers fail
    without it."""
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [codes.coded(codes.ENTIRE_BODY)]
    anatomy.FrameLaterality = laterality or "U"
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
