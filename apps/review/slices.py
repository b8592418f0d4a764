"""Volumes for the browser, slice by slice in three planes, with the scores of their slices.

Like tiles, slices hold values and no colours. They are sent as they are shown: rows and columns run
as `geometry` says, whatever the source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.data import geometry
from anodetect.data.geometry import FRAMES, PLANES, Geometry, Index
from anodetect.errors import ImageError, RunError
from anodetect.record import marks
from anodetect.record.rows import ScoreRow, SliceRow
from anodetect.types import Bools

from . import known, tiles
from .display import Channels, VolumeCase, Window
from .session import highest_slice
from .tiles import Values

UNRECORDED = "No image: the volume's slices were not recorded; score it again"
UNEVEN = "Slices lie at uneven distances; across them the other planes are drawn as if even."


@dataclass(frozen=True)
class Profile:
    """The scores of a volume's slices in the order of the screen, None where one was not scored and
    `unscored` says why; `marked` are the numbers of those with regions that count, from 0."""

    scores: tuple[float | None, ...]
    unscored: tuple[str, ...]
    marked: tuple[int, ...]
    threshold: float | None
    found: str


@dataclass(frozen=True)
class Sliced:
    """A volume ready for the browser: its layers [C, I, J, K] and masks [I, J, K] in the order of
    the source, and the geometry of each plane it is shown in, the scored one first.

    `start` is the slice of that plane to show first, from 0 in the order of the screen. All is
    empty where there is no volume; `notes` say why. `profile` is None while scores are hidden.
    `channels` are the files that the image was put together from, if it is not one.
    """

    geometries: Mapping[str, Geometry]
    layers: Mapping[str, Values]
    masks: Mapping[str, Bools]
    windows: Mapping[str, Window]
    start: int
    profile: Profile | None
    notes: tuple[str, ...]
    channels: Channels = ()

    @property
    def nbytes(self) -> int:
        arrays = [*self.layers.values(), *self.masks.values()]
        return sum(array.nbytes for array in arrays)

    @property
    def plane(self) -> str:
        """Return the plane that was scored; "" without a volume."""
        return next(iter(self.geometries), "")

    def values(self, layer: str, plane: str, number: int) -> bytes:
        """Return the values [C, h, w] of a slice, little end first; raise RunError where there is
        none."""
        volume = self.layers.get(layer)
        if volume is None:
            raise RunError("there is no such layer")
        slices = self._slices(volume, plane, number)
        kind = volume.dtype.newbyteorder("<")
        return np.ascontiguousarray(slices[:, number], kind).tobytes()

    def outline(self, name: str, plane: str, number: int) -> list[list[float]]:
        """Return the closed lines around a mask in a slice, each as x, y, x, y … from its upper
        left corner; raise RunError where there is no such mask or slice."""
        mask = self.masks.get(name)
        if mask is None:
            raise RunError(f"there is no {name}")
        return tiles.lines_around(self._slices(mask, plane, number)[number])

    def _slices(self, volume: NDArray[Any], plane: str, number: int) -> NDArray[Any]:
        """Return a volume as the slices of a plane; raise RunError where the plane has no such
        slice."""
        shown = self.geometries.get(plane)
        if shown is None or not 0 <= number < shown.sides[0]:
            raise RunError("there is no such slice")
        return shown.to_slices(volume)


def nothing(*notes: str) -> Sliced:
    """Return what there is of a volume that cannot be shown."""
    return Sliced({}, {}, {}, {}, 0, None, notes)


def sliced(case: VolumeCase, row: ScoreRow, rows: Sequence[SliceRow], *, hidden: bool) -> Sliced:
    """Return a volume in slices; `hidden` leaves out all that reveals scores or the truth. `rows`
    are its slices as they were scored."""
    scored, voxels = case.geometry, case.slices
    if scored is None or voxels is None:
        return nothing(*(() if hidden else case.notes))
    rows = sorted(rows, key=lambda each: each.slice, reverse=scored.flipped[0])

    # Neighbouring values of a slice lie side by side, which is how they are asked for.
    layers = {"image": scored.to_source(np.ascontiguousarray(tiles.compact(voxels)))}
    masks = dict[str, Bools]()
    profile, start = None, scored.sides[0] // 2
    if not hidden:
        if case.heatmap is not None:
            layers["heatmap"] = scored.to_source(np.ascontiguousarray(case.heatmap[None]))
        for name, mask in (("contours", case.found), ("truth", case.mask)):
            if mask is not None:
                masks[name] = scored.to_source(np.ascontiguousarray(mask))
        profile = _profile(case, row, rows)
        start = rows.index(highest_slice(rows))

    geometries = _planes(scored)
    notes = () if hidden else case.notes
    if scored.places is not None and len(geometries) > 1:
        notes += (UNEVEN,)
    windows, channels = case.windows, case.channels
    return Sliced(geometries, layers, masks, windows, start, profile, notes, channels)


def _planes(scored: Geometry) -> dict[str, Geometry]:
    """Return the planes to show, the scored one first. Slices that are shifted against each other,
    and pictures, make up no other plane."""
    found = {scored.plane: scored}
    try:
        scored.check_aligned()
    except ImageError:
        return found
    if scored.plane == FRAMES:
        return found
    for plane in PLANES:
        if plane != scored.plane:
            found[plane] = geometry.in_plane(scored, plane)
    return found


def _profile(case: VolumeCase, row: ScoreRow, rows: Sequence[SliceRow]) -> Profile:
    """Return the scores of slices `rows`, which are in the order of the screen."""
    flagged = tuple(number for number, each in enumerate(rows, start=1) if each.flagged)
    marked = case.slices_with_regions
    found = known.Found(flagged, len(rows), marked)

    scores = [each.score if _is_finite(each.score) else None for each in rows]
    return Profile(
        scores=tuple(scores),
        unscored=tuple(each.unscored for each in rows),
        marked=tuple(number - 1 for number in marked),
        threshold=row.threshold if _is_finite(row.threshold) else None,
        found=found.text,
    )


def _is_finite(value: float | None) -> bool:
    return value is not None and isfinite(value)


# -- For the browser -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlaneText:
    """A plane as the browser reads it: the source's axes that become slices, rows and columns,
    which of them run against the source's, and the letters at the left, right, top and bottom
    edge."""

    name: str
    axes: Index
    flipped: tuple[bool, bool, bool]
    edges: tuple[str, str, str, str]


@dataclass(frozen=True)
class VolumeText:
    """Where a volume's voxels lie. An index (i, j, k) of the source is at `origin` + i · steps[0] +
    j · steps[1] + k · steps[2] in LPS+ millimetres; where there are `places`, those of i take the
    place of origin and first step. `spacing` is the millimetres along the source's axes."""

    shape: Index
    planes: list[PlaneText]
    spacing: tuple[float, float, float]
    origin: list[float]
    steps: list[list[float]]
    places: list[list[float]] | None
    start: int
    profile: Profile | None


