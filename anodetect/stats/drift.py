"""Does a batch come from where the calibration images came from? NumPy only.

There are two answers. `compare` is a two-sample permutation test of the batch against the
calibration images, which permutes whole groups. Both sides are cut off at the score that a
twentieth of the calibration images exceed: anomalies lie above the cut and are not mistaken for a
drift. The test asks whether the rest of the batch ranks higher or lower. If calibration and batch
normals are exchangeable, they still are below the cut. A batch of which more than half lies above
the cut is always reported: it is full of anomalies, or comes from elsewhere.

`martingale` follows a batch in the order of acquisition (Vovk, Gammerman & Shafer, Algorithmic
Learning in a Random World, 2nd ed., 2022, ch. 8; simple jumper: Vovk et al., COPA 2021). The score
of each group gets a conformal p-value among all scores before it. A bet against those p-values
being uniform grows beyond 1/α with probability at most α (Ville's inequality) as long as nothing
changes.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anodetect.stats.times import order_of

Doubles = NDArray[np.float64]
ALPHA = 0.04  # of the comparison: it is nearly exact, and at most 5 % shall be false alarms
PATIENCE = 20.0  # evidence at which the martingale fires: 1 / .05
CUT = 0.95  # quantile of the calibration scores above which nothing is compared
MOST_BEYOND = 0.5
PERMUTATIONS = 499
GROUPS = 4000  # of a batch, at most; more would not help, as the calibration images are fewer
JUMP = 0.01  # of the simple jumper
FEWEST = 2  # groups on either side; with fewer there is nothing to permute


@dataclass(frozen=True)
class Drift:
    """The result of comparing a batch with the calibration images.

    `rank`, 0 to 1, is where the typical batch image below the cut lies among the calibration images
    below the cut: .5 if nothing moved. `beyond`, 0 to 1, is the share of the batch above the cut.
    """

    fires: bool
    p_value: float
    rank: float
    beyond: float
    text: str


def compare(
    calibration: Sequence[float] | Doubles,
    calibration_groups: Sequence[str],
    batch: Sequence[float] | Doubles,
    batch_groups: Sequence[str],
    *,
    seed: int = 0,
) -> Drift | None:
    """Compare the scores of a batch with those of the calibration images, each [n] with n groups;
    None if there is too little to compare."""
    reference, values = np.asarray(calibration, np.float64), np.asarray(batch, np.float64)
    if len(set(calibration_groups)) < FEWEST or len(set(batch_groups)) < FEWEST:
        return None
    rng = np.random.default_rng(seed)
    reference_group, value_group = _numbered(calibration_groups), _numbered(batch_groups)

    cut = np.sort(reference)[min(len(reference) - 1, int(np.ceil(CUT * len(reference))) - 1)]
    beyond = float(_group_mean(values > cut, value_group).mean())
    if beyond > MOST_BEYOND:
        return Drift(True, 1 / (PERMUTATIONS + 1), float("nan"), beyond, _beyond_text(beyond))

    chosen = np.unique(value_group)
    if len(chosen) > GROUPS:
        chosen = rng.choice(chosen, GROUPS, replace=False)
    keep = (values < cut) & np.isin(value_group, chosen)
    below, below_group = reference[reference < cut], reference_group[reference < cut]

    # Groups are numbered anew, those of the calibration images first.
    pooled = np.concatenate([below, values[keep]])
    group = _numbered(np.append(below_group, reference_group.max() + 1 + value_group[keep]))
    n_reference = len(np.unique(below_group))
    if n_reference < FEWEST or group.max(initial=-1) + 1 - n_reference < FEWEST:
        return None

    p_value = _permutation_p_value(
        _group_mean(_rank_among(pooled, pooled), group), n_reference, rng
    )
    rank = float(_group_mean(_rank_among(values[keep], below), value_group[keep]).mean())
    return Drift(p_value <= ALPHA, p_value, rank, beyond, _comparison_text(p_value, rank))


def _permutation_p_value(means: Doubles, count: int, rng: np.random.Generator) -> float:
    """Return the p-value of the distance between the mean of the first `count` of the group means
    and the mean of the rest, among that of random choices of `count` groups."""
    observed = abs(means[count:].mean() - means[:count].mean())
    drawn = np.empty(PERMUTATIONS)
    for number in range(PERMUTATIONS):
        drawn[number] = rng.choice(means, count, replace=False, shuffle=False).mean()

    rest = (means.sum() - drawn * count) / (len(means) - count)
    as_far = np.abs(rest - drawn) >= observed - 1e-12
    return float((1 + as_far.sum()) / (PERMUTATIONS + 1))


def _beyond_text(beyond: float) -> str:
    return (
        f"{beyond:.0%} of this batch look odder than {CUT:.0%} of the calibration images: "
        "it is full of anomalies, or from elsewhere, and then its p-values mean nothing. "
        "Look at some; if they are normal, calibrate anew."
    )


def _comparison_text(p_value: float, rank: float) -> str:
    where = (
        "The typical image of this batch that is not conspicuous looks odder than "
        f"{rank:.0%} of the inconspicuous calibration images "
        f"(50 % would be no change; p = {p_value:.3f})."
    )
    if p_value > ALPHA:
        return f"No drift found. {where}"
    moved = "quieter: anomalies may be missed"
    if rank > 0.5:
        moved = "odder: more normal images will be flagged than promised"
    return f"Drift: this batch looks {moved}. {where} If its images are normal, calibrate anew."


def _numbered(groups: Sequence[str] | NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the number of each entry's group, from 0 in sorted order."""
    return np.asarray(np.unique(np.array(groups), return_inverse=True)[1])


