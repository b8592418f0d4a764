"""The write-ahead part file of a scoring: what is finished survives a crash, and is not done twice.

`journal.jsonl` in the score directory holds a line with what the scoring was begun with, then a
line for every finished file, appended and flushed to the disk a batch at a time. Whatever a killed
process left behind its last complete line is cut off when it is opened again. The file goes when
the directory is complete.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from anodetect.config import canonical, plain
from anodetect.errors import RunError
from anodetect.files import WRITING, walk
from anodetect.record import directories

Entry = dict[str, Any]  # row, seconds, threads, host, files, regions, slices


class Journal:
    """The journal of the score directory `path`; a context manager that holds the directory's lock.

    `begun_with` is what must be the same for a scoring to go on. RunError if the directory is
    taken, finished, was begun with something else, or has been begun and `resume` is not asked for.
    """

    def __init__(self, path: Path, begun_with: Mapping[str, Any], *, resume: bool) -> None:
        self.path, self.begun_with, self.resume = path, plain(begun_with), resume
        self.file = path / directories.JOURNAL
        self.lock = FileLock(path / directories.LOCK, timeout=0)

    def __enter__(self) -> "Journal":
        begun = (self.path / directories.LOCK).exists()
        if not begun:
            directories.prepare(self.path)
        try:
            self.lock.acquire()
        except Timeout:
            raise RunError(f"{self.path}: another process is writing here") from None
        except OSError as error:
            raise RunError(f"{self.path}: cannot be locked ({error.strerror})") from None
        try:
            if begun and not self.resume:
                directories.prepare(self.path, allowed=(directories.LOCK,))
            self._open()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stream.close()
        self.lock.release()

    def _open(self) -> None:
        # Beside its journal a record is complete but perhaps not signed: what comes after scoring
        # is done again.
        if (self.path / directories.AUDIT_FILE).exists() and not self.file.exists():
            raise RunError(f"{self.path}: this scoring is finished; choose another --out")
        for file in walk(self.path):
            if file.name.startswith(WRITING):  # by a process that was killed
                file.unlink()
        end = self._checked() if self.file.exists() else 0
        self.stream = self.file.open("ab")
        self.stream.truncate(end)
        if end == 0:
            self._write([{"begun_with": self.begun_with}])

    def _checked(self) -> int:
        """Where the last complete line ends, of what was begun with the same."""
        begun_with, end = None, 0
        for line, entry in _lines(self.file):
            if begun_with is None:
                begun_with = entry["begun_with"]
            end += len(line)
        if begun_with is not None and canonical(begun_with) != canonical(self.begun_with):
            changed = [
                key for key, value in self.begun_with.items() if begun_with.get(key) != value
            ]
            raise RunError(
                f"{self.path} was begun with another {', '.join(changed)}; resume with the same"
            )
        return end

    def resumed(self) -> Iterator[Entry]:
        """What needs not be done again: entries without an error, such as of a disk that was away,
        whose files are there; after a power failure they may be missing or empty."""
        for entry in self.entries():
            files = (self.path / name for name in entry["files"])
            if not entry["row"]["error"] and all(
                file.is_file() and file.stat().st_size > 0 for file in files
            ):
                yield entry

    def append(self, entries: Sequence[Entry]) -> None:
        """Add finished files; when this returns they are on the disk."""
        self._write(entries)

    def entries(self) -> Iterator[Entry]:
        """Everything finished, one at a time; a file that was done again counts as it was done
        last."""
        last = {}
        for number, (_, entry) in enumerate(_lines(self.file)):
            if "row" in entry:
                last[entry["row"]["path"]] = number
        for number, (_, entry) in enumerate(_lines(self.file)):
            if "row" in entry and last[entry["row"]["path"]] == number:
                yield entry

    def remove(self) -> None:
        """Take the journal and the lock away: the directory is complete."""
        self.file.unlink()
        (self.path / directories.LOCK).unlink(missing_ok=True)

    def _write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        try:
            self.stream.write(b"".join(canonical(plain(entry)) + b"\n" for entry in entries))
            self.stream.flush()
            os.fsync(self.stream.fileno())
        except OSError as error:
            raise RunError(
                f"{self.file}: cannot be written ({error.strerror}); continue with --resume"
            ) from None


def _lines(file: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Complete lines and what they say, up to the first one that is not."""
    with file.open("rb") as stream:
        for line in stream:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if not isinstance(entry, dict) or not ("begun_with" in entry or "row" in entry):
                return
            yield line, entry
