"""Score what arrives, each thing once, and deliver its results: a loop that can be killed at any
moment and goes on where it was.

A source says what is whole and hands it over; `score` makes a score directory of it; `deliver`
brings the results where they belong. Nothing here knows what arrives or from where.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from anodetect.errors import AnodetectError, DataError, DiskFullError, Interrupted, RunError
from anodetect.record.ledger import Job, Ledger, State
from anodetect.types import Reporter
from anodetect.words import amount

ATTEMPTS = 5  # to score a job, after which what kills the process is not tried again
SCORINGS = 3  # of a job that raise an error
DELIVERIES = 300  # of results, for about a day: an archive may be away for a night
FIRST_DELAY, LONGEST_DELAY = 5.0, 300.0  # seconds until something is tried again


@dataclass(frozen=True)
class Arrived:
    """Something that is whole: from which source, how many files it has, and how many were
    expected, None if nothing says so."""

    source: str
    files: int
    expected: int | None = None


class Source(Protocol):
    """Where things arrive."""

    def finished(self) -> list[Arrived]:
        """Return what is whole by now and was not taken yet."""

    def take(self, source: str, target: Path, earlier: Sequence[Path]) -> None:
        """Move all files of a source to the folder `target`, beside copies of those that are in
        `earlier` folders. If that was done before, do nothing."""


@dataclass(frozen=True)
class Outcome:
    """The result of scoring a job: numbers of rows that are scored, failed and flagged (None where
    nothing is decided), and a reason where some failed."""

    scored: int
    failed: int
    flagged: int | None
    reason: str = ""


# Scores a folder into a score directory, or goes on with it; DataError if nothing could be scored,
# any other error if it is worth another try.
Score = Callable[[Path, Path], Outcome]
# Delivers a score directory, and returns in words what was done; DataError or RunError if there is
# nothing that could be, any other AnodetectError if it is worth another try.
Deliver = Callable[[Path], str]


@dataclass(frozen=True)
class Retry:
    """A count of tries, and the time from which there may be another."""

    tries: int = 0
    due: float = 0.0


class Arrivals:
    """Takes what is whole, scores it and delivers its results; `ledger` keeps what was done.

    What raises an error is tried again, up to SCORINGS or DELIVERIES times, and then has failed.
    Without `deliver` a job is done when it is scored. `stopping` says whether to start nothing new.
    """

    def __init__(
        self,
        ledger: Ledger,
        source: Source,
        score: Score,
        deliver: Deliver | None,
        stopping: Callable[[], bool],
        reporter: Reporter,
    ) -> None:
        self.ledger, self.source, self.score, self.deliver = ledger, source, score, deliver
        self.stopping, self.reporter = stopping, reporter
        self.next_scoring = 0.0  # of time.monotonic(), as all times here
        self.retries: dict[int, Retry] = {}  # by the numbers of jobs

    def recover(self) -> None:
        """Hand over what a killed process had noted as whole, but not moved, and take up results
        that could not be delivered; before anything new arrives."""
        waiting = list(self.ledger.open_jobs())
        for job in waiting:
            self._take(job)
        if waiting:
            jobs = amount(len(waiting), "job was", "jobs were")
            self.reporter.say(f"{jobs} not finished before; going on")
        if self.deliver is None:
            return

        undelivered = list(self.ledger.undelivered())
        for job in undelivered:
            self.ledger.move(job, "scored")
        if undelivered:
            jobs = amount(len(undelivered), "job")
            self.reporter.say(f"results of {jobs} were not taken; trying again")

    def step(self) -> None:
        """Do everything that can be done now."""
        for arrived in self.source.finished():
            job = self.ledger.close(arrived.source, arrived.files, arrived.expected)
            self._take(job)
            self._say_of_new(job)

        for job in self.ledger.open_jobs():
            if self.stopping():
                return
            if time.monotonic() < self._tried(job).due:
                continue
            if job.state != "scored" and time.monotonic() >= self.next_scoring:
                job = self._scored(job)  # noqa: PLW2901
            if job.state == "scored":
                self._delivered(job)

    def _take(self, job: Job) -> None:
        earlier = self.ledger.earlier(job.source, before=job.number)
        self.source.take(job.source, self.ledger.files_of(job), earlier)

    def _say_of_new(self, job: Job) -> None:
        if job.expected is not None and job.files < job.expected:
            files = amount(job.expected, "file")
            self.reporter.warn(f"job {job.number}: {job.files} of {files} came; scored as it is")
        if self.ledger.earlier(job.source, before=job.number):
            files = amount(job.files, "more file")
            self.reporter.warn(
                f"job {job.number}: {files} of something that was scored before; all of it is "
                "scored again"
            )

    def _scored(self, job: Job) -> Job:
        """Score a job; return it in its new state."""
        if reason := self._hopeless(job):
            return self._failed(job, reason)
        job = self.ledger.move(job, "started")
        began = time.monotonic()

        try:
            outcome = self.score(self.ledger.files_of(job), self.ledger.scores_of(job))
        except (Interrupted, KeyboardInterrupt):
            self.ledger.move(job, "waiting")
            raise
        except DiskFullError as error:
            self.next_scoring = time.monotonic() + LONGEST_DELAY
            self.reporter.warn(f"job {job.number} waits {LONGEST_DELAY:.0f} s: {error}")
            return self.ledger.move(job, "waiting")
        except DataError as error:
            return self._failed(job, str(error))
        except Exception as error:  # also an unforeseen one: one job must not end the others
            known = isinstance(error, AnodetectError)
            reason = str(error) if known else f"unforeseen: {type(error).__name__}"
            return self._put_off(job, "waiting", SCORINGS, reason)
        if not outcome.scored:
            return self._failed(job, outcome.reason or "nothing to score")

        self.retries.pop(job.number, None)
        self.reporter.say(
            f"job {job.number}: {amount(job.files, 'file')}, {_words(outcome)} "
            f"({time.monotonic() - began:.1f} s)"
        )
        return self.ledger.move(job, "scored" if self.deliver else "delivered")

    def _hopeless(self, job: Job) -> str:
        """Return why a job cannot be scored, "" if it can be tried."""
        if not self.ledger.files_of(job).is_dir():
            return "its files are gone"
        if job.attempts >= ATTEMPTS:
            return f"scoring it ended {ATTEMPTS} times without a result"
        return ""

    def _delivered(self, job: Job) -> None:
        """Deliver a job's results."""
        if self.deliver is None:
            return
        try:
            done = self.deliver(self.ledger.scores_of(job))
        except (DataError, RunError) as error:
            self._failed(job, str(error))
            return
        except AnodetectError as error:
            self._put_off(job, "scored", DELIVERIES, str(error))
            return

        self.retries.pop(job.number, None)
        self.ledger.move(job, "delivered")
        self.reporter.say(f"job {job.number}: {done}")

    def _tried(self, job: Job) -> Retry:
        return self.retries.get(job.number, Retry())

    def _put_off(self, job: Job, state: State, most: int, reason: str) -> Job:
        """Note that a job is to be tried again later, each time after twice as long, or that it has
        failed if it was tried `most` times; return it in its new state."""
        tries = self._tried(job).tries + 1
        if tries >= most:
            return self._failed(job, f"{reason} (tried {tries} times)")
        delay = min(FIRST_DELAY * 2 ** (tries - 1), LONGEST_DELAY)
        self.retries[job.number] = Retry(tries, time.monotonic() + delay)
        what = "results wait" if state == "scored" else "not scored"
        self.reporter.warn(f"job {job.number}: {what}, next try in {delay:.0f} s: {reason}")
        return job if job.state == state else self.ledger.move(job, state)

    def _failed(self, job: Job, reason: str) -> Job:
        self.retries.pop(job.number, None)
        self.reporter.warn(f"job {job.number}: {reason}")
        return self.ledger.move(job, "failed", reason)


def _words(outcome: Outcome) -> str:
    words = [f"{outcome.scored} scored"]
    if outcome.failed:
        words.append(f"{outcome.failed} failed ({outcome.reason})")
    if outcome.flagged is not None:
        words.append("flagged" if outcome.flagged else "not flagged")
    return ", ".join(words)
