"""Regions that reviewers draw in a chart or write as text, in the form of `record.marks`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anodetect.data.geometry import Geometry
from anodetect.errors import DataError
from anodetect.record import marks
from anodetect.record.marks import WHOLE, Mark, Place
from anodetect.record.rows import ScoreRow


@dataclass(frozen=True)
class Source:
    """The grid that the regions of a case lie in: `geometry` is that of a volume, None for an
    image; `width` and `height` are those of its pictures in the source, None if not known."""

    width: int | None
    height: int | None
    depth: int | None = 1
    geometry: Geometry | None = None

    @property
    def plane(self) -> str:
        return "" if self.geometry is None else self.geometry.plane


def source_of(row: ScoreRow, geometry: Geometry | None = None) -> Source:
    """Return the grid of a row's image, or that of a volume with this geometry."""
    if geometry is None:
        return Source(row.width, row.height)
    depth, height, width = geometry.sides
    return Source(width, height, depth, geometry)


def parse(text: str, source: Source, place: Place = WHOLE) -> list[Mark]:
    """Return the regions in a text; those without a place lie at `place`.

    Raises DataError if the text is no list of boxes and outlines, or if a region is not inside the
    source or lies in another plane.
    """
    found = marks.parse(text, place)
    for mark in found:
        if mark.place.plane != source.plane:
            raise DataError(
                f"the region {mark} is of another plane than the one that was scored"
                if source.plane
                else f"the region {mark} names a plane, and this is an image; draw it again"
            )
        marks.check_inside(mark, source.width, source.height, source.depth)
    return found


def parse_volume(text: str, geometries: Mapping[str, Geometry]) -> list[Mark]:
    """Return the regions in a text, each in one of these planes of a volume; raise DataError if the
    text is no list of boxes and outlines, or if a region is not inside the volume."""
    found = marks.parse(text)
    for mark in found:
        geometry = geometries.get(mark.place.plane)
        if geometry is None:
            raise DataError(f"the region {mark} names no slice of this volume; draw it again")
        depth, height, width = geometry.sides
        marks.check_inside(mark, width, height, depth)
    return found


def volume_millimetres(found: Sequence[Mark], geometries: Mapping[str, Geometry]) -> str:
    """Return the corners of a volume's regions in millimetres, separated as the regions are; "" for
    pictures, which have no place in the patient."""
    places = [marks.millimetres(mark, geometries[mark.place.plane]) for mark in found]
    return "; ".join(places) if all(places) else ""


def millimetres(found: Sequence[Mark], source: Source) -> str:
    """Return the corners of regions in millimetres, separated as the regions are; "" for images."""
    if source.geometry is None or not found:
        return ""
    places = [marks.millimetres(mark, source.geometry) for mark in found]
    return "; ".join(places) if all(places) else ""


def to_screen(mark: Mark, source: Source) -> Mark:
    """Return a region with its corners in the pixels of its picture as it is shown, or the other
    way round."""
    return mark if source.geometry is None else marks.turned(mark, source.geometry)


# -- A chart's selection ---------------------------------------------------------------------------


def from_selection(
    selection: Mapping[str, Any], width: int, height: int, place: Place = WHOLE
) -> list[Mark]:
    """Return the boxes and outlines of a chart's selection as regions of the picture that is shown,
    cut to it.

    The centres of pixels have whole numbers in the chart; their upper left corners have them in a
    region.
    """
    found = [_box(each, width, height, place) for each in selection.get("box") or ()]
    for outline in selection.get("lasso") or ():
        xs = _corners(outline["x"], width, round)
        ys = _corners(outline["y"], height, round)
        # Neighbours that fall on the same pixel become one point.
        points = tuple(dict.fromkeys(zip(xs, ys, strict=True)))
        if len(points) >= 3:
            found.append(Mark(place, points))
    return found


def _box(each: Mapping[str, Sequence[float]], width: int, height: int, place: Place) -> Mark:
    """Return the box that holds every pixel a selection touches."""
    left, right = sorted(each["x"])
    top, bottom = sorted(each["y"])

    (x,) = _corners([left], width - 1, math.floor)
    (y,) = _corners([top], height - 1, math.floor)
    (x_end,) = _corners([right], width, math.ceil)
    (y_end,) = _corners([bottom], height, math.ceil)
    return marks.box(x, y, max(x_end - x, 1), max(y_end - y, 1), place)


def _corners(values: Sequence[float], size: int, to_int: Callable[[float], int]) -> list[int]:
    """Return places in a chart as corners of pixels, between 0 and `size`."""
    return [min(max(to_int(value + 0.5), 0), size) for value in values]
