"""A folder that is watched: DICOM files that appear in it arrive as if they had been sent."""

import os
from collections.abc import Callable
from pathlib import Path

from anodetect.errors import ConfigError, ImageError, RunError
from anodetect.files import is_below, walk

Stamp = tuple[int, int]  # the size of a file in bytes, and when it was changed


class WatchedFolder:
    """Hands each file below `folder` to `add`, once it is the same at two looks in a row.

    Files stay where they are. Hidden files, and links that lead out, are not looked at.
    """

    def __init__(self, folder: Path, add: Callable[[bytes], None], limit: int) -> None:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder")
        self.folder, self.add, self.limit = folder, add, limit
        self.before: dict[str, Stamp] = {}
        self.done: dict[str, Stamp] = {}

    def look(self) -> None:
        """Take what is new and whole by now."""
        seen: dict[str, Stamp] = {}
        for file in walk(self.folder):
            name = os.fspath(file)
            try:
                status = file.stat()
            except OSError:  # it was removed meanwhile
                continue
            stamp = status.st_size, status.st_mtime_ns
            hidden = any(part.startswith(".") for part in file.relative_to(self.folder).parts)
            if hidden or self.done.get(name) == stamp:
                continue
            seen[name] = stamp
            if self.before.get(name) == stamp and is_below(file, self.folder):
                self._take(file, stamp)
        self.before = seen

    def _take(self, file: Path, stamp: Stamp) -> None:
        """Hand a file over; it is looked at again only when it changes, or if there was no room."""
        try:
            with file.open("rb") as stream:
                self.add(stream.read(self.limit + 1))
        except ImageError:
            pass  # counted by who refused it
        except (OSError, RunError):
            return
        self.done[os.fspath(file)] = stamp
