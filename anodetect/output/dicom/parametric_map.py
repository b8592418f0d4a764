"""A heatmap as a Parametric Map of floats.

highdicom makes it for slices of one pixel. The frames themselves are written one at a time: all of
them as bytes would take as much memory as the heatmap, several times over.
"""

import struct
from dataclasses import dataclass
from typing import IO

import numpy as np
from pydicom.dataset import Dataset

from anodetect.output.dicom import codes
from anodetect.output.dicom.shared import CREATOR, RESEARCH, device, equipment, instance
from anodetect.output.dicom.source import SourceHeaders
from anodetect.types import Floats

FLOAT_PIXEL_DATA = (0x7FE0, 0x0008)  # group and element
UNSCORED = -1.0  # stands for NaN; values are never negative where scored


@dataclass(frozen=True)
class ParametricMap:
    """A Parametric Map: all attributes but the pixels, and the heatmap [frames, rows, columns] that
    these come from."""

    dataset: Dataset
    heatmap: Floats

    def save(self, file: IO[bytes]) -> None:
        """Write the file; its pixels are its last attribute."""
        self.dataset.save_as(file, enforce_file_format=True)
        length = 4 * self.heatmap.size
        file.write(struct.pack("<HH2sHI", *FLOAT_PIXEL_DATA, b"OF", 0, length))
        for plane in self.heatmap:
            file.write(np.nan_to_num(plane, nan=UNSCORED).astype("<f4").tobytes())


def parametric_map(heatmap: Floats, source: SourceHeaders, model: str) -> ParametricMap:
    """Return a heatmap [frames, rows, columns] as a Parametric Map of floats. Its frames follow
    each other along the normal of their rows and columns, as the slices of a series do."""
    import highdicom as hd

    low, high = _lowest(heatmap), max(float(np.fmax.reduce(heatmap, axis=None)), 1e-6)
    window = hd.VOILUTTransformation(
        window_center=high / 2, window_width=high, voi_lut_function="LINEAR_EXACT"
    )
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="anomaly",
        lut_explanation="Anomaly value, higher is less like normal",
        unit=hd.sr.CodedConcept(*codes.NO_UNITS),
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
    )

    dataset: Dataset = hd.pm.ParametricMap(
        source_images=[_of_one_pixel(header) for header in source.headers],
        pixel_array=np.zeros((len(heatmap), 1, 1), np.float32),
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
    del dataset.FloatPixelData
    _, dataset.Rows, dataset.Columns = heatmap.shape
    _put_in_order(dataset)
    return ParametricMap(dataset, heatmap)


def _lowest(heatmap: Floats) -> float:
    """Return the lowest of the values that are written."""
    for plane in heatmap:
        if np.isnan(plane).any():
            return UNSCORED
    return float(heatmap.min())


def _of_one_pixel(header: Dataset) -> Dataset:
    """Return a header as if its slice had one pixel."""
    small = Dataset()
    for element in header:
        if element.keyword not in ("Rows", "Columns"):
            small.add(element)
    small.Rows = small.Columns = 1
    small.file_meta = header.file_meta
    return small


def _name_anatomy(dataset: Dataset, laterality: str) -> None:
    """Say in general which part of the body frames show, and on which side. Some readers fail
    without it."""
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [codes.coded(codes.ENTIRE_BODY)]
    anatomy.FrameLaterality = laterality or "U"
    dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]


def _put_in_order(dataset: Dataset) -> None:
    """Let frames follow each other along the normal of their rows and columns. highdicom describes
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
