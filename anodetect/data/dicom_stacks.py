"""The volumes of one DICOM series: echoes, b-values, times, phases and planes that a scanner filed
under one series, told apart by what their frames differ in.

A series is one volume unless frames lie at the same place, or are of different orientations, sizes
or pixel spacings. Where frames lie at the same place, the first of TRAITS that tells these apart
divides them, and if that leaves some together, the next. Where no attribute does and all places
have as many frames, their order of acquisition does. So are volumes divided of which one lies
between the slices of the other. Localizers beside other images are left out,
and so are single images in other planes beside a volume.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from anodetect.data.dicom_frames import TRAITS, Frame
from anodetect.data.uneven import EVEN, describe, line_through
from anodetect.errors import ImageError

SAME_DIRECTION = 1e-3  # of cosines
SAME_PLACE = 1e-3  # mm
SAME_SPACING = 1e-3  # of the distance of pixels
LEAST_SHARE = 0.5  # of the places of all frames, which a part needs to be a volume of its own
MOST_NAMES = 8  # in a reason
# So many images of one orientation are a volume, beside which so many single ones of others are
# strays, such as localizers that do not say that they are.
LEAST_OF_VOLUME, MOST_STRAYS = 8, 3
GAP = 0.75  # of the distance of slices, from the nearest of them
# Frames of a volume between the slices of another one, at least; and the share of distances that
# are the usual one, from which on there is one volume.
LEAST_BETWEEN, MOSTLY = 4, 0.75
Place = tuple[NDArray[np.float64], NDArray[np.float64]]
UNITS = {"echo": " ms", "trigger": " ms", "inversion": " ms"}
PLANES = ("sagittal", "coronal", "axial")  # by the axis that lies closest to the normal


@dataclass(frozen=True)
class Stack:
    """The frames of one volume, and its name within the series, "" for the only one."""

    name: str
    frames: tuple[Frame, ...]


def stacks_of(frames: Sequence[Frame]) -> list[Stack]:
    """Return the volumes that frames make up, each in the order of its places."""
    images = [frame for frame in frames if not frame.localizer] or list(frames)
    places = [(frame.position, frame.directions) for frame in images]
    strays = strays_among(places)
    images = [frame for number, frame in enumerate(images) if number not in strays]
    planes = _by_orientation(images)
    stacks = []
    for plane in planes:
        prefix = [_plane_name(plane[0])] if len(planes) > 1 else []
        for grid, alike in _by_grid(plane):
            for names, part in _divided(alike):
                name = " ".join([*prefix, *grid, *names])
                stacks.append(Stack(name, tuple(in_order(part))))
    return _numbered(stacks)


def strays_among(places: Sequence[Place]) -> set[int]:
    """Return the numbers of the images that are alone in their orientation beside a volume; none
    unless it is evident which is the volume, and which are strays. `places` are positions [3] and
    directions [6]."""
    planes = _planes(places)
    single = {plane[0] for plane in planes if len(plane) == 1}
    others = [plane for plane in planes if len(plane) > 1]
    if len(others) != 1 or len(others[0]) < LEAST_OF_VOLUME:
        return set()
    volume = [places[number] for number in others[0]]
    return set() if any(_fills_gap(places[number], volume) for number in single) else single


def _planes(places: Sequence[Place]) -> list[list[int]]:
    """Return the numbers of the images of each orientation; none if there are more orientations
    than a volume and its strays have."""
    planes: list[list[int]] = []
    for number, (_, own) in enumerate(places):
        for plane in planes:
            if _same(own, places[plane[0]][1]):
                plane.append(number)
                break
        else:
            planes.append([number])
            if len(planes) > 1 + MOST_STRAYS:
                return []
    return planes


def unevenness_of(places: Sequence[Place]) -> str:
    """Return in words how the images of a series with these places lie where they are not evenly
    spaced on a line; "" if they are, or where not every place has as many images."""
    notes: dict[str, None] = {}
    for plane in _planes(places):
        notes[_unevenness_in_plane([places[number] for number in plane])] = None
    return "; ".join(note for note in notes if note)


def _unevenness_in_plane(places: Sequence[Place]) -> str:
    """Return in words how images of one orientation lie, "" if evenly or if that is not known."""
    _, directions = places[0]
    normal = np.cross(directions[:3], directions[3:])
    positions = np.stack(sorted([own for own, _ in places], key=lambda own: float(own @ normal)))
    first = np.flatnonzero(np.diff(positions @ normal, prepend=-np.inf) > SAME_PLACE)
    counts = np.diff(first, append=len(positions))
    if len(first) < 3 or counts.min() != counts.max():
        return ""

    origin, step, own_places = line_through(positions[first])
    affine = np.eye(4)
    affine[:3] = np.stack([step, directions[3:], directions[:3], origin], axis=1)
    return "" if own_places is None else describe(own_places, affine)


def _fills_gap(place: Place, volume: Sequence[Place]) -> bool:
    """Return whether an image lies where a volume lacks a slice: then its orientation may be wrong,
    and it is no stray."""
    position, _ = place
    _, directions = volume[0]
    normal = np.cross(directions[:3], directions[3:])
    along = np.sort([float(own @ normal) for own, _ in volume])
    at = float(position @ normal)
    usual = float(np.median(np.diff(along)))
    return bool(along[0] < at < along[-1] and np.abs(along - at).min() > GAP * usual)


def chosen(stacks: Sequence[Stack], component: int | str | None, otherwise: str = "") -> Stack:
    """Return the volume that `component` names or numbers from 0; ImageError with all names if it
    is none of them, or if there are several and none is named. `otherwise` says what else can be
    done then."""
    if isinstance(component, str):
        for stack in stacks:
            if stack.name.casefold() == component.strip().casefold():
                return stack
    elif component is not None and 0 <= component < len(stacks):
        return stacks[component]
    elif component is None and len(stacks) == 1:
        return stacks[0]

    if len(stacks) == 1:
        raise ImageError(f"no component {component!r}: the series is one volume")
    names = ", ".join(repr(stack.name) for stack in stacks[:MOST_NAMES])
    names += ", …" if len(stacks) > MOST_NAMES else ""
    if component is not None:
        raise ImageError(f"no component {component!r} in a series of {len(stacks)}: {names}")
    first = stacks[0].frames[0]
    turned = any(not _same(stack.frames[0].directions, first.directions) for stack in stacks)
    if turned and all(len(stack.frames) == 1 for stack in stacks):
        raise ImageError(
            f"{len(stacks)} images in one series, each in a plane of its own, are no volume: a "
            f"rotating projection or sections around an axis{otherwise}"
        )
    if all(stack.name.startswith("repetition") and len(stack.frames) == 1 for stack in stacks):
        otherwise = f"; if they are slices of a volume, correct ImagePositionPatient{otherwise}"
        names += ", all at one place"
    raise ImageError(
        f"{len(stacks)} volumes in one series: {names}; choose one: --select NAME, or a column "
        f"'component' in manifest.csv{otherwise}"
    )


def normal_of(frame: Frame) -> NDArray[np.float64]:
    """Return the direction [3] along which frames of this orientation are stacked."""
    return np.asarray(np.cross(frame.directions[:3], frame.directions[3:]))


def in_order(frames: Iterable[Frame]) -> list[Frame]:
    """Return frames of one orientation in the order along their normal."""
    frames = list(frames)
    normal = normal_of(frames[0])
    return sorted(frames, key=lambda frame: float(frame.position @ normal))


def numbers_in_space(frames: Sequence[Frame]) -> list[int]:
    """Return the numbers of frames along their normal, if all of them make up one volume; else
    []."""
    found = stacks_of(frames)[0].frames
    is_whole = len(found) == len(frames) and len(_at_places(found)) == len(frames)
    return [frame.number for frame in found] if is_whole else []


# -- Parts -----------------------------------------------------------------------------------------


def _by_orientation(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return the frames of each orientation together, as they come."""
    parts: list[list[Frame]] = []
    for frame in frames:
        for part in parts:
            if _same(frame.directions, part[0].directions):
                part.append(frame)
                break
        else:
            parts.append([frame])
    return parts


