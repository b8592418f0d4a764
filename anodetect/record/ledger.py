"""The ledger of what arrives: each job from the moment when it is whole until its results are
delivered, across crashes.

    FOLDER/ledger.jsonl          a line for each event, on the disk before what it says is done
    FOLDER/jobs/000001/files/    what arrived together, such as the objects of a series
    FOLDER/jobs/000001/scores/   its score directory

A job is called by its number. `source` names what it came from, such as a series by its UID.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from anodetect.errors import RunError
from anodetect.record.lines import LineFile, holds

LEDGER, LOCK = "ledger.jsonl", ".lock"
# closed: nothing more is expected · started: scoring began · waiting: scoring was stopped in good
# order · scored: its score directory is written · failed: nothing can be delivered, `note` says why
# · delivered: its results are where they belong
State = Literal["closed", "started", "waiting", "scored", "failed", "delivered"]
DONE: tuple[State, ...] = ("failed", "delivered")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """A line of the ledger: from now on a job is in this state. `source`, the number of `files` and
    how many were `expected` (None if nothing says so) stand with the first."""

    job: int
    state: State
    source: str = ""
    files: int = 0
    expected: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the ledger has it. `attempts` counts how often scoring began and ended
    without a word, as a process that is killed does. `scored` says that it has a score directory.
    """

    number: int
    source: str
    files: int
    expected: int | None
    state: State
    attempts: int = 0
    note: str = ""
    scored: bool = False


class Ledger:
    """The ledger of `folder`; a context manager that holds the folder's lock. RunError if another
    process has it, or it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[int, Job] = {}
        self._open: dict[int, None] = {}  # numbers of jobs
        self._sources: dict[str, list[int]] = {}
        self._lock = FileLock(folder / LOCK, timeout=0)
        self._lines = LineFile(folder / LEDGER, holds(_ADAPTER))

    def __enter__(self) -> "Ledger":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise RunError(f"{self.folder}: another process works here") from None
        except OSError as error:
            raise RunError(f"{self.folder}: cannot be used ({error.strerror})") from None

        try:
            self._lines.open()
            for line in self._lines.lines():
                self._apply(_ADAPTER.validate_json(line))
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.close()
        self._lock.release()

    def close(self, source: str, files: int, expected: int | None) -> Job:
        """Note a new job, and return it."""
        number = max(self.jobs, default=0) + 1
        event = JobEvent(job=number, state="closed", source=source, files=files, expected=expected)
        self._append(event)
        return self.jobs[number]

    def move(self, job: Job, state: State, note: str = "") -> Job:
        """Note that a job is in another state, and return it."""
        self._append(JobEvent(job=job.number, state=state, note=note))
        return self.jobs[job.number]

    def open_jobs(self) -> Iterator[Job]:
        """Yield the jobs that something is still to be done for, in the order of their numbers."""
        for number in sorted(self._open):
            yield self.jobs[number]

    def undelivered(self) -> Iterator[Job]:
        """Yield the jobs that failed after they were scored, so that only their results are
        missing where they belong."""
        for job in list(self.jobs.values()):
            if job.state == "failed" and job.scored:
                yield job

    def files_of(self, job: Job) -> Path:
        """Return the folder of what arrived."""
        return self._folder_of(job.number) / "files"

    def scores_of(self, job: Job) -> Path:
        """Return the score directory of a job."""
        return self._folder_of(job.number) / "scores"

    def earlier(self, source: str, before: int | None = None) -> list[Path]:
        """Return the folders of what arrived from a source in jobs with lower numbers than
        `before`, by default in all."""
        numbers = list(self._sources.get(source, ()))
        return [
            self._folder_of(each) / "files" for each in numbers if before is None or each < before
        ]

    def _folder_of(self, number: int) -> Path:
        return self.folder / "jobs" / f"{number:06}"

    def _append(self, event: JobEvent) -> None:
        self._lines.append([_ADAPTER.dump_json(event, exclude_defaults=True)])
        self._apply(event)

    def _apply(self, event: JobEvent) -> None:
        """Bring what is known of a job up to an event."""
        if event.state == "closed":
            self.jobs[event.job] = Job(
                number=event.job,
                source=event.source,
                files=event.files,
                expected=event.expected,
                state=event.state,
            )
            self._sources.setdefault(event.source, []).append(event.job)
            self._open[event.job] = None
            return

        job = self.jobs[event.job]
        attempts = job.attempts + 1 if event.state == "started" else 0
        note = event.note or job.note
        scored = job.scored or event.state == "scored"
        self.jobs[event.job] = replace(
            job, state=event.state, attempts=attempts, note=note, scored=scored
        )
        if event.state in DONE:
            self._open.pop(event.job, None)
        else:
            self._open[event.job] = None


_ADAPTER = TypeAdapter(JobEvent)
