"""Watch: score the images that appear in a folder as they come, into records that are closed by the
hour or by count.

watched folder → line → journal of the open record → alarm; a closed record is a score directory
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from anodetect.commands.alarms import Alarms
from anodetect.commands.open_record import OpenRecord
from anodetect.commands.stopping import until_stopped
from anodetect.data.readers import digest
from anodetect.engines.folder import ClosedFiles, Stamp, WatchedFolder, stamp_of
from anodetect.engines.line import Line, Verdict, record_of_file
from anodetect.engines.worker import Task
from anodetect.errors import ConfigError, ImageError, RunError
from anodetect.files import is_below, path_of, path_text, write_atomic
from anodetect.model.devices import check_device
from anodetect.output.formats import check_formats
from anodetect.record import runs
from anodetect.record.journal import is_finished
from anodetect.record.lines import LineFile, holds
from anodetect.record.runs import Run
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.decision import Rule, decide_one
from anodetect.stats.drift import Follower
from anodetect.types import Reporter, Silent
from anodetect.words import amount

PAUSE = 0.2  # seconds after which it is seen that the command is to stop
LOOK = 1.0  # seconds between two looks at the whole folder, or more where looking takes long
LOOK_SHARE = 0.05  # of the time at most
RECORDS, TAKEN, ALARMS, LOCK = "records", "taken.jsonl", "alarms.jsonl", ".lock"
HOURS, COUNT = 1.0, 10_000
SUFFIX = re.compile(r"~\d+$")  # of a file that came under a name that the record had


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A line of taken.jsonl: a file that was scored, as it was then, and its row, as the name of
    its record and its path there."""

    name: str
    size: int
    mtime_ns: int
    row: str


TAKEN_LINE = TypeAdapter(Taken)


def read_taken(lines: LineFile) -> list[Taken]:
    """Return the last line of every name."""
    last = {}
    for line in lines.lines():
        taken = TAKEN_LINE.validate_json(line)
        last[taken.name] = taken
    return list(last.values())


