"""Regions that reviewers draw, in the form of `record.marks`."""

from collections.abc import Mapping, Sequence

from anodetect.data.geometry import Geometry
from anodetect.errors import DataError
from anodetect.record import marks
from anodetect.record.marks import Mark
from anodetect.record.rows import ScoreRow


def parse(text: str, row: ScoreRow) -> list[Mark]:
    """Return the regions in a text, each in the image of this row; raise DataError if the text is
    no list of boxes and outlines, or if a region is not inside the image."""
    found = marks.parse(text)
    for mark in found:
        if mark.place.plane:
            raise DataError(f"the region {mark} names a plane, and this is an image; draw it again")
        marks.check_inside(mark, row.width, row.height, 1)
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