def _by_grid(frames: Sequence[Frame]) -> list[tuple[list[str], list[Frame]]]:
    """Return the frames of each size, columns x rows, and of each pixel spacing together, with what
    names them among the others: [] where all are alike."""
    parts: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda frame: (frame.size, frame.spacing)):
        if parts and _same_grid(parts[-1][0], frame):
            parts[-1].append(frame)
        else:
            parts.append([frame])

    if len(parts) == 1:
        return [([], list(frames))]

    sizes = {part[0].size for part in parts}
    found = []
    for part in parts:
        (rows, columns), (down, across) = part[0].size, part[0].spacing
        names = [f"size {columns}x{rows}"] if len(sizes) > 1 else []
        if sum(other[0].size == part[0].size for other in parts) > 1:
            names.append(f"pixels {across:.4g}x{down:.4g} mm")
        found.append((names, part))
    return found


def _same_grid(one: Frame, other: Frame) -> bool:
    return one.size == other.size and np.allclose(one.spacing, other.spacing, rtol=SAME_SPACING)


def _same(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool(np.abs(one - other).max() <= SAME_DIRECTION)


def _plane_name(frame: Frame) -> str:
    return PLANES[int(np.abs(normal_of(frame)).argmax())]


def _divided(frames: Sequence[Frame]) -> list[tuple[list[str], list[Frame]]]:
    """Return the parts of frames of one orientation that have no two at the same place, and are no
    two volumes one of which lies between the slices of the other, with their names; the frames as
    they are if nothing tells those of a place apart."""
    most = max(map(len, _at_places(frames)))
    if most == 1:
        return _shifted(frames)

    for number, (name, _, _) in enumerate(TRAITS):
        parts = _by_trait(frames, number)
        if len(parts) > 1 and _are_volumes(parts.values(), frames, most):
            found = []
            for value, part in parts.items():
                for names, rest in _divided(part):
                    found.append(([_name_of(name, value), *names], rest))
            return found
    return _by_acquisition(frames, most)


def _shifted(frames: Sequence[Frame]) -> list[tuple[list[str], list[Frame]]]:
    """Return the volumes that lie between the slices of each other, with their names: by a trait of
    which every value has evenly spaced frames, as those of all values together are not. The frames
    as they are where there are none. A slice that is missing leaves most distances alike."""
    along = np.sort([float(frame.position @ normal_of(frames[0])) for frame in frames])
    steps = np.diff(along)
    if len(frames) < 2 * LEAST_BETWEEN or _alike(steps).mean() >= MOSTLY:
        return [([], list(frames))]

    for number, (name, _, _) in enumerate(TRAITS):
        parts = _by_trait(frames, number)
        if len(parts) > 1 and _lie_between(list(parts.values())):
            return [([_name_of(name, value)], part) for value, part in parts.items()]
    return [([], list(frames))]


def _lie_between(parts: Sequence[Sequence[Frame]]) -> bool:
    """Return whether parts are volumes of evenly spaced frames that lie between each other over
    most of the shortest."""
    starts, ends = [], []
    for part in parts:
        if len(part) < LEAST_BETWEEN:
            return False
        along = np.sort([float(frame.position @ normal_of(part[0])) for frame in part])
        if not _alike(np.diff(along)).all():
            return False
        starts.append(along[0])
        ends.append(along[-1])
    shortest = min(np.subtract(ends, starts))
    return bool(min(ends) - max(starts) >= LEAST_SHARE * shortest)


def _alike(steps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which distances are the usual one."""
    usual = float(np.median(steps))
    return np.asarray(np.abs(steps - usual) <= EVEN * usual)


def _name_of(trait: str, value: str) -> str:
    """Return the name of the frames with a value of a trait."""
    if trait == "part" and value:
        return value
    return f"{trait} {value}{UNITS.get(trait, '')}" if value else f"no {trait}"


def _by_trait(frames: Sequence[Frame], number: int) -> dict[str, list[Frame]]:
    """Return the frames with each value of a trait, by the values in their order."""
    parts: dict[str, list[Frame]] = {}
    for frame in frames:
        parts.setdefault(frame.traits[number], []).append(frame)
    return dict(sorted(parts.items(), key=lambda item: _sort_key(item[0])))


def _sort_key(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return np.inf, value


def _are_volumes(parts: Iterable[Sequence[Frame]], whole: Sequence[Frame], most: int) -> bool:
    """Return whether each part has fewer frames at a place than the whole, and enough places."""
    needed = LEAST_SHARE * len(_at_places(whole))
    for part in parts:
        places = _at_places(part)
        if len(places) < needed or max(map(len, places)) >= most:
            return False
    return True


def _at_places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return the frames at each place along their normal, as the scanner counted them."""
    ordered = in_order(frames)
    normal = normal_of(ordered[0])
    places = [[ordered[0]]]
    for before, frame in pairwise(ordered):
        if (frame.position - before.position) @ normal > SAME_PLACE:
            places.append([])
        places[-1].append(frame)
    return [sorted(place, key=lambda frame: (frame.instance, frame.number)) for place in places]


def _by_acquisition(frames: Sequence[Frame], most: int) -> list[tuple[list[str], list[Frame]]]:
    """Return the first frames of all places, the second ones and so on; the frames as they are if
    places have different numbers of them."""
    places = _at_places(frames)
    if min(map(len, places)) < most:
        return [([], list(frames))]
    parts = []
    for number in range(most):
        parts.append(([f"repetition {number + 1}"], [place[number] for place in places]))
    return parts


def _numbered(stacks: Sequence[Stack]) -> list[Stack]:
    """Return stacks with a number in the names that several have."""
    seen: dict[str, int] = {}
    names = [stack.name for stack in stacks]
    found = []
    for stack in stacks:
        seen[stack.name] = seen.get(stack.name, 0) + 1
        several = names.count(stack.name) > 1
        name = f"{stack.name} {seen[stack.name]}".strip() if several else stack.name
        found.append(Stack(name, stack.frames))
    return found
