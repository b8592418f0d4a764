"""Labelled results, one at a time, to metrics with intervals."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect import metrics
from anodetect.calibration import Calibration
from anodetect.data import readers
from anodetect.data.scan import Record
from anodetect.errors import ImageError
from anodetect.model import Scored
from anodetect.types import Floats


class Measure:
    """Collects labelled results one at a time and turns them into `evaluate`'s answer.

    Pixels of an anomalous image count only if its mask can be read; `problems` says which could not.
    """

    def __init__(self, calibration: Calibration, far: float, *, masks: bool) -> None:
        self.calibration, self.far, self.has_masks = calibration, far, masks
        self.labels: list[int] = []
        self.scores: list[float] = []
        self.groups: list[str] = []
        self.pixels = metrics.PixelCounts()
        self.problems: list[str] = []

    def add(self, scored: Scored) -> None:
        record = scored.loaded.record
        if record.label is None or scored.heatmap is None:
            return
        self.labels.append(record.label)
        self.scores.append(scored.score)
        self.groups.append(record.group)
        if record.mask is not None:
            self._add_mask(record, record.mask, scored.heatmap)
        elif record.label == 0 and self.has_masks:
            self.pixels.add(scored.heatmap, np.zeros(scored.heatmap.shape, bool), record.group)

    def _add_mask(self, record: Record, mask_path: Path, heatmap: Floats) -> None:
        try:
            mask = readers.read_mask(mask_path)
            if mask.shape != heatmap.shape:
                raise ImageError(f"its size {mask.shape} is not the image's {heatmap.shape}")
        except ImageError as error:
            self.problems.append(f"mask of {record.id}: {error}")
            return
        self.pixels.add(heatmap, mask, record.group)

    def labelled(self) -> bool:
        return bool(self.labels)

    def result(self, threshold: float | None = None) -> dict[str, Any]:
        """`evaluate`'s answer, when everything has been added; at `threshold`, by default that of the rate."""
        threshold = self.calibration.threshold(self.far) if threshold is None else threshold
        labels, above = np.array(self.labels), np.array(self.scores) > threshold
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
        return {f"image_{name}": i for name, i in image.items()} | {f"pixel_{name}": i for name, i in pixel.items()}

    def _part(self, prefix: str) -> list[tuple[str, metrics.Interval]]:
        return [(name.removeprefix(prefix), i) for name, i in self.intervals.items() if name.startswith(prefix)]

    @cached_property
    def curves(self) -> metrics.PixelCurves:
        return self.pixels.curves()

    def draws(self) -> dict[str, NDArray[np.float64]]:
        """Each metric's values over the resampled groups."""
        return {name: i.draws for name, i in self.intervals.items() if i.draws is not None}

    def _pixel_values(self) -> dict[str, float]:
        values = {name: i.value for name, i in self._part("pixel_")}
        return values | {"dice_at_threshold": self.curves.dice_at(self.calibration.pixel_threshold(self.far))}


def _entry(interval: metrics.Interval) -> dict[str, Any]:
    return {"low": interval.low, "high": interval.high, "note": interval.note}
