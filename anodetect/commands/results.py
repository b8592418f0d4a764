"""A row of a result table: one detector on one data set with one seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ResultRow:
    """Metrics and costs, as `demo --json` and results.csv have them.

    A metric that is not defined or was not measured is None; `low` and `high` bound the 95 %
    interval. Times are in seconds or milliseconds, sizes in MB.
    """

    dataset: str
    detector: str
    representation: str
    seed: int
    image_auroc: float | None
    image_auroc_low: float | None
    image_auroc_high: float | None
    image_ap: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    pixel_aupro: float | None
    train_seconds: float
    score_ms_per_image: float
    peak_memory_mb: float
    model_mb: float


def metrics_of(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the metrics of a ResultRow from an evaluation as audit.json has it."""
    image, pixel = evaluation["image"], evaluation["pixel"] or {}
    return {
        "image_auroc": image["auroc"]["value"],
        "image_auroc_low": image["auroc"]["low"],
        "image_auroc_high": image["auroc"]["high"],
        "image_ap": image["ap"]["value"],
        "pixel_auroc": pixel.get("auroc"),
        "pixel_ap": pixel.get("ap"),
        "pixel_aupro": pixel.get("aupro"),
    }
