"""Folders in, score directory out: score, merge the parts of several machines, score some files
again.

scan → (model → files, journal)* → decision → score directory
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pyarrow as pa

from anodetect.commands.conclude import conclude, where_scored
from anodetect.commands.labelled import labelled_score
from anodetect.data import cards, readers
from anodetect.data.scan import Problem, Record, identified, is_below
from anodetect.detectors import entry_named
from anodetect.engines.worker import Engine, ScoredEntries, Task, problem_row, shard_of
from anodetect.errors import ConfigError, DataError, Interrupted, nearest
from anodetect.files import path_text
from anodetect.model.loading import Failed
from anodetect.model.read_ahead import BATCH
from anodetect.model.scoring import Scored, ScoredVolume
from anodetect.output import report
from anodetect.output.cases import Cases
from anodetect.output.formats import DEFAULT, check_formats, map_reader
from anodetect.record import environment, runs, verification
from anodetect.record.decisions import numbers
from anodetect.record.journal import Journal
from anodetect.record.rows import (
    OK,
    JournalEntry,
    Region,
    ScoreRow,
    SliceRow,
    TableBuilder,
    TimingRow,
)
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.decision import Rule, statement
from anodetect.stats.evaluation import Measure
from anodetect.types import Floats, Reporter, Silent

ENGINES = {"local": "anodetect.engines.local:engine", "ray": "anodetect.engines.cluster:engine"}
PROMPT = 1.0  # seconds after which finished files go to the journal


def score(
    run_path: Path,
    paths: Sequence[str],
    out: Path,
    *,
    far: float = DEFAULT_FAR,
    fdr: float | None = None,
    heatmaps: Sequence[str] = DEFAULT,
    follow_symlinks: bool = False,
    keep_identifiers: bool = False,
    resume: bool = False,
    shard: str = "1/1",
    sign: Path | None = None,
    device: str = "auto",
    engine: str = "local",
    workers: int | None = None,
    command: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Score files, folders or a card's test part, and write the score directory `out`.

    With `resume` an interrupted scoring of the same `out` goes on, and what is finished is not
    scored again. `shard` "i/n" scores the i-th of n parts, told apart by the files' contents.
    `sign` is a file with an Ed25519 private key. `engine` is one of ENGINES: "local" scores on this
    machine, in as many processes as help or in `workers`; "ray" on a cluster.
    """
    reporter = reporter or Silent()
    begun, started = time.monotonic(), datetime.now(UTC)
    check_formats(heatmaps)
    run_engine = engine_named(engine, workers)
    mine = shard_of(shard)
    key = verification.private_key(sign) if sign else None
    run = runs.read(run_path)
    run.calibration.level(far)  # refuses an impossible rate before any work
    run.calibration.level(far if fdr is None else fdr)
    root, items, problems = collect(paths, out, follow_symlinks, keep_identifiers)
    listed = len(items) + len(problems)
    problems = [each for each in problems if mine(readers.digest(each.name.encode()))]
    asked = {
        "shard": shard,
        "heatmaps": list(heatmaps),
        "root": str(root.absolute()),
        "identifiers": keep_identifiers,
    }
    facts = _facts(run, far, fdr) | asked | {"listed": listed}
    begun_with = asked | {key: facts[key] for key in ("model_sha256", "far", "fdr")}
    task = Task(
        run=run_path.absolute(),
        model_sha256=run.model_sha256,
        out=out.absolute(),
        heatmaps=tuple(heatmaps),
        far=far,
        fdr=fdr,
        shard=shard,
        device=device,
        keep_identifiers=keep_identifiers,
    )
    threshold = task.threshold(run.calibration)
    with Journal(out, begun_with, resume=resume) as journal:
        groups = {record.group for record in items}
        reporter.say(statement(run.calibration, Rule.of(far, fdr), len(items), len(groups)))
        cases = Cases(out, threshold, run.scale)
        measure = Measure(run.calibration, far, masks=any(record.mask for record in items))
        by_id = {record.id: record for record in items}
        tally, done = Tally(threshold), set()
        for entry in journal.resumed():
            tally.add(entry)
            done.add(entry.row.path)
            _count(entry.row, out, by_id, cases, measure)
        if done:
            reporter.say(f"{len(done)} of {len(items)} files were finished before; going on")
        todo = [record for record in items if record.id not in done]
        made = run_engine(task, todo, reporter, tally.note) if todo else _nothing()
        first = time.monotonic()
        try:
            with closing(made):
                for scored, entry in _journaled(made, journal):
                    tally.add(entry)
                    _count(entry.row, out, by_id, cases, measure, scored)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {tally.count} of {len(items)} files; "
                "the same command with --resume goes on"
            ) from None
        seconds = time.monotonic() - first
        del items, todo, by_id  # of very many files they take more than all that follows
        rows, timings, slices = _tables(
            journal.entries(), [problem_row(each, run.model_sha256) for each in problems]
        )
        _warn_of_known(rows, run_path, reporter)
        facts |= {
            "command": list(command),
            "started": started.isoformat(timespec="seconds"),
            "environment": environment.facts(),
            **tally.where(),
            "cases": cases.settle(),
        }
        result = conclude(
            out,
            rows,
            slices,
            timings,
            regions_of(journal.entries()),
            run.calibration,
            facts,
            measure,
            reporter,
        )
        if key:
            verification.sign(out, result["head"], key)
        journal.remove()
    report.write(out)
    each_took = numbers(timings["seconds"])
    return result | {
        "failures": measure.problems,
        "seconds": round(time.monotonic() - begun, 3),
        "seconds_to_first": round(first - begun, 3),
        "images_per_second": round((tally.count - len(done)) / seconds, 3) if seconds else 0.0,
        "peak_memory_mb": environment.peak_memory_mb(),
        "model_seconds_per_image": float(np.median(each_took[each_took > 0]))
        if (each_took > 0).any()
        else 0.0,
    }


