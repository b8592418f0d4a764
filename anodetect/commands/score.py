"""Score: a run and images in, a score directory out.

scan → (model → files, journal)* → decision → score directory
"""

import shlex
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anodetect.commands.brains import check_tools_of
from anodetect.commands.channels import channels_of_run
from anodetect.commands.conclude import (
    FileRow,
    Gathered,
    conclude,
    say_head,
    where_scored,
    written_bits,
)
from anodetect.commands.destination import Destination, destination
from anodetect.commands.inputs import Inputs, collect
from anodetect.commands.labelled import content_of, labelled_score
from anodetect.commands.manifest import KnownFiles, known_groups
from anodetect.commands.results import MergeResult, ScoreResult
from anodetect.commands.roi import other_roi, own_roi
from anodetect.data import readers
from anodetect.data.listing import Listing
from anodetect.data.records import Problem, Record
from anodetect.data.truth import truth_hash
from anodetect.detectors import entry_named
from anodetect.engines.worker import Engine, ScoredEntries, Task, problem_row, shard_of
from anodetect.errors import ConfigError, DiskFullError, Interrupted, nearest
from anodetect.files import path_or_none
from anodetect.model.devices import check_device
from anodetect.model.loading import Failed
from anodetect.model.read_ahead import BATCH
from anodetect.model.scoring import Scored, ScoredVolume
from anodetect.output import recorded
from anodetect.output.cases import Cases
from anodetect.output.formats import DEFAULT, check_formats
from anodetect.record import directories, environment, runs, signatures
from anodetect.record.audit import Scoring, ShownCases
from anodetect.record.journal import Journal
from anodetect.record.keeping import ALL, keep_of
from anodetect.record.rows import (
    OK,
    JournalEntry,
    Region,
    ScoreRow,
    TimingRow,
    values_of,
)
from anodetect.record.runs import Run
from anodetect.stats.calibration import DEFAULT_FAR, Doubles, check_rate
from anodetect.stats.decision import Rule, statement
from anodetect.stats.evaluation import Measure
from anodetect.stats.times import untimed
from anodetect.types import Floats, Reporter, Silent
from anodetect.words import amount, first_of

