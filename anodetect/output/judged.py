"""Regions that reviewers marked, as files: masks in the source's grid, and COCO's annotations."""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from PIL import Image

from anodetect.data.dicom import Series
from anodetect.data.drawings import Drawing
from anodetect.data.geometry import Geometry, in_plane
from anodetect.data.volumes import Volume
from anodetect.errors import RunError
from anodetect.files import atomic, write_atomic
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.output import nifti
from anodetect.output.straight import straight_grid
from anodetect.record import marks
from anodetect.record.marks import WHOLE, Mark, Place
from anodetect.types import Bools

DESCRIPTION = "regions that reviewers marked; research use only"


@dataclass(frozen=True)
class Marked:
    """A case with the regions that were marked in it. `size` is the width and height of its
    pictures in the source; `volume` and `geometry` are None for an image."""

    path: str
    label: int
    marks: tuple[Mark, ...]
    size: tuple[int, int]
    volume: Volume | None = None
    geometry: Geometry | None = None


def mask_of(found: Iterable[Mark], size: tuple[int, int]) -> Bools:
    """Return the pixels [H, W] of the source whose centres lie in any of these regions."""
    outlines = tuple(np.array(mark.corners, np.float64) for mark in found)
    return Drawing(polygons=outlines).marked((size[1], size[0]))


def volume_mask(case: Marked, geometry: Geometry) -> Bools:
    """Return the voxels [D, H, W], in the order of the slices, that lie in a case's regions,
    whichever plane each was drawn in."""
    mask = np.zeros(geometry.shape, bool)
    for place, found in _by_place(case.marks).items():
        if place.number is None:
            continue
        plane = in_plane(geometry, place.plane)
        _, rows, columns = plane.flipped
        picture = mask_of(found, size_at(case, place))
        turned = picture[:: -1 if rows else 1, :: -1 if columns else 1]
        plane.to_slices(mask)[marks.source_number(plane, place.number)] |= turned
    return geometry.to_slices(mask)


def size_at(case: Marked, place: Place) -> tuple[int, int]:
    """Return the width and height in the source of a case's picture at a place."""
    if case.geometry is None or place == WHOLE:
        return case.size
    _, height, width = in_plane(case.geometry, place.plane).sides
    return width, height


def _by_place(found: Iterable[Mark]) -> Mapping[Place, list[Mark]]:
    places: dict[Place, list[Mark]] = {}
    for mark in found:
        places.setdefault(mark.place, []).append(mark)
    return places


# -- Masks -----------------------------------------------------------------------------------------


def write_masks(case: Marked, file: Path, pseudonym: str = "") -> list[Path]:
    """Write a case's masks beside `file`, which has no suffix, and return their paths: of an image
    a PNG of 0 and 255; of a volume a NIfTI in its grid, and of a DICOM series a Segmentation, in
    which the patient has this `pseudonym`, "" for its own name.

    Raises RunError for a volume that neither can hold.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    volume, geometry = case.volume, case.geometry
    if volume is None or geometry is None:
        target = file.with_name(f"{file.name}.png")
        with atomic(target) as output:
            picture = mask_of(case.marks, case.size).astype(np.uint8) * 255
            Image.fromarray(picture).save(output, "png")
        return [target]

    mask, written = volume_mask(case, geometry), list[Path]()
    is_nifti = hasattr(volume.origin, "get_data_shape")
    if is_nifti or straight_grid(volume) is None:
        target = file.with_name(f"{file.name}.nii.gz")
        with atomic(target) as output, gzip.open(output, "wb") as packed:
            prepared = _prepared(volume, geometry)
            nifti.write(cast(IO[bytes], packed), mask.astype(np.uint8), prepared, DESCRIPTION)
        written.append(target)

    if isinstance(volume.origin, Series) and not volume.is_pictures and find_spec("highdicom"):
        from anodetect.output.dicom.files import marked_file

        dataset = marked_file(geometry.to_source(mask), volume.origin, pseudonym)
        target = file.with_name(f"{file.name}.seg.dcm")
        with atomic(target) as output:
            dataset.save_as(output, enforce_file_format=True)
        written.append(target)
    if not written:
        raise RunError(
            "its slices lie at uneven distances or askew, which only DICOM keeps: "
            "pip install 'anodetect[dicom]'"
        )
    return written


def _prepared(volume: Volume, geometry: Geometry) -> PreparedVolume:
    """Return a volume of which only the grid counts."""
    foreground = np.zeros(geometry.sides, bool)
    none, slices = foreground[:, 0, 0], geometry.to_slices(volume.voxels)
    return PreparedVolume(volume, geometry, slices, foreground, None, scored=none, unseen=none)


# -- COCO ------------------------------------------------------------------------------------------


def write_coco(cases: Sequence[Marked], file: Path) -> int:
    """Write the cases and their regions in COCO's format, and return the number of regions.

    A slice or frame with regions is an image of its own, `path#axial-12`, with `plane` and `slice`
    beside its name; x and y are those of the source's pixels.
    """
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for case in cases:
        places = _by_place(case.marks) or {WHOLE: []}
        for place, found in places.items():
            images.append(_image(len(images) + 1, case, place))
            for mark in found:
                size = size_at(case, place)
                annotations.append(_annotation(len(annotations) + 1, len(images), mark, size))

    content = {
        "info": {"description": DESCRIPTION},
        "categories": [{"id": 1, "name": "anomaly", "supercategory": ""}],
        "images": images,
        "annotations": annotations,
    }
    write_atomic(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return len(annotations)


def _image(number: int, case: Marked, place: Place) -> dict[str, Any]:
    """Return the entry of an image, slice or frame."""
    name = case.path
    if place != WHOLE:
        name += f"#{place.plane}-{place.number}"
    width, height = size_at(case, place)
    entry = {"id": number, "file_name": name, "width": width, "height": height}
    where = {} if place == WHOLE else {"plane": place.plane, "slice": place.number}
    return entry | {"label": case.label, "path": case.path} | where


def _annotation(number: int, image: int, mark: Mark, size: tuple[int, int]) -> dict[str, Any]:
    """Return the entry of a region."""
    xs, ys = zip(*mark.corners, strict=True)
    outline: list[int] = []
    for corner in mark.corners:
        outline += corner

    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [outline],
        "area": int(mask_of([mark], size).sum()),
        "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
    }
