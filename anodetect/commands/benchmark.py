"""Detectors × data sets × seeds → one table. Every run is a fresh process; what is finished is not
repeated."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anodetect.data import cards, readers
from anodetect.data.scan import Record
from anodetect.data.split import position
from anodetect.detectors import detector_class
from anodetect.errors import AnodetectError, ConfigError, DataError, ImageError, Interrupted
from anodetect.files import write_atomic
from anodetect.output import report
from anodetect.output.images import colour, contrast, grey
from anodetect.record import directories, runs
from anodetect.types import Reporter

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_aupro")
COMPARED = ("image_auroc", "pixel_ap")
COSTS = ("train_seconds", "score_ms_per_image", "peak_memory_mb", "model_mb")
PICTURES = 4
SIDE = 160
Draws = dict[str, NDArray[np.float64]]
Pixels = NDArray[np.uint8]  # [H, W, 3]
BLANK: Pixels = np.full((SIDE, SIDE, 3), 235, np.uint8)  # where there is nothing to show


@dataclass(frozen=True)
class Job:
    """One detector on one data set with one seed."""

    data: str
    detector: str
    seed: int
    out: Path

    @property
    def name(self) -> str:
        return (
            f"{re.sub(r'[^A-Za-z0-9.-]+', '_', Path(self.data).name)}-{self.detector}-{self.seed}"
        )

    @property
    def run(self) -> Path:
        return self.out / "runs" / self.name

    @property
    def scores(self) -> Path:
        return self.out / "scores" / self.name


def run(
    data: Sequence[str],
    detectors: Sequence[str],
    out: Path,
    *,
    seeds: int,
    budget: float,
    reporter: Reporter,
) -> dict[str, Any]:
    """Do what is not done yet and write results.csv, results.md, benchmark.html and benchmark.png
    below `out`.

    Returns the rows (one per data set, detector and seed) and the summary (means over seeds with
    intervals).
    """
    for name in detectors:
        detector_class(name)
    if len({Job(name, "", 0, out).name for name in data}) < len(data):
        raise DataError("two data sets have the same name; rename one folder")
    jobs = [
        Job(name, detector, seed, out)
        for name in data
        for detector in detectors
        for seed in range(seeds)
    ]
    rows = []
    for number, job in enumerate(jobs):
        reporter.say(f"{job.name} ({number + 1} of {len(jobs)})")
        rows.append(finished(job, budget))
    summary = [_summarise(name, detector, rows) for name in data for detector in detectors]
    for entry in summary:
        entry["differences"] = _differences(
            entry, [other for other in summary if other["data"] == entry["data"]]
        )
    public = [
        {key: value for key, value in row.items() if key not in ("data", "draws")} for row in rows
    ]
    write_atomic(out / "results.csv", runs.to_csv(public))
    write_atomic(out / "results.md", _markdown(data, summary, budget, seeds))
    strips = {
        name: _strips(name, [job for job in jobs if job.data == name and job.seed == 0])
        for name in data
    }
    pictures = {
        name: [base64.b64encode(_png(strip)).decode() for strip in strips[name]] for name in data
    }
    titles = ["image", "truth", *detectors]
    write_atomic(
        out / "benchmark.png", _png(_sheet(titles, [some[0] for some in strips.values() if some]))
    )
    page = report.environment().get_template("benchmark.html.j2")
    html = page.render(
        data=data,
        summary=summary,
        pictures=pictures,
        budget=budget,
        seeds=seeds,
        detectors=detectors,
    )
    write_atomic(out / "benchmark.html", html)
    for entry in summary:
        del entry["draws"]
    return {"rows": public, "summary": summary, "out": str(out)}


def finished(job: Job, budget: float) -> dict[str, Any]:
    """The job's row, after training and scoring as far as that is still to do."""
    if not job.run.exists():
        resume = ["--resume"] if runs.checkpoints(runs.partial(job.run)) else []
        options = ["--detector", job.detector, "--budget", f"{budget:g}", "--seed", str(job.seed)]
        facts = _call("train", job.data, *options, "--out", str(job.run), *resume)
        write_atomic(job.run.with_suffix(".json"), json.dumps({"peak": facts["peak_memory_mb"]}))
    trained_for = runs.facts(job.run)["budget_minutes"]
    if trained_for != budget:
        raise ConfigError(
            f"{job.run} was trained with --budget {trained_for:g}; use that, or another --out"
        )
    if not (job.scores / "audit.json").exists():
        shutil.rmtree(job.scores, ignore_errors=True)  # what an interrupted scoring left
        heatmaps = "tiff" if job.seed == 0 else "none"
        result = _call(
            "score", str(job.run), job.data, "--out", str(job.scores), "--heatmaps", heatmaps
        )
        keep = {"peak": result["peak_memory_mb"], "ms": 1000 * result["model_seconds_per_image"]}
        write_atomic(job.scores.with_suffix(".json"), json.dumps(keep))
    return _row(job)


