"""anodetect: find anomalies in medical and industrial images after seeing only normal ones.

`train`, `score`, `evaluate`, `calibrate`, `merge` and `verify` do what the commands of the same
names do. Everything is imported on first use, so that `import anodetect` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anodetect.commands.calibrate import calibrate
    from anodetect.commands.evaluate import evaluate
    from anodetect.commands.merge import merge
    from anodetect.commands.results import (
        CalibrateResult,
        EvaluateResult,
        MergeResult,
        ScoreResult,
        TrainResult,
    )
    from anodetect.commands.score import score
    from anodetect.commands.train import train
    from anodetect.commands.verify import verify
    from anodetect.detectors import DETECTORS
    from anodetect.errors import AnodetectError
    from anodetect.record.verification import Verdict
    from anodetect.stats.calibration import Calibration
    from anodetect.types import Batch, Detector, Scores, TrainContext

    __version__: str

__all__ = [
    "DETECTORS",
    "AnodetectError",
    "Batch",
    "CalibrateResult",
    "Calibration",
    "Detector",
    "EvaluateResult",
    "MergeResult",
    "ScoreResult",
    "Scores",
    "TrainContext",
    "TrainResult",
    "Verdict",
    "__version__",
    "calibrate",
    "evaluate",
    "merge",
    "score",
    "train",
    "verify",
]

_MODULES = {
    "train": "commands.train",
    "score": "commands.score",
    "evaluate": "commands.evaluate",
    "calibrate": "commands.calibrate",
    "merge": "commands.merge",
    "verify": "commands.verify",
    "TrainResult": "commands.results",
    "ScoreResult": "commands.results",
    "EvaluateResult": "commands.results",
    "CalibrateResult": "commands.results",
    "MergeResult": "commands.results",
    "Verdict": "record.verification",
    "Calibration": "stats.calibration",
    "Batch": "types",
    "Scores": "types",
    "Detector": "types",
    "TrainContext": "types",
    "DETECTORS": "detectors",
    "AnodetectError": "errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("anodetect")
    if name in _MODULES:
        return getattr(import_module(f"anodetect.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'anodetect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
