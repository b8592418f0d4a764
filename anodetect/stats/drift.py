"""Does a batch come from where the calibration images came from? NumPy only.

Two answers. `compare` is a two-sample permutation test of the batch against the calibration images
that permutes whole groups. Both are cut off at the score that a twentieth of the calibration images
exceed, so that a batch with anomalies in it, which all lie beyond, is not taken for a drift; what
is compared is whether the rest ranks higher or lower. Given the cut, calibration and batch normals
below it are exchangeable if they are so at all. A batch of which more than half lies beyond the cut
is always reported: it is full of anomalies, or from elsewhere.

`martingale` follows a batch in the order of acquisition (Vovk, Gammerman & Shafer, Algorithmic
Learning in a Random World, 2nd ed., 2022, ch. 8; simple jumper: Vovk et al., COPA 2021). Each
group's score gets a conformal p-value among all before it; a bet against those being uniform grows
beyond 1/α with probability at most α (Ville's inequality) as long as nothing changes.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
ALPHA = 0.04  # of the comparison: it is nearly exact, and no more than 5 % shall be alarms
PATIENCE = 20.0  # evidence at which the martingale fires: 1 / .05
CUT = 0.95  # quantile of the calibration scores beyond which nothing is compared
MOST_BEYOND = 0.5
PERMUTATIONS = 499
GROUPS = 4000  # of a batch, at most; the calibration images limit what can be told long before
JUMP = 0.01  # of the simple jumper
FEWEST = 2  # groups on either side; with less there is nothing to permute


@dataclass(frozen=True)
class Drift:
    """`rank`: where the typical batch image lies among the calibration images below the cut, .5
    where nothing moved. `beyond`: the share of the batch beyond it."""

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
    """The batch's scores [n] and groups against the calibration's; None if there is too little to
    compare."""
    reference, values = np.asarray(calibration, np.float64), np.asarray(batch, np.float64)
    if len(set(calibration_groups)) < FEWEST or len(set(batch_groups)) < FEWEST:
        return None
    rng = np.random.default_rng(seed)
    reference_group = np.unique(np.array(calibration_groups), return_inverse=True)[1]
    value_group = np.unique(np.array(batch_groups), return_inverse=True)[1]
    cut = np.sort(reference)[min(len(reference) - 1, int(np.ceil(CUT * len(reference))) - 1)]
    beyond = float(_group_mean(values > cut, value_group).mean())
    if beyond > MOST_BEYOND:
        text = (
            f"{beyond:.0%} of this batch look odder than {CUT:.0%} of the calibration images: it is full of anomalies, "
            "or from elsewhere, and then its p-values mean nothing. Look at some; if they are normal, calibrate anew."
        )
        return Drift(True, 1 / (PERMUTATIONS + 1), float("nan"), beyond, text)
    chosen = np.unique(value_group)
    if len(chosen) > GROUPS:
        chosen = rng.choice(chosen, GROUPS, replace=False)
    keep = (values < cut) & np.isin(value_group, chosen)
    below, below_group = reference[reference < cut], reference_group[reference < cut]
    pooled = np.concatenate([below, values[keep]])
    group = np.unique(
        np.concatenate([below_group, reference_group.max() + 1 + value_group[keep]]),
        return_inverse=True,
    )[1]
    n_reference = len(np.unique(below_group))
    n_groups = group.max(initial=-1) + 1
    if n_reference < FEWEST or n_groups - n_reference < FEWEST:
        return None
    mean_rank = _group_mean(_rank_among(pooled, pooled), group)  # reference groups come first
    observed = abs(mean_rank[n_reference:].mean() - mean_rank[:n_reference].mean())
    drawn = _drawn_means(mean_rank, n_reference, rng)
    rest = (mean_rank.sum() - drawn * n_reference) / (n_groups - n_reference)
    p_value = float((1 + (np.abs(rest - drawn) >= observed - 1e-12).sum()) / (PERMUTATIONS + 1))
    rank = float(_group_mean(_rank_among(values[keep], below), value_group[keep]).mean())
    return Drift(p_value <= ALPHA, p_value, rank, beyond, _in_words(p_value, rank))


def _in_words(p_value: float, rank: float) -> str:
    where = (
        f"The typical image of this batch that is not conspicuous looks odder than {rank:.0%} of the inconspicuous "
        f"calibration images (50 % would be no change; p = {p_value:.3f})."
    )
    if p_value > ALPHA:
        return f"No drift found. {where}"
    moved = (
        "odder: more normal images will be flagged than promised"
        if rank > 0.5
        else "quieter: anomalies may be missed"
    )
    return f"Drift: this batch looks {moved}. {where} If its images are normal, calibrate anew."


def _group_mean(values: NDArray[np.generic], group: NDArray[np.intp]) -> Doubles:
    """Mean of the values of each group that occurs, in the order of the group numbers."""
    counts = np.bincount(group)
    means = np.bincount(group, values.astype(np.float64)) / np.maximum(counts, 1)
    return np.asarray(means[counts > 0])


def _rank_among(values: Doubles, reference: Doubles) -> Doubles:
    """The share of the reference below each value, ties counting half."""
    ordered = np.sort(reference)
    return np.asarray(
        (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right"))
        / (2 * len(ordered))
    )


def _drawn_means(values: Doubles, count: int, rng: np.random.Generator) -> Doubles:
    """Means [PERMUTATIONS] of `count` of the values drawn without replacement."""
    return np.array(
        [
            rng.choice(values, count, replace=False, shuffle=False).mean()
            for _ in range(PERMUTATIONS)
        ]
    )


@dataclass(frozen=True)
class Martingale:
    """`peak` is the highest value the bet reached, `alarm` when it passed PATIENCE."""

    fires: bool
    peak: float
    alarm: str
    text: str


def martingale(
    calibration: Sequence[float],
    calibration_groups: Sequence[str],
    batch: Sequence[tuple[str, str, float]],
    *,
    seed: int = 0,
) -> Martingale | None:
    """`batch` holds (acquired, group, score) for each image. One image per group is drawn; None
    without any."""
    rng = np.random.default_rng(seed)
    drawn = _one_per_group(
        [(group, score) for group, score in zip(calibration_groups, calibration, strict=True)], rng
    )
    reference = sorted(score for _, score in drawn)
    when = {(group, score): acquired for acquired, group, score in batch}
    ordered = sorted(
        (when[entry], entry) for entry in _one_per_group([(g, s) for _, g, s in batch], rng)
    )
    if not ordered or not reference:
        return None
    bets, peak, alarm = np.full(3, 1 / 3), 1.0, ""
    for acquired, (_, score) in ordered:
        low, high = bisect.bisect_left(reference, score), bisect.bisect_right(reference, score)
        above, ties = len(reference) - high, high - low + 1
        p = (above + rng.uniform() * ties) / (len(reference) + 1)
        reference.insert(high, score)
        bets = (1 - JUMP) * bets + JUMP * bets.sum() / 3
        bets *= 1 + np.array([-1, 0, 1]) * (p - 0.5)
        if bets.sum() > peak:
            peak = float(bets.sum())
            if peak >= PATIENCE and not alarm:
                alarm = acquired
    text = (
        f"Over time: scores changed; evidence passed {PATIENCE:.0f} : 1 at {alarm}."
        if alarm
        else f"Over time: no change found in {len(ordered)} groups in order of acquisition "
        f"(evidence {peak:.1f} : 1 at most)."
    )
    return Martingale(bool(alarm), peak, alarm, text)


def _one_per_group(
    entries: Sequence[tuple[str, float]], rng: np.random.Generator
) -> list[tuple[str, float]]:
    """One image of each group, drawn at random."""
    last = {}
    for place in rng.permutation(len(entries)):
        last[entries[place][0]] = entries[place]
    return list(last.values())
