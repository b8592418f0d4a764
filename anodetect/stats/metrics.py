"""Image and pixel metrics with intervals from a bootstrap over groups; of few groups, image metrics
have those of `few_groups`.

A larger score is more anomalous; labels are 0 or 1. Image metrics are scikit-learn's, on exact
scores. Pixel metrics are computed from counts: every map value falls into one of 2¹⁸ bins by the
leading bits of its float32 (a relative width of 2⁻⁹ or .2 %). One pass over the images is enough,
memory does not grow with their size, and a bootstrap over groups is a weighted sum of counts. A
metric that is not defined, because there is one class only, is NaN.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array, csr_array

from anodetect.stats import few_groups
from anodetect.types import Bools, Floats
from anodetect.words import amount

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

MIN_GROUPS = 10  # with fewer there is no interval
MIN_OF_CLASS = 3  # groups with anomalous and with normal images, with fewer there is none either
FEW_GROUPS = 40  # of a class: with fewer the bootstrap is too narrow
NEAR_ONE = 5  # images of the smaller class in the wrong order, below which it is, too
RESAMPLES = 1000
PIXEL_RESAMPLES = 200
BLOCK = 50  # resamples at a time, so that memory stays small
PRO_LIMIT = 0.3  # the false-positive rate to which AUPRO is integrated
MERGE_AT = 500_000  # entries of counts, at least, before they are merged
_SHIFT, _BINS = 14, 2**18


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, that of the bootstrap or of `few_groups`.

    Bounds that are NaN come with the reason in `note`. `draws` are the values over the resampled
    groups.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    note: str = ""
    draws: Doubles | None = field(default=None, repr=False, compare=False)


# -- Images ----------------------------------------------------------------------------------------
# scikit-learn takes a second to import and is imported where it is used: scoring unlabelled images
# does not need it.


def auroc(labels: Labels, scores: Doubles) -> float:
    """Return the area under the ROC curve: P(anomalous score > normal score), ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores)) if _has_both(labels) else float("nan")


