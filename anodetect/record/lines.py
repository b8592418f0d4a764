"""A file of JSON lines that is only appended to, and survives a crash.

Lines are flushed to the disk before `append` returns. What a killed process left behind the last
complete line is cut off when the file is opened again.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from anodetect.files import refuse_strange, sync_folder, write_error


class LineFile:
    """The lines of `file`; a context manager that holds it open for appending. `is_whole` says
    whether a line, with its end, is one that was written; while the file is open all are."""

    def __init__(self, file: Path, is_whole: Callable[[bytes], bool]) -> None:
        self.file, self.is_whole = file, is_whole
        self.checked = False

    def __enter__(self) -> "LineFile":
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self) -> None:
        """Cut off what is not whole, and be ready to append; RunError if that cannot be, also for
        a link out of its folder, behind which another file would be cut off."""
        if self.file.is_symlink() or self.file.exists():
            refuse_strange(self.file)
        end = 0
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            for line in self.lines():
                end += len(line)
            self.stream = self.file.open("ab")
        except OSError as error:
            raise write_error(self.file, error) from None

        try:
            self.stream.truncate(end)
            sync_folder(self.file.parent)
            self.checked = True
        except OSError as error:
            self.close()
            raise write_error(self.file, error) from None

    def close(self) -> None:
        """Close the file."""
        self.checked = False
        with suppress(OSError):  # of a line that could not be written, which was said
            self.stream.close()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines up to the first that is not whole; none if there is no file. RunError for
        a link out of its folder."""
        if not self.file.is_file():
            return
        refuse_strange(self.file)
        with self.file.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n") or not (self.checked or self.is_whole(line)):
                    return
                yield line

    def all_lines(self) -> Iterator[bytes]:
        """Yield the lines of a file that was opened, which are all whole."""
        with self.file.open("rb") as stream:
            yield from stream

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines, without their ends; RunError if there is no room."""
        try:
            self.stream.write(b"".join(line + b"\n" for line in lines))
            self.stream.flush()
            os.fsync(self.stream.fileno())
        except OSError as error:
            raise write_error(self.file, error) from None


def holds(adapter: TypeAdapter[Any]) -> Callable[[bytes], bool]:
    """Return a function that says whether a line is JSON of the adapter's type."""

    def is_whole(line: bytes) -> bool:
        try:
            adapter.validate_json(line)
        except ValidationError:
            return False
        return True

    return is_whole
