"""Where a score directory goes: a folder here, or one in a bucket, to which files go as they are
written.

Of a scoring into a bucket, its journal, its lock and its tables are in a folder of this machine
until all is done; maps stay there only until they are in the bucket. audit.json goes last: a record
in a bucket is complete or has none.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import platformdirs

from anodetect.errors import RunError
from anodetect.files import refuse_unwritable, walk
from anodetect.record.directories import AUDIT_FILE, JOURNAL, refuse_used
from anodetect.record.journal import is_finished, refuse_finished
from anodetect.record.partial import LOCK
from anodetect.record.rows import OutputRow
from anodetect.remote.paths import RemotePath, place
from anodetect.types import Reporter

STAY = (JOURNAL, LOCK)  # files that are never in a bucket


@dataclass(frozen=True)
class Destination:
    """The folder `folder` in which a scoring works. What it writes goes to `bucket`, if that is not
    None."""

    folder: Path
    bucket: RemotePath | None = None

    @property
    def place(self) -> Path:
        """Where the score directory is in the end."""
        return self.folder if self.bucket is None else self.bucket

    def check(self, *, resume: bool) -> None:
        """Raise RunError if there is something that another scoring has written, if nothing can be
        written there, or if a scoring into a bucket is to go on whose journal is not here. Nothing
        is written."""
        if self.bucket is None:
            if resume:
                refuse_finished(self.folder)
            else:
                refuse_used(self.folder, allowed=(LOCK,))
            refuse_unwritable(self.folder)
            return
        refuse_unwritable(self.folder)
        begun, used = (self.folder / JOURNAL).exists(), self.bucket.is_dir()
        if begun and not resume:
            raise RunError(
                f"{self.bucket}: an interrupted scoring has begun here: continue it with --resume, "
                "or choose another --out"
            )
        if used and resume and not begun and (self.bucket / AUDIT_FILE).is_file():
            raise RunError(f"{self.bucket}: this scoring is finished; choose another --out")
        if used and resume and not begun:
            raise RunError(
                f"{self.bucket}: is not empty, and no journal of its scoring is on this machine "
                f"(in {self.folder}); go on where it was started, or choose another --out"
            )
        if used and not begun:
            raise RunError(f"{self.bucket}: is not empty; choose another --out")

    def begin(self) -> None:
        """Remove what is here of a scoring that is complete in its bucket."""
        if self.bucket is not None and is_finished(self.folder):
            shutil.rmtree(self.folder)

    def has(self) -> Callable[[OutputRow], bool] | None:
        """Return the function that says whether a file is in the bucket, where files are whole or
        not at all; None for a folder."""
        if self.bucket is None:
            return None
        bucket = self.bucket
        return lambda output: (bucket / output.name).is_file()

    @contextmanager
    def here(self, name: str) -> Iterator[None]:
        """Have a file of the bucket in the folder for as long as the block lasts."""
        file = self.folder / name
        if self.bucket is None or not name or file.exists():
            yield
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.write_bytes((self.bucket / name).read_bytes())
            yield
        finally:
            file.unlink(missing_ok=True)

    def publish(self, reporter: Reporter) -> None:
        """Bring what is still here into the bucket, audit.json at the end."""
        if self.bucket is None:
            return
        files = []
        for file in walk(self.folder):
            name = file.relative_to(self.folder).as_posix()
            if name not in (*STAY, AUDIT_FILE):
                files.append(name)
        for name in (*sorted(files), AUDIT_FILE):
            (self.bucket / name).write_from(self.folder / name)
        reporter.say(f"the record is in {self.bucket}")

    def clear(self) -> None:
        """Remove what is here of a record that is in its bucket."""
        if self.bucket is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def destination(out: Path | str) -> Destination:
    """Return where a scoring works that is to be at `out`, a folder or a URL."""
    found = place(out)
    if not isinstance(found, RemotePath):
        return Destination(found)
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", str(found))[-80:]
    digest = sha256(str(found).encode()).hexdigest()[:12]
    state = platformdirs.user_state_path("anodetect", appauthor=False)
    return Destination(state / "buckets" / f"{name}-{digest}", found)