def _group_mean(values: NDArray[np.generic], group: NDArray[np.intp]) -> Doubles:
    """Return the mean of the values of each group that occurs, in the order of their numbers."""
    counts = np.bincount(group)
    means = np.bincount(group, values.astype(np.float64)) / np.maximum(counts, 1)
    return np.asarray(means[counts > 0])


def _rank_among(values: Doubles, reference: Doubles) -> Doubles:
    """Return the share of the reference below each value, ties count half."""
    ordered = np.sort(reference)
    below = np.searchsorted(ordered, values, "left")
    not_above = np.searchsorted(ordered, values, "right")
    return np.asarray((below + not_above) / (2 * len(ordered)))


@dataclass(frozen=True)
class Martingale:
    """The result of following a batch in time. `peak` is the highest value of the bet; `alarm` is
    when it passed PATIENCE, "" if it never did."""

    fires: bool
    peak: float
    alarm: str
    text: str


def martingale(
    calibration: Sequence[float],
    calibration_groups: Sequence[str],
    batch: Sequence[float],
    batch_groups: Sequence[str],
    acquired: Sequence[str],
    *,
    seed: int = 0,
) -> Martingale | None:
    """Follow the scores of a batch in the order in which its images were acquired.

    One image of each group is drawn at random. Returns None if there are no images on either side.
    Raises DataError if `acquired` cannot be put in the order of time.
    """
    times = order_of(acquired, batch_groups)
    rng = np.random.default_rng(seed)
    reference = sorted(calibration[n] for n in _one_per_group(calibration_groups, rng))
    drawn = _one_per_group(batch_groups, rng)
    drawn.sort(key=lambda n: (times[n], batch_groups[n], batch[n]))
    if not drawn or not reference:
        return None

    bets, peak, alarm = np.full(3, 1 / 3), 1.0, ""
    for n in drawn:
        p = _next_p_value(reference, batch[n], rng)
        bets = (1 - JUMP) * bets + JUMP * bets.sum() / 3
        bets *= 1 + np.array([-1, 0, 1]) * (p - 0.5)
        if bets.sum() > peak:
            peak = float(bets.sum())
            if peak >= PATIENCE and not alarm:
                alarm = acquired[n]
    return Martingale(bool(alarm), peak, alarm, _martingale_text(alarm, peak, len(drawn)))


def _next_p_value(reference: list[float], score: float, rng: np.random.Generator) -> float:
    """Return the conformal p-value of a score among those before it, ties broken at random, and
    insert the score into them. `reference` is sorted."""
    low, high = bisect.bisect_left(reference, score), bisect.bisect_right(reference, score)
    above, ties = len(reference) - high, high - low + 1
    p = (above + rng.uniform() * ties) / (len(reference) + 1)
    reference.insert(high, score)
    return p


def _martingale_text(alarm: str, peak: float, groups: int) -> str:
    if alarm:
        return f"Over time: scores changed; evidence passed {PATIENCE:.0f} : 1 at {alarm}."
    return (
        f"Over time: no change found in {groups} groups in order of acquisition "
        f"(evidence {peak:.1f} : 1 at most)."
    )


def _one_per_group(groups: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Return the place of one image of each group, drawn at random."""
    places = {}
    for place in rng.permutation(len(groups)).tolist():
        places[groups[place]] = place
    return list(places.values())
