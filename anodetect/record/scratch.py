"""Folders for what is not to stay: a killed process leaves one, and the next one removes it."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from anodetect.errors import RunError
from anodetect.record.partial import LOCK, STALE

ATTEMPTS = 5


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Yield an empty folder in the system's folder for temporary files, which only this user reads,
    and remove it at the end; those of this `name` that killed processes of this user have left
    there are removed before. RunError if it cannot be made."""
    prefix = f"anodetect-{name}-"
    _remove_left(Path(tempfile.gettempdir()), prefix)
    for _ in range(ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except (Timeout, OSError):  # another process has taken it for one that was left
            continue
        if (folder / LOCK).exists():
            break
        lock.release()
    else:
        raise RunError(f"{tempfile.gettempdir()}: no folder {prefix}… can be kept there")

    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left(place: Path, prefix: str) -> None:
    """Remove folders of this user whose lock nobody holds; without a lock only old ones."""
    for folder in place.glob(f"{prefix}*"):
        try:
            facts = folder.lstat()
            is_own = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
            if not stat.S_ISDIR(facts.st_mode) or not is_own:
                continue
            if not (folder / LOCK).is_file() and time.time() - facts.st_mtime < STALE:
                continue
            with FileLock(folder / LOCK, timeout=0):
                pass
        except (Timeout, OSError):
            continue
        shutil.rmtree(folder, ignore_errors=True)
