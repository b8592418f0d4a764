"""Annotation files as truth: COCO and LabelMe JSON, Pascal VOC XML, and YOLO text.

A COCO file lists many images and is asked for one by its file name; the others belong to one image.
All classes count.
"""

import base64
import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anodetect.data.drawings import Disc, Drawing, Points, Stamp
from anodetect.errors import ImageError, one_line
from anodetect.types import Bools
from anodetect.words import amount

SUFFIXES = (".json", ".txt", ".xml")
MOST = 2**30  # bytes of a file that is read
BOX, LEAST_POINTS = 4, 3
EDGE = 1.5  # pixels by which a box around pixels may differ from that of their outline
OUTSIDE = 0.01  # share of a side by which YOLO's points may lie beside an image


class UnusableError(ImageError):
    """The file is an annotation of one image, but what it draws cannot be used."""


@dataclass(frozen=True)
class CocoImage:
    """An image that a COCO file lists, and what is drawn on it; a reason if that is unusable."""

    name: str
    drawing: Drawing
    problem: str = ""


@dataclass(frozen=True)
class Coco:
    """The images of a COCO file by the last part of their names, as `folded` gives it."""

    images: Mapping[str, Sequence[CocoImage]]

    def find(self, image: Path) -> CocoImage | None:
        """Return the entry of an image file, None if none is of its name; ImageError if several
        fit equally well."""
        found = self.images.get(folded(image.name), ())
        depths = [parts_in_common(entry.name, image) for entry in found]
        best = [entry for entry, depth in zip(found, depths, strict=True) if depth == max(depths)]
        if len(best) > 1:
            raise ImageError(f"several entries are of the name {image.name}")
        return best[0] if best else None


def is_annotation(path: Path) -> bool:
    """Return whether a file's name is that of an annotation file."""
    return path.suffix.lower() in SUFFIXES


def read_annotation(path: Path, image: Path, shape: tuple[int, ...]) -> Bools | None:
    """Return where an annotation file marks an image, bool [H, W] of `shape`; None if it does not
    list the image. ImageError with the reason if it cannot be read, or is of one of another
    size."""
    found = read_drawing(path, image)
    if found is None:
        return None
    if len(shape) != 2:
        raise ImageError(f"{path.name} marks an image, not a volume")
    try:
        return found.marked((shape[0], shape[1]))
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None


def read_drawing(path: Path, image: Path) -> Drawing | None:
    """Return what an annotation file says is drawn on an image, None if it does not list the image;
    ImageError if it cannot be read."""
    try:
        content = _content(path)
        if isinstance(content, Drawing):
            return content
        entry = content.find(image)
    except OSError as error:
        raise ImageError(f"{path.name}: {error.strerror or 'unreadable'}") from None
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None

    if entry is None:
        return None
    if entry.problem:
        raise ImageError(f"{path.name}, {entry.name}: {entry.problem}")
    return entry.drawing


def parsed(path: Path) -> Coco | Drawing | None:
    """Return what an annotation file holds, None if it is no annotation file."""
    try:
        return _content(path)
    except (OSError, ImageError):
        return None


def marks_image(path: Path) -> bool | None:
    """Return whether an annotation file of one image marks something, which one also does that
    cannot be used; None if it is no such file."""
    try:
        found = _content(path)
    except UnusableError:
        return True
    except (OSError, ImageError):
        return None
    return not found.is_empty if isinstance(found, Drawing) else None


def _content(path: Path) -> Coco | Drawing:
    """Return what a file holds; OSError or ImageError if it cannot be read, or is too large."""
    state = path.stat()
    if state.st_size > MOST:
        raise ImageError(f"more than {MOST} bytes")
    return _parsed(path, state.st_mtime_ns)


@lru_cache(8)
def _parsed(path: Path, changed: int) -> Coco | Drawing:
    """Return what a file holds; `changed` makes a new version be read anew. ImageError if it is
    none of the formats."""
    try:
        if path.suffix.lower() == ".xml":
            return _of_one_image(_voc, _xml(path.read_bytes()))
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".txt":
            return _yolo(text)
        content = json.loads(text)
    except (ValueError, ElementTree.ParseError, RecursionError) as error:
        raise ImageError(f"not readable ({one_line(error)})") from None

    if isinstance(content, dict) and isinstance(content.get("shapes"), list):
        return _of_one_image(_labelme, content)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        coco: Coco = _with_reason(_coco, content)
        return coco
    raise ImageError("neither COCO ('images', 'annotations') nor LabelMe ('shapes')")