ENGINES = {"local": "anodetect.engines.local:engine", "ray": "anodetect.engines.cluster:engine"}
PROMPT = 1.0  # seconds after which finished files go to the journal
GOES_ON = "the same command with --resume goes on"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `score`, which says what they are."""

    far: float | None = None
    fdr: float | None = None
    heatmaps: Sequence[str] = DEFAULT
    follow_symlinks: bool = False
    keep_identifiers: bool = False
    accept_different: bool = False
    roi: Path | str | None = None
    exact_grid: bool = False
    keep: str = ALL
    resume: bool = False
    shard: str = "1/1"
    sign: Path | str | None = None
    device: str = "auto"
    engine: str | Engine = "local"
    workers: int | None = None
    command: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """All that is known of a scoring before its first image, but the images."""

    to: Destination
    run: Run
    task: Task
    scoring: Scoring
    journal: Journal
    engine: Engine
    key: Ed25519PrivateKey | None
    used: KnownFiles


def score(
    run_path: Path | str,
    paths: Sequence[str],
    out: Path | str,
    *,
    far: float | None = None,
    fdr: float | None = None,
    heatmaps: Sequence[str] = DEFAULT,
    follow_symlinks: bool = False,
    keep_identifiers: bool = False,
    accept_different: bool = False,
    roi: Path | str | None = None,
    exact_grid: bool = False,
    keep: str = ALL,
    resume: bool = False,
    shard: str = "1/1",
    sign: Path | str | None = None,
    device: str = "auto",
    engine: str | Engine = "local",
    workers: int | None = None,
    command: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> ScoreResult:
    """Score files, folders or a card's test part, and write the score directory `out`, a folder or
    a URL.

    `far` is the false-alarm rate at which images are flagged, DEFAULT_FAR if neither is given; with
    `fdr` instead it is the false-discovery rate. `heatmaps` names output formats. With `resume` an
    interrupted scoring of the same `out` goes on, and what is finished is not scored again. `shard`
    "i/n" scores the i-th of n parts, which the contents of the files decide. Files that the model
    cannot judge fail unless `accept_different`. `roi` is a mask of where images count, by default
    the run's. With `exact_grid` NIfTI maps of sheared slices keep the source's grid. `keep` is
    "all", "flagged" or "sample=N": which images keep their files (`record.keeping`). `sign` is a
    file with an Ed25519 private key. `engine` is one of ENGINES: "local" scores on this machine, in
    as many processes as help or in `workers`; "ray" on a cluster; or an engine itself.
    ConfigError and DataError before any work for what cannot be scored.
    """
    request = Request(
        far=far, fdr=fdr, heatmaps=heatmaps, follow_symlinks=follow_symlinks,
        keep_identifiers=keep_identifiers, accept_different=accept_different, roi=roi,
        exact_grid=exact_grid, keep=keep, resume=resume, shard=shard, sign=sign, device=device,
        engine=engine, workers=workers, command=command,
    )  # fmt: skip
    reporter, began = reporter or Silent(), time.monotonic()
    ready, inputs = _prepare(Path(run_path), paths, destination(out), request, reporter)
    to, run, task = ready.to, ready.run, ready.task

    to.begin()
    with _resumable(command), ready.journal as journal:
        reporter.say(_promise(run, task, inputs.records))
        has_masks = any(record.masks for record in inputs.records)
        progress = Progress(run, task, ready.used, has_masks=has_masks, to=to)
        speed = _score_all(run, task, ready.engine, inputs.records, journal, progress, reporter)
        problems = _problem_rows(inputs.problems, task)
        del inputs  # of very many files it may take more than all that follows

        result, seconds = finish(ready.scoring, progress, journal, problems, reporter)
        _complete(to, journal, result.head, ready.key, reporter)
    result = replace(result, out=to.place)
    return speed.result(result, tuple(progress.measure.problems), began, seconds)


def would_score(
    run_path: Path | str,
    paths: Sequence[str],
    out: Path | str,
    *,
    reporter: Reporter | None = None,
    **options: Any,
) -> Inputs:
    """Return what `score` with these arguments would score; raise what it would raise before its
    first image. Nothing is written, and no model is made of the run's weights.

    A run that is not there yet is warned of: files are then listed one by one.
    """
    run_path, reporter, request = Path(run_path), reporter or Silent(), Request(**options)
    to = destination(out)
    if run_path.exists():
        return _prepare(run_path, paths, to, request, reporter)[1]

    _check_request(request, to)
    reporter.warn(f"{run_path} does not exist: files are listed one by one")
    return collect(paths, to.place, request.follow_symlinks, request.keep_identifiers)


def _check_request(
    request: Request, to: Destination
) -> tuple[float, Engine, Ed25519PrivateKey | None]:
    """Return the false-alarm rate, the engine and the key of a scoring; ConfigError or RunError for
    options that cannot be meant, or for what another scoring has written."""
    far = _false_alarm_rate(request.far, request.fdr)
    engine, sign = request.engine, path_or_none(request.sign)
    run_engine = engine_named(engine, request.workers) if isinstance(engine, str) else engine
    key = signatures.private_key(sign) if sign else None
    check_formats(request.heatmaps)
    shard_of(request.shard)
    check_device("auto" if engine == "ray" else request.device)  # machines of a cluster have others

    to.check(resume=request.resume)
    return far, run_engine, key


def _prepare(
    run_path: Path,
    paths: Sequence[str],
    to: Destination,
    request: Request,
    reporter: Reporter,
) -> tuple[Prepared, Inputs]:
    """Check all that can be before the first image is read, and return what is to be done and the
    images. Nothing is written."""
    far, run_engine, key = _check_request(request, to)
    run = _usable_run(run_path)
    keep_of(request.keep, run.calibration, far)
    manifest = runs.read_manifest(run_path)
    inputs = collect(
        paths, to.place, request.follow_symlinks, request.keep_identifiers, channels_of_run(run)
    )
    _warn_of_records(inputs.records, known_groups(manifest, inputs.records), reporter)

    roi = other_roi(run, path_or_none(request.roi), reporter)
    task = Task(
        run_path.absolute(), run.model_sha256, to.folder.absolute(), tuple(request.heatmaps), far,
        request.fdr, request.shard, request.device, request.keep_identifiers,
        request.accept_different, roi, request.exact_grid, request.keep,
        upload="" if to.bucket is None else str(to.bucket),
    )  # fmt: skip
    scoring = scoring_of(run, task, inputs, request.command)
    journal = Journal(to.folder, options_of(scoring), resume=request.resume, key=key, has=to.has())
    journal.check()
    used = KnownFiles(manifest)
    return Prepared(to, run, task, scoring, journal, run_engine, key, used), inputs


def finish(
    scoring: Scoring,
    progress: "Progress",
    journal: Journal,
    problems: Iterable[ScoreRow],
    reporter: Reporter,
) -> tuple[MergeResult, Doubles]:
    """Decide over everything that was scored, and write the directory but for its signature and
    report; return what it amounts to, and the seconds that the model took for each file."""
    with Gathered(journal.path, lambda: _regions(journal)) as gathered:
        seconds = _gather(gathered, journal, problems, scoring.heatmaps, progress.truths)
        _warn_of_known(progress.known, reporter)
        host, threads = where_scored(progress.hosts, progress.threads)
        scoring = replace(
            scoring,
            host=host,
            threads=threads,
            cases=progress.cases.settle(),
            resumed=progress.resumed,
        )
        result = conclude(journal.path, scoring, gathered, progress.measure, reporter)
    return result, seconds


def _complete(
    to: Destination, journal: Journal, head: str, key: Ed25519PrivateKey | None, reporter: Reporter
) -> None:
    """Sign a record, write its report, bring both to where they are to be, and take the journal
    away."""
    if key:
        signatures.sign(to.folder, head, key)
    say_head(head, reporter)
    _write_report(to.folder, key)
    to.publish(reporter)
    journal.remove()
    to.clear()


def _write_report(out: Path, key: Ed25519PrivateKey | None) -> None:
    """Write the report of a complete score directory."""
    # Its figures are matplotlib's, which takes long to import, and scoring begins without it.
    from anodetect.output import report

    report.write(out, key)


def _usable_run(path: Path) -> Run:
    """Return a run; ConfigError if what prepared its brains is not here."""
    run = runs.read(path)
    check_tools_of(run)
    return run


def _false_alarm_rate(far: float | None, fdr: float | None) -> float:
    """Return the false-alarm rate to score with; ConfigError if a rate is none, or if flags are to
    be decided twice."""
    if far is not None and fdr is not None:
        raise ConfigError("--far and --fdr: flags are decided by one of them; leave the other out")
    for rate in (far, fdr):
        if rate is not None:
            check_rate(rate)
    return DEFAULT_FAR if far is None else far


@contextmanager
def _resumable(command: Sequence[str]) -> Iterator[None]:
    """Say how to go on where scoring is stopped, or the disk is full."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {GOES_ON}") from None
    except DiskFullError as error:
        again = shlex.join(part for part in command if part != "--resume")
        raise DiskFullError(
            f"{error}; what is finished is kept: make room, then go on with "
            f"{again or 'anodetect score …'} --resume"
        ) from None


