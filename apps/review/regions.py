"""Regions that reviewers mark in an image.

A region is the text of a box "x,y,width,height" or of an outline "x,y x,y x,y …", in whole pixels,
where (0, 0) is the corner of the upper left pixel.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anodetect.errors import DataError


def parse(text: str, width: int | None, height: int | None) -> str:
    """Return a region in its normal form; "" for an empty text.

    `width` and `height` are those of the image, None where they are not known. Raises DataError if
    the text is neither a box nor an outline, or if the region is not inside the image.
    """
    points = _points(text)
    right, bottom = width or math.inf, height or math.inf
    if not points:
        return ""

    if len(points) == 1 and len(points[0]) == 4:
        x, y, w, h = points[0]
        inside = min(x, y) >= 0 and min(w, h) >= 1 and x + w <= right and y + h <= bottom
    elif len(points) >= 3 and all(len(point) == 2 for point in points):
        inside = all(0 <= x <= right and 0 <= y <= bottom for x, y in points)
    else:
        raise _not_a_region()

    if not inside:
        raise DataError(
            f"the region does not lie within the image ({width} × {height} pixels); draw it again"
        )
    return " ".join(",".join(map(str, point)) for point in points)


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


def from_selection(selection: Mapping[str, Any], width: int, height: int) -> str:
    """Return the last box or outline of a chart's selection as a region, cut to the image.

    It is "" where nothing is selected. The centres of pixels have whole numbers in the chart;
    their upper left corners have them in a region.
    """
    if boxes := selection.get("box"):
        return _box(boxes[-1], width, height)
    if outlines := selection.get("lasso"):
        xs = _corners(outlines[-1]["x"], width, round)
        ys = _corners(outlines[-1]["y"], height, round)
        # Neighbours that fall on the same pixel become one point.
        points = list(dict.fromkeys(zip(xs, ys, strict=True)))
        return " ".join(f"{x},{y}" for x, y in points) if len(points) >= 3 else ""
    return ""


def _box(box: Mapping[str, Sequence[float]], width: int, height: int) -> str:
    """Return the box that holds every pixel a selection touches."""
    left, right = sorted(box["x"])
    top, bottom = sorted(box["y"])

    (x,) = _corners([left], width - 1, math.floor)
    (y,) = _corners([top], height - 1, math.floor)
    (x_end,) = _corners([right], width, math.ceil)
    (y_end,) = _corners([bottom], height, math.ceil)
    return f"{x},{y},{max(x_end - x, 1)},{max(y_end - y, 1)}"


def _corners(values: Sequence[float], size: int, to_int: Callable[[float], int]) -> list[int]:
    """Return places in a chart as corners of pixels, between 0 and `size`."""
    return [min(max(to_int(value + 0.5), 0), size) for value in values]
