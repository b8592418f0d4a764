"""The results of commands: a frozen dataclass each, which `--json` prints as one object."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anodetect.config import without_nan
from anodetect.record.audit import DriftChecks
from anodetect.record.components import Components
from anodetect.record.odd import OddNormals
from anodetect.record.runs import RunFacts
from anodetect.stats.evaluation import Breakdown, Evaluation
from anodetect.stats.reliability import ClassifierReliability


@dataclass(frozen=True)
class TrainResult:
    """A new run. `failures` name the images that were left out, each with its reason;
    `peak_memory_mb` is None where the system does not say it, `odd` where there is nothing to
    compare, `components` where the detector looked for no clusters."""

    facts: RunFacts
    failures: tuple[str, ...]
    peak_memory_mb: float | None
    odd: OddNormals | None = None
    components: Components | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `train --json` prints."""
        own = {
            "failures": list(self.failures),
            "peak_memory_mb": self.peak_memory_mb,
            "odd": None if self.odd is None else self.odd.as_json(),
            "components": None if self.components is None else self.components.as_json(),
        }
        return self.facts.as_json() | own


@dataclass(frozen=True)
class CalibrateResult:
    """A run with a new calibration. `failures` name the images that were left out, each with its
    reason."""

    facts: RunFacts
    failures: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `calibrate --json` prints."""
        return self.facts.as_json() | {"failures": list(self.failures)}


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """A finished score directory `out`: numbers of files, of those passed over and of those that
    failed by their reasons, and what the record says of the whole.

    `flagged` is None without calibration images. `copies` counts files with the pixels of another
    one. `drift` compares the batch with the calibration images. `evaluation` is None where no label
    is known. `head` is the end of the record's chain, to be kept elsewhere.
    """

    scored: int
    failed: int
    skipped: int
    passed_over: Mapping[str, int]
    flagged: int | None
    copies: int
    reasons: Mapping[str, int]
    drift: DriftChecks
    head: str
    out: Path
    statement: str
    evaluation: Evaluation | None

    def as_json(self) -> dict[str, Any]:
        """Return what `merge --json` prints."""
        return {
            "scored": self.scored,
            "failed": self.failed,
            "skipped": self.skipped,
            "passed_over": dict(self.passed_over),
            "flagged": self.flagged,
            "copies": self.copies,
            "reasons": dict(self.reasons),
            "drift": without_nan(asdict(self.drift)),
            "head": self.head,
            "out": str(self.out),
            "statement": self.statement,
            "evaluation": None if self.evaluation is None else self.evaluation.as_json(),
        }


@dataclass(frozen=True, kw_only=True)
class ScoreResult(MergeResult):
    """A scored directory, with what the scoring cost.

    `failures` say what of labelled images could not be measured. `seconds_to_first` passed before
    the first file was scored. `model_seconds_per_image` is the median of the files.
    """

    failures: tuple[str, ...]
    seconds: float
    seconds_to_first: float
    images_per_second: float
    peak_memory_mb: float | None
    model_seconds_per_image: float

    def as_json(self) -> dict[str, Any]:
        """Return what `score --json` prints."""
        return super().as_json() | {
            "failures": list(self.failures),
            "seconds": self.seconds,
            "seconds_to_first": self.seconds_to_first,
            "images_per_second": self.images_per_second,
            "peak_memory_mb": self.peak_memory_mb,
            "model_seconds_per_image": self.model_seconds_per_image,
        }


@dataclass(frozen=True)
class EvaluateResult(Breakdown):
    """Metrics on labelled data, as a whole and by columns. `failures` name the images that could
    not be measured, each with its reason. `classifier` is None where no class is known."""

    failures: tuple[str, ...] = ()
    classifier: ClassifierReliability | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints."""
        own: dict[str, Any] = {"failed": len(self.failures), "failures": list(self.failures)}
        if self.classifier is not None:
            own["classifier"] = self.classifier.as_json()
        return super().as_json() | own


@dataclass(frozen=True)
class ResultRow:
    """A row of a result table: one detector on one data set with one seed, as `demo --json` and
    results.csv have it.

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
    tpr_at_5_fpr: float | None


def metrics_of(evaluation: Evaluation) -> dict[str, float | None]:
    """Return the metrics of a ResultRow from an evaluation. That of an older release has no
    tpr_at_5_fpr."""
    auroc, ap = evaluation.image["auroc"], evaluation.image["ap"]
    metrics: dict[str, float | None] = {
        "image_auroc": auroc.value,
        "image_auroc_low": auroc.low,
        "image_auroc_high": auroc.high,
        "image_ap": ap.value,
        "tpr_at_5_fpr": None,
    }
    if "tpr_at_5_fpr" in evaluation.image:
        metrics["tpr_at_5_fpr"] = evaluation.image["tpr_at_5_fpr"].value
    for name in ("auroc", "ap", "aupro"):
        metrics[f"pixel_{name}"] = evaluation.pixel[name].value if evaluation.pixel else None
    return metrics