def engine_named(name: str, workers: int | None) -> Engine:
    """Return the engine of this name with so many workers; ConfigError with the nearest name if
    there is none."""
    if name not in ENGINES:
        raise ConfigError(f"no engine {name!r}; {nearest(name, ENGINES)}")
    engine: Engine = resolve_name(ENGINES[name])(workers)
    return engine


def scoring_of(run: Run, task: Task, inputs: Inputs, command: Sequence[str]) -> Scoring:
    """Return what is known of a scoring when it starts."""
    header = run.header
    return Scoring(
        run=run.path.name,
        run_path=str(task.run),
        model_sha256=run.model_sha256,
        detector=header.detector,
        data=header.data,
        facts=header.facts.as_json(),
        config=header.config,
        training=tuple(runs.curves(run.path)),
        backbones=tuple(each.as_json() for each in header.backbones or ()),
        baseline=entry_named(header.detector).baseline,
        far=task.far if task.fdr is None else None,
        fdr=task.fdr,
        mask_rule=run.calibration.mask_rule(task.far),
        scale=header.scale,
        calibration=run.calibration,
        shard=task.shard,
        heatmaps=task.heatmaps,
        root=str(inputs.root.absolute()),
        names=tuple(inputs.names),
        identifiers=task.keep_identifiers,
        roi=_roi(run, task),
        accept_different=task.accept_different,
        exact_grid=task.exact_grid,
        keep=task.keep,
        listed=len(inputs.records) + len(inputs.problems),
        passed_over=inputs.passed_over,
        command=tuple(command),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment.facts(),
        cases=ShownCases(),
    )


def _warn_of_records(records: Sequence[Record], known: Sequence[str], reporter: Reporter) -> None:
    """Say before any work if the times of a manifest cannot be used, which the record says too, and
    name the `known` patients and lots, of which the run has other images."""
    if known:
        reporter.warn(
            f"these patients or lots took part in training or calibration: "
            f"{first_of(known)}; their p-values are not valid"
        )
    when = [record.extra.get("acquired", "") for record in records]
    reason = any(when) and untimed(when, [record.id for record in records])
    if reason:
        reporter.warn(reason)


