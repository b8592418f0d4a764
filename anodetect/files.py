"""Files that are never half-written, hashes, and names and paths as text."""

import ctypes
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import file_digest, sha256
from itertools import islice
from pathlib import Path, PurePath
from secrets import token_hex
from typing import IO

from anodetect.errors import DiskFullError, RunError
from anodetect.remote.paths import RemotePath, local

ON_WINDOWS = os.name == "nt"
WRITING = ".writing."  # the beginning of the names of unfinished files
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of errors where there is no room for a file
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EROFS)  # of file systems that cannot
AT_ONCE = 200  # files that are flushed one by one; of more their file system is
LONGEST_PART = 200  # bytes of a file's name, with room for a suffix
LONGEST_SHOWN = 300  # letters of a name or a line that are shown
# Control characters but tab and newline, ends of lines that are none on a terminal, marks that turn
# the direction of text, and no text at all.
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when it is complete; on any failure the old one
    survives. Missing folders are made. RunError if it cannot be written; DiskFullError if there is
    no room for it.

    Without `durable` a power failure, though no crash of the process, may still leave it empty or
    take its name away.
    """
    unfinished = path.with_name(f"{WRITING}{token_hex(8)}")
    try:
        file = _new_file(unfinished)
    except OSError as error:
        raise write_error(path, error) from None

    try:
        with file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        unfinished.replace(path)
        if durable:
            sync_folder(path.parent)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(path, error, "; what was there is unchanged") from None
        raise


def _new_file(path: Path) -> IO[bytes]:
    local(path, "files are written")
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")


def write_new(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file that is not there yet, or in place of what is there. Missing folders are made.
    On a failure it is removed, but a process that is killed may leave it half-written: `atomic`
    takes longer. RunError if it cannot be written; DiskFullError if there is no room for it."""
    try:
        try:
            file = _new_file(path)
        except FileExistsError:
            path.unlink()  # a link is not followed
            file = _new_file(path)
    except OSError as error:
        raise write_error(path, error) from None

    try:
        with file:
            for part in parts:
                file.write(part)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(path, error) from None
        raise


def write_error(path: Path, error: OSError, note: str = "") -> RunError:
    """Return the error of a file that cannot be written; a DiskFullError if the disk is full."""
    kind = DiskFullError if error.errno in FULL else RunError
    return kind(f"{path}: cannot be written ({error.strerror or error}){note}")


