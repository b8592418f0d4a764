"""Questions to an archive and its answers, whichever protocol it speaks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Protocol

from anodetect.errors import AnodetectError


class ArchiveError(AnodetectError):
    """An archive that cannot be reached, or does not do what it is asked."""


@dataclass(frozen=True)
class StudyQuery:
    """The studies to look for: of one patient, of days from `since` to `until`, with a series of a
    modality. What is empty or None does not count."""

    patient: str = ""
    since: date | None = None
    until: date | None = None
    modality: str = ""

    def days(self) -> str:
        """Return the days as DICOM writes a range of dates, "" for any."""
        if self.since is None and self.until is None:
            return ""
        return f"{_written(self.since)}-{_written(self.until)}"

    def takes(self, patient: str, day: str) -> bool:
        """Return whether a study that was found, of a patient and a day as DICOM writes it, is one
        that was looked for: some archives pass over conditions that they do not know. What the
        archive does not say, "", is taken."""
        if self.patient and patient.strip() not in ("", self.patient):
            return False
        if not day.strip():
            return True
        until = _written(self.until) or "99999999"
        return _written(self.since) <= day.strip() <= until


def _written(day: date | None) -> str:
    return "" if day is None else f"{day:%Y%m%d}"


@dataclass(frozen=True)
class FoundSeries:
    """A series that an archive has: the UIDs of its study and its own, which have the form of UIDs,
    and what its header says. The description stays in memory."""

    study: str
    series: str
    modality: str
    description: str


@dataclass(frozen=True)
class Answer:
    """The fate of an object that was sent: its UID, and why it was not taken, "" if it was."""

    instance: str
    reason: str = ""


Keep = Callable[[bytes], None]  # takes one DICOM file


class Archive(Protocol):
    """An archive that was connected to. All methods raise ArchiveError if it cannot be reached or
    refuses a search.

    `name` is its address, without a password.
    """

    name: str

    def studies(self, query: StudyQuery) -> Iterator[str]:
        """Yield the UIDs of studies."""

    def series(self, study: str) -> Iterator[FoundSeries]:
        """Yield the series of a study."""

    def instances(self, study: str, series: str) -> list[str]:
        """Return the UIDs of all objects of a series."""

    def fetch(self, study: str, series: str, instances: Sequence[str] | None, keep: Keep) -> None:
        """Hand objects of a series to `keep`, all of them where `instances` is None. Which of them
        did not come is for the caller to see."""

    def store(self, files: Sequence[Path]) -> Iterator[Answer]:
        """Send objects, and yield what became of each, in the same order."""

    def close(self) -> None:
        """End the connection."""
