"""Rates from verdicts on some of the cases, corrected for which cases were judged. NumPy only.

Reviewers judge what is flagged, and little else. Shares among the judged cases then say little of
the batch: with no verdict on what was not flagged, the sensitivity seems to be 1. So a random
sample is drawn of the flagged cases, and one of the others, and only verdicts on a sample that was
judged completely count; of a part of which every case was judged all count. A part of N cases with
n in its sample stands for the batch with the weight N / n (Horvitz & Thompson 1952). The interval
combines the exact intervals of the parts that were not judged completely, each at 1 − .05 / k for k
of them (Bonferroni), so that it holds for small samples, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from anodetect.stats.calibration import clopper_pearson

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """`size` cases that are alike: all of them `flagged` or none. Of the `judged` ones in its
    sample so many are `anomalous` and `normal`; of the rest the verdicts give no label."""

    flagged: bool
    size: int
    judged: int
    anomalous: int
    normal: int


@dataclass(frozen=True)
class Estimate:
    """A rate in the whole batch and its 95 % interval; NaN where nothing is known of it."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(float("nan"), 0.0, 1.0)


@dataclass(frozen=True)
class Estimates:
    """The rates of a batch, as far as verdicts tell them, and the weight of each case [n], 0 for
    those that do not count. `untold` counts the cases of samples that lack a verdict."""

    sensitivity: Estimate
    false_alarms: Estimate
    precision: Estimate
    weights: Doubles
    untold: int


def random_order(head: str, paths: Sequence[str]) -> list[int]:
    """Return the places of the paths in an order that has nothing to do with them, the same for
    everybody who reviews this record."""
    keys = [sha256(f"{head}\n{path}".encode()).digest() for path in paths]
    return sorted(range(len(paths)), key=keys.__getitem__)


def sample(head: str, paths: Sequence[str], flagged: Sequence[bool], count: int) -> list[str]:
    """Return the paths to judge so that the rates can be told: the first `count` that are flagged
    and the first `count` that are not, in random order."""
    left = {True: count, False: count}
    chosen = []
    for place in random_order(head, paths):
        kind = bool(flagged[place])
        if left[kind] > 0:
            left[kind] -= 1
            chosen.append(paths[place])
    return chosen


def estimates(
    order: Sequence[int],
    recorded: Sequence[bool],
    flagged: Sequence[bool],
    judged: Sequence[bool],
    labels: Sequence[int | None],
    count: int,
) -> Estimates:
    """Return the rates of n cases if those in `flagged` [n] were flagged.

    `order` [n] are their places in random order. Samples are the first `count` of those with the
    same value in `recorded` [n], the flags on record, as `sample` chooses them. `judged` [n] says
    which cases have a verdict, and `labels` [n] which one: 0, 1 or None.
    """
    weights, cells, untold = np.zeros(len(order)), list[Cell](), 0
    for part in (True, False):
        members = [place for place in order if bool(recorded[place]) == part]
        everything = all(judged[place] for place in members)
        chosen = members if everything else members[:count]
        missing = sum(not judged[place] for place in chosen)
        untold += missing

        for flag in (True, False):
            alike = [place for place in members if bool(flagged[place]) == flag]
            seen = [place for place in chosen if bool(flagged[place]) == flag and not missing]
            found = [labels[place] for place in seen]
            if alike:
                cell = Cell(flag, len(alike), len(seen), found.count(1), found.count(0))
                cells.append(cell)
            if seen:
                weights[seen] = len(alike) / len(seen)

    normal = [Cell(c.flagged, c.size, c.judged, c.normal, c.anomalous) for c in cells]
    return Estimates(
        sensitivity=_share_flagged(cells),
        false_alarms=_share_flagged(normal),
        precision=_precision(cells),
        weights=weights,
        untold=untold,
    )


def _share_flagged(cells: Sequence[Cell]) -> Estimate:
    """Return the share of flagged cases among the anomalous ones."""
    if any(cell.judged == 0 for cell in cells):
        return UNKNOWN
    inside = _totals([cell for cell in cells if cell.flagged], cells)
    outside = _totals([cell for cell in cells if not cell.flagged], cells)
    value, total = inside[0], inside[0] + outside[0]
    if total == 0:
        return UNKNOWN
    return Estimate(value / total, _part(inside[1], outside[2]), _part(inside[2], outside[1]))


def _precision(cells: Sequence[Cell]) -> Estimate:
    """Return the share of anomalous cases among the flagged ones that verdicts give a label."""
    flagged = [cell for cell in cells if cell.flagged]
    if not flagged or any(cell.judged == 0 for cell in flagged):
        return UNKNOWN
    swapped = [Cell(c.flagged, c.size, c.judged, c.normal, c.anomalous) for c in flagged]
    right, wrong = _totals(flagged, flagged), _totals(swapped, flagged)
    if right[0] + wrong[0] == 0:
        return UNKNOWN
    value = right[0] / (right[0] + wrong[0])
    return Estimate(value, _part(right[1], wrong[2]), _part(right[2], wrong[1]))


def _totals(cells: Sequence[Cell], of_all: Sequence[Cell]) -> tuple[float, float, float]:
    """Return how many anomalous cases these cells have in all, at least and at most."""
    in_part = sum(cell.judged < cell.size for cell in of_all)
    value = low = high = 0.0
    for cell in cells:
        share = cell.anomalous / cell.judged
        bounds = share, share
        if cell.judged < cell.size:
            bounds = clopper_pearson(cell.anomalous, cell.judged, 0.05 / in_part)
        value += cell.size * share
        low += cell.size * bounds[0]
        high += cell.size * bounds[1]
    return value, low, high


def _part(one: float, other: float) -> float:
    return one / (one + other) if one + other > 0 else 0.0