def describe(case: Sliced) -> VolumeText:
    """Return the description of a volume."""
    scored = case.geometries[case.plane]
    planes = []
    for name, shown in case.geometries.items():
        edges = geometry.edges(name)
        letters = edges["left"], edges["right"], edges["top"], edges["bottom"]
        planes.append(PlaneText(name, shown.axes, shown.flipped, letters))

    lengths = np.linalg.norm(scored.affine[:3, :3], axis=0)
    places = scored.places
    return VolumeText(
        shape=scored.shape,
        planes=planes,
        spacing=(float(lengths[0]), float(lengths[1]), float(lengths[2])),
        origin=scored.affine[:3, 3].tolist(),
        steps=scored.affine[:3, :3].T.tolist(),
        places=None if places is None else places.tolist(),
        start=case.start,
        profile=case.profile,
    )


def painted(case: Sliced, places: Sequence[str]) -> list[marks.Place]:
    """Return the places of slices that the browser says it has painted, such as "axial 12"; those
    that the volume does not have are left out."""
    found = []
    for text in places:
        plane, _, number = text.rpartition(" ")
        shown = case.geometries.get(plane)
        if shown is not None and number.isdecimal() and int(number) < shown.sides[0]:
            found.append(marks.place_of(plane, int(number)))
    return found