def _promise(run: Run, task: Task, records: Sequence[Record]) -> str:
    """Return what the decisions and the masks of these records promise."""
    groups = np.array(array("q", (hash(record.group) for record in records)))
    rule = Rule.of(task.far, task.fdr)
    promise = statement(run.calibration, rule, len(records), len(np.unique(groups)))
    return f"{promise} {run.calibration.mask_statement(task.far)}" if task.heatmaps else promise


def _roi(run: Run, task: Task) -> dict[str, Any]:
    """Return what the record says of the region of interest: its hash and size, and all of it if it
    is not the run's; {} without one."""
    if task.roi is not None:
        return task.roi.state()
    own = own_roi(run)
    return {} if own is None else own.summary()


def options_of(scoring: Scoring) -> dict[str, Any]:
    """Return what must be the same for an interrupted scoring to go on."""
    return {
        "format": directories.FORMAT,
        "shard": scoring.shard,
        "heatmaps": list(scoring.heatmaps),
        "root": scoring.root,
        "identifiers": scoring.identifiers,
        "roi": scoring.roi.get("sha256", ""),
        "accept_different": scoring.accept_different,
        "exact_grid": scoring.exact_grid,
        "keep": scoring.keep,
        "model_sha256": scoring.model_sha256,
        "far": scoring.far,
        "fdr": scoring.fdr,
    }


def _warn_of_known(known: int, reporter: Reporter) -> None:
    took_part = "of these images took part in training or calibration"
    if known:
        text = amount(known, f"{took_part}; its p-value is", f"{took_part}; their p-values are")
        reporter.warn(f"{text} not valid")


# -- File by file ----------------------------------------------------------------------------------


class Progress:
    """Counts of the files scored so far, of those that failed and that are flagged; machines and
    threads; the cases to be shown; and the metrics of labelled files.

    `known` counts those that are copies of `used` files, with which the run was made. `resumed`
    counts those that were finished before. `truths` are the hashes of the true masks that pixels
    are measured with, by the paths of their images.
    """

    def __init__(
        self,
        run: Run,
        task: Task,
        used: KnownFiles,
        *,
        has_masks: bool,
        to: Destination | None = None,
    ) -> None:
        self.to = to or Destination(task.out)
        self.out, self.threshold = task.out, task.threshold(run.calibration)
        self.cases = Cases(task.out, self.threshold, run.header.scale)
        self.measure = Measure(run.calibration, task.far, masks=has_masks)
        self.threads: set[int] = set()
        self.hosts: set[str] = set()
        self.count = self.flagged = self.failed = 0
        self.used, self.known, self.resumed = used, 0, 0
        self.truths = dict[str, str]()

    def add(self, entry: JournalEntry, record: Record | None, scored: Scored | None = None) -> None:
        """Count a file. Without `scored` it was scored earlier or by another process, and its
        heatmap is read again if it is to be measured."""
        row = entry.row
        self.count += 1
        self.threads.add(entry.threads)
        self.hosts.add(entry.host)
        self.failed += row.status != OK
        self.known += bool(self.used.copied(row.sha256 or "", row.pixels_sha256))
        self.flagged += row.score is not None and row.score > self.threshold
        if row.score is None:
            return

        self.cases.recall(row.path, row.score)
        if record is None or record.label is None:
            return
        if scored is not None and not isinstance(scored, Failed):
            volume = scored.loaded.volume if isinstance(scored, ScoredVolume) else None
            item = labelled_score(record, row.score, scored.heatmap, volume)
        else:
            heatmap = self._heatmap_of(row)
            item = labelled_score(record, row.score, heatmap, is_volume=row.is_volume)
        if item is None:
            return
        self.measure.add(replace(item, content=content_of(row)))
        if item.mask is not None:
            self.truths[row.path] = truth_hash(item.mask)

    def _heatmap_of(self, row: ScoreRow) -> Floats | None:
        """Return an image's heatmap from its file; None if it is not needed or was not written."""
        if row.is_volume or not self.measure.has_masks or row.label is None:
            return None
        with self.to.here(row.heatmap):
            return recorded.read_map(self.out, row)

    def note(self) -> str:
        """Return the counts in words; with `--fdr` flags are known only at the end."""
        flagged = f"{self.flagged} flagged, " if np.isfinite(self.threshold) else ""
        return f"{flagged}{self.failed} failed"


