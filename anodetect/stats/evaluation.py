"""Labelled results, one at a time, to metrics with intervals."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.data import readers
from anodetect.data.scan import Record
from anodetect.errors import ConfigError, ImageError, nearest
from anodetect.imaging.preprocess import Prepared
from anodetect.stats import metrics
from anodetect.stats.calibration import Calibration, clopper_pearson
from anodetect.types import Floats


class Measure:
    """Collects labelled results one at a time and turns them into `evaluate`'s answer.

    Pixels of an anomalous image count only if its mask can be read; `problems` says which could
    not.
    """

    def __init__(self, calibration: Calibration, far: float, *, masks: bool) -> None:
        self.calibration, self.far, self.has_masks = calibration, far, masks
        self.labels: list[int] = []
        self.scores: list[float] = []
        self.groups: list[str] = []
        self.volumes: list[bool] = []
        self.pixels = metrics.PixelCounts()
        self.problems: list[str] = []

    def add(
        self,
        record: Record,
        score: float,
        heatmap: Floats | None,
        volume: Prepared | None = None,
        *,
        is_volume: bool = False,
    ) -> None:
        """Add a scored image or volume; without its heatmap its pixels are not measured, and that
        is a problem if others' are. Voxels that were not scored count as of the lowest value."""
        if record.label is None:
            return
        self.labels.append(record.label)
        self.scores.append(score)
        self.groups.append(record.group)
        self.volumes.append(is_volume or volume is not None)
        if self.has_masks and heatmap is None:
            kept = (
                "a volume scored before or elsewhere is not read again"
                if is_volume
                else "its heatmap is no TIFF"
            )
            self.problems.append(f"pixels of {record.id}: {kept}")
        elif record.mask is not None and heatmap is not None:
            self._add_mask(record, record.mask, heatmap, volume)
        elif record.label == 0 and self.has_masks and heatmap is not None:
            self.pixels.add(heatmap, np.zeros(heatmap.shape, bool), record.group)

    def _add_mask(
        self, record: Record, mask_path: Path, heatmap: Floats, volume: Prepared | None
    ) -> None:
        try:
            mask = (
                readers.volume_mask(mask_path, volume.volume, volume.geometry)
                if volume
                else readers.read_mask(mask_path)
            )
            if mask.shape != heatmap.shape:
                raise ImageError(f"its size {mask.shape} is not the image's {heatmap.shape}")
        except ImageError as error:
            self.problems.append(f"mask of {record.id}: {error}")
            return
        self.pixels.add(heatmap if volume is None else np.nan_to_num(heatmap), mask, record.group)

    def labelled(self) -> bool:
        return bool(self.labels)

    def flags(self, threshold: float | None = None) -> NDArray[np.bool_]:
        """Which are above `threshold`, by default those of the rate: an image's, and a volume's,
        that of pooled groups."""
        if threshold is None:
            alone, pooled = (
                self.calibration.threshold(self.far),
                self.calibration.pooled().threshold(self.far),
            )
            return np.array(self.scores) > np.where(self.volumes, pooled, alone)
        return np.array(self.scores) > threshold

    def result(self, threshold: float | None = None) -> dict[str, Any]:
        """`evaluate`'s answer, when everything has been added; at `threshold`, by default those of
        the rate."""
        labels, above = np.array(self.labels), self.flags(threshold)
        if threshold is None:
            calibration = self.calibration.pooled() if all(self.volumes) else self.calibration
            threshold = calibration.threshold(self.far)
        return {
            "image": {name: _entry(i) | {"value": i.value} for name, i in self._part("image_")},
            "pixel": self._pixel_values() if self.has_masks else None,
            "pixel_intervals": {name: _entry(i) for name, i in self._part("pixel_")} or None,
            "n_normal": int((labels == 0).sum()),
            "n_anomalous": int((labels == 1).sum()),
            "n_groups": len(set(self.groups)),
            "operating_point": {
                "far": self.far,
                "threshold": threshold,
                "tpr": float(above[labels == 1].mean()) if (labels == 1).any() else float("nan"),
                "fpr": float(above[labels == 0].mean()) if (labels == 0).any() else float("nan"),
            },
            "statement": self.calibration.statement(self.far),
        }

    @cached_property
    def intervals(self) -> dict[str, metrics.Interval]:
        """Metrics by name, image_… and pixel_…, with their bootstrap draws."""
        image = metrics.image_metrics(np.array(self.labels), np.array(self.scores), self.groups)
        pixel = self.curves.intervals() if self.has_masks else {}
        return {f"image_{name}": i for name, i in image.items()} | {
            f"pixel_{name}": i for name, i in pixel.items()
        }

    def _part(self, prefix: str) -> list[tuple[str, metrics.Interval]]:
        return [
            (name.removeprefix(prefix), i)
            for name, i in self.intervals.items()
            if name.startswith(prefix)
        ]

    @cached_property
    def curves(self) -> metrics.PixelCurves:
        return self.pixels.curves()

    def draws(self) -> dict[str, NDArray[np.float64]]:
        """Each metric's values over the resampled groups."""
        return {name: i.draws for name, i in self.intervals.items() if i.draws is not None}

    def _pixel_values(self) -> dict[str, float]:
        values = {name: i.value for name, i in self._part("pixel_")}
        return values | {
            "dice_at_threshold": self.curves.dice_at(self.calibration.pixel_threshold(self.far))
        }


