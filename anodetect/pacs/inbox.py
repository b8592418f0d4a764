"""Where objects of series arrive, and when a series is whole.

    FOLDER/<series UID>/<instance UID>.dcm

An object is on the disk before its sender is told so. Nothing that arrives is trusted: names of
files and folders are UIDs that were checked, numbers and sizes are bounded.
"""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anodetect.engines.arrivals import Arrived
from anodetect.errors import ImageError, RunError
from anodetect.files import WRITING, write_atomic
from anodetect.pacs.instances import Instance, instance_of, is_uid
from anodetect.pacs.storage import IMAGES

SETTLED = 0.2  # share of `quiet` after which a series that has all it should is whole


@dataclass(frozen=True)
class Limits:
    """The most that is taken: bytes of an object, objects of a series, series at a time; and the
    bytes of the disk that stay free."""

    object_bytes: int = 2**30
    objects: int = 20_000
    series: int = 2_000
    free_bytes: int = 2**30


@dataclass
class OpenSeries:
    """A series that is arriving: its study, how many objects came, when the last did (of
    `time.monotonic()`), and how many are expected."""

    study: str = ""
    files: int = 0
    last: float = 0.0
    expected: int | None = None
    asked: bool = False


class Inbox:
    """The series that are arriving in `folder`. A series is whole when nothing new came for `quiet`
    seconds, or all came that it should have.

    `earlier` returns the folders with what came of a series before. `ask` returns how many objects
    an archive has of a study's series, None if it does not say. Objects may be added by several
    threads.
    """

    def __init__(
        self,
        folder: Path,
        earlier: Callable[[str], Sequence[Path]],
        *,
        quiet: float,
        ask: Callable[[str, str], int | None] | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.folder, self.earlier, self.quiet = folder, earlier, quiet
        self.ask, self.limits = ask, limits
        self.lock = threading.Lock()
        self.arriving: dict[str, OpenSeries] = {}
        self.refused: Counter[str] = Counter()
        self.repeated = 0
        self._resume()

    def _resume(self) -> None:
        """Find what came before this process started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in self.folder.iterdir():
            if not folder.is_dir() or not is_uid(folder.name):
                continue
            files = 0
            for file in folder.iterdir():
                if file.name.startswith(WRITING):  # by a process that was killed
                    file.unlink()
                else:
                    files += 1
            if files:
                self.arriving[folder.name] = OpenSeries(files=files, last=time.monotonic())

    # -- Objects -----------------------------------------------------------------------------------

    def add(self, content: bytes) -> None:
        """Take an object, unless it came before. When this returns it is on the disk.

        ImageError for an object that is not taken, RunError if there is no room. The reason, which
        quotes nothing of it, is counted in `refused`.
        """
        try:
            self._add(content)
        except (ImageError, RunError) as error:
            # The text of a RunError names a file, and so a series.
            reason = str(error) if isinstance(error, ImageError) else "no room on the disk"
            with self.lock:
                self.refused[reason] += 1
            raise

    def _add(self, content: bytes) -> None:
        if len(content) > self.limits.object_bytes:
            raise ImageError(f"larger than {self.limits.object_bytes} bytes")
        instance = instance_of(content)
        if instance.storage not in IMAGES:
            raise ImageError("no image that is taken")
        if shutil.disk_usage(self.folder).free < self.limits.free_bytes + len(content):
            raise RunError(f"{self.folder}: the disk is nearly full")

        with self.lock:
            if self._came_before(instance):
                self.repeated += 1
                return
            found = self.arriving.get(instance.series)
            if found is None and len(self.arriving) >= self.limits.series:
                raise ImageError("too many series at a time")
            if found is not None and found.files >= self.limits.objects:
                raise ImageError("too many objects in a series")

            write_atomic(self.folder / instance.series / instance.file_name, content)
            found = self.arriving.setdefault(instance.series, OpenSeries())
            found.study, found.files, found.last = instance.study, found.files + 1, time.monotonic()
            found.expected, found.asked = instance.expected or found.expected, False

    def _came_before(self, instance: Instance) -> bool:
        for folder in (self.folder / instance.series, *self.earlier(instance.series)):
            if (folder / instance.file_name).is_file():
                return True
        return False

    # -- Series ------------------------------------------------------------------------------------

    def finished(self) -> list[Arrived]:
        """Return the series that are whole by now."""
        now = time.monotonic()
        with self.lock:
            candidates = dict(self.arriving)
        whole = []
        for series, found in candidates.items():
            idle = now - found.last
            if idle >= SETTLED * self.quiet:
                self._ask(series, found)
            complete = found.expected is not None and found.files >= found.expected
            if idle >= self.quiet or (complete and idle >= SETTLED * self.quiet):
                whole.append(Arrived(series, found.files, found.expected))
        return whole

    def _ask(self, series: str, found: OpenSeries) -> None:
        """Ask the archive of how many objects a series consists, once after each that comes."""
        if self.ask is None or found.asked or not found.study:
            return
        found.asked = True
        found.expected = self.ask(found.study, series) or found.expected

    def take(self, source: str, target: Path, earlier: Sequence[Path]) -> None:
        """Move a series to the folder `target`, with what came of it earlier."""
        if target.is_dir():
            return
        arrived = self.folder / source
        with self.lock:
            self.arriving.pop(source, None)
            if not arrived.is_dir():
                return
            for folder in earlier:
                _link_all(folder, arrived)
            target.parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(target)


def _link_all(folder: Path, target: Path) -> None:
    """Let the files of a folder lie in another one, too."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        copy = target / file.name
        if copy.exists():
            continue
        try:
            os.link(file, copy)
        except OSError:  # a file system without links
            write_atomic(copy, file.read_bytes())
