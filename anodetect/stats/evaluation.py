"""Labelled results, added one at a time, to metrics with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.stats import few_groups, metrics
from anodetect.stats.calibration import Calibration, clopper_pearson
from anodetect.stats.joined_groups import JoinedGroups
from anodetect.stats.lesions import (
    ComparedMap,
    LesionMetrics,
    compare,
    dice_of,
    lesion_metrics,
)
from anodetect.stats.mask_use import MaskState, MaskUse, SeenMask, is_large, use_of
from anodetect.types import Bools, Floats

# Where all parts of the data are alike, at most one evaluation in twenty names any of them.
DEPARTURE = 0.05
TESTS_A_VALUE = 2  # false alarms and AUROC


@dataclass(frozen=True)
class LabelledScore:
    """A scored image or volume whose label is known: 0 normal, 1 anomalous.

    `heatmap` is [H, W], of a volume [D, H, W] with NaN where it was not scored; None if it is not
    at hand. `mask` is bool of the same shape, True where anomalous; None if there is no mask.
    `problem` says why a mask could not be used. A `lossy` mask was compressed with loss. `content`
    is the hash of the file, "" where it is not known.
    """

    name: str
    label: int
    score: float
    group: str
    is_volume: bool = False
    heatmap: Floats | None = None
    mask: Bools | None = None
    problem: str = ""
    lossy: bool = False
    content: str = ""


@dataclass(frozen=True)
class OperatingPoint:
    """The shares of anomalous (`tpr`) and of normal images (`fpr`) with a score above `threshold`,
    which belongs to the false-alarm rate `far`. A share of nothing is NaN."""

    far: float
    threshold: float
    tpr: float
    fpr: float


@dataclass(frozen=True)
class FalseAlarms:
    """The share of normal images that are flagged, with its exact interval; NaN of nothing.

    `chance` is the two-sided p-value of the share where normal images are like the calibration
    images, whose own uncertainty is in it (`RealisedRate`).
    """

    rate: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class Evaluation:
    """Metrics of labelled images at one false-alarm rate.

    `image` has auroc, ap, fpr_at_95_tpr and tpr_at_5_fpr. `pixel` has auroc, ap, aupro and
    dice_best; it is None if there are no masks. `dice_at_threshold` is that of the regions that
    count at the rate, which `mask_statement` names, and `lesions` compares them with those of the
    truth. Without calibration images the first is NaN, and `lesions` and `operating_point` are
    None. `masks` says of which anomalous images pixels were measured; None if there was none.
    """

    image: Mapping[str, metrics.Interval]
    pixel: Mapping[str, metrics.Interval] | None
    dice_at_threshold: float
    n_normal: int
    n_anomalous: int
    n_groups: int
    operating_point: OperatingPoint | None
    statement: str
    false_alarms: FalseAlarms | None = None
    masks: MaskUse | None = None
    lesions: LesionMetrics | None = None
    mask_statement: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the evaluation as `evaluate --json` and audit.json have it."""
        image: dict[str, Any] = {}
        for name, interval in self.image.items():
            image[name] = _bounds(interval) | {"value": interval.value}

        pixel: dict[str, float] = {}
        pixel_intervals: dict[str, Any] = {}
        for name, interval in (self.pixel or {}).items():
            pixel[name] = interval.value
            pixel_intervals[name] = _bounds(interval)
        if self.pixel is not None:
            pixel["dice_at_threshold"] = self.dice_at_threshold

        content = {
            "image": image,
            "pixel": pixel or None,
            "pixel_intervals": pixel_intervals or None,
            "n_normal": self.n_normal,
            "n_anomalous": self.n_anomalous,
            "n_groups": self.n_groups,
            "operating_point": None
            if self.operating_point is None
            else asdict(self.operating_point),
            "statement": self.statement,
        }
        if self.masks is not None:
            content["masks"] = self.masks.as_json()
        if self.lesions is not None:
            content["lesions"] = self.lesions.as_json()
            content["mask_statement"] = self.mask_statement
        if self.false_alarms is not None:
            content["false_alarms"] = asdict(self.false_alarms)
        return content


@dataclass(frozen=True)
class Breakdown:
    """The evaluation of all images, and one for each value of some columns of the manifest: column
    → value → evaluation. `warnings` name the values that depart from the whole."""

    whole: Evaluation
    by: Mapping[str, Mapping[str, Evaluation]]
    warnings: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the whole's JSON, with `by` and `warnings` if columns were asked for."""
        content = self.whole.as_json()
        if not self.by:
            return content

        content["by"] = {}
        for column, parts in self.by.items():
            content["by"][column] = {value: part.as_json() for value, part in parts.items()}
        content["warnings"] = list(self.warnings)
        return content


