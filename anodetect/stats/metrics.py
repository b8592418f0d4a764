"""Image and pixel metrics with group-bootstrap intervals. Larger score = more anomalous; labels are
0 or 1.

Image metrics are scikit-learn's, on exact scores. Pixel metrics are computed from counts: every map
value falls into one of 2¹⁸ bins by the leading bits of its float32 (a relative width of 2⁻⁹ or .2
%), so that one pass over the images is enough, memory does not grow with their size, and a
bootstrap over groups is a weighted sum of counts. A metric that is not defined (one class only) is
NaN.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array, csr_array

from anodetect.types import Bools, Floats

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

MIN_GROUPS = 10
RESAMPLES = 1000
BLOCK = 50  # resamples at a time, so that memory stays small
PRO_LIMIT = 0.3
MERGE_AT = 500_000
_SHIFT, _BINS = 14, 2**18


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval; NaN bounds come with the reason in `note`."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    note: str = ""
    draws: NDArray[np.float64] | None = field(
        default=None, repr=False, compare=False
    )  # the resampled values


# -- Images ----------------------------------------------------------------------------------------


def auroc(labels: Labels, scores: Doubles) -> float:
    """Area under the ROC curve: P(anomalous score > normal score), ties counting half."""
    from sklearn.metrics import (
        roc_auc_score,
    )  # here and below: it takes a second, and unlabelled images need none

    return float(roc_auc_score(labels, scores)) if _both(labels) else float("nan")


def average_precision(labels: Labels, scores: Doubles) -> float:
    """Σ (R_n − R_{n−1}) P_n over the distinct scores, without interpolation."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores)) if _both(labels) else float("nan")


def fpr_at_95_tpr(labels: Labels, scores: Doubles) -> float:
    """The smallest false-positive rate at which at least 95 % of the anomalous images are found."""
    from sklearn.metrics import roc_curve

    if not _both(labels):
        return float("nan")
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(fpr[tpr >= 0.95 - 1e-12].min())


def _both(labels: Labels) -> bool:
    return 0 < int(np.sum(labels)) < len(labels)


def image_metrics(
    labels: Labels, scores: Doubles, groups: Sequence[str], *, seed: int = 0
) -> dict[str, Interval]:
    """auroc, ap and fpr_at_95_tpr with percentile intervals over resampled groups."""
    values = {
        "auroc": auroc(labels, scores),
        "ap": average_precision(labels, scores),
        "fpr_at_95_tpr": fpr_at_95_tpr(labels, scores),
    }
    note = _no_interval(labels, groups)
    if note:
        return {name: Interval(value, note=note) for name, value in values.items()}
    blocks = [
        (_area(found, alarms), _step_area(found, alarms), _fpr_at(found, alarms))
        for found, alarms in bootstrap_curves(
            labels, scores, groups, resamples=RESAMPLES, seed=seed
        )
    ]
    resampled = dict(zip(values, np.concatenate(blocks, axis=1), strict=True))
    return {name: _interval(value, resampled[name]) for name, value in values.items()}


def _no_interval(labels: Labels, groups: Sequence[str]) -> str:
    count = len(set(groups))
    if not _both(labels):
        return "only one class is present"
    return (
        f"no interval: {count} groups, at least {MIN_GROUPS} are needed"
        if count < MIN_GROUPS
        else ""
    )