def average_precision(labels: Labels, scores: Doubles) -> float:
    """Return Σ (R_n − R_{n−1}) P_n over the distinct scores, without interpolation."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores)) if _has_both(labels) else float("nan")


def fpr_at_95_tpr(labels: Labels, scores: Doubles) -> float:
    """Return the smallest false-positive rate at which at least 95 % of the anomalous images are
    found."""
    from sklearn.metrics import roc_curve

    if not _has_both(labels):
        return float("nan")
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(fpr[tpr >= 0.95 - 1e-12].min())


def tpr_at_5_fpr(labels: Labels, scores: Doubles) -> float:
    """Return the greatest true-positive rate at a false-positive rate of at most 5 %.

    A threshold cannot tell equal scores apart, so images with the same score are found together,
    and where that would be too many normal ones, none of them. With fewer than 20 normal images
    none may lie above the threshold.
    """
    from sklearn.metrics import roc_curve

    if not _has_both(labels):
        return float("nan")
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(tpr[fpr <= 0.05 + 1e-12].max())


def _has_both(labels: Labels) -> bool:
    return 0 < int(np.sum(labels)) < len(labels)


def image_metrics(
    labels: Labels, scores: Doubles, groups: Sequence[str], *, seed: int = 0
) -> dict[str, Interval]:
    """Return auroc, ap, fpr_at_95_tpr and tpr_at_5_fpr with percentile intervals over resampled
    groups, or, with few groups or an AUROC near 1, those of `few_groups`.

    `labels` [n] are 0 or 1; `scores` and `groups` belong to the same n images.
    """
    values = {
        "auroc": auroc(labels, scores),
        "ap": average_precision(labels, scores),
        "fpr_at_95_tpr": fpr_at_95_tpr(labels, scores),
        "tpr_at_5_fpr": tpr_at_5_fpr(labels, scores),
    }
    note = _why_no_interval(labels, groups)
    if note:
        return _without_intervals(values, note)

    blocks = []
    for found, alarms in bootstrap_curves(labels, scores, groups, resamples=RESAMPLES, seed=seed):
        areas = _area(found, alarms), _step_area(found, alarms)
        blocks.append((*areas, _fpr_at(found, alarms), _tpr_at(found, alarms)))
    draws = dict(zip(values, np.concatenate(blocks, axis=1), strict=True))
    intervals = {name: _interval(value, draws[name]) for name, value in values.items()}

    classes = groups_of_classes(labels, groups)
    wrong = (1 - values["auroc"]) * min(classes)
    if min(classes) < FEW_GROUPS or wrong < NEAR_ONE:
        return _with_wide_bounds(intervals, labels, scores, classes)
    return intervals


def groups_of_classes(labels: Labels, groups: Sequence[str]) -> tuple[int, int]:
    """Return how many groups have anomalous images, and how many have normal ones."""
    names = np.array(groups)
    return len(np.unique(names[labels == 1])), len(np.unique(names[labels == 0]))


def _with_wide_bounds(
    intervals: Mapping[str, Interval], labels: Labels, scores: Doubles, classes: tuple[int, int]
) -> dict[str, Interval]:
    """Return the metrics of images with the bounds of `few_groups`; see `groups_of_classes`."""
    anomalous, normal = scores[labels == 1], scores[labels == 0]
    values = {name: interval.value for name, interval in intervals.items()}
    draws = intervals["ap"].draws
    bounds = {
        "auroc": few_groups.auroc_bounds(values["auroc"], *classes),
        "tpr_at_5_fpr": few_groups.found_bounds(anomalous, normal, 0.05, classes),
    }
    if draws is not None:
        bounds["ap"] = few_groups.precision_bounds(values["ap"], draws, *classes)
    low, high = few_groups.found_bounds(-normal, -anomalous, 0.05, classes[::-1])
    bounds["fpr_at_95_tpr"] = 1 - high, 1 - low

    found = {}
    for name, interval in intervals.items():
        low, high = bounds.get(name, (interval.low, interval.high))
        low, high = min(low, interval.value), max(high, interval.value)
        found[name] = replace(interval, low=low, high=high)
    return found


def _why_no_interval(labels: Labels, groups: Sequence[str]) -> str:
    if not _has_both(labels):
        return "only one class is present"
    fewest = min(groups_of_classes(labels, groups))
    if fewest < MIN_OF_CLASS:
        groups_of_one = amount(fewest, "group")
        return f"no interval: a class has {groups_of_one}, at least {MIN_OF_CLASS} are needed"
    return too_few(len(set(groups)))


def too_few(groups: int) -> str:
    """Return why so many groups give no interval, "" if they do."""
    if groups >= MIN_GROUPS:
        return ""
    return f"no interval: {amount(groups, 'group')}, at least {MIN_GROUPS} are needed"


class CurveBlock(NamedTuple):
    """Some draws of groups: how many anomalous (`found`) and normal images (`alarms`) lie at or
    above each distinct score, highest score first; both are [draws, distinct scores]."""

    found: Doubles
    alarms: Doubles


def bootstrap_curves(
    labels: Labels, scores: Doubles, groups: Sequence[str], *, resamples: int, seed: int = 0
) -> Iterator[CurveBlock]:
    """Yield the curves of `resamples` draws of groups, up to BLOCK at a time.

    A draw is a set of weights, so the scores are sorted only once.
    """
    names, member = np.unique(np.array(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))

    for begin in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - begin)
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
        drawn = weights[:, member[order]].astype(np.float64)  # [count, images]

        positive = np.add.reduceat(drawn * labels[order], starts, axis=1)
        negative = np.add.reduceat(drawn, starts, axis=1) - positive
        yield CurveBlock(np.cumsum(positive, 1), np.cumsum(negative, 1))


def _rate(counts: Doubles) -> Doubles:
    """Return cumulative counts [..., K] as shares of the last one, with a 0 in front [..., K + 1];
    NaN where the last one is 0."""
    with np.errstate(invalid="ignore"):
        share = counts / np.where(counts[..., -1:] > 0, counts[..., -1:], np.nan)
    return np.concatenate([0 * share[..., :1], share], -1)


def _area(found: Doubles, alarms: Doubles) -> Doubles:
    """Return the area under the ROC curve of each draw."""
    return np.asarray(np.trapezoid(_rate(found), _rate(alarms), axis=-1))


def _step_area(found: Doubles, alarms: Doubles) -> Doubles:
    """Return the average precision of each draw, NaN without normal images."""
    precision = found / np.maximum(found + alarms, 1e-12)
    area = (np.diff(_rate(found), axis=-1) * precision).sum(-1)
    return np.asarray(area + 0 * _rate(alarms)[..., -1])


def _fpr_at(found: Doubles, alarms: Doubles) -> Doubles:
    """Return the false-positive rate of each draw at a true-positive rate of 95 %."""
    reached = _rate(found) >= 0.95 - 1e-12
    lowest = np.where(reached, _rate(alarms), np.inf).min(-1)
    return np.asarray(lowest + 0 * _rate(found)[..., -1])


def _tpr_at(found: Doubles, alarms: Doubles) -> Doubles:
    """Return the true-positive rate of each draw at a false-positive rate of 5 %."""
    allowed = _rate(alarms) <= 0.05 + 1e-12
    highest = np.where(allowed, _rate(found), -np.inf).max(-1)
    return np.asarray(highest + 0 * _rate(alarms)[..., -1])


def _without_intervals(values: Mapping[str, float], note: str) -> dict[str, Interval]:
    return {name: Interval(value, note=note) for name, value in values.items()}


def _interval(value: float, draws: Doubles) -> Interval:
    """Return the percentile interval of the draws that are defined, if those are at least half."""
    kept = draws[~np.isnan(draws)]
    left_out = len(draws) - len(kept)
    if len(kept) < len(draws) / 2:
        note = f"no interval: {left_out} of {len(draws)} resamples had one class only"
        return Interval(value, note=note)

    low, high = np.percentile(kept, (2.5, 97.5))
    note = f"{amount(left_out, 'resample')} with one class left out" if left_out else ""
    return Interval(value, float(low), float(high), note, draws)


# -- Pixels ----------------------------------------------------------------------------------------


class CountEntries(NamedTuple):
    """Sparse counts: entry i adds `totals[i]` to row `rows[i]` and bin `bins[i]`.

    A group has three rows: normal pixels, anomalous pixels, anomalous regions.
    """

    rows: NDArray[np.int64]
    bins: NDArray[np.int64]
    totals: Doubles


@dataclass
class PixelCounts:
    """Counts of map values per group, one image at a time.

    Normal pixels, anomalous pixels and anomalous regions are counted apart. Regions are
    8-connected, in volumes 26-connected; each has a total weight of 1, for PRO.
    """

    groups: dict[str, int] = field(default_factory=dict)
    parts: list[CountEntries] = field(default_factory=list)

    def add(self, heatmap: Floats, mask: Bools, group: str) -> None:
        """Count one image or volume: its map [(D,) H, W], NaN where not scored, and its mask of the
        same shape."""
        row = self.groups.setdefault(group, len(self.groups))
        bins, known = _bin(heatmap), ~np.isnan(heatmap)
        regions, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
        sizes = np.bincount(regions[known], minlength=count + 1)
        region_weights = 1 / np.maximum(sizes, 1)[regions]

        self._count(3 * row, bins[known & ~mask], None)
        self._count(3 * row + 1, bins[known & mask], None)
        self._count(3 * row + 2, bins[known & mask], region_weights[known & mask])

        # Merged when the entries have doubled, the work is linear in all, and groups of many images
        # stay small.
        entries = sum(len(part.rows) for part in self.parts[1:])
        if entries > max(MERGE_AT, len(self.parts[0].rows)):
            self.parts = [self._merged()]

    def _count(self, row: int, bins: NDArray[np.int64], weights: Doubles | None) -> None:
        """Add values in these bins to a row, each with weight 1 or its own."""
        used, position = np.unique(bins, return_inverse=True)
        totals = np.bincount(position, weights, len(used)).astype(np.float64)
        self.parts.append(CountEntries(np.full(len(used), row), used, totals))

    def _merged(self) -> CountEntries:
        rows, bins, totals = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        table = coo_array((totals, (rows, bins)), shape=(3 * len(self.groups), _BINS))
        table.sum_duplicates()
        return CountEntries(table.row.astype(np.int64), table.col.astype(np.int64), table.data)

    def curves(self, name_of: Callable[[str], str] = str) -> "PixelCurves":
        """Return the counts as tables over the bins in use, those of groups that `name_of` gives
        one name together."""
        if not self.parts:
            empty = csr_array((0, 0))
            return PixelCurves(empty, empty, empty, np.zeros(0, np.float32))

        merged = self._merged()
        used, column = np.unique(merged.bins, return_inverse=True)
        # By name, so that resamples are the same in whichever order images were added
        names = [name_of(group) for group in self.groups]
        number = {name: place for place, name in enumerate(sorted(set(names)))}
        joined = [number[name] for name in names]
        group, kind = np.divmod(merged.rows, 3)
        rows, shape = 3 * np.array(joined)[group] + kind, (3 * len(number), len(used))
        table = csr_array((merged.totals, (rows, column)), shape=shape)
        return PixelCurves(table[0::3], table[1::3], table[2::3], _lower_edge(used))


@dataclass(frozen=True)
class PixelCurves:
    """Counts [groups, bins], bins in rising order, with the lower edge of each bin."""

    normal: csr_array
    anomalous: csr_array
    regions: csr_array
    edges: Floats

    def measure(self, weights: Doubles | None = None) -> dict[str, float]:
        """Return auroc, ap, aupro (to a false-positive rate of .3) and dice_best, with each group
        counted `weights` [groups] times, by default once."""
        weights = np.ones(self.normal.shape[0]) if weights is None else weights
        negative = _from_the_highest(weights @ self.normal)
        positive = _from_the_highest(weights @ self.anomalous)
        region = _from_the_highest(weights @ self.regions)

        if not (len(negative) and negative[-1] > 0 and positive[-1] > 0):
            return dict.fromkeys(("auroc", "ap", "aupro", "dice_best"), float("nan"))
        return {
            "auroc": float(_area(positive, negative)),
            "ap": float(_step_area(positive, negative)),
            "aupro": _area_to(_rate(negative), _rate(region), PRO_LIMIT),
            "dice_best": float((2 * positive / (positive + negative + positive[-1])).max()),
        }

    def intervals(self, *, resamples: int = PIXEL_RESAMPLES, seed: int = 0) -> dict[str, Interval]:
        """Return `measure` with percentile intervals over resampled groups."""
        values, count = self.measure(), self.normal.shape[0]
        note = too_few(count)
        if note:
            return {name: Interval(value, note=note) for name, value in values.items()}

        rng = np.random.default_rng(seed)
        draws = []
        for _ in range(resamples):
            weights = rng.multinomial(count, [1 / count] * count).astype(float)
            draws.append(list(self.measure(weights).values()))
        columns = np.array(draws).T  # [metrics, resamples]
        named = zip(values.items(), columns, strict=True)
        return {name: _interval(value, column) for (name, value), column in named}


def _from_the_highest(counts: Doubles) -> Doubles:
    """Return counts of bins in rising order as cumulative counts from the highest bin down."""
    return np.cumsum(counts[::-1])


def _area_to(fpr: Doubles, height: Doubles, limit: float) -> float:
    """Return the area under (fpr, height) up to `limit`, divided by it (Bergmann et al., IJCV 2021,
    section 5.1)."""
    inside = fpr <= limit
    x = np.append(fpr[inside], limit)
    y = np.append(height[inside], np.interp(limit, fpr, height))
    return float(np.trapezoid(y, x) / limit)


def _bin(values: Floats) -> NDArray[np.int64]:
    """Return bins in the order of the values: the leading bits of each float, with the sign made
    monotone."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> _SHIFT).astype(np.int64)


