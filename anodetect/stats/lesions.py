"""Regions of maps against the lesions of the truth: FROC curve, sensitivity, Dice by size.

A lesion is a connected part of a mask of the truth, in a volume across slices. A region of the map
that touches a lesion finds it, so that each lesion is found down to the strength of the strongest
region that touches it. In a volume, regions of neighbouring slices that touch and count are one. A
region that touches no lesion is false. The FROC curve is the share of lesions found against the
false regions per image, over all strengths (Bunch et al. 1978). Images are those with a usable mask
and the normal ones; a volume counts as one image.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anodetect.stats.mask_rule import MaskRule, Regions
from anodetect.stats.metrics import too_few
from anodetect.types import Bools, Floats

Doubles = NDArray[np.float64]
Whole = NDArray[np.int64]
FALSE_REGIONS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # per image, where sensitivities are named
CURVE_POINTS = 200  # of a FROC curve that is written down
RESAMPLES = 200
SIZE_NAMES = ("small", "middle", "large")


@dataclass(frozen=True)
class Lesion:
    """A lesion of `size` pixels or voxels. `strength` is that of the strongest region that touches
    it, −inf if none does; `dice` compares it with all regions together that touch it and count."""

    size: int
    strength: float
    dice: float


@dataclass(frozen=True)
class ComparedMap:
    """The regions of one map against its truth: the lesions, and how many pixels of the mask are
    right, wrong, or missing.

    While the least strength falls, the number of false regions changes at strengths `false` by
    `changes`: by 1 for each of an image, also by less where regions of slices become one.
    """

    group: str
    is_volume: bool
    false: Doubles
    changes: Whole
    lesions: tuple[Lesion, ...]
    right: int
    wrong: int
    missing: int


def compare(
    heatmap: Floats, truth: Bools, rule: MaskRule, group: str, *, is_volume: bool = False
) -> ComparedMap:
    """Compare the regions of a map [(D,) H, W] with its truth, a mask of the same shape.

    Pixels of an image where the map is NaN do not count; voxels that were not scored do.
    """
    if not is_volume:
        truth = truth & ~np.isnan(heatmap)
    regions = rule.regions(heatmap)
    mask = regions.stronger(rule.least)
    around = np.ones((3,) * truth.ndim)
    lesions, count = ndimage.label(truth, around)
    touching = np.unique(_pairs(lesions, regions.labels), axis=0)

    # Regions that count, joined across slices
    marked, _ = ndimage.label(mask, around)
    marked_sizes = np.bincount(marked.ravel())
    common, shared = np.unique(_pairs(lesions, marked), axis=0, return_counts=True)
    found = []
    for number, size in enumerate(np.bincount(lesions.ravel(), minlength=count + 1)[1:], 1):
        strengths = regions.strengths[touching[touching[:, 0] == number, 1] - 1]
        own = common[:, 0] == number
        total = int(marked_sizes[common[own, 1]].sum()) + int(size)
        dice = 2 * int(shared[own].sum()) / total
        found.append(Lesion(int(size), float(strengths.max(initial=-np.inf)), dice))

    is_true = np.isin(np.arange(1, len(regions.strengths) + 1), touching[:, 1])
    false, changes = _false_regions(regions, is_true)
    return ComparedMap(
        group=group,
        is_volume=is_volume,
        false=false,
        changes=changes,
        lesions=tuple(found),
        right=int((mask & truth).sum()),
        wrong=int((mask & ~truth).sum()),
        missing=int((truth & ~mask).sum()),
    )


def _pairs(one: NDArray[np.integer], other: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the numbers in two arrays of labels [pixels, 2] wherever neither is 0."""
    both = (one > 0) & (other > 0)
    return np.stack([one[both], other[both]], axis=1)


def _false_regions(regions: Regions, is_true: Bools) -> tuple[Doubles, Whole]:
    """Return where the number of false regions changes while the least strength falls, and by how
    much, as `ComparedMap` has it. `is_true` [regions] says which touch a lesion."""
    falling = np.argsort(-regions.strengths, kind="stable")
    if regions.labels.ndim == 2:
        false = falling[~is_true[falling]]
        return regions.strengths[false], np.ones(len(false), np.int64)

    neighbours = _neighbours(regions)
    parent = list(range(len(regions.strengths)))  # a region that was joined to another names it
    holds_true = is_true.tolist()
    counts = [False] * len(parent)
    changes = np.zeros(len(parent), np.int64)
    for place, region in enumerate(falling.tolist()):
        counts[region] = True
        changes[place] = not holds_true[region]
        for other in neighbours[region]:
            one, two = _root(parent, region), _root(parent, other)
            if not counts[other] or one == two:
                continue
            before = (not holds_true[one]) + (not holds_true[two])
            parent[two] = one
            holds_true[one] |= holds_true[two]
            changes[place] += (not holds_true[one]) - before
    return regions.strengths[falling], changes


