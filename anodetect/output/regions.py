"""Outlines of the regions that count in the images of a score directory, one file in COCO's format
for all of them."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter
from scipy import ndimage

from anodetect.config import without_nan
from anodetect.errors import RunError
from anodetect.files import atomic
from anodetect.output.formats import FORMATS
from anodetect.record.objects import object_of
from anodetect.record.rows import Region
from anodetect.stats.mask_rule import MaskRule, Regions
from anodetect.types import Bools, Floats

FILE = FORMATS["regions"].directory["regions"]
MOST_REGIONS = 100  # of one image


def find_regions(heatmap: Floats, rule: MaskRule, regions: Regions | None = None) -> list[Region]:
    """Return the regions of a heatmap [H, W] that count, the strongest first. `regions` are all of
    its regions, if they are known."""
    regions = rule.regions(heatmap) if regions is None else regions
    boxes = regions.boxes()
    found = []
    for index in np.flatnonzero(regions.strengths > rule.least).tolist():
        rows, columns = boxes[index]
        inside = regions.labels[rows, columns] == index + 1
        corner = np.array([columns.start + 0.5, rows.start + 0.5])
        width, height = columns.stop - columns.start, rows.stop - rows.start
        region = Region(
            segmentation=tuple(_outer_outlines(inside, corner)),
            area=int(inside.sum()),
            bbox=(columns.start, rows.start, width, height),
            score=float(heatmap[rows, columns][inside].max()),
            strength=float(regions.strengths[index]),
        )
        found.append(region)

    return sorted(found, key=lambda region: region.strength, reverse=True)[:MOST_REGIONS]


def _outer_outlines(inside: Bools, corner: NDArray[np.float64]) -> Iterator[tuple[float, ...]]:
    """Yield the outline x, y, x, y, … of each part of a region that touches the others over corners
    only; `corner` is added to its points."""
    parts, count = ndimage.label(inside)
    for number in range(1, count + 1):
        outer = max(outlines(parts == number), key=len) + corner
        yield tuple(outer.round(1).ravel().tolist())


def outlines(inside: Bools) -> list[NDArray[np.float64]]:
    """Return closed lines [N, 2] of x, y around what is True in [H, W], holes too; pixel centres
    lie at whole numbers."""
    padded = np.pad(inside, 1).astype(np.float32)
    lines = contour_generator(z=padded, line_type=LineType.Separate).lines(0.5)
    return [np.asarray(line) - 1 for line in lines]


def write_regions(
    folder: Path,
    images: Iterable[tuple[str, int, int]],
    regions: Callable[[], Iterable[tuple[str, Region]]],
    rule: MaskRule,
) -> None:
    """Write the regions of a score directory's images, each with the path of its image.

    `images` are the paths, widths and heights of all images, in the order of the file. They and the
    regions, which are asked for twice, are written one at a time; in memory are the paths of images
    with regions.
    """
    ids = {path: 0 for path, _ in regions()}
    head = {
        "info": {"description": "regions that count", **rule.as_json()},
        "categories": [{"id": 1, "name": "anomaly"}],
    }
    with atomic(folder / FILE) as file:
        file.write(json.dumps(without_nan(head)).removesuffix("}").encode() + b', "images": [')
        for number, (path, width, height) in enumerate(images, start=1):
            if path in ids:
                ids[path] = number
            image = {"id": number, "file_name": path, "width": width, "height": height}
            file.write((b", " if number > 1 else b"") + json.dumps(image).encode())

        file.write(b'], "annotations": [')
        for number, (path, region) in enumerate(regions(), start=1):
            marks = {
                "id": number,
                "image_id": ids[path],
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": region.segmentation,
                "area": region.area,
                "bbox": region.bbox,
                "score": region.score,
                "strength": region.strength,
            }
            file.write((b",\n" if number > 1 else b"\n") + json.dumps(marks).encode())
        file.write(b"\n]}\n")


@dataclass(frozen=True)
class _Image:
    id: int
    file_name: str


@dataclass(frozen=True)
class _Marks:
    image_id: int
    segmentation: tuple[tuple[FiniteFloat, ...], ...]
    area: int
    bbox: tuple[int, int, int, int]
    score: FiniteFloat
    strength: FiniteFloat = 0.0


@dataclass(frozen=True)
class _Content:
    """The part of the file that is read."""

    images: tuple[_Image, ...]
    annotations: tuple[_Marks, ...]


def read_regions(folder: Path) -> Iterator[tuple[str, Region]]:
    """Yield the regions of a score directory, each with the path of its image; none without the
    file. RunError if the file is not what `write_regions` writes."""
    file = folder / FILE
    if not file.exists():
        return
    content = object_of(file, TypeAdapter(_Content))
    names = {image.id: image.file_name for image in content.images}
    for marks in content.annotations:
        if marks.image_id not in names:
            raise RunError(f"{file}: a region is of image {marks.image_id}, which is not there")
        region = Region(marks.segmentation, marks.area, marks.bbox, marks.score, marks.strength)
        yield names[marks.image_id], region
