"""Detectors × data sets × seeds → one table.

Every run is a fresh process; what is finished is not repeated.
"""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.commands.channels import channels_of_header, wanted_channels
from anodetect.commands.comparison import (
    ComparedSummary,
    Draws,
    Summary,
    compared,
    markdown,
    summarise,
)
from anodetect.commands.results import ResultRow, metrics_of
from anodetect.commands.strips import Pixels, sheet, strips
from anodetect.data import cards
from anodetect.data.channels import Channels, same_channels
from anodetect.data.records import Dataset
from anodetect.detectors import detector_class
from anodetect.errors import AnodetectError, ConfigError, DataError, Interrupted, RunError
from anodetect.files import write_atomic
from anodetect.output import report
from anodetect.output.pictures import png
from anodetect.record import directories, runs
from anodetect.record.partial import partial
from anodetect.types import Reporter


@dataclass(frozen=True)
class Job:
    """One detector on one data set with one seed."""

    data: str
    detector: str
    seed: int
    out: Path

    @property
    def name(self) -> str:
        data = re.sub(r"[^A-Za-z0-9.-]+", "_", Path(self.data).name)
        return f"{data}-{self.detector}-{self.seed}"

    @property
    def run(self) -> Path:
        return self.out / "runs" / self.name

    @property
    def scores(self) -> Path:
        return self.out / "scores" / self.name


@dataclass(frozen=True)
class Finding:
    """The options of `train` that say how images are found in a data set."""

    follow_symlinks: bool = False
    channels: str | None = None
    allow_missing: bool = False

    def options(self) -> list[str]:
        """Return the options of `train`."""
        return [*self.links(), *self._channel_options()]

    def links(self) -> list[str]:
        """Return the options of `score`, which knows the channels of a run."""
        return ["--follow-symlinks"] if self.follow_symlinks else []

    def _channel_options(self) -> list[str]:
        if self.channels is None:
            return []
        return ["--channels", self.channels, *["--allow-missing"] * self.allow_missing]

    def named(self) -> Channels | None:
        """Return the channels that are asked for, None if a manifest may name them; ConfigError if
        they are wrong."""
        return wanted_channels(self.channels, allow_missing=self.allow_missing)

    def open(self, data: str) -> Dataset:
        """Return what a data set holds."""
        links = self.follow_symlinks
        return cards.open_data(data, follow_symlinks=links, channels=self.named())


@dataclass(frozen=True)
class BenchmarkRow(ResultRow):
    """A row of results.csv. `stopped_by` says what ended the training: steps, budget …; it is None
    for a detector that has no steps."""

    steps: int | None
    stopped_by: str | None


@dataclass(frozen=True)
class BenchmarkResult:
    """The rows, one for each data set, detector and seed; means over seeds with their differences;
    and the folder of all."""

    rows: tuple[BenchmarkRow, ...]
    summary: tuple[ComparedSummary, ...]
    out: Path

    def as_json(self) -> dict[str, Any]:
        """Return what `benchmark --json` prints."""
        rows = [asdict(row) for row in self.rows]
        summary = [entry.as_json() for entry in self.summary]
        return {"rows": rows, "summary": summary, "out": str(self.out)}


@dataclass(frozen=True)
class Finished:
    """A finished job: its row, and each metric's values over the resampled groups."""

    job: Job
    row: BenchmarkRow
    draws: Draws


@dataclass(frozen=True)
class Cost:
    """The cost of a training or scoring; NaN if its process ended before it could say so."""

    peak: float = float("nan")  # memory in MB
    ms: float = float("nan")  # milliseconds an image


def run(
    data: Sequence[str],
    detectors: Sequence[str],
    out: Path,
    *,
    seeds: int,
    budget: float,
    follow_symlinks: bool = False,
    channels: str | None = None,
    allow_missing: bool = False,
    reporter: Reporter,
) -> BenchmarkResult:
    """Do what is not done yet, and write results.csv, results.md, benchmark.html and benchmark.png
    below `out`.

    `budget` is in minutes of training. `channels` and `allow_missing` are those of `train`, for all
    data sets. Returns the rows, one for each data set, detector and seed, and the summary, means
    over seeds with intervals.
    """
    finding = Finding(follow_symlinks, channels, allow_missing)
    finding.named()  # refuses what cannot be meant
    for name in detectors:
        detector_class(name)
    if len({Job(name, "", 0, out).name for name in data}) < len(data):
        raise DataError("two data sets have the same name; rename one folder")

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--out {out}: cannot be made ({error.strerror or error})") from None

    jobs = []
    for name in data:
        for detector in detectors:
            jobs += [Job(name, detector, seed, out) for seed in range(seeds)]
    results = []
    for number, job in enumerate(jobs, start=1):
        reporter.say(f"{job.name} ({number} of {len(jobs)})")
        results.append(finished(job, budget, finding))

    rows = tuple(result.row for result in results)
    summaries = _summaries(results)
    summary = compared(summaries)
    write_atomic(out / "results.csv", runs.to_csv(asdict(row) for row in rows))
    write_atomic(out / "results.md", markdown(summaries, budget, seeds))
    asked = {"data": data, "detectors": detectors, "seeds": seeds, "budget": budget}
    _write_pictures(out, jobs, finding, asked | {"summary": [entry.as_json() for entry in summary]})
    return BenchmarkResult(rows, tuple(summary), out)


