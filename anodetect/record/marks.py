"""Pictures that were painted on a reviewer's screen, and regions that the reviewer marked.

A picture is an image, a slice of a volume or a frame; `Place` says which. As text a place is
"axial 12" or "frames 3", with the number that the source counts it by, from 0, and "" for an image.

A region is the text of a box "x,y,width,height" or of an outline "x,y x,y x,y …", in whole pixels,
where (0, 0) is the corner of the source's first pixel. In a volume its place comes first, as in
"axial 12: 3,4,5,6"; x runs along the source's axis that the columns of this plane run along, y
along that of the rows, both in the source's direction. Several regions are separated by "; ".
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from anodetect.data.geometry import FRAMES, PLANES, Geometry
from anodetect.errors import DataError

IMAGE = "image"  # the text of what was shown, of an image
THUMBNAIL = "thumbnail"  # and of a small picture of it
Corners = tuple[tuple[int, int], ...]


@dataclass(frozen=True, order=True)
class Place:
    """A picture's place in its source: plane and slice, or frame; neither for an image. Slices and
    frames are counted from 0 in the order of the source."""

    plane: str = ""
    slice: int | None = None
    frame: int | None = None

    @property
    def number(self) -> int | None:
        return self.slice if self.frame is None else self.frame

    def __str__(self) -> str:
        return "" if self.number is None else f"{self.plane} {self.number}"


WHOLE = Place()  # the place of an image


@dataclass(frozen=True)
class Shown:
    """A picture that was sent to a reviewer's screen: the path of its case, the SHA-256 of the
    bytes that it was made of, its place; `painted` once the browser has said that it is there. A
    `thumbnail` is small: it shows less than the picture itself."""

    case: str
    sha256: str
    plane: str = ""
    slice: int | None = None
    frame: int | None = None
    painted: bool = False
    thumbnail: bool = False

    @property
    def place(self) -> Place:
        return Place(self.plane, self.slice, self.frame)


@dataclass(frozen=True)
class Mark:
    """A region on a picture at `place`: the corners of its outline, x and y in the source's
    pixels. A box is kept as the text of a box."""

    place: Place
    corners: Corners
    is_box: bool = False

    def __str__(self) -> str:
        points = self.corners
        if self.is_box:
            (left, top), (right, bottom) = points[0], points[2]
            points = ((left, top, right - left, bottom - top),)  # type: ignore[assignment]
        shape = " ".join(",".join(map(str, point)) for point in points)
        return f"{self.place}: {shape}" if str(self.place) else shape


def place_of(plane: str, number: int) -> Place:
    """Return the place of slice or frame `number` of a plane."""
    return Place(plane, frame=number) if plane == FRAMES else Place(plane, slice=number)


def shown_text(pictures: Iterable[Shown]) -> str:
    """Return which pictures were painted: "image", "axial 3-17,20; coronal 4", "thumbnail" and
    "thumbnail of axial 12" for small ones, or "" for none."""
    painted = [each for each in pictures if each.painted]
    parts = _place_texts({each.place for each in painted if not each.thumbnail})
    for text in _place_texts({each.place for each in painted if each.thumbnail}):
        parts.append(THUMBNAIL if text == IMAGE else f"{THUMBNAIL} of {text}")
    return "; ".join(parts)


def _place_texts(pictures: Iterable[Place]) -> list[str]:
    places = sorted(pictures, key=_order)
    parts = []
    for plane, of_plane in groupby(places, lambda place: place.plane):
        numbers = [place.number for place in of_plane if place.number is not None]
        parts.append(f"{plane} {_ranges(numbers)}" if numbers else IMAGE)
    return parts


def _order(place: Place) -> tuple[str, int]:
    return place.plane, place.number or 0


def _ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers as "3-17,20"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


# -- Regions as text -------------------------------------------------------------------------------


def box(x: int, y: int, width: int, height: int, place: Place = WHOLE) -> Mark:
    """Return the region of a box."""
    right, bottom = x + width, y + height
    return Mark(place, ((x, y), (right, y), (right, bottom), (x, bottom)), is_box=True)


def to_text(marks: Iterable[Mark]) -> str:
    """Return regions as text."""
    return "; ".join(map(str, marks))


def parse(text: str, place: Place = WHOLE) -> list[Mark]:
    """Return the regions in a text; one that names no place is at `place`.

    Raises DataError where the text is no list of boxes and outlines.
    """
    marks = []
    for part in text.split(";"):
        name, colon, shape = part.rpartition(":")
        if part.strip():
            marks.append(_parse_shape(shape, _parse_place(name) if colon else place))
    return marks


def _parse_place(text: str) -> Place:
    plane, _, number = text.strip().partition(" ")
    if plane not in (*PLANES, FRAMES) or not number.strip().isdecimal():
        raise DataError(
            f"a region lies at a plane and a slice such as `axial 12:`, not at {text.strip()!r}; "
            "draw it again"
        )
    return place_of(plane, int(number))


def _parse_shape(text: str, place: Place) -> Mark:
    points = _points(text)
    if len(points) == 1 and len(points[0]) == 4:
        x, y, width, height = points[0]
        return box(x, y, width, height, place)
    if len(points) >= 3 and all(len(point) == 2 for point in points):
        return Mark(place, tuple((x, y) for x, y in points))
    raise _not_a_region()


def _points(text: str) -> list[list[int]]:
    """Return the numbers of each part of a text; raise DataError where one is no whole number."""
    points = []
    for part in text.replace(", ", ",").split():
        try:
            points.append([int(number) for number in part.split(",")])
        except ValueError:
            raise _not_a_region() from None
    return points


def _not_a_region() -> DataError:
    return DataError(
        "a region is x,y,width,height or an outline x,y x,y x,y … in whole pixels; "
        "draw it, or correct the numbers"
    )


def check_inside(mark: Mark, width: int | None, height: int | None, depth: int | None = 1) -> None:
    """Raise DataError if a region does not lie within pictures of this size, of which there are
    `depth`; None stands for a size that is not known."""
    xs, ys = zip(*mark.corners, strict=True)
    right, bottom, slices = width or math.inf, height or math.inf, depth or math.inf
    inside = min(xs) >= 0 and min(ys) >= 0 and max(xs) <= right and max(ys) <= bottom
    if mark.is_box:
        inside = inside and mark.corners[0] < mark.corners[1] and mark.corners[0] < mark.corners[3]
    if not inside or (mark.place.number or 0) >= slices:
        raise DataError(
            f"the region does not lie within the image ({width} × {height} pixels); draw it again"
        )


# -- Volumes ---------------------------------------------------------------------------------------


def turned(mark: Mark, geometry: Geometry) -> Mark:
    """Return a region with its corners in the pixels of a slice as it is shown, if they are in the
    source's, and the other way round: both differ in the direction of axes alone."""
    _, height, width = geometry.sides
    _, rows, columns = geometry.flipped
    corners = []
    for x, y in mark.corners:
        corners.append((width - x if columns else x, height - y if rows else y))
    if mark.is_box:
        (left, right), (top, bottom) = (sorted(set(at)) for at in zip(*corners, strict=True))
        return box(left, top, right - left, bottom - top, mark.place)
    return Mark(mark.place, tuple(corners))


def source_number(geometry: Geometry, number: int) -> int:
    """Return the source's number of a slice as it is shown, and the other way round."""
    return geometry.sides[0] - 1 - number if geometry.flipped[0] else number


def millimetres(mark: Mark, geometry: Geometry) -> str:
    """Return the corners of a region in LPS+ millimetres, "x,y,z x,y,z …"; "" without a place in
    the patient."""
    if geometry.plane == FRAMES or mark.place.number is None:
        return ""
    depth = source_number(geometry, mark.place.number)
    points = []
    for x, y in turned(mark, geometry).corners:
        place = geometry.position((depth, y - 0.5, x - 0.5))
        points.append(",".join(f"{round(value, 2) + 0.0:g}" for value in place))
    return " ".join(points)