def engine_named(name: str, workers: int | None) -> Engine:
    """Return the engine of this name with so many workers; ConfigError with the nearest name if
    there is none."""
    if name not in ENGINES:
        raise ConfigError(f"no engine {name!r}; {nearest(name, ENGINES)}")
    engine: Engine = resolve_name(ENGINES[name])(workers)
    return engine


def _warn_of_known(rows: pa.Table, run_path: Path, reporter: Reporter) -> None:
    used = {row["sha256"] for row in runs.read_manifest(run_path) if row["sha256"]}
    if known := sum(sha256 in used for sha256 in rows["sha256"].to_pylist()):
        reporter.warn(
            f"{known} of these images took part in training or calibration; "
            "their p-values are not valid"
        )


def _facts(run: runs.Run, far: float, fdr: float | None) -> dict[str, Any]:
    """What audit.json says of the model and of how it decides."""
    return {
        "run": run.path.name,
        "run_path": str(run.path.absolute()),
        "model_sha256": run.model_sha256,
        **{key: run.header[key] for key in ("detector", "data", "facts", "config")},
        "baseline": entry_named(run.header["detector"]).baseline,
        "far": None if fdr is not None else far,
        "fdr": fdr,
        "pixel_threshold": run.calibration.pixel_threshold(far),
        "scale": list(run.scale),
        "training": runs.curves(run.path),
        "calibration": run.calibration.snapshot(),
    }


class Tally:
    """How many files have been scored until now, and how many of them are flagged above the
    threshold, or failed; and on which machines, on how many threads."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.threads: set[int] = set()
        self.hosts: set[str] = set()
        self.count = self.flagged = self.failed = 0

    def add(self, entry: JournalEntry) -> None:
        self.count += 1
        self.threads.add(entry.threads)
        self.hosts.add(entry.host)
        score = entry.row.score
        self.failed += entry.row.status != OK
        self.flagged += score is not None and score > self.threshold

    def note(self) -> str:
        """With --fdr flags are known only when everything has been scored."""
        flagged = f"{self.flagged} flagged, " if np.isfinite(self.threshold) else ""
        return f"{flagged}{self.failed} failed"

    def where(self) -> dict[str, Any]:
        """What audit.json says of the machines: which one and on how many threads, nothing if there
        were several."""
        return where_scored(self.hosts, self.threads)


def _tables(
    entries: Iterable[JournalEntry], problems: Iterable[ScoreRow]
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return rows, also those of what could not be looked at, timings and slices, in the order of
    their paths."""
    rows, timings = TableBuilder(ScoreRow), TableBuilder(TimingRow)
    slices = TableBuilder(SliceRow)
    for entry in entries:
        rows.add(entry.row)
        timings.add(TimingRow(path=entry.row.path, seconds=entry.seconds))
        slices.extend(entry.slices)
    rows.extend(problems)
    return tuple(each.table().sort_by("path") for each in (rows, timings, slices))