def _lower_edge(bins: NDArray[np.int64]) -> Floats:
    """Return the lowest value of each bin."""
    ordered = bins.astype(np.uint32) << _SHIFT
    bits = np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered)
    return bits.astype(np.uint32).view(np.float32)


# -- Lesions ---------------------------------------------------------------------------------------


class LesionSensitivity(NamedTuple):
    """The number of lesions, of `total`, that are found above a threshold."""

    found: int
    total: int
    threshold: float


def lesion_sensitivity(
    heatmaps: Sequence[Floats],
    masks: Sequence[Bools],
    false_positives: float = 1.0,
    thresholds: int = 200,
) -> LesionSensitivity:
    """Return how many lesions are found at `false_positives` per volume on average, a point of the
    FROC curve.

    Heatmaps and masks are [D, H, W]; NaN counts as lowest. A lesion is a connected part of the
    truth. It is found if a connected part above the threshold overlaps it; a part that overlaps
    none is a false positive. Of `thresholds`, from the highest values down, the last one counts
    before there are too many false positives. Lower thresholds, at which parts grow together until
    one of them covers everything, do not count.
    """
    around = np.ones((3, 3, 3))
    values = [np.nan_to_num(heatmap, nan=-np.inf) for heatmap in heatmaps]
    truths = [ndimage.label(mask, around) for mask in masks]
    best = LesionSensitivity(0, sum(count for _, count in truths), float("inf"))

    everything = np.concatenate([value.ravel() for value in values])
    finite = everything[np.isfinite(everything)]
    tails = 1 - np.geomspace(1e-7, 0.5, thresholds)  # most of them where few voxels lie above
    for threshold in np.unique(np.quantile(finite, tails))[::-1]:
        found = wrong = 0
        for value, (truth, _) in zip(values, truths, strict=True):
            parts, count = ndimage.label(value > threshold, around)
            overlap = (parts > 0) & (truth > 0)
            found += len(np.unique(truth[overlap]))
            wrong += count - len(np.unique(parts[overlap]))

        if wrong > false_positives * len(values):
            break
        best = LesionSensitivity(found, best.total, float(threshold))
    return best
