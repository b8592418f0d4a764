"""A folder that is watched: each file that appears in it is handed over once it is whole."""

import ctypes
import errno
import os
import select
import struct
import time
from collections.abc import Callable
from pathlib import Path

from anodetect.errors import ConfigError, ImageError, RunError
from anodetect.files import is_below, walk

Stamp = tuple[int, int]  # the size of a file in bytes, and when it was changed

# Of Linux's inotify(7): a file that was written was closed, or one was moved into the folder; more
# happened than could be kept; an event that begins with these four numbers.
CLOSE_WRITE, MOVED_TO, OVERFLOW = 0x8, 0x80, 0x4000
EVENT = struct.Struct("iIII")
READ_AT_ONCE = 2**16  # bytes


class WatchedFolder:
    """Hands each file below `folder` to `take`, once it is the same at two looks in a row, or
    `closed` says so.

    Files stay where they are. Hidden files, and links that lead out, are not looked at. A file for
    which `take` raises OSError or RunError, as where there is no room, is handed over again, and
    one for which it raises ImageError only when it changes. `done` has what was handed over before.
    A folder with nothing in it may be that of a disk which is away: then nothing is forgotten.
    """

    def __init__(
        self,
        folder: Path,
        take: Callable[[Path], None],
        done: dict[str, Stamp] | None = None,
    ) -> None:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder")
        self.folder, self.take = folder, take
        self.before: dict[str, Stamp] = {}
        self.done: dict[str, Stamp] = done or {}

    def look(self) -> None:
        """Take what is new and whole by now, and forget what is no longer there."""
        seen: dict[str, Stamp] = {}
        present: dict[str, Stamp] = {}
        for file in walk(self.folder):
            name, stamp = os.fspath(file), stamp_of(file)
            if stamp is None or self._is_hidden(file):
                continue
            if self.done.get(name) == stamp:
                present[name] = stamp
                continue
            seen[name] = stamp
            if self.before.get(name) == stamp and self._take(file, stamp):
                present[name] = stamp
        if seen or present:
            self.done = present
        self.before = seen

    def closed(self, file: Path) -> None:
        """Take a file that whoever wrote it has closed, unless that was done."""
        stamp = stamp_of(file)
        if stamp is None or self._is_hidden(file) or self.done.get(os.fspath(file)) == stamp:
            return
        if self._take(file, stamp):
            self.done[os.fspath(file)] = stamp

    def _is_hidden(self, file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(self.folder).parts)

    def _take(self, file: Path, stamp: Stamp) -> bool:
        """Hand a file over; return whether it is not to be looked at again until it changes."""
        if not is_below(file, self.folder):
            return False
        try:
            self.take(file)
        except ImageError:
            pass  # counted by who refused it
        except (OSError, RunError):
            return False
        return True


def stamp_of(file: Path) -> Stamp | None:
    """Return a file's size and when it was changed; None for what is no file, or was removed."""
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if file.is_file() else None


class ClosedFiles:
    """Tells which files directly in a folder were closed or moved there, as soon as it happens; a
    context manager. Only Linux tells it, and only of its own processes: elsewhere, and of a folder
    on another machine, `wait` only waits, and looks have to find them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.handle = -1

    def __enter__(self) -> "ClosedFiles":
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            return self
        self.handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        place = os.fsencode(self.folder)
        if (
            self.handle >= 0
            and libc.inotify_add_watch(self.handle, place, CLOSE_WRITE | MOVED_TO) < 0
        ):
            self.__exit__()  # too many watches: looks have to do
        return self

    def __exit__(self, *error: object) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def wait(self, seconds: float) -> list[Path]:
        """Return the files that were closed, once there are any; none after so many seconds."""
        if self.handle < 0:
            time.sleep(seconds)
            return []
        ready, _, _ = select.select([self.handle], [], [], seconds)
        if not ready:
            return []
        try:
            content = os.read(self.handle, READ_AT_ONCE)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return []
            raise
        return self._names_in(content)

    def _names_in(self, content: bytes) -> list[Path]:
        """Return the files that events name, each once, in the order of events."""
        found: dict[bytes, None] = {}
        place = 0
        while place < len(content):
            _, mask, _, length = EVENT.unpack_from(content, place)
            place += EVENT.size
            name = content[place : place + length].rstrip(b"\0")
            place += length
            if name and not mask & OVERFLOW:
                found.setdefault(name)
        return [self.folder / os.fsdecode(name) for name in found]
