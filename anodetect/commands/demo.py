"""The main job on real images, end to end: train three detectors, score held-out cells, write a
report."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anodetect.commands.score import score
from anodetect.commands.train import train
from anodetect.data import synthetic
from anodetect.files import write_atomic
from anodetect.output import report
from anodetect.record import directories, environment
from anodetect.types import Reporter

DATA = "elpv:mono"
BUDGET_MINUTES = 3.0
DETECTORS = (
    "intensity",
    "pca",
    "anoddpm",
)  # the learned one last: peak memory is that of the process so far
QUICK: dict[str, dict[str, Any]] = {
    "anoddpm": {"widths": [32, 32], "training": {"steps": 100}, "lambdas": [10]}
}


def run(out: Path, *, quick: bool, reporter: Reporter) -> dict[str, Any]:
    """Write runs/, scores/ and report.html below `out`; returns the table's rows and where the
    report is."""
    directories.prepare(out)
    data, name = DATA, DATA
    if quick:
        synthetic.write(out / "images", train=120, test=30)
        data, name = str(out / "images"), "synthetic"
    rows, commands = [], []
    for detector in DETECTORS:
        run_path, score_path = out / "runs" / detector, out / "scores" / detector
        values = QUICK.get(detector, {}) if quick else {}
        reporter.say(f"\n{detector}")
        options: dict[str, Any] = {
            "representation": "pixels",
            "values": values,
            "budget": BUDGET_MINUTES,
        }
        facts = train(data, detector, run_path, **options, reporter=reporter)
        heatmaps = ("tiff", "png") if detector == "anoddpm" else ()
        command = [
            "anodetect",
            "score",
            str(run_path),
            data,
            "--out",
            str(score_path),
            "--heatmaps",
            ",".join(heatmaps) or "none",
        ]
        result = score(
            run_path, [data], score_path, heatmaps=heatmaps, command=command, reporter=reporter
        )
        rows.append(result_row(name, facts, result))
        settings = [f"{key}={json.dumps(value)}" for key, value in _flat(values)]
        training = [
            "anodetect",
            "train",
            data,
            "--detector",
            detector,
            "--representation",
            "pixels",
        ]
        training += ["--budget", f"{BUDGET_MINUTES:g}"]
        training += [
            "--out",
            str(run_path),
            *(part for setting in settings for part in ("--set", setting)),
        ]
        commands += [shlex.join(training), shlex.join(command)]
    write_atomic(
        out / "results.json", json.dumps({"rows": rows, "commands": commands}, indent=2) + "\n"
    )
    path = report.write(out)
    return {"rows": rows, "report": str(path), "out": str(out)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """{"a": {"b": 1}} → [("a.b", 1)]"""
    flat = []
    for key, value in values.items():
        flat += (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else [(prefix + key, value)]
        )
    return flat


def result_row(dataset: str, facts: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a result table, from `train`'s and `score`'s answers."""
    image, pixel = result["evaluation"]["image"], result["evaluation"]["pixel"] or {}
    return {
        "dataset": dataset,
        "detector": facts["detector"],
        "representation": facts["representation"],
        "seed": facts["seed"],
        "image_auroc": image["auroc"]["value"],
        "image_auroc_low": image["auroc"]["low"],
        "image_auroc_high": image["auroc"]["high"],
        "image_ap": image["ap"]["value"],
        "image_ap_low": image["ap"]["low"],
        "image_ap_high": image["ap"]["high"],
        "pixel_auroc": pixel.get("auroc"),
        "pixel_ap": pixel.get("ap"),
        "pixel_aupro": pixel.get("aupro"),
        "train_seconds": facts["train_seconds"],
        "score_ms_per_image": 1000 * result["model_seconds_per_image"],
        "images_per_second": result["images_per_second"],
        "peak_memory_mb": environment.peak_memory_mb(),
        "model_mb": facts["model_mb"],
    }