def bootstrap_curves(
    labels: Labels, scores: Doubles, groups: Sequence[str], *, resamples: int, seed: int = 0
) -> Iterator[tuple[Doubles, Doubles]]:
    """Anomalous and normal images above each distinct score, highest first, in `resamples` draws of
    groups: pairs of [up to BLOCK, distinct scores]. A draw is a set of weights, so the scores are
    sorted only once."""
    names, member = np.unique(np.array(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
    for begin in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - begin)
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
        drawn = weights[:, member[order]].astype(np.float64)  # [count, images]
        positive = np.add.reduceat(drawn * labels[order], starts, axis=1)
        yield (
            np.cumsum(positive, 1),
            np.cumsum(np.add.reduceat(drawn, starts, axis=1) - positive, 1),
        )


def _rate(counts: Doubles) -> Doubles:
    """Cumulative counts [..., K] as shares of the last one, with a 0 in front; NaN where there are
    none."""
    with np.errstate(invalid="ignore"):
        share = counts / np.where(counts[..., -1:] > 0, counts[..., -1:], np.nan)
    return np.concatenate([0 * share[..., :1], share], -1)


def _area(found: Doubles, alarms: Doubles) -> Doubles:
    return np.asarray(np.trapezoid(_rate(found), _rate(alarms), axis=-1))


def _step_area(found: Doubles, alarms: Doubles) -> Doubles:
    precision = found / np.maximum(found + alarms, 1e-12)
    return np.asarray(
        (np.diff(_rate(found), axis=-1) * precision).sum(-1) + 0 * _rate(alarms)[..., -1]
    )


def _fpr_at(found: Doubles, alarms: Doubles) -> Doubles:
    reached = _rate(found) >= 0.95 - 1e-12
    return np.asarray(np.where(reached, _rate(alarms), np.inf).min(-1) + 0 * _rate(found)[..., -1])


def _interval(value: float, resampled: Doubles) -> Interval:
    kept = resampled[~np.isnan(resampled)]
    left_out = len(resampled) - len(kept)
    if len(kept) < len(resampled) / 2:
        return Interval(
            value, note=f"no interval: {left_out} of {len(resampled)} resamples had one class only"
        )
    low, high = np.percentile(kept, (2.5, 97.5))
    note = f"{left_out} resamples with one class left out" if left_out else ""
    return Interval(value, float(low), float(high), note, resampled)


# -- Pixels ----------------------------------------------------------------------------------------


@dataclass
class PixelCounts:
    """Counts of map values per group, one image at a time: normal pixels, anomalous pixels, and
    anomalous regions (8-connected, in volumes 26-connected; each of total weight 1, for PRO)."""

    groups: dict[str, int] = field(default_factory=dict)
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], Doubles]] = field(default_factory=list)

    def add(self, heatmap: Floats, mask: Bools, group: str) -> None:
        """Count one image or volume: map [(D,) H, W] (NaN where not scored) and truth of the same
        shape."""
        row = self.groups.setdefault(group, len(self.groups))
        bins, known = _bin(heatmap), ~np.isnan(heatmap)
        regions, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
        sizes = np.bincount(regions[known], minlength=count + 1)
        for kind, (where, weights) in enumerate(
            [
                (known & ~mask, None),
                (known & mask, None),
                (known & mask, 1 / np.maximum(sizes, 1)[regions]),
            ]
        ):
            used, position = np.unique(bins[where], return_inverse=True)
            totals = np.bincount(position, None if weights is None else weights[where], len(used))
            self.parts.append((np.full(len(used), 3 * row + kind), used, totals.astype(np.float64)))
        # Merge when the entries have doubled: linear work in all, and groups of many images stay
        # small.
        if sum(len(part[0]) for part in self.parts[1:]) > max(MERGE_AT, len(self.parts[0][0])):
            self.parts = [self._merged()]

    def _merged(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Doubles]:
        rows, bins, totals = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        table = coo_array((totals, (rows, bins)), shape=(3 * len(self.groups), _BINS))
        table.sum_duplicates()
        return table.row.astype(np.int64), table.col.astype(np.int64), table.data

    def curves(self) -> "PixelCurves":
        """The counts as dense tables over the bins in use."""
        if not self.parts:
            empty = csr_array((0, 0))
            return PixelCurves(empty, empty, empty, np.zeros(0, np.float32))
        rows, bins, totals = self._merged()
        used, column = np.unique(bins, return_inverse=True)
        table = csr_array((totals, (rows, column)), shape=(3 * len(self.groups), len(used)))
        return PixelCurves(table[0::3], table[1::3], table[2::3], _lower_edge(used))