def _call(*arguments: str) -> dict[str, Any]:
    """An `anodetect` command in a process of its own; its JSON answer."""
    done = subprocess.run(
        [sys.executable, "-m", "anodetect.cli", *arguments, "--json"],
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode == Interrupted.exit_code or done.returncode < 0:
        raise Interrupted("stopped; the same command goes on from here")
    if done.returncode not in (0, 1):
        raise AnodetectError(f"anodetect {' '.join(arguments)} failed; its message is above")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _row(job: Job) -> dict[str, Any]:
    facts, audit = runs.facts(job.run), directories.read(job.scores).audit
    trained, scored = (_kept(path.with_suffix(".json")) for path in (job.run, job.scores))
    evaluation = audit["evaluation"]
    if evaluation is None:
        raise DataError(f"{job.data}: no labelled test images to measure on")
    image, pixel = evaluation["image"], evaluation["pixel"] or {}
    return {
        "data": job.data,
        "dataset": audit["data"],
        "detector": job.detector,
        "representation": facts["representation"],
        "seed": job.seed,
        "image_auroc": image["auroc"]["value"],
        "image_auroc_low": image["auroc"]["low"],
        "image_auroc_high": image["auroc"]["high"],
        "image_ap": image["ap"]["value"],
        **{f"pixel_{name}": pixel.get(name) for name in ("auroc", "ap", "aupro")},
        "train_seconds": facts["train_seconds"],
        "score_ms_per_image": scored["ms"],
        "peak_memory_mb": max(trained["peak"], scored["peak"]),
        "model_mb": facts["model_mb"],
        "steps": facts["steps"],
        "stopped_by": facts["stopped_by"],
        "draws": _draws(job.scores / directories.BOOTSTRAP),
    }


def _kept(path: Path) -> dict[str, float]:
    """What a finished process said of itself; NaN if it was stopped before it could."""
    kept: dict[str, float] = {"peak": float("nan"), "ms": float("nan")}
    return kept | (json.loads(path.read_text("utf-8")) if path.is_file() else {})


def _draws(path: Path) -> Draws:
    """Each metric's values over the resampled groups; the resamples are the same for every detector
    and seed."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _summarise(data: str, detector: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds; intervals from the mean, over seeds, of each resample's value."""
    mine = [row for row in rows if row["data"] == data and row["detector"] == detector]
    draws = {
        name: np.mean([row["draws"][name] for row in mine], axis=0) for name in mine[0]["draws"]
    }
    entry: dict[str, Any] = {"data": data, "detector": detector, "seeds": len(mine)}
    entry |= {key: mine[0][key] for key in ("dataset", "representation")}
    for name in METRICS:
        values = [row[name] for row in mine]
        low, high = np.nanpercentile(draws[name], (2.5, 97.5)) if name in draws else (None, None)
        entry[name] = {
            "value": None if None in values else float(np.mean(values)),
            "low": low,
            "high": high,
        }
    return (
        entry
        | {name: float(np.mean([row[name] for row in mine])) for name in COSTS}
        | {"draws": draws}
    )


def _differences(
    entry: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """This detector minus each other one, on the same resamples (paired bootstrap)."""
    differences = []
    for other in others:
        if other["detector"] == entry["detector"]:
            continue
        line: dict[str, Any] = {"other": other["detector"]}
        for name in COMPARED:
            if name in entry["draws"] and name in other["draws"]:
                low, high = np.nanpercentile(
                    entry["draws"][name] - other["draws"][name], (2.5, 97.5)
                )
                line[name] = {
                    "value": entry[name]["value"] - other[name]["value"],
                    "low": low,
                    "high": high,
                }
        differences.append(line)
    return differences


def _markdown(
    data: Sequence[str], summary: Sequence[Mapping[str, Any]], budget: float, seeds: int
) -> str:
    lines = [
        f"{seeds} seed(s), at most {budget:g} minutes of training each; 95 % bootstrap intervals over groups.",
        "",
    ]
    titles = [*(name.replace("_", " ") for name in METRICS), "train s", "ms/image", "peak MB"]
    for name in data:
        entries = [entry for entry in summary if entry["data"] == name]
        lines += [f"### {entries[0]['dataset']}", "", f"| detector | sees | {' | '.join(titles)} |"]
        lines += [
            "|---" * (2 + len(titles)) + "|",
            *(_markdown_row(entry) for entry in entries),
            "",
        ]
        lines += ["Differences on the same resamples:", ""]
        shown: set[str] = set()
        for entry in entries:
            shown.add(entry["detector"])
            lines += [
                _markdown_difference(entry, line)
                for line in entry["differences"]
                if line["other"] not in shown
            ]
        lines.append("")
    return "\n".join(lines)


def _markdown_row(entry: Mapping[str, Any]) -> str:
    costs = (
        f"{entry['train_seconds']:.0f}",
        f"{entry['score_ms_per_image']:.1f}",
        f"{entry['peak_memory_mb']:.0f}",
    )
    head = entry["detector"], entry["representation"]
    return f"| {' | '.join([*head, *(_cell(entry[name]) for name in METRICS), *costs])} |"


def _markdown_difference(entry: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    parts = [f"{name.replace('_', ' ')} {_signed(line[name])}" for name in COMPARED if name in line]
    return f"- {entry['detector']} − {line['other']}: {', '.join(parts)}"


def _cell(metric: Mapping[str, Any]) -> str:
    if metric["value"] is None:
        return "–"
    interval = "" if metric["low"] is None else f" ({metric['low']:.3f}–{metric['high']:.3f})"
    return f"{metric['value']:.3f}{interval}"


def _signed(metric: Mapping[str, Any]) -> str:
    return f"{metric['value']:+.3f} ({metric['low']:+.3f} to {metric['high']:+.3f})"


def _strips(data: str, jobs: Sequence[Job]) -> list[Pixels]:
    """For some anomalous images, chosen by a hash of their names: image | truth | each detector's
    heatmap."""
    anomalous = [record for record in cards.open_data(data).testing() if record.label == 1]
    with_mask = [record for record in anomalous if record.mask] or anomalous
    chosen = sorted(with_mask, key=lambda record: position(record.id, "pictures"))[:PICTURES]
    strips = []
    for record in chosen:
        try:
            strips.append(_strip(record, jobs))
        except ImageError:
            continue  # it is a failed row of the scores too
    return strips


def _strip(record: Record, jobs: Sequence[Job]) -> Pixels:
    image = readers.read_image(record.path)
    panels = [grey(image, contrast(image)), _truth(record)]
    for job in jobs:
        scored = directories.read(job.scores)
        row = next((row for row in scored.rows if row["path"] == record.id), None)
        if row and row["heatmap"]:
            panels.append(
                colour(tifffile.imread(job.scores / row["heatmap"]), tuple(scored.audit["scale"]))
            )
        else:
            panels.append(BLANK)
    return np.concatenate(
        [np.asarray(Image.fromarray(panel).resize((SIDE, SIDE))) for panel in panels], axis=1
    )


def _truth(record: Record) -> Pixels:
    if not record.mask:
        return BLANK
    return np.repeat(readers.read_mask(record.mask)[..., None].astype(np.uint8) * 255, 3, axis=2)


def _sheet(titles: Sequence[str], strips: Sequence[Pixels]) -> Pixels:
    """Strips below each other, under their columns' titles."""
    head = Image.new("RGB", (SIDE * len(titles), 24), "white")
    for column, title in enumerate(titles):
        ImageDraw.Draw(head).text(
            (SIDE * (column + 0.5), 12), title, "black", anchor="mm", font_size=14
        )
    return np.concatenate([np.asarray(head), *strips])


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