def _of_one_image(read: Any, content: Any) -> Drawing:
    """Return what `read` returns; UnusableError with the reason if it fails."""
    try:
        drawing: Drawing = _with_reason(read, content)
    except ImageError as error:
        raise UnusableError(str(error)) from None
    return drawing


def _with_reason(read: Any, content: Any) -> Any:
    """Return what `read` returns; ImageError if the content lacks something or has other types."""
    try:
        return read(content)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ImageError(f"damaged ({one_line(error)})") from None


def folded(name: str) -> str:
    """Return a file's name without its folders, without regard to case and to how accents are put
    together."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return unicodedata.normalize("NFC", last).casefold()


def parts_in_common(name: str, image: Path) -> int:
    """Return how many parts of a path from the last one on are those of an image file."""
    count = 0
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for one, other in zip(reversed(parts), reversed(image.parts), strict=False):
        if folded(one) != folded(other):
            break
        count += 1
    return count


# -- COCO ------------------------------------------------------------------------------------------


def _coco(content: Mapping[str, Any]) -> Coco:
    """Return the images of a COCO file; an image without annotations has an empty drawing."""
    drawn: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in content.get("annotations") or ():
        drawn.setdefault(annotation["image_id"], []).append(annotation)

    images: dict[str, list[CocoImage]] = {}
    for image in content["images"]:
        name = str(image["file_name"])
        size = (int(image["height"]), int(image["width"])) if image.get("height") else None
        try:
            drawing: Drawing = _with_reason(
                lambda found, size=size: _coco_drawing(found, size), drawn.get(image["id"], ())
            )
            entry = CocoImage(name, drawing)
        except ImageError as error:
            entry = CocoImage(name, Drawing(), str(error))
        images.setdefault(folded(name), []).append(entry)
    return Coco(images)


def _coco_drawing(
    annotations: Sequence[Mapping[str, Any]], size: tuple[int, int] | None
) -> Drawing:
    """Return what the annotations of one image draw: their segmentations, else their boxes."""
    polygons: list[Points] = []
    runs: list[NDArray[np.int64]] = []
    for annotation in annotations:
        if "caption" in annotation and "bbox" not in annotation:
            continue  # a sentence about the image, which draws nothing
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, Mapping):
            size = _same_size(size, segmentation["size"])
            runs.append(_run_lengths(segmentation["counts"]))
        elif segmentation:
            polygons += [_coco_polygon(part, annotation.get("bbox")) for part in segmentation]
        else:
            x, y, width, height = map(float, annotation["bbox"])
            polygons.append(_box(x, y, x + width, y + height))
    return Drawing(size, tuple(polygons), runs=tuple(runs))


def _coco_polygon(numbers: Sequence[float], bbox: Sequence[float] | None) -> Points:
    """Return the points of a polygon. LabelMe's script writes a rectangle as its two corners: two
    points are those of one where the box says so, too, whose pixels include its edges."""
    points = np.reshape(np.asarray(numbers, np.float64), (-1, 2))
    if len(points) == 2 and bbox is not None:
        (left, top), (right, bottom) = points.min(0), points.max(0)
        difference = np.array(bbox, np.float64) - (left, top, right - left, bottom - top)
        if np.abs(difference).max() <= EDGE:
            return _box(left, top, right, bottom)
    return _points(points)


def _same_size(size: tuple[int, int] | None, other: Sequence[Any]) -> tuple[int, int]:
    height, width = (int(side) for side in other)
    if size not in (None, (height, width)):
        raise ImageError(f"a segmentation of size {(height, width)} in an image of size {size}")
    return height, width


def _run_lengths(counts: Any) -> NDArray[np.int64]:
    """Return lengths of runs, given as numbers or as COCO's text.

    In the text a number is written in digits of five bits, the lowest first, each a character from
    '0' on, with a sixth bit if more follow; the fifth bit of the last one is the sign. From the
    fourth number on it is the difference to the one before the last.
    """
    if not isinstance(counts, str):
        return np.asarray(counts, np.int64)

    lengths: list[int] = []
    value, bits = 0, 0
    for character in counts:
        digit = ord(character) - ord("0")
        if not 0 <= digit < 64:
            raise ImageError(f"the character {character!r} is none of compressed runs")
        value |= (digit & 31) << bits
        bits += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << bits
        if len(lengths) > 2:
            value += lengths[-2]
        lengths.append(value)
        value, bits = 0, 0
    return np.array(lengths, np.int64)


# -- LabelMe ---------------------------------------------------------------------------------------


def _labelme(content: Mapping[str, Any]) -> Drawing:
    """Return what a LabelMe file draws; ImageError for shapes without an area."""
    size = None
    if content.get("imageHeight") and content.get("imageWidth"):
        size = int(content["imageHeight"]), int(content["imageWidth"])

    polygons: list[Points] = []
    discs: list[Disc] = []
    stamps: list[Stamp] = []
    for shape in content["shapes"]:
        points = np.asarray(shape["points"], float).reshape(-1, 2)
        kind = shape.get("shape_type") or "polygon"
        if kind == "polygon":
            polygons.append(_points(points))
        elif kind == "rectangle":
            (left, top), (right, bottom) = points.min(0), points.max(0)
            polygons.append(_box(left, top, right, bottom))
        elif kind == "circle":
            (x, y), edge = points
            discs.append(Disc(float(x), float(y), float(np.hypot(*(edge - (x, y))))))
        elif kind == "mask":
            with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
                mask = np.asarray(image.convert("L")) > 0
            stamps.append(Stamp(round(points[0, 1]), round(points[0, 0]), mask))
        else:
            raise ImageError(f"a shape of type {kind!r} marks no area; draw a polygon")
    return Drawing(size, tuple(polygons), discs=tuple(discs), stamps=tuple(stamps))


# -- Pascal VOC ------------------------------------------------------------------------------------


def _xml(content: bytes) -> ElementTree.Element:
    """Return the root of Pascal VOC's XML; ImageError if it is another one, or declares types and
    entities, which it never does."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ImageError("XML with declarations, which Pascal VOC has not")
    root = ElementTree.fromstring(content)
    if root.tag != "annotation":
        raise ImageError(f"XML of {root.tag!r}; Pascal VOC's is of 'annotation'")
    return root