def regions_of(entries: Iterable[JournalEntry]) -> Iterator[tuple[str, Region]]:
    """Yield each region with the path of its image."""
    for entry in entries:
        for region in entry.regions:
            yield entry.row.path, region


def _count(
    row: ScoreRow,
    out: Path,
    by_id: Mapping[str, Record],
    cases: Cases,
    measure: Measure,
    scored: Scored | None = None,
) -> None:
    """Count an image that was scored: by this process just now, or earlier, or by another one."""
    if row.score is None or row.path not in by_id:
        return
    cases.recall(row.path, row.score)
    if scored is not None and not isinstance(scored, Failed):
        volume = scored.loaded.volume if isinstance(scored, ScoredVolume) else None
        item = labelled_score(scored.record, scored.score, scored.heatmap, volume)
        if item is not None:
            measure.add(item)
        return

    heatmap: Floats | None = None
    if measure.has_masks and row.label is not None:
        reader = map_reader(row.heatmap, "image")
        heatmap = None if reader is None else reader(out / row.heatmap)
    item = labelled_score(by_id[row.path], row.score, heatmap, is_volume=row.is_volume)
    if item is not None:
        measure.add(item)


def _journaled(
    items: ScoredEntries, journal: Journal
) -> Iterator[tuple[Scored | None, JournalEntry]]:
    """Add to the journal, as many at a time as is worth a flush to the disk, and pass on."""
    batch: list[tuple[Scored | None, JournalEntry]] = []
    last = time.monotonic()
    for item in items:
        batch.append(item)
        volume = isinstance(item[0], ScoredVolume)  # is not to wait in memory
        if volume or len(batch) >= BATCH or time.monotonic() - last > PROMPT:
            journal.append([entry for _, entry in batch])
            yield from batch
            batch, last = [], time.monotonic()
    journal.append([entry for _, entry in batch])
    yield from batch


def _nothing() -> ScoredEntries:
    yield from ()


def collect(
    paths: Sequence[str], out: Path, follow_symlinks: bool, keep_identifiers: bool = False
) -> tuple[Path, list[Record], list[Problem]]:
    """What `score` is asked to score: the input root, records, and what cannot be looked at.

    With several paths the root is their common parent folder and ids are relative to it.
    """
    if not paths:
        raise ConfigError("nothing to score: give files, folders or a data set's name")
    datasets = [cards.open_data(path, follow_symlinks=follow_symlinks) for path in paths]
    root = datasets[0].root
    items = [record for dataset in datasets for record in dataset.testing()]
    problems = [problem for dataset in datasets for problem in dataset.problems]
    if len(datasets) > 1:
        root = Path(os.path.commonpath([os.path.abspath(dataset.root) for dataset in datasets]))  # noqa: PTH100
        items = [cards.relative_to(record, root) for record in items]
        below = {
            dataset.root: path_text(os.path.relpath(dataset.root, root)) for dataset in datasets
        }
        problems = []
        for dataset in datasets:
            prefix = "" if below[dataset.root] == "." else f"{below[dataset.root]}/"
            problems += [replace(each, name=prefix + each.name) for each in dataset.problems]
    within = is_below(out, root)  # only then can outputs be among the inputs
    unique = {record.id: record for record in items if not (within and is_below(record.path, out))}
    if keep_identifiers:
        unique = {name: identified(record) for name, record in unique.items()}
    if not unique and not problems:
        raise DataError(f"{', '.join(paths)}: nothing to score")
    return root, list(unique.values()), problems
