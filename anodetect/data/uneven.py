"""Slices that do not lie at even distances on a straight line.

Slices of a scan may be thin in one part and thick in another, one may be missing, or they may be
shifted against each other. Then every slice has a place of its own, the LPS+ millimetres of its
first pixel. An even grid is made only for those who need one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

EVEN = 0.05  # share of a distance by which others may differ from it
JUMP = 1.5  # times the distances before and after it, from which on a slice may be missing
FINEST = 0.25  # of the median distance: the finest step of an even grid
SHIFTED = 0.05  # mm by which slices are shifted at least, to be called so
FEWEST_TURNS = 6  # distances, before they are called alternating
SAME = 1e-6  # slices
UNITS_OF_ROUNDING = (1.0, 0.1, 0.01)  # mm


@dataclass(frozen=True)
class EvenGrid:
    """Even places along an axis on which n slices lie unevenly, from the first slice to the last.

    `step` is their distance in millimetres. `in_own` [m] are the places of the grid as indices of
    the slices, `in_even` [n] the slices' as indices of the grid; both may lie between two.
    """

    step: float
    in_own: Doubles
    in_even: Doubles

    def __len__(self) -> int:
        return len(self.in_own)

    def to_even(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Return values at the places of the grid; `axis` is that of the slices."""
        return interpolated(values, self.in_own, axis)

    def to_own(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Return values at the places of the slices; `axis` is that of the grid."""
        return interpolated(values, self.in_even, axis)


def even_grid(distances: Doubles) -> EvenGrid:
    """Return an even grid for slices at these distances from the first one [n], in millimetres.

    Its step is about the smallest distance between two slices, and not below FINEST of the median.
    """
    steps, total = np.diff(distances), float(distances[-1])
    finest = max(float(steps.min()), FINEST * float(np.median(steps)))
    count = round(total / finest) + 1

    even, numbers = np.linspace(0, total, count), np.arange(len(distances), dtype=np.float64)
    in_own = np.interp(even, distances, numbers)
    in_even = distances * ((count - 1) / total)
    return EvenGrid(total / (count - 1), _snapped(in_own), _snapped(in_even))


def interpolated(values: NDArray[Any], index: Doubles, axis: int) -> NDArray[Any]:
    """Return values at indices [m] along an axis, linear between two; of bools where the share of
    True is at least one half. NaN spreads only to places between two slices."""
    if values.dtype == bool:
        return np.asarray(interpolated(values.astype(np.float32), index, axis) >= 0.5)

    before = np.clip(np.floor(index).astype(np.int64), 0, values.shape[axis] - 1)
    after = np.minimum(before + 1, values.shape[axis] - 1)
    found = np.take(values, before, axis)
    between = np.flatnonzero(index > before)
    if len(between):
        parts = np.moveaxis(found, axis, 0)
        later = np.moveaxis(np.take(values, after[between], axis), axis, 0)
        share = (index - before)[between].astype(found.dtype)
        share = share.reshape(-1, *[1] * (found.ndim - 1))
        parts[between] = (1 - share) * parts[between] + share * later
    return found


def _snapped(index: Doubles) -> Doubles:
    """Return indices of which those that are nearly whole are whole."""
    whole = np.rint(index)
    return np.where(np.abs(index - whole) < SAME, whole, index)


# -- Places ----------------------------------------------------------------------------------------


def normal_of(affine: Doubles) -> Doubles:
    """Return the direction [3] across slices, the way the first axis of an affine runs."""
    across = np.cross(affine[:3, 1], affine[:3, 2])
    across /= np.linalg.norm(across)
    return np.asarray(across * np.sign(across @ affine[:3, 0]))


def distances_of(places: Doubles, affine: Doubles) -> Doubles:
    """Return the distances of slices from the first one [n] across their planes, in millimetres."""
    return np.asarray((places - places[0]) @ normal_of(affine))


def extents(distances: Doubles) -> Doubles:
    """Return how much of the axis belongs to each slice [n]: half of the way to both neighbours, at
    the ends as much again."""
    halves = np.diff(distances) / 2
    before, after = np.concatenate([halves[:1], halves]), np.concatenate([halves, halves[-1:]])
    return np.asarray(before + after)


def line_through(positions: Doubles) -> tuple[Doubles, Doubles, Doubles | None]:
    """Return the first position [3] of slices [n, 3] in their order and the step [3] from one to
    the next, of rounded positions by least squares; and the positions themselves if they are not
    evenly spaced on a line, else None."""
    numbers = np.arange(len(positions))
    origin, step = positions[0], (positions[-1] - positions[0]) / (len(positions) - 1)
    off = np.abs(positions - origin - numbers[:, None] * step).max()
    if off <= EVEN * np.linalg.norm(step):
        return origin, step, None

    fitted_step, fitted_origin = np.polyfit(numbers, positions, 1)
    off = np.abs(positions - fitted_origin - numbers[:, None] * fitted_step).max()
    if off <= _rounding(positions):
        return fitted_origin, fitted_step, None
    return origin, step, positions


def _rounding(positions: Doubles) -> float:
    """Return by how much positions may be off because they were written with few digits, in mm; 0
    where they were not, or where slices are too close for that to be told from a missing one."""
    apart = float(np.linalg.norm(positions[-1] - positions[0])) / (len(positions) - 1)
    for unit in UNITS_OF_ROUNDING:
        if unit <= apart / 4 and np.abs(positions / unit - np.rint(positions / unit)).max() < 1e-6:
            return 0.6 * unit
    return 0.0


def place_at(places: Doubles, index: float) -> Doubles:
    """Return the place [3] of a slice's number, which may lie between two."""
    numbers = np.arange(len(places))
    return np.array([np.interp(index, numbers, places[:, each]) for each in range(3)])


def indices_of(world: Doubles, places: Doubles, affine: Doubles) -> Doubles:
    """Return the indices (slice, row, column) [k, 3] of points in LPS+ millimetres [k, 3].

    Before the first slice and behind the last one, distances are as between the two nearest.
    """
    distances, numbers = distances_of(places, affine), np.arange(len(places), dtype=np.float64)
    along = (world - places[0]) @ normal_of(affine)
    first, last = distances[1] - distances[0], distances[-1] - distances[-2]
    number = np.interp(along, distances, numbers)
    number = np.where(along < 0, along / first, number)
    number = np.where(along > distances[-1], numbers[-1] + (along - distances[-1]) / last, number)

    inside = np.clip(number, 0, numbers[-1])
    offset = [np.interp(inside, numbers, places[:, each]) for each in range(3)]
    in_plane = world - np.stack(offset, axis=1)
    rows, columns = affine[:3, 1], affine[:3, 2]
    row = in_plane @ rows / (rows @ rows)
    column = in_plane @ columns / (columns @ columns)
    return np.stack([number, row, column], axis=1)


# -- In words --------------------------------------------------------------------------------------


def describe(places: Doubles, affine: Doubles) -> str:
    """Return in words how slices lie: where some are perhaps missing, how far they are apart, and
    by how much they are shifted against each other."""
    along = places @ normal_of(affine)
    steps = np.diff(along)
    jumps = [] if _alternate(steps) else _jumps(steps)
    notes = [_jump_note(along, number) for number in jumps]
    shift = largest_shift(places, affine)
    if shift > SHIFTED:
        notes.append(f"slices are shifted against each other by up to {shift:.1f} mm")

    others = np.delete(steps, jumps)
    if _alternate(steps):
        notes.insert(0, _alternate_note(steps))
    elif not notes or others.max() - others.min() > EVEN * float(np.median(others)):
        notes.insert(0, f"slices lie {steps.min():.3g} to {steps.max():.3g} mm apart")
    return "; ".join(notes)


def _alternate(steps: Doubles) -> bool:
    """Return whether distances are by turns a shorter and a longer one, as where the slices of one
    volume lie between those of another."""
    if len(steps) < FEWEST_TURNS:
        return False
    limit = EVEN * float(np.median(steps))
    one, other = steps[::2], steps[1::2]
    alike = np.ptp(one) <= limit and np.ptp(other) <= limit
    return bool(alike and abs(np.median(one) - np.median(other)) > limit)


def _alternate_note(steps: Doubles) -> str:
    """Return how slices lie by turns."""
    shorter, longer = sorted((float(np.median(steps[::2])), float(np.median(steps[1::2]))))
    return (
        f"slices lie by turns {shorter:.3g} and {longer:.3g} mm apart: perhaps those of one volume "
        "between those of another"
    )


def _jumps(steps: Doubles) -> list[int]:
    """Return the numbers of the distances that are alone far larger than those beside them, which
    are alike: there a slice may be missing."""
    found = []
    for number, step in enumerate(steps):
        beside = steps[max(0, number - 1) : number].tolist() + steps[number + 1 :][:1].tolist()
        if len(beside) == 1:  # an end: the two nearest count
            beside = (steps[:-1][-2:] if number else steps[1:][:2]).tolist()
        if len(beside) < 2 or max(beside) - min(beside) > EVEN * min(beside):
            continue
        if step > JUMP * max(beside):
            found.append(number)
    return found


def _jump_note(along: Doubles, number: int) -> str:
    """Return where slices may be missing, and how many."""
    steps = np.diff(along)
    usual = float(steps[number - 1] if number else steps[1])
    missing = max(1, round(float(steps[number]) / usual) - 1)
    what = "a slice is" if missing == 1 else f"{missing} slices are"
    return (
        f"slice spacing jumps from {usual:.3g} to {steps[number]:.3g} mm between "
        f"{along[number]:.1f} and {along[number + 1]:.1f} mm: perhaps {what} missing"
    )


def largest_shift(places: Doubles, affine: Doubles) -> float:
    """Return by how many millimetres slices lie beside the straight line that fits them best."""
    distances = distances_of(places, affine)
    beside = places - distances[:, None] * normal_of(affine)
    fitted = np.polynomial.polynomial.polyfit(distances, beside, 1)
    line = fitted[0] + distances[:, None] * fitted[1]
    return float(np.linalg.norm(beside - line, axis=1).max())