def _neighbours(regions: Regions) -> list[list[int]]:
    """Return for each region of a volume those that it touches in the slices beside its own."""
    found: list[list[int]] = [[] for _ in regions.strengths]
    for upper, lower in pairwise(regions.labels):
        height, width = upper.shape
        padded = np.pad(lower, 1)
        touching = []
        for row in range(3):
            for column in range(3):
                shifted = padded[row : row + height, column : column + width]
                touching.append(_pairs(upper, shifted))
        for one, two in np.unique(np.concatenate(touching), axis=0).tolist():
            found[one - 1].append(two - 1)
            found[two - 1].append(one - 1)
    return found


def _root(parent: list[int], region: int) -> int:
    """Return the number of the joined region that a region belongs to; shorten the way there."""
    while parent[region] != region:
        parent[region] = parent[parent[region]]
        region = parent[region]
    return region


@dataclass(frozen=True)
class Sensitivity:
    """The share of lesions found at `false_regions` per image, with its 95 % interval."""

    false_regions: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SizeBin:
    """The lesions of `smallest` to `largest` pixels or voxels: how many there are, how many of them
    the mask finds, and their mean Dice with it."""

    name: str
    smallest: int
    largest: int
    lesions: int
    found: int
    dice: float


@dataclass(frozen=True)
class LesionMetrics:
    """The lesions of all images together.

    `per` is "volume" where all of the `images` are volumes, else "image". `found` of `lesions` and
    `false_regions` per image are those of the mask. `curve` holds points of the FROC curve, false
    regions per image and share of lesions found. `mean_sensitivity` is the mean over FALSE_REGIONS.
    `sizes` are thirds of the lesions by size. `note` says why intervals are missing.
    """

    per: str
    images: int
    lesions: int
    found: int
    false_regions: float
    sensitivities: tuple[Sensitivity, ...]
    mean_sensitivity: float
    curve: tuple[tuple[float, float], ...]
    sizes: tuple[SizeBin, ...]
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the metrics as JSON values."""
        return asdict(self)


def metrics_of_json(content: Mapping[str, Any] | None) -> LesionMetrics | None:
    """Return the metrics that `as_json` wrote, with null for NaN; None for None, which older
    records have. KeyError or TypeError if it wrote something else."""
    if content is None:
        return None
    values = dict(content)
    values["sensitivities"] = tuple(
        Sensitivity(**_known(each)) for each in content["sensitivities"]
    )
    values["sizes"] = tuple(SizeBin(**_known(each)) for each in content["sizes"])
    values["curve"] = tuple((float(x), float(y)) for x, y in content["curve"])
    return LesionMetrics(**_known(values))


def dice_of(compared: Sequence[ComparedMap]) -> float:
    """Return the Dice coefficient of the masks of all images together; NaN without lesions."""
    right = sum(each.right for each in compared)
    truth = right + sum(each.missing for each in compared)
    if truth == 0:
        return float("nan")
    return 2 * right / (truth + right + sum(each.wrong for each in compared))


def lesion_metrics(compared: Sequence[ComparedMap], rule: MaskRule) -> LesionMetrics | None:
    """Return the metrics of all maps together; None without any lesion."""
    lesions = list(chain.from_iterable(each.lesions for each in compared))
    if not lesions:
        return None
    events = _Events.of(compared)
    alarms, found = events.curve(np.ones(events.groups))
    draws, note = _draws(events)

    sensitivities = []
    for place, rate in enumerate(FALSE_REGIONS):
        low, high = float("nan"), float("nan")
        if len(draws):
            low, high = np.nanpercentile(draws[:, place], (2.5, 97.5)).tolist()
        sensitivities.append(Sensitivity(rate, _at(alarms, found, rate), low, high))
    counted = [int(each.changes[each.false > rule.least].sum()) for each in compared]
    return LesionMetrics(
        per="volume" if all(each.is_volume for each in compared) else "image",
        images=len(compared),
        lesions=len(lesions),
        found=sum(lesion.strength > rule.least for lesion in lesions),
        false_regions=sum(counted) / len(compared),
        sensitivities=tuple(sensitivities),
        mean_sensitivity=float(np.mean([each.value for each in sensitivities])),
        curve=_thinned(alarms, found),
        sizes=tuple(_by_size(lesions, rule)),
        note=note,
    )


# -- FROC ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Events:
    """Lesions and changes of the number of false regions in descending order of strength: how many
    lesions and false regions each adds, to which group it belongs, whether its strength is the last
    of equal ones, and the numbers of images and lesions of each group [groups]. Lesions without a
    region are not among them."""

    found: Whole
    false: Whole
    member: Whole
    last: Bools
    images: Doubles
    lesions: Doubles

    @classmethod
    def of(cls, compared: Sequence[ComparedMap]) -> "_Events":
        names = sorted({each.group for each in compared})
        numbers = {name: number for number, name in enumerate(names)}
        images, lesions = np.zeros(len(names)), np.zeros(len(names))
        strengths: list[float] = []
        hits: list[int] = []
        changes: list[int] = []
        member: list[int] = []
        for each in compared:
            number = numbers[each.group]
            images[number] += 1
            lesions[number] += len(each.lesions)
            touched = [lesion.strength for lesion in each.lesions if np.isfinite(lesion.strength)]
            strengths += [*touched, *each.false.tolist()]
            hits += [1] * len(touched) + [0] * len(each.false)
            changes += [0] * len(touched) + each.changes.tolist()
            member += [number] * (len(touched) + len(each.false))

        ordered = np.argsort(-np.array(strengths), kind="stable").astype(np.int64)
        falling = np.array(strengths)[ordered]
        last = np.append(np.diff(falling) != 0, True)[: len(falling)]
        return cls(
            np.array(hits, np.int64)[ordered],
            np.array(changes, np.int64)[ordered],
            np.array(member, np.int64)[ordered],
            last,
            images,
            lesions,
        )

    @property
    def groups(self) -> int:
        return len(self.images)

    def curve(self, weights: Doubles) -> tuple[Doubles, Doubles]:
        """Return false regions per image and the share of lesions found, from (0, 0) on, with each
        group counted `weights` [groups] times; NaN without lesions."""
        drawn = weights[self.member]
        alarms = np.cumsum(drawn * self.false)[self.last] / (weights @ self.images)
        total = weights @ self.lesions
        found = np.cumsum(drawn * self.found)[self.last] / (total if total else np.nan)
        return np.append(0.0, alarms), np.append(0.0, found)


def _draws(events: _Events) -> tuple[Doubles, str]:
    """Return the sensitivities at FALSE_REGIONS of resampled groups [draws, rates], none with too
    few groups, and why there are none."""
    if note := too_few(events.groups):
        return np.zeros((0, len(FALSE_REGIONS))), note
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(RESAMPLES):
        weights = rng.multinomial(events.groups, [1 / events.groups] * events.groups)
        alarms, found = events.curve(weights.astype(np.float64))
        if not np.isnan(found[-1]):
            rows.append([_at(alarms, found, rate) for rate in FALSE_REGIONS])
    return np.array(rows), ""


def _at(alarms: Doubles, found: Doubles, rate: float) -> float:
    """Return the highest share of lesions found at no more than `rate` false regions per image."""
    return float(found[alarms <= rate + 1e-12].max())


def _thinned(alarms: Doubles, found: Doubles) -> tuple[tuple[float, float], ...]:
    """Return the corners of a FROC curve where the share found rises, at most CURVE_POINTS evenly
    spread ones, and its end."""
    rises = np.flatnonzero(np.append(True, np.diff(found) > 0))
    chosen = rises[:: -(-len(rises) // CURVE_POINTS)]
    kept = np.unique(np.append(chosen, len(alarms) - 1))
    return tuple((float(alarms[place]), float(found[place])) for place in kept)


# -- By size ---------------------------------------------------------------------------------------


def _by_size(lesions: Sequence[Lesion], rule: MaskRule) -> Iterator[SizeBin]:
    """Yield thirds of the lesions by size, or all in one with fewer than three of them. Lesions of
    one size stay together, so thirds may be uneven or missing."""
    sizes = np.array([lesion.size for lesion in lesions])
    third = np.zeros(len(sizes), int)
    names: Sequence[str] = ("all",)
    if len(sizes) >= len(SIZE_NAMES):
        names = SIZE_NAMES
        third = np.searchsorted(np.quantile(sizes, (1 / 3, 2 / 3)), sizes, side="right")

    for number, name in enumerate(names):
        some = [lesion for lesion, place in zip(lesions, third, strict=True) if place == number]
        if some:
            yield SizeBin(
                name=name,
                smallest=min(lesion.size for lesion in some),
                largest=max(lesion.size for lesion in some),
                lesions=len(some),
                found=sum(lesion.strength > rule.least for lesion in some),
                dice=float(np.mean([lesion.dice for lesion in some])),
            )


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with NaN where null stands."""
    return {name: float("nan") if value is None else value for name, value in values.items()}
