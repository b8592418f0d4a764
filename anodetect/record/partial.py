"""One writer at a time, and directories that are complete or absent.

What is made in one go lies under `<name>.partial` and gets its name at the end. A process that
writes holds the file `.lock`, in the partial directory or in a finished one that it changes; the
lock of a process that was killed is void.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from anodetect.errors import RunError
from anodetect.files import ON_WINDOWS, WRITING, sync_folder
from anodetect.remote.paths import local

LOCK = ".lock"
STALE = 60.0  # seconds after which an unfinished file is nobody's


def partial(path: Path) -> Path:
    """Return where a directory lies while it is being made; RunError for one without a name, as `.`
    and `..`."""
    if path.name in ("", ".."):
        raise RunError(f"{path}: a folder in which it is made cannot be renamed; give --out a name")
    return path.with_name(path.name + ".partial")


def lock_of(folder: Path) -> BaseFileLock:
    """Return the lock of a folder, which is not yet held; RunError if its file is a link or no
    file, as nobody writes it."""
    file = folder / LOCK
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise RunError(f"{file}: not a file that a lock can be; remove it")
    return FileLock(file, timeout=0)


def locked(folder: Path, what: str) -> BaseFileLock:
    """Return the lock of a folder, which is made if there is none; RunError if another process
    writes `what` there."""
    lock = lock_of(local(folder, "runs and records are written"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{folder}: another process is writing {what}; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror or error})") from None
    return lock


def release_on_windows(lock: BaseFileLock) -> None:
    """Release the lock where no folder with an open file can be renamed or removed."""
    if ON_WINDOWS:
        lock.release()


@contextmanager
def new_directory(path: Path, what: str) -> Iterator[Path]:
    """Yield an empty directory that gets the name `path` at the end of the block, in place of an
    empty folder; after an error nothing is left.

    What a killed process has left there is removed. RunError if another one writes `what` there.
    """
    workdir = partial(path)
    lock = locked(workdir, what)
    try:
        for child in workdir.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name != LOCK:
                child.unlink()
        yield workdir

        release_on_windows(lock)
        if path.is_dir():
            path.rmdir()
        workdir.replace(path)
        sync_folder(path.parent)
        (path / LOCK).unlink(missing_ok=True)
    except BaseException:
        release_on_windows(lock)
        shutil.rmtree(workdir, ignore_errors=True)
        raise
    finally:
        lock.release()


def _remove_left(folder: Path) -> None:
    """Remove what killed processes have left unfinished. What is young may be a file that the
    review app is just writing."""
    for file in folder.glob(f"{WRITING}*"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime >= STALE:
                file.unlink()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a finished directory that is changed, and remove files that a killed process
    has left unfinished in it; RunError if another process writes there."""
    lock = lock_of(folder)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"{folder}: another process is writing here; wait for it") from None
    except OSError as error:
        reason = error.strerror or "no such folder"
        raise RunError(f"{folder}: cannot be written ({reason})") from None

    try:
        _remove_left(folder)
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()