@dataclass(frozen=True)
class WatchResult:
    """The work since the start: files that were scored, failed and flagged, files that are no
    images, alarms that were not heard, and the records that were closed."""

    scored: int
    failed: int
    flagged: int
    passed_over: int
    unheard: int
    records: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `watch --json` prints."""
        return asdict(self) | {"records": list(self.records)}

    def text(self) -> str:
        """Return it in words."""
        text = f"{self.scored} scored, {self.failed} failed, {self.flagged} flagged"
        others = amount(self.passed_over, "file is no image", "files are no images")
        text = f"{text}; {others}, {amount(self.unheard, 'alarm')} not heard"
        return "\n".join([text, *[f"closed: {each}" for each in self.records]])


@dataclass(frozen=True)
class Closing:
    """The hours after which, and the number of files with which, a record is closed."""

    hours: float = HOURS
    count: int = COUNT

    def check(self) -> None:
        """Raise ConfigError for limits that no record can keep."""
        if not self.hours > 0 or self.count < 1:
            raise ConfigError("--hours must be above 0, and --count at least 1")


def watch(
    run_path: Path | str,
    folder: Path | str,
    out: Path | str,
    *,
    far: float = DEFAULT_FAR,
    heatmaps: Sequence[str] = (),
    closing: Closing = Closing(),
    alarm: Sequence[str] = (),
    webhook: str = "",
    device: str = "auto",
    command: Sequence[str] = (),
    reporter: Reporter | None = None,
    on_verdict: Callable[[Verdict], None] = lambda verdict: None,
) -> WatchResult:
    """Score what appears in `folder` by a run, until SIGTERM or Ctrl-C.

    `out`/records has a score directory for each `closing`. `alarm` is a command, run without a
    shell, and `webhook` an address, which hear of every flagged file. A second call with the same
    `out` goes on where the first one was, however that ended. ConfigError and RunError before
    anything is scored for what cannot be meant.
    """
    run_path, folder, out = Path(run_path), Path(folder), Path(out)
    reporter = reporter or Silent()
    closing.check()
    check_formats(heatmaps)
    check_device(device)
    if is_below(out, folder):
        raise ConfigError(f"{out} lies in the watched folder {folder}; choose another --out")
    run = runs.read(run_path)
    run.calibration.level(far)  # refuses an impossible rate
    if not run.calibration.groups:
        raise ConfigError("the run has no calibration images, so nothing would ever be flagged")

    with ExitStack() as stack:
        stop = stack.enter_context(until_stopped())
        stack.enter_context(_locked(out))
        alarms = stack.enter_context(Alarms(out / ALARMS, alarm, webhook, reporter))
        task = Task(
            run_path.absolute(), run.model_sha256, out.absolute(), tuple(heatmaps), far, None,
            "1/1", device, False,
        )  # fmt: skip
        watching = Watching(run, task, folder, closing, alarms, tuple(command), reporter)
        watching.on_verdict = on_verdict
        stack.callback(watching.end)
        watching.stopping = stop.is_set
        looks = WatchedFolder(folder, watching.take, watching.done)
        closed = stack.enter_context(ClosedFiles(folder))
        reporter.say(f"watching {folder}")

        due = 0.0  # of time.monotonic(), when to look at the whole folder
        was_there = True
        while not stop.is_set():
            if time.monotonic() >= due:
                began = time.monotonic()
                looks.look()
                took = time.monotonic() - began
                due = time.monotonic() + max(LOOK, took / LOOK_SHARE)
                if was_there and not folder.is_dir():
                    reporter.warn(f"{folder} is no longer there; waiting until it is back")
                was_there = folder.is_dir()
            for file in closed.wait(PAUSE):
                looks.closed(file)
            watching.close_if_due()
        watching.close()
    return watching.result()


def _locked(out: Path) -> FileLock:
    """Return the lock of the folder `out`, held; RunError if another process works there."""
    lock = FileLock(out / LOCK, timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"{out}: another process works here") from None
    except OSError as error:
        raise RunError(f"{out}: cannot be used ({error.strerror})") from None
    return lock


def _place_of(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another that stands in its place; None if it is not there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Watching:
    """Scores files one at a time and keeps the records. `done` has the files that were scored by an
    earlier process, as they were then."""

    def __init__(
        self,
        run: Run,
        task: Task,
        folder: Path,
        closing: Closing,
        alarms: Alarms,
        command: tuple[str, ...],
        reporter: Reporter,
    ) -> None:
        self.run, self.folder, self.closing = run, folder, closing
        self.out, self.alarms, self.command, self.reporter = task.out, alarms, command, reporter
        self.on_verdict: Callable[[Verdict], None] = lambda verdict: None
        self.scored = self.failed = self.flagged = self.passed_over = 0
        self.closed: list[str] = []
        self.follower = Follower(np.random.default_rng(0))
        self.line = Line(run, task)
        self.record: OpenRecord | None = None
        self.opened = 0.0  # of time.monotonic()
        self.stopping: Callable[[], bool] = lambda: False
        self.recovered: tuple[str, str] | None = None  # a file that may not be noted, and its hash

        self.taken = LineFile(self.out / TAKEN, holds(TAKEN_LINE))
        self.taken.open()
        self.done = self._done_before()
        self.place = _place_of(folder)
        try:
            self._recover()
        except BaseException:
            self.end()
            raise

    # -- Files -------------------------------------------------------------------------------------

    def take(self, file: Path) -> None:
        """Score a file; when this returns it is in a record on the disk. ImageError for what is no
        image, RunError if the command is to stop."""
        if self.stopping():
            raise RunError("stopping")
        stamp = stamp_of(file)
        if stamp is None:
            return
        name = path_text(os.fspath(file.relative_to(self.folder)))
        if self._came_before(name, file):
            self._note(name, stamp, name)
            return
        try:
            record = record_of_file(file, self.folder)
        except ImageError:
            self.passed_over += 1
            raise
        open_record = self.record or self._open(self._new_folder())

        known = open_record.name_for(name)
        own = replace(record, id=known, group=known if record.group == record.id else record.group)
        verdict = self.line.score(own)
        open_record.add(verdict.entry)
        self._note(name, stamp, f"{open_record.task.out.name}/{known}")
        self._tell(verdict, open_record)
        if open_record.progress.count >= self.closing.count:
            self.close()

    def _came_before(self, name: str, file: Path) -> bool:
        """Return whether a process that was killed had scored a file, but not noted that it had."""
        if self.recovered is None or self.recovered[0] != name:
            return False
        expected, self.recovered = self.recovered[1], None
        return digest(file.read_bytes()) == expected

    def _note(self, name: str, stamp: Stamp, row: str) -> None:
        """Note that a file needs not be scored again."""
        taken = Taken(name=name, size=stamp[0], mtime_ns=stamp[1], row=row)
        self.taken.append([TAKEN_LINE.dump_json(taken)])

    def _tell(self, verdict: Verdict, record: OpenRecord) -> None:
        """Say what is to be said at once: an alarm, a failure, a drift."""
        row = verdict.entry.row
        self.scored += row.score is not None
        self.failed += row.score is None
        self.flagged += verdict.flagged
        if row.score is None:
            self.reporter.warn(f"{row.path}: {row.error}")
        if verdict.flagged:
            self.reporter.say(f"{row.path}: flagged, score {row.score:.6g}")
            self.alarms.send({"record": record.task.out.name} | verdict.as_json())
        if row.score is not None and self.follower.add(row.score):
            self.reporter.warn(
                f"{row.path}: since about here scores are others than those before them in "
                f"{record.task.out.name} (the {self.follower.count}th file)"
            )
        self.on_verdict(verdict)

    # -- Records -----------------------------------------------------------------------------------

    def close_if_due(self) -> None:
        """Close the open record if it is old enough."""
        if self.record and time.monotonic() - self.opened >= 3600 * self.closing.hours:
            self.close()

    def close(self) -> None:
        """Close the open record, if there is one with files."""
        record = self.record
        if record is None or not record.progress.count:
            return
        name = record.task.out.name
        self.alarms.wait()  # those of a closed record are not sent again
        result = record.close(self.reporter)
        self.leave()
        self.closed.append(name)
        self.alarms.forget(name)
        self._shorten_taken()
        self.follower = Follower(np.random.default_rng(0))
        self.reporter.say(f"{name} closed: {result.scored} scored, head {result.head}")

    def leave(self) -> None:
        """Let the open record be, for a later process to go on with."""
        if self.record is not None:
            self.record.__exit__(None, None, None)
            self.record = None

    def end(self) -> None:
        """Let go of all files."""
        self.leave()
        self.taken.close()

    def _new_folder(self) -> Path:
        """Return the folder of a new record, named by the time in UTC."""
        name = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S")
        folder, number = self.out / RECORDS / name, 1
        while folder.exists():
            number += 1
            folder = self.out / RECORDS / f"{name}-{number}"
        return folder

    def _open(self, folder: Path) -> OpenRecord:
        task = replace(self.line.task, out=folder)
        record = OpenRecord(self.run, task, self.folder.absolute(), self.command)
        record.__enter__()
        self.record, self.opened = record, time.monotonic()
        self.line.move_to(task)
        return record

    def _recover(self) -> None:
        """Go on with the record that a killed process left open, and close others before it."""
        folders = sorted(path for path in (self.out / RECORDS).glob("*") if path.is_dir())
        for folder in [each for each in folders if not is_finished(each)]:
            self.close()
            self.leave()
            record = self._open(folder)
            self._take_lost_again(record)
            self._send_again(record)
            if record.progress.count:
                files = amount(record.progress.count, "file")
                self.reporter.say(f"{folder.name}: going on after {files}")

    def _take_lost_again(self, record: OpenRecord) -> None:
        """Let files be scored again that were noted as rows of a record that was left open, but are
        not in its journal any more: it was damaged, or written by a release with other lines."""
        lost = again = 0
        for taken in read_taken(self.taken):
            name, _, path = taken.row.partition("/")
            if name == record.task.out.name and path not in record.names:
                lost += 1
                file = os.fspath(self.folder / path_of(taken.name))
                stamp = self.done.pop(file, None)
                again += stamp is not None and stamp_of(Path(file)) == stamp
        if lost:
            self.reporter.warn(
                f"{record.task.out.name}: {lost} rows can no longer be read; {again} of their "
                "files are scored again, the others are not in the folder as they were"
            )

    def _send_again(self, record: OpenRecord) -> None:
        """Send the alarms of a record that was left open, which may not have been heard."""
        rule, name = Rule.of(record.task.far, None), record.task.out.name
        noted = {taken.row for taken in read_taken(self.taken)}
        for entry in record.entries():
            row = entry.row
            if f"{name}/{row.path}" not in noted:  # only the last one can be
                self.recovered = SUFFIX.sub("", row.path), row.sha256 or ""
            if row.score is None:
                continue
            self.follower.add(row.score)
            decision = decide_one(row.score, self.run.calibration, rule, is_volume=row.is_volume)
            verdict = Verdict(entry, decision, entry.regions)
            if verdict.flagged:
                self.alarms.send({"record": name} | verdict.as_json())

    # -- What was done before ----------------------------------------------------------------------

    def _done_before(self) -> dict[str, Stamp]:
        """Return the files that were scored, each as it was then."""
        done = {}
        for taken in read_taken(self.taken):
            file = self.folder / path_of(taken.name)
            done[os.fspath(file)] = taken.size, taken.mtime_ns
        return done

    def _shorten_taken(self) -> None:
        """Forget the files that are no longer in the folder, but not where its disk is away."""
        kept = []
        for taken in read_taken(self.taken):
            if (self.folder / path_of(taken.name)).exists():
                kept.append(TAKEN_LINE.dump_json(taken) + b"\n")
        if not kept and _place_of(self.folder) != self.place:
            return
        self.taken.close()
        write_atomic(self.out / TAKEN, b"".join(kept))
        self.taken.open()

    def result(self) -> WatchResult:
        """Return what was done since the start."""
        return WatchResult(
            self.scored,
            self.failed,
            self.flagged,
            self.passed_over,
            self.alarms.failed,
            tuple(self.closed),
        )