class Measure:
    """Collects labelled scores and returns their `Evaluation`.

    With `masks` pixels are measured too. Those of an anomalous image count only if its mask can be
    read and marks something; `problems` lists the images whose pixels could not be measured because
    of an error, with the reason. Groups that have a file in common are resampled as one.
    """

    def __init__(self, calibration: Calibration, far: float, *, masks: bool) -> None:
        self.calibration, self.far, self.has_masks = calibration, far, masks
        self.rule = calibration.mask_rule(far)
        self.labels: list[int] = []
        self.scores: list[float] = []
        self.joined = JoinedGroups()
        self._groups: list[str] = []
        self.volumes: list[bool] = []
        self.pixels = metrics.PixelCounts()
        self.compared: list[ComparedMap] = []
        self.problems: list[str] = []
        self.masks: list[SeenMask] = []

    def add(self, item: LabelledScore) -> None:
        """Add an image or volume. Voxels that were not scored count as 0, the lowest value, if the
        volume has a mask, and do not count if it has none."""
        self.labels.append(item.label)
        self.scores.append(item.score)
        self.joined.add(item.group, item.content)
        self._groups.append(item.group)
        self.volumes.append(item.is_volume)

        if item.heatmap is None:
            if self.has_masks:
                self.problems.append(f"pixels of {item.name}: {_why_no_heatmap(item)}")
            return
        if item.label == 1 or item.problem:
            self.masks.append(
                SeenMask(item.name, _state_of(item), item.lossy, is_large(item.mask, item.label))
            )
        if item.problem:
            self.problems.append(f"mask of {item.name}: {item.problem}")
        elif item.label == 1 and _state_of(item) != "used":
            return
        elif item.mask is not None:
            heatmap = np.nan_to_num(item.heatmap) if item.is_volume else item.heatmap
            self._add_map(item, heatmap, item.mask)
        elif item.label == 0 and self.has_masks:
            self._add_map(item, item.heatmap, np.zeros(item.heatmap.shape, bool))

    def _add_map(self, item: LabelledScore, heatmap: Floats, mask: Bools) -> None:
        """Count the pixels of a map, and compare its regions with the truth."""
        self.pixels.add(heatmap, mask, item.group)
        if self.calibration.groups:
            self.compared.append(
                compare(heatmap, mask, self.rule, item.group, is_volume=item.is_volume)
            )

    @property
    def groups(self) -> list[str]:
        """The group of each score, joined to those that have a file in common with it."""
        return [self.joined.of(group) for group in self._groups]

    def labelled(self) -> bool:
        """Return whether anything was added."""
        return bool(self.labels)

    def flags(self, threshold: float | None = None) -> NDArray[np.bool_]:
        """Return which scores lie above `threshold` [n].

        By default a score is compared with the threshold of the false-alarm rate: that of the
        calibration images for an image, that of pooled calibration groups for a volume.
        """
        if threshold is not None:
            return np.array(self.scores) > threshold
        alone = self.calibration.threshold(self.far)
        pooled = self.calibration.pooled().threshold(self.far)
        return np.array(self.scores) > np.where(self.volumes, pooled, alone)

    def result(self, threshold: float | None = None) -> Evaluation:
        """Return the evaluation of all that was added, at `threshold`, by default that of the
        false-alarm rate."""
        labels = np.array(self.labels)
        masks = use_of(self.masks)
        compared = [replace(each, group=self.joined.of(each.group)) for each in self.compared]
        measured = self.has_masks and (masks.used > 0 or not masks.total)

        return Evaluation(
            image=self.image_intervals,
            pixel=self.pixel_intervals if measured else None,
            dice_at_threshold=dice_of(self.compared) if measured else float("nan"),
            n_normal=int((labels == 0).sum()),
            n_anomalous=int((labels == 1).sum()),
            n_groups=len(set(self.groups)),
            operating_point=self._operating_point(threshold),
            statement=self.calibration.statement(self.far),
            masks=masks if masks.total else None,
            lesions=lesion_metrics(compared, self.rule) if measured else None,
            mask_statement=self.calibration.mask_statement(self.far),
        )

    def _operating_point(self, threshold: float | None) -> OperatingPoint | None:
        """Return what is flagged at `threshold`, by default that of the false-alarm rate; None
        without calibration images, which alone give one."""
        if not self.calibration.groups:
            return None
        labels, above = np.array(self.labels), self.flags(threshold)
        if threshold is None:
            calibration = self.calibration.pooled() if all(self.volumes) else self.calibration
            threshold = calibration.threshold(self.far)
        found, alarms = _share(above[labels == 1]), _share(above[labels == 0])
        return OperatingPoint(self.far, threshold, found, alarms)

    def false_alarms(self, comparisons: int = 1) -> FalseAlarms | None:
        """Return the share of normal images that are flagged, each group counted once; None without
        calibration images, as nothing is flagged.

        The interval is exact (Clopper & Pearson 1934) and holds at 95 % for `comparisons` such
        shares together. Its units are groups: with few of them it is wide.
        """
        if not self.calibration.groups:
            return None
        flags: dict[str, list[bool]] = {}
        for label, flag, group in zip(self.labels, self.flags().tolist(), self.groups, strict=True):
            if label == 0:
                flags.setdefault(group, []).append(flag)

        n = len(flags)
        count = float(sum(np.mean(each) for each in flags.values()))
        low, high = clopper_pearson(count, n, 0.05 / comparisons)
        return FalseAlarms(count / n if n else float("nan"), low, high, self._chance(count, n))

    def _chance(self, flagged: float, normal: int) -> float:
        """Return the p-value of so many flagged ones among normal groups."""
        calibration = self.calibration.pooled() if all(self.volumes) else self.calibration
        if calibration.level(self.far) == "none":
            return 1.0
        return calibration.realised(self.far).chance(flagged, normal)

    def area(self, alpha: float) -> tuple[float, float, float]:
        """Return the AUROC with its 1 − `alpha` interval for few groups; all NaN if one class only
        is there."""
        labels = np.array(self.labels)
        value = metrics.auroc(labels, np.array(self.scores))
        if np.isnan(value):
            return value, value, value
        anomalous, normal = metrics.groups_of_classes(labels, self.groups)
        return value, *few_groups.auroc_bounds(value, anomalous, normal, alpha)

    @cached_property
    def image_intervals(self) -> dict[str, metrics.Interval]:
        return metrics.image_metrics(np.array(self.labels), np.array(self.scores), self.groups)

    @cached_property
    def pixel_intervals(self) -> dict[str, metrics.Interval]:
        return self.curves.intervals()

    @cached_property
    def curves(self) -> metrics.PixelCurves:
        return self.pixels.curves(self.joined.of)

    def draws(self) -> dict[str, NDArray[np.float64]]:
        """Return each metric's values over the resampled groups, by image_… and pixel_…."""
        parts = {"image": self.image_intervals}
        if self.has_masks:
            parts["pixel"] = self.pixel_intervals

        draws = {}
        for part, intervals in parts.items():
            for name, interval in intervals.items():
                if interval.draws is not None:
                    draws[f"{part}_{name}"] = interval.draws
        return draws