@dataclass(frozen=True)
class Speed:
    """The number of files that were scored now, when scoring started, and how many seconds it
    took."""

    files: int
    started: float
    seconds: float

    def result(
        self, whole: MergeResult, failures: tuple[str, ...], began: float, seconds: Doubles
    ) -> ScoreResult:
        """Return what all files amount to, with time and memory. `began` is the time of
        `time.monotonic()` at which the command started, `seconds` are those of each file."""
        took = seconds[seconds > 0]
        return ScoreResult(
            **{each.name: getattr(whole, each.name) for each in fields(MergeResult)},
            failures=failures,
            seconds=round(time.monotonic() - began, 3),
            seconds_to_first=round(self.started - began, 3),
            images_per_second=round(self.files / self.seconds, 3) if self.seconds else 0.0,
            peak_memory_mb=environment.peak_memory_mb(),
            model_seconds_per_image=float(np.median(took)) if len(took) else 0.0,
        )


def _score_all(
    run: Run,
    task: Task,
    engine: Engine,
    records: Sequence[Record],
    journal: Journal,
    progress: Progress,
    reporter: Reporter,
) -> Speed:
    """Score what the journal does not have; Interrupted on Ctrl-C."""
    known: Mapping[str, Record] | Listing = {}
    if not isinstance(records, Listing):
        known = {record.id: record for record in records}
    elif journal.paths:
        known = records
    done = set[str]()
    for entry in journal.resumed(known):
        progress.add(entry, known.get(entry.row.path))
        done.add(entry.row.path)
    progress.resumed = len(done)
    if done:
        files = amount(len(records), "file")
        reporter.say(f"{len(done)} of {files} finished before; going on")

    todo = records
    if done and isinstance(records, Listing):
        todo = records.without(done)
    elif done:
        todo = [record for record in records if record.id not in done]
    entries = engine(run, task, todo, reporter, progress.note) if todo else _no_entries()
    started = time.monotonic()
    try:
        with closing(entries):
            for scored, entry in _journaled(entries, journal):
                progress.add(entry, known.get(entry.row.path), scored)
    except KeyboardInterrupt:
        files = amount(len(records), "file")
        raise Interrupted(f"stopped after {progress.count} of {files}; {GOES_ON}") from None
    return Speed(progress.count - len(done), started, time.monotonic() - started)


def _no_entries() -> ScoredEntries:
    yield from ()


def _journaled(
    items: ScoredEntries, journal: Journal
) -> Iterator[tuple[Scored | None, JournalEntry]]:
    """Add entries to the journal, as many at a time as are worth a flush to the disk, and pass them
    on."""
    batch: list[tuple[Scored | None, JournalEntry]] = []
    last = time.monotonic()
    for scored, entry in items:
        batch.append((scored, entry))
        is_volume = isinstance(scored, ScoredVolume)
        del scored  # a volume is not to wait in memory
        if is_volume or len(batch) >= BATCH or time.monotonic() - last > PROMPT:
            journal.append([entry for _, entry in batch])
            yield from batch
            batch, last = [], time.monotonic()

    journal.append([entry for _, entry in batch])
    yield from batch


# -- Tables ----------------------------------------------------------------------------------------


def _problem_rows(problems: Sequence[Problem], task: Task) -> list[ScoreRow]:
    """Return the rows of files that cannot be looked at; they belong to the shards of their
    names."""
    in_shard = shard_of(task.shard)
    rows = []
    for problem in problems:
        if in_shard(readers.digest(problem.name.encode())):
            rows.append(problem_row(problem, task.model_sha256))
    return rows


def _gather(
    gathered: Gathered,
    journal: Journal,
    problems: Iterable[ScoreRow],
    formats: Sequence[str],
    truths: Mapping[str, str],
) -> Doubles:
    """Sort all that was scored, with the hashes of true masks, and return the seconds of each
    file."""
    seconds = array("d")
    for entry in journal.entries():
        written = written_bits(entry.outputs, formats)
        row = replace(entry.row, truth_sha256=truths.get(entry.row.path, ""))
        gathered.scores.add(FileRow(**values_of(row), written=written))
        gathered.timings.add(TimingRow(path=entry.row.path, seconds=entry.seconds))
        gathered.slices.extend(entry.slices)
        gathered.outputs.extend(entry.outputs)
        gathered.notes.update(output.note for output in entry.outputs if output.note)
        seconds.append(entry.seconds)

    for problem in problems:
        gathered.scores.add(FileRow(**values_of(problem), written=0))
    return np.array(seconds)


def _regions(journal: Journal) -> Iterator[tuple[str, Region]]:
    """Yield each region with the path of its image."""
    for entry in journal.entries():
        for region in entry.regions:
            yield entry.row.path, region