def _summaries(results: Sequence[Finished]) -> list[Summary]:
    """Return the means over seeds of each detector on each data set."""
    together: dict[tuple[str, str], list[Finished]] = {}
    for result in results:
        together.setdefault((result.job.data, result.job.detector), []).append(result)

    summaries = []
    for (data, _), some in together.items():
        rows, draws = [result.row for result in some], [result.draws for result in some]
        summaries.append(summarise(data, rows, draws))
    return summaries


def _write_pictures(
    out: Path, jobs: Sequence[Job], finding: Finding, content: dict[str, Any]
) -> None:
    """Write benchmark.png, one strip of each data set, and benchmark.html with all of them."""
    found: dict[str, list[Pixels]] = {}
    for data in content["data"]:
        scored = [job.scores for job in jobs if job.data == data and job.seed == 0]
        found[data] = strips(finding.open(data), scored)
    titles = ["image", "truth", *content["detectors"]]
    first = [some[0] for some in found.values() if some]
    write_atomic(out / "benchmark.png", png(sheet(titles, first)))

    pictures = {}
    for data, some in found.items():
        pictures[data] = [base64.b64encode(png(strip)).decode() for strip in some]
    page = report.environment().get_template("benchmark.html.j2")
    write_atomic(out / "benchmark.html", page.render(**content, pictures=pictures))


def finished(job: Job, budget: float, finding: Finding = Finding()) -> Finished:
    """Train and score as far as that is still to do, and return the result.

    Raises ConfigError if the job was trained with another budget or other channels, and Interrupted
    if the training or scoring was.
    """
    if not job.run.exists():
        options = ["--detector", job.detector, "--budget", f"{budget:g}", "--seed", str(job.seed)]
        options += ["--out", str(job.run), "--folds", "0"]  # all learn from the same images
        if runs.checkpoints(partial(job.run)):
            options.append("--resume")
        facts = _call("train", job.data, *options, *finding.options())
        _keep(job.run, peak=_peak(facts))
    _check_trained(job, budget, finding)

    if not (job.scores / "audit.json").exists():
        shutil.rmtree(job.scores, ignore_errors=True)  # what an interrupted scoring left
        options = ["--out", str(job.scores), "--heatmaps", "tiff" if job.seed == 0 else "none"]
        result = _call("score", str(job.run), job.data, *options, *finding.links())
        milliseconds = 1000 * result["model_seconds_per_image"]
        _keep(job.scores, peak=_peak(result), ms=milliseconds)
    return _result(job)


def _check_trained(job: Job, budget: float, finding: Finding) -> None:
    """Raise ConfigError if a run was trained with another budget or other channels."""
    header = runs.read_header(job.run)
    trained_for = header.facts.budget_minutes
    if trained_for != budget:
        limit = "no --budget" if trained_for is None else f"--budget {trained_for:g}"
        raise ConfigError(f"{job.run} was trained with {limit}; use that, or another --out")

    channels = channels_of_header(job.run, header)
    asked = finding.named()
    by_manifest = channels is None or channels.listed
    if not (same_channels(channels, asked) or (asked is None and by_manifest)):
        names = "one file" if channels is None else channels.described()
        raise ConfigError(
            f"{job.run} was trained on images of {names}; give its --channels, or another --out"
        )


def _call(*arguments: str) -> dict[str, Any]:
    """Run an `anodetect` command in a process of its own and return its JSON answer."""
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


def _result(job: Job) -> Finished:
    """Return the result of a job that is trained and scored."""
    facts, audit = runs.facts(job.run), directories.read(job.scores).audit
    if audit.evaluation is None:
        raise DataError(f"{job.data}: no labelled test images to measure on")
    trained, scored = _kept(job.run), _kept(job.scores)

    row = BenchmarkRow(
        dataset=audit.data,
        detector=job.detector,
        representation=facts.representation,
        seed=job.seed,
        **metrics_of(audit.evaluation),
        train_seconds=facts.training.train_seconds,
        score_ms_per_image=scored.ms,
        peak_memory_mb=max(trained.peak, scored.peak),
        model_mb=facts.model_mb,
        steps=facts.training.steps,
        stopped_by=facts.training.stopped_by,
    )
    with np.load(job.scores / directories.BOOTSTRAP, allow_pickle=False) as file:
        draws = {name: file[name] for name in file.files}
    return Finished(job, row, draws)


def _peak(answer: dict[str, Any]) -> float:
    """Return the memory in MB that a command's answer names; NaN if its system does not say it."""
    peak = answer["peak_memory_mb"]
    return float("nan") if peak is None else float(peak)


def _keep(path: Path, **cost: float) -> None:
    """Write beside a run or score directory what it cost."""
    write_atomic(path.with_suffix(".json"), json.dumps(cost))


def _kept(path: Path) -> Cost:
    """Read what a run or score directory cost."""
    file = path.with_suffix(".json")
    return Cost(**json.loads(file.read_text("utf-8"))) if file.is_file() else Cost()
