"""The main job on real images, end to end: train three detectors, score held-out cells, write a
report."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anodetect.commands.results import ResultRow, ScoreResult, metrics_of
from anodetect.commands.score import score
from anodetect.commands.train import train
from anodetect.data import synthetic
from anodetect.errors import ConfigError, DataError
from anodetect.files import write_atomic
from anodetect.output import report
from anodetect.record import directories, environment
from anodetect.record.runs import RunFacts
from anodetect.types import Reporter

DATA = "elpv:mono"
BUDGET_MINUTES = 3.0
# The one that takes most memory comes last: peak memory is that of the process so far.
DETECTORS = ("intensity", "pca", "anoddpm")
SHOWN = "anoddpm"  # the detector whose heatmaps are written
QUICK: dict[str, dict[str, Any]] = {
    "anoddpm": {"widths": [32, 32], "training": {"steps": 100}, "lambdas": [10]}
}


@dataclass(frozen=True)
class DemoRow(ResultRow):
    """A row of results.json, as the report shows it."""

    image_ap_low: float | None
    image_ap_high: float | None
    images_per_second: float


@dataclass(frozen=True)
class DemoResult:
    """The rows of the table, a detector each, the file of the report, and the folder of all."""

    rows: tuple[DemoRow, ...]
    report: Path
    out: Path

    def as_json(self) -> dict[str, Any]:
        """Return what `demo --json` prints."""
        rows = [asdict(row) for row in self.rows]
        return {"rows": rows, "report": str(self.report), "out": str(self.out)}


def run(out: Path, *, quick: bool, reporter: Reporter) -> DemoResult:
    """Write runs/, scores/, results.json and report.html below `out`.

    With `quick` the images are synthetic and the detectors small. Raises ConfigError in a process
    that helps another one to train.
    """
    directories.prepare(out)
    data, name = DATA, DATA
    if quick:
        synthetic.write(out / "images", train=120, test=30)
        data, name = str(out / "images"), "synthetic"

    rows, commands = [], []
    for detector in DETECTORS:
        reporter.say("")
        reporter.say(detector)
        values = QUICK.get(detector, {}) if quick else {}
        run_path, score_path = out / "runs" / detector, out / "scores" / detector
        heatmaps = ("tiff", "png") if detector == SHOWN else ()
        scoring = score_command(run_path, data, score_path, heatmaps)

        trained = train(
            data,
            detector,
            run_path,
            representation="pixels",
            values=values,
            budget=BUDGET_MINUTES,
            folds=0,
            reporter=reporter,
        )
        if trained is None:
            raise ConfigError("the demo trains in one process; start it without torchrun")
        result = score(
            run_path, [data], score_path, heatmaps=heatmaps, command=scoring, reporter=reporter
        )
        rows.append(result_row(name, trained.facts, result))
        commands.append(shlex.join(train_command(data, detector, run_path, values)))
        commands.append(shlex.join(scoring))

    table = [asdict(row) for row in rows]
    results = json.dumps({"rows": table, "commands": commands}, indent=2)
    write_atomic(out / "results.json", results + "\n")
    path = report.write(out)
    return DemoResult(tuple(rows), path, out)


def train_command(data: str, detector: str, out: Path, values: Mapping[str, Any]) -> list[str]:
    """Return the command that trains what the demo trained."""
    command = ["anodetect", "train", data, "--detector", detector, "--representation", "pixels"]
    command += ["--budget", f"{BUDGET_MINUTES:g}", "--folds", "0", "--out", str(out)]
    for key, value in _flat(values):
        command += ["--set", f"{key}={json.dumps(value)}"]
    return command


def score_command(run_path: Path, data: str, out: Path, heatmaps: tuple[str, ...]) -> list[str]:
    """Return the command that scores what the demo scored."""
    formats = ",".join(heatmaps) or "none"
    return ["anodetect", "score", str(run_path), data, "--out", str(out), "--heatmaps", formats]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested settings with dotted keys: {"a": {"b": 1}} → [("a.b", 1)]."""
    flat = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((prefix + key, value))
    return flat


def result_row(dataset: str, facts: RunFacts, result: ScoreResult) -> DemoRow:
    """Return a row of the result table of a run and its scores; DataError without labels."""
    evaluation = result.evaluation
    if evaluation is None:
        raise DataError(f"{dataset}: no labelled test images to measure on")
    ap = evaluation.image["ap"]
    return DemoRow(
        dataset=dataset,
        detector=facts.detector,
        representation=facts.representation,
        seed=facts.training.seed,
        **metrics_of(evaluation),
        image_ap_low=ap.low,
        image_ap_high=ap.high,
        train_seconds=facts.training.train_seconds,
        score_ms_per_image=1000 * result.model_seconds_per_image,
        images_per_second=result.images_per_second,
        peak_memory_mb=environment.peak_memory_mb(),
        model_mb=facts.model_mb,
    )
