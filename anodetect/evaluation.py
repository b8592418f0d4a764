"""Labelled results, one at a time, to metrics with intervals."""

from pathlib import Path
from typing import Any

import numpy as np

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

    def __init__(self, calibration: Calibration, far: float) -> None:
        self.calibration, self.far = calibration, far
        self.labels: list[int] = []
        self.scores: list[float] = []
        self.groups: list[str] = []
        self.pixels = metrics.PixelCounts()
        self.has_masks = False
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
        elif record.label == 0:
            self.pixels.add(scored.heatmap, np.zeros(scored.heatmap.shape, bool), record.group)

    def _add_mask(self, record: Record, mask_path: Path, heatmap: Floats) -> None:
        try:
            mask = readers.read_mask(mask_path)
            if mask.shape != heatmap.shape:
                raise ImageError(f"its size {mask.shape} is not the image's {heatmap.shape}")
        except ImageError as error:
            self.problems.append(f"mask of {record.id}: {error}")
            return
        self.has_masks = True
        self.pixels.add(heatmap, mask, record.group)

    def labelled(self) -> bool:
        return bool(self.labels)

    def result(self) -> dict[str, Any]:
        labels, scores = np.array(self.labels), np.array(self.scores)
        image = metrics.image_metrics(labels, scores, self.groups)
        threshold = self.calibration.threshold(self.far)
        above = scores > threshold
        pixel, intervals = self._pixel_results()
        return {
            "image": {
                name: {"value": i.value, "low": i.low, "high": i.high, "note": i.note} for name, i in image.items()
            },
            "pixel": pixel,
            "pixel_intervals": intervals,
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

    def _pixel_results(self) -> tuple[dict[str, float] | None, dict[str, Any] | None]:
        if not self.has_masks:
            return None, None
        curves = self.pixels.curves()
        intervals = curves.intervals()
        values = curves.measure() | {"dice_at_threshold": curves.dice_at(self.calibration.pixel_threshold(self.far))}
        return values, {name: {"low": i.low, "high": i.high, "note": i.note} for name, i in intervals.items()}
