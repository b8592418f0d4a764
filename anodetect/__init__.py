"""anodetect: find anomalies in medical and industrial images after seeing only normal ones."""

from importlib import import_module
from typing import Any

_NAMES = {
    "train": "commands.train",
    "score": "commands.score",
    "evaluate": "commands.evaluate",
    "calibrate": "commands.calibrate",
    "merge": "commands.merge",
    "Calibration": "stats.calibration",
    "Batch": "types",
    "Scores": "types",
    "Detector": "types",
    "TrainContext": "types",
    "DETECTORS": "detectors",
    "AnodetectError": "errors",
}
__all__ = [*_NAMES, "__version__"]  # noqa: PLE0604 — the names are resolved on first use, see __getattr__


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("anodetect")
    if name in _NAMES:
        return getattr(import_module(f"anodetect.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'anodetect' has no attribute {name!r}")