class MeasureByColumn:
    """A `Measure` of all, and one for each value of each of the `columns` of the manifest."""

    def __init__(
        self, calibration: Calibration, far: float, columns: Sequence[str], *, masks: bool
    ) -> None:
        self.calibration, self.far, self.masks = calibration, far, masks
        self.whole = Measure(calibration, far, masks=masks)
        self.parts: dict[str, dict[str, Measure]] = {column: {} for column in columns}

    def add(self, item: LabelledScore, values: Mapping[str, str]) -> None:
        """Add an image or volume, with its value of each column; a missing one counts as ""."""
        self.whole.add(item)
        for column, parts in self.parts.items():
            value = values.get(column, "")
            if value not in parts:
                parts[value] = Measure(self.calibration, self.far, masks=self.masks)
            parts[value].add(item)

    def result(self) -> Breakdown:
        """Return the evaluations of the whole and of every value."""
        whole = self.whole.result()
        by: dict[str, dict[str, Evaluation]] = {}
        warnings = []
        comparisons = TESTS_A_VALUE * sum(len(parts) for parts in self.parts.values())

        for column, parts in self.parts.items():
            by[column] = {}
            for value, measure in sorted(parts.items()):
                alarms = measure.false_alarms(len(parts))
                part = replace(measure.result(), false_alarms=alarms)
                by[column][value] = part
                name = f"{column} {value or 'not given'}"
                alpha = DEPARTURE / comparisons
                warnings += _false_alarm_warnings(name, part, alpha)
                if few_groups.differ(measure.area(alpha), self.whole.area(alpha)):
                    warnings.append(
                        f"{name}: image AUROC {part.image['auroc'].value:.3f} is not that of all "
                        f"images ({whole.image['auroc'].value:.3f})"
                    )
        return Breakdown(whole, by, warnings)


def _false_alarm_warnings(name: str, part: Evaluation, alpha: float) -> list[str]:
    """Return how a part departs from the promised rate at the level `alpha`, if it does."""
    alarms, point = part.false_alarms, part.operating_point
    if part.n_normal and alarms and point and alarms.chance <= alpha:
        return [
            f"{name}: {alarms.rate:.1%} of normal images are flagged "
            f"({alarms.low:.1%} to {alarms.high:.1%}), "
            f"not the promised {point.far:.1%}; calibrate for it"
        ]
    return []


def _state_of(item: LabelledScore) -> MaskState:
    """Return whether the mask of an anomalous image can be measured with."""
    if item.problem:
        return "wrong"
    if item.mask is None:
        return "missing"
    return "used" if item.mask.any() else "empty"


def _why_no_heatmap(item: LabelledScore) -> str:
    if item.is_volume:
        return "a volume scored before or elsewhere is not read again"
    return "its heatmap is no TIFF"


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def _bounds(interval: metrics.Interval) -> dict[str, Any]:
    return {"low": interval.low, "high": interval.high, "note": interval.note}