@dataclass(frozen=True)
class PixelCurves:
    """Counts by group and bin, bins in rising order, with each bin's lower edge."""

    normal: csr_array
    anomalous: csr_array
    regions: csr_array
    edges: Floats

    def measure(self, weights: Doubles | None = None) -> dict[str, float]:
        """auroc, ap, aupro (to a false-positive rate of .3) and dice_best, each group counted
        `weights` [G] times."""
        weights = np.ones(self.normal.shape[0]) if weights is None else weights
        negative, positive, region = (  # falling threshold: cumulative from the highest bin down
            np.cumsum((weights @ table)[::-1])
            for table in (self.normal, self.anomalous, self.regions)
        )
        if not (len(negative) and negative[-1] > 0 and positive[-1] > 0):
            return dict.fromkeys(("auroc", "ap", "aupro", "dice_best"), float("nan"))
        return {
            "auroc": float(_area(positive, negative)),
            "ap": float(_step_area(positive, negative)),
            "aupro": _area_to(_rate(negative), _rate(region), PRO_LIMIT),
            "dice_best": float((2 * positive / (positive + negative + positive[-1])).max()),
        }

    def dice_at(self, threshold: float) -> float:
        """Dice of the pixels above a threshold, over all images together."""
        above = self.edges > threshold
        positive, negative = self.anomalous.sum(0), self.normal.sum(0)
        if positive.sum() == 0:
            return float("nan")
        found = positive[above].sum()
        return float(2 * found / (found + negative[above].sum() + positive.sum()))

    def intervals(self, *, resamples: int = 200, seed: int = 0) -> dict[str, Interval]:
        """`measure` with percentile intervals over resampled groups."""
        values, count = self.measure(), self.normal.shape[0]
        if count < MIN_GROUPS:
            note = f"no interval: {count} groups, at least {MIN_GROUPS} are needed"
            return {name: Interval(value, note=note) for name, value in values.items()}
        rng = np.random.default_rng(seed)
        draws = [
            self.measure(rng.multinomial(count, [1 / count] * count).astype(float))
            for _ in range(resamples)
        ]
        return {
            name: _interval(value, np.array([draw[name] for draw in draws]))
            for name, value in values.items()
        }


# -- Lesions ---------------------------------------------------------------------------------------


def lesion_sensitivity(
    heatmaps: Sequence[Floats],
    masks: Sequence[Bools],
    false_positives: float = 1.0,
    thresholds: int = 200,
) -> tuple[int, int, float]:
    """Lesions found, lesions there are, and the threshold: the last of `thresholds`, from the
    highest values down, before there are more than `false_positives` per volume on average (a point
    of the FROC curve).

    Heatmaps and masks are [D, H, W]; NaN counts as lowest. A lesion is a connected part of the
    truth, and found where a connected part above the threshold overlaps it; a part that overlaps
    none is a false positive. Lower thresholds, at which parts grow together until one of them
    covers everything, do not count.
    """
    around = np.ones((3, 3, 3))
    values = [np.nan_to_num(heatmap, nan=-np.inf) for heatmap in heatmaps]
    lesions = [ndimage.label(mask, around) for mask in masks]
    best = (0, sum(count for _, count in lesions), float("inf"))
    everything = np.concatenate([value[np.isfinite(value)] for value in values])
    tails = 1 - np.geomspace(1e-7, 0.5, thresholds)  # densely where few voxels lie above
    for threshold in np.unique(np.quantile(everything, tails))[::-1]:
        found = wrong = 0
        for value, (truth, _) in zip(values, lesions, strict=True):
            parts, count = ndimage.label(value > threshold, around)
            overlap = (parts > 0) & (truth > 0)
            found += len(np.unique(truth[overlap]))
            wrong += count - len(np.unique(parts[overlap]))
        if wrong > false_positives * len(values):
            break
        best = (found, best[1], float(threshold))
    return best


def _area_to(fpr: Doubles, height: Doubles, limit: float) -> float:
    """Area under (fpr, height) up to `limit`, divided by it (Bergmann et al., IJCV 2021, section
    5.1)."""
    inside = fpr <= limit
    x = np.append(fpr[inside], limit)
    y = np.append(height[inside], np.interp(limit, fpr, height))
    return float(np.trapezoid(y, x) / limit)


def _bin(values: Floats) -> NDArray[np.int64]:
    """Bins in the order of the values: a float's bits, sign made monotone, all but the leading ones
    dropped."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> _SHIFT).astype(np.int64)


def _lower_edge(bins: NDArray[np.int64]) -> Floats:
    ordered = bins.astype(np.uint32) << _SHIFT
    return (
        np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered)
        .astype(np.uint32)
        .view(np.float32)
    )