def _voc(root: ElementTree.Element) -> Drawing:
    """Return the boxes of a Pascal VOC file. Its coordinates are numbers of pixels from 1 on, and
    the last ones belong to the box."""
    height, width = (_number(root.find("size"), side, "0") for side in ("height", "width"))
    size = (round(height), round(width)) if height and width else None

    polygons: list[Points] = []
    for found in root.iter("object"):
        box = found.find("bndbox")
        left, top = _number(box, "xmin") - 1, _number(box, "ymin") - 1
        right, bottom = _number(box, "xmax"), _number(box, "ymax")
        if right <= left or bottom <= top:
            raise ImageError("a box whose end lies before its start")
        polygons.append(_box(left, top, right, bottom))
    return Drawing(size, tuple(polygons))


def _number(parent: ElementTree.Element | None, name: str, default: str | None = None) -> float:
    """Return the number in a child of an element; KeyError if there is no such child and no
    default."""
    text = default if parent is None else parent.findtext(name, default)
    if text is None:
        raise KeyError(name)
    return float(text)


# -- YOLO ------------------------------------------------------------------------------------------


def _yolo(text: str) -> Drawing:
    """Return what YOLO's text draws: in each line a class, and a box (x and y of its centre, width
    and height) or the points of a polygon, in shares of the image's sides."""
    polygons: list[Points] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = np.array(line.split(), float)
        except ValueError:
            raise ImageError(f"line {number} is none of YOLO's: a class and numbers") from None

        rest = values[1:]
        is_box = len(rest) == BOX
        if not is_box and (len(rest) < 2 * LEAST_POINTS or len(rest) % 2):
            numbers = amount(len(rest), "number")
            raise ImageError(f"line {number} has {numbers}; a box or points are expected")
        if not (rest >= -OUTSIDE).all() or not (rest <= 1 + OUTSIDE).all():
            raise ImageError(f"line {number} is not in shares of the image's sides, from 0 to 1")
        if is_box:
            x, y, width, height = rest.tolist()
            polygons.append(_box(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        else:
            polygons.append(_points(rest.reshape(-1, 2)))
    return Drawing(polygons=tuple(polygons), relative=True)


# -- Outlines --------------------------------------------------------------------------------------


def _points(points: Any) -> Points:
    """Return a polygon's points [n, 2]; ImageError if they are too few or not finite."""
    array = np.asarray(points, np.float64)
    if len(array) < LEAST_POINTS or not np.isfinite(array).all():
        raise ImageError("a polygon with fewer than three points, or with values that are no place")
    return array


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    """Return the corners of a box."""
    return _points([[left, top], [right, top], [right, bottom], [left, bottom]])
