"""The write-ahead file of a scoring: what is finished survives a crash, and is not done twice.

`journal.jsonl` in the score directory holds a line with the options of the scoring, then a line
for every finished file (`JournalEntry`), appended and flushed to the disk a batch at a time. When
the journal is opened again, what a killed process left behind its last complete line is cut off.
The file is removed when the directory is complete.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from anodetect.config import canonical, without_nan
from anodetect.errors import RunError
from anodetect.files import WRITING, sha256_of, walk
from anodetect.record import directories
from anodetect.record.lines import LineFile
from anodetect.record.rows import JournalEntry, OutputRow, entry_from_json, entry_to_json

OPTIONS = "options"  # the key of the first line


def is_finished(path: Path) -> bool:
    """Return whether a scoring has written all of its score directory."""
    return (path / directories.AUDIT_FILE).exists() and not (path / directories.JOURNAL).exists()


class Journal:
    """The journal of the score directory `path`; a context manager that holds the directory's lock.

    `options` must be the same for a scoring to go on. RunError if the directory is locked or
    finished, if it was started with other options, or if it exists and `resume` is False.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], *, resume: bool) -> None:
        self.path, self.options, self.resume = path, without_nan(options), resume
        self.file = path / directories.JOURNAL
        self.lock = FileLock(path / directories.LOCK, timeout=0)
        self.lines = LineFile(self.file, _is_line)

    def __enter__(self) -> "Journal":
        exists = (self.path / directories.LOCK).exists()
        if not exists:
            directories.prepare(self.path)
        try:
            self.lock.acquire()
        except Timeout:
            raise RunError(f"{self.path}: another process is writing here") from None
        except OSError as error:
            raise RunError(f"{self.path}: cannot be locked ({error.strerror})") from None

        try:
            if exists and not self.resume:
                directories.prepare(self.path, allowed=(directories.LOCK,))
            self._open()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.lines.close()
        self.lock.release()

    def _open(self) -> None:
        # A record beside its journal is complete, but perhaps not signed: all that comes after
        # scoring is done again.
        if is_finished(self.path):
            raise RunError(f"{self.path}: this scoring is finished; choose another --out")
        for file in walk(self.path):
            if file.name.startswith(WRITING):  # by a process that was killed
                file.unlink()

        options = _options_of(next(self.lines.lines(), b""))
        if options is None:
            self.file.unlink(missing_ok=True)
        else:
            self._check(options)
        self.lines.open()
        try:
            if options is None:
                self.lines.append([canonical({OPTIONS: self.options})])
        except RunError:
            self.lines.close()
            raise

    def _check(self, options: Mapping[str, Any]) -> None:
        """Raise RunError if a scoring was started with other options."""
        if canonical(options) != canonical(self.options):
            changed = [key for key, value in self.options.items() if options.get(key) != value]
            raise RunError(
                f"{self.path} was started with another {', '.join(changed)}; resume with the same"
            )

    def resumed(self) -> Iterator[JournalEntry]:
        """Yield what needs not be done again: entries without an error, whose files are as they
        were written. After a power failure files may be missing, empty or cut off."""
        for entry in self.entries():
            if not entry.row.error and all(self._is_whole(output) for output in entry.outputs):
                yield entry

    def _is_whole(self, output: OutputRow) -> bool:
        file = self.path / output.name
        return file.is_file() and sha256_of(file) == output.sha256

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Add finished files; when this returns they are on the disk."""
        self.lines.append([entry_to_json(entry) for entry in entries])

    def entries(self) -> Iterator[JournalEntry]:
        """Yield everything finished, one entry at a time; of a file that was scored again the last
        entry counts."""
        last = {}
        for number, entry in enumerate(self._all_entries()):
            last[entry.row.path] = number
        for number, entry in enumerate(self._all_entries()):
            if last[entry.row.path] == number:
                yield entry

    def _all_entries(self) -> Iterator[JournalEntry]:
        with self.file.open("rb") as stream:
            stream.readline()  # the options
            for line in stream:
                yield entry_from_json(line)

    def remove(self) -> None:
        """Take the journal and the lock away: the directory is complete."""
        self.file.unlink()
        (self.path / directories.LOCK).unlink(missing_ok=True)


def _options_of(line: bytes) -> dict[str, Any] | None:
    """Return the options that the first line of a journal holds; None if it is none."""
    try:
        options = json.loads(line)[OPTIONS]
    except (ValueError, TypeError, KeyError):
        return None
    return options if isinstance(options, dict) else None


def _is_line(line: bytes) -> bool:
    """Return whether a line is one of those that a journal has."""
    return _is_entry(line) or _options_of(line) is not None


def _is_entry(line: bytes) -> bool:
    try:
        entry_from_json(line)
    except ValueError:
        return False
    return True