def write_atomic(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Write a file as `atomic` does; text is encoded as UTF-8."""
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with atomic(path, durable=durable) as file:
        file.write(content)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    if ON_WINDOWS:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Wait until all files below a folder, and their names, are on the disk; RunError if that
    fails.

    Very many are flushed with their whole file system at once, where the system can: each single
    one would wait for the disk.
    """
    several = next(islice(walk(path), AT_ONCE, None), None) is not None
    if several and _sync_file_system(path):
        return
    for file in walk(path):
        if not file.is_symlink():
            _sync_file(file)
    for parent, _, _ in os.walk(path):
        sync_folder(Path(parent))


def _sync_file_system(path: Path) -> bool:
    """Flush the file system on which a folder lies; return False where the system cannot."""
    syncfs = None if ON_WINDOWS else getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise write_error(path, OSError(code, os.strerror(code)))
    finally:
        os.close(descriptor)
    return True


def _sync_file(path: Path) -> None:
    try:
        with path.open("r+b" if ON_WINDOWS else "rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise write_error(path, error) from None


def reserve(path: Path) -> None:
    """Take the space on the disk that a sparse file will need, so that writing to it through memory
    cannot fail; DiskFullError if there is none. Where the system cannot, nothing is done."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise write_error(path, error) from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; unlike `Path.rglob` it does not keep what it has found."""
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            if file.is_file():
                yield file


def walk_down(
    folder: Path, *, follow_symlinks: bool = False, report: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder below one, and itself first, with the names of folders and of files in it,
    as `os.walk` does. `report` is given what cannot be looked into."""
    if isinstance(folder, RemotePath):
        yield from folder.walk_down()
        return
    for parent, folders, files in os.walk(folder, followlinks=follow_symlinks, onerror=report):
        yield Path(parent), folders, files


def real_path(path: str | Path) -> str:
    """Return the place of a file with all links followed; a URL has none."""
    return str(path) if isinstance(path, RemotePath) else os.path.realpath(path)


def common_parent(paths: Sequence[Path]) -> Path | None:
    """Return the nearest folder in which all lie, links not followed; None if there is none."""
    if not any(isinstance(path, RemotePath) for path in paths):
        places = [os.path.abspath(path) for path in paths]  # noqa: PTH100 — keeps links
        try:
            return Path(os.path.commonpath(places))
        except ValueError:  # only on Windows
            return None
    if not all(isinstance(path, RemotePath) for path in paths):
        return None
    first = paths[0]
    for parent in (first, *first.parents):
        if all(path.is_relative_to(parent) for path in paths):
            return parent if len(parent.parts) > 1 else None
    return None


def relative_text(path: Path, root: Path) -> str:
    """Return a path relative to a folder above it, as `path_text`."""
    if isinstance(path, RemotePath):
        return path_text(path.relative_to(root))
    return path_text(os.path.relpath(path, root))


def path_or_none(path: Path | str | None) -> Path | None:
    """Return a path that may be given as text, None for None."""
    return None if path is None else Path(path)


def is_below(path: Path, folder: str | Path) -> bool:
    """Return whether a path, its links followed, lies in a folder. A loop of links lies where its
    name says."""
    if isinstance(path, RemotePath):
        within = isinstance(folder, RemotePath) and path.is_relative_to(folder)
        return within and ".." not in path.parts
    if isinstance(folder, RemotePath):
        return False
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def refuse_strange(file: Path) -> None:
    """Raise RunError for what is no file, such as a pipe that would be waited for, and for a link
    that leads out of its folder."""
    try:
        if not file.is_file():
            raise RunError(f"{file}: {'not a file' if file.exists() else 'no such file'}")
        if not is_below(file, file.parent):
            raise RunError(f"{file}: a link that leads out of its folder; it is not read")
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror})") from None


def refuse_unwritable(folder: Path) -> None:
    """Raise RunError if a folder cannot be made or written: the nearest one above it that is there
    is no folder, or no file may be made in it. Nothing is written."""
    place = folder
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        is_folder = place.is_dir()
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another") from None

    if not is_folder:
        raise RunError(f"{folder}: cannot be made, as {place} is no folder; choose another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RunError(
            f"{folder}: cannot be written: no file may be made in {place}; choose another"
        )


def leads_out(name: str) -> bool:
    """Return whether a path is absolute or climbs with "..", on Windows also with a drive or with
    backslashes. Symbolic links are not followed."""
    if ".." not in name and ":" not in name and not name.startswith(("/", "\\")):
        return False  # almost every name, and much faster than by its parts
    path = PurePath(name)
    return bool(path.anchor) or ".." in path.parts


def inside(root: Path, name: str) -> Path:
    """Return the file `name` below `root`; RunError if it is not below, symbolic links followed."""
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a null byte
        raise RunError(f"{name!r} is not a usable path") from None
    if not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise RunError(f"{name!r} leads out of {root}; it is not read")
    return path


def path_text(path: str | os.PathLike[str]) -> str:
    """Return a path as printable POSIX text: bytes that are not UTF-8, control characters and '%'
    become %XX."""
    raw = os.fsencode((path if isinstance(path, PurePath) else Path(path)).as_posix())
    text = raw.decode("utf-8", "surrogateescape").replace("%", "%25")
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def path_of(text: str) -> str:
    """Return the path that `path_text` made this text of; bytes that are not UTF-8 become
    surrogates, as in all of Python's paths."""

    def byte(match: re.Match[bytes]) -> bytes:
        return bytes([int(match[1], 16)])

    raw = re.sub(rb"%([0-9A-F]{2})", byte, text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a surrogate that stands for an undecodable byte
        return f"%{code - 0xDC00:02X}"
    return f"%{code:02X}" if code < 32 or code == 127 else character


def printable(text: str) -> str:
    """Return a text in which characters that could change a terminal or hide a part of a name are
    written as escapes, such as `\\x1b`."""
    return UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def shortened(text: str, most: int = LONGEST_SHOWN) -> str:
    """Return a text with its middle left out where it is longer than `most` letters."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def as_shown(name: str, most: int = LONGEST_SHOWN) -> str:
    """Return a name as pages and figures show it: printable, in one line, and shortened."""
    return shortened(printable(" ".join(name.split())), most)


def as_code(name: str) -> str:
    """Return a name as code in Markdown, in one line: so nothing in it is a heading, link or
    tag."""
    text = printable(" ".join(name.split()))
    longest = max(map(len, re.findall("`+", text)), default=0)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    fence = "`" * (longest + 1)
    return f"{fence}{space}{text}{space}{fence}"


def short_name(path: str) -> str:
    """Return a relative path whose parts fit a file system with room for a suffix; long parts end
    in a hash instead."""
    return "/".join(_shortened(part) for part in path.split("/"))


def _shortened(part: str) -> str:
    raw = part.encode()
    if len(raw) <= LONGEST_PART:
        return part
    return raw[:150].decode("utf-8", "ignore") + "." + sha256(raw).hexdigest()[:16]
