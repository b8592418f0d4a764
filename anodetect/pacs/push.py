"""Push: the DICOM objects of a score directory to an archive, beside their scans.

`pushed.jsonl` in the directory, which is no part of its record, has a line for each object that an
archive took. So a second push sends only what was not taken yet, and none twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from anodetect.errors import DataError, RunError
from anodetect.files import inside, sha256_of
from anodetect.pacs.archive import Archive
from anodetect.pacs.instances import SUFFIX
from anodetect.record import directories
from anodetect.record.directories import PUSHED, PUSHED_LOCK
from anodetect.record.lines import LineFile, holds
from anodetect.record.rows import OutputRow, rows_of
from anodetect.types import Reporter

AT_ONCE = 64  # objects on one connection


@dataclass(frozen=True)
class Pushed:
    """An object that an archive took: the archive's address, and the hash of the file."""

    archive: str
    sha256: str


@dataclass(frozen=True)
class PushResult:
    """Numbers of objects: taken now, taken before, and refused; with the reasons."""

    pushed: int
    before: int
    failures: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return what `pacs push --json` prints."""
        return {"pushed": self.pushed, "before": self.before, "failures": list(self.failures)}


def push(archive: Archive, directory: Path, reporter: Reporter) -> PushResult:
    """Send all DICOM objects of a score directory that the archive has not taken yet.

    DataError if there are none, or if they carry pseudonyms: an archive would file them under a
    patient of that name. RunError if the directory is not as it was written, or is being pushed.
    """
    objects = pushable(directory)
    lock = FileLock(directory / PUSHED_LOCK, timeout=0)
    try:
        with lock, LineFile(directory / PUSHED, holds(_ADAPTER)) as journal:
            taken = {each.sha256 for each in _read(journal) if each.archive == archive.name}
            todo = [each for each in objects if each.sha256 not in taken]
            failures: list[str] = []
            for start in range(0, len(todo), AT_ONCE):
                reporter.progress("push", start, len(todo))
                failures += _send(archive, directory, todo[start : start + AT_ONCE], journal)
            if todo:
                reporter.progress("push", len(todo), len(todo))
    except Timeout:
        raise RunError(f"{directory}: another process pushes it") from None
    pushed = len(todo) - len(failures)
    return PushResult(pushed, len(objects) - len(todo), tuple(failures))


def pushable(directory: Path) -> list[OutputRow]:
    """Return the DICOM objects of a score directory; DataError if it has none that an archive can
    file."""
    scored = directories.read_as_written(directory)
    objects = []
    for row in rows_of(scored.outputs, OutputRow):
        if row.name.endswith(SUFFIX):
            objects.append(row)
    if not objects:
        reason = next((row.error for row in scored.each() if row.error), "")
        raise DataError(
            f"{directory}: no DICOM objects; {reason or 'score volumes with --heatmaps dicom'}"
        )
    if not scored.audit.identifiers:
        raise DataError(
            f"{directory}: its objects carry pseudonyms, under which an archive would file them as "
            "other patients; score with --keep-identifiers what is to go back"
        )
    return objects


def _send(
    archive: Archive, directory: Path, objects: Sequence[OutputRow], journal: LineFile
) -> list[str]:
    """Send objects and note which were taken; return why others were not."""
    failures, files = [], []
    whole: list[OutputRow] = []
    for row in objects:
        file = inside(directory, row.name)
        if file.is_file() and sha256_of(file) == row.sha256:
            files.append(file)
            whole.append(row)
        else:
            failures.append(f"{row.name}: changed or missing since it was written; not sent")
    if not files:
        return failures

    for row, answer in zip(whole, archive.store(files), strict=True):
        if answer.reason:
            failures.append(f"{row.name}: {answer.reason}")
        else:
            journal.append([_ADAPTER.dump_json(Pushed(archive.name, row.sha256))])
    return failures


_ADAPTER = TypeAdapter(Pushed)


def _read(journal: LineFile) -> list[Pushed]:
    return [_ADAPTER.validate_json(line) for line in journal.lines()]