class Breakdown:
    """A `Measure` of all, and one for each value of each column of the manifest asked for."""

    def __init__(
        self, calibration: Calibration, far: float, items: Sequence[Record], columns: Sequence[str]
    ) -> None:
        known = {"kind", "group", *(column for record in items for column in record.extra)}
        for column in columns:
            if column not in known:
                raise ConfigError(f"no column {column!r} in the manifest; {nearest(column, known)}")
        self.columns, self.far = columns, far
        self._new = partial(Measure, calibration, far, masks=any(record.mask for record in items))
        self.whole = self._new()
        self.parts: dict[str, dict[str, Measure]] = {column: {} for column in columns}

    def add(
        self, record: Record, score: float, heatmap: Floats | None, volume: Prepared | None = None
    ) -> None:
        self.whole.add(record, score, heatmap, volume)
        for column in self.columns:
            value = {"kind": record.kind, "group": record.group}.get(
                column, record.extra.get(column, "")
            )
            self.parts[column].setdefault(value, self._new()).add(record, score, heatmap, volume)

    def result(self) -> dict[str, Any]:
        """The whole's answer; `by`: column → value → its answer and false alarms; `warnings` of
        values that depart."""
        whole = self.whole.result()
        if not self.columns:
            return whole
        by: dict[str, dict[str, Any]] = {}
        warnings = []
        for column, parts in self.parts.items():
            by[column] = {}
            for value, part in sorted(parts.items()):
                alarms = false_alarms(part, len(parts))
                by[column][value] = part.result() | {"false_alarms": alarms}
                warnings += _departures(
                    f"{column} {value or 'not given'}", by[column][value], whole, self.far
                )
        return whole | {"by": by, "warnings": warnings}


def false_alarms(part: Measure, comparisons: int) -> dict[str, float]:
    """The share of normal images flagged, each group counted once, with an exact 95 % interval
    (Clopper & Pearson 1934) that holds for `comparisons` such parts together. Its units are groups:
    with few of them it is wide."""
    flags: dict[str, list[bool]] = {}
    for label, flag, group in zip(part.labels, part.flags().tolist(), part.groups, strict=True):
        if label == 0:
            flags.setdefault(group, []).append(flag)
    n = len(flags)
    count = float(sum(np.mean(each) for each in flags.values()))
    low, high = clopper_pearson(count, n, 0.05 / comparisons)
    return {"rate": count / n if n else float("nan"), "low": low, "high": high}


def _departures(
    name: str, part: Mapping[str, Any], whole: Mapping[str, Any], far: float
) -> list[str]:
    found = []
    alarms = part["false_alarms"]
    if part["n_normal"] and not alarms["low"] <= far <= alarms["high"]:
        found.append(
            f"{name}: {alarms['rate']:.1%} of normal images are flagged ({alarms['low']:.1%} to {alarms['high']:.1%}), "
            f"not the promised {far:.1%}; calibrate for it"
        )
    mine, all_ = part["image"]["auroc"], whole["image"]["auroc"]
    if None not in (mine["low"], all_["low"]) and (
        mine["high"] < all_["low"] or mine["low"] > all_["high"]
    ):
        found.append(
            f"{name}: image AUROC {mine['value']:.3f} is not that of all images ({all_['value']:.3f})"
        )
    return found


def _entry(interval: metrics.Interval) -> dict[str, Any]:
    return {"low": interval.low, "high": interval.high, "note": interval.note}
