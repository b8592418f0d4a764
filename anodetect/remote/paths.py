"""`RemotePath`: a place below a URL, used like a path on a disk by all that lists and reads.

What a path on a disk can do and this one cannot, such as making folders, it does not have: nothing
falls back on the disk.
"""

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

from anodetect.errors import ConfigError, DataError
from anodetect.remote.stores import SCHEMES, Store, store
from anodetect.remote.tries import Entry

# To mypy a `RemotePath` is a `Path`, as which it is passed on.
if TYPE_CHECKING:
    from pathlib import Path as BasePath
else:
    from pathlib import PurePosixPath as BasePath

BUFFER = 2**16  # bytes of one request of an open file, as for a header
FOLDER, FILE = stat.S_IFDIR | 0o555, stat.S_IFREG | 0o444


def is_url(text: str | os.PathLike[str]) -> bool:
    """Return whether a text or a path names a place in a bucket or on a server, such as
    "s3://scans/today"; a path, which the command line may have made of it, has lost a slash."""
    mark = ":/" if isinstance(text, PurePath) else "://"
    scheme, found, _ = str(text).partition(mark)
    return bool(found) and scheme in SCHEMES


def place(text: str | os.PathLike[str]) -> Path:
    """Return the path of a text, a `RemotePath` if it is a URL. What is below a text is listed
    anew, what is below a path is not."""
    if isinstance(text, RemotePath):
        return text
    if not is_url(text):
        return Path(text)
    path = RemotePath(text)
    if len(path.parts) < 2 or ".." in path.parts:
        raise ConfigError(
            f"{text}: a bucket or a server, and a folder there, are expected, as s3://scans/today"
        )
    _TREES.pop(path.parts, None)
    return path


def local(text: str | os.PathLike[str], what: str) -> Path:
    """Return the path of what stays on this machine; ConfigError if it is a URL."""
    if is_url(text):
        raise ConfigError(f"{RemotePath(text)}: {what} on this machine; name a folder here")
    return Path(text)


class RemotePath(BasePath):
    """A bucket or a server, or a folder or a file there, such as s3://scans/today.

    What is below a folder is listed once, and then known without asking again. What was listed
    knows its size, also in another process.
    """

    _entry: Entry | None = None

    # -- Names -------------------------------------------------------------------------------------

    def __str__(self) -> str:
        if not self._is_whole():
            return super().__str__()
        scheme, *rest = self.parts
        return f"{scheme}//{'/'.join(rest)}"

    def __fspath__(self) -> str:
        if self._is_whole():
            raise DataError(f"{self}: this needs a file on a disk; download it first")
        return super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.parts, self._listed_entry())

    def absolute(self) -> "RemotePath":
        return self

    def resolve(self, strict: bool = False) -> "RemotePath":
        return self

    @property
    def store(self) -> Store:
        """The bucket or server; DataError if the path is of none."""
        if not self._is_whole() or len(self.parts) < 2 or ".." in self.parts:
            raise DataError(f"{self}: leads out of its store; it is not read")
        return store(f"{self.parts[0]}//{self.parts[1]}")

    @property
    def key(self) -> str:
        """The name in the bucket or on the server, "" for all of it."""
        return "/".join(self.parts[2:])

    def _is_whole(self) -> bool:
        """Return whether the path begins with a scheme; parts of paths are of this type, too."""
        first = self.parts[0] if self.parts else ""
        return first.endswith(":") and first[:-1] in SCHEMES

    # -- What is there -----------------------------------------------------------------------------

    def is_symlink(self) -> bool:
        return False

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        return self._found() is not None

    def is_dir(self) -> bool:
        if self._entry is not None:
            return False
        return self.parts in _tree(self).folders

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        found = self._found()
        if found is None and not self.is_dir():
            raise FileNotFoundError(2, "no such file", str(self))
        mode = FOLDER if found is None else FILE
        size, modified = (0, 0.0) if found is None else (found.size, found.modified)
        times = (int(modified),) * 3
        exact = (modified,) * 3 + (int(modified * 1e9),) * 3
        return os.stat_result((mode, 0, 0, 1, 0, 0, size, *times, *exact))

    def iterdir(self) -> Iterator["RemotePath"]:  # type: ignore[override]
        names = _tree(self).folders.get(self.parts)
        if names is None:
            raise FileNotFoundError(2, "no such folder", str(self))
        for name in names:
            yield self / name

    def walk_down(self) -> Iterator[tuple["RemotePath", list[str], list[str]]]:
        """Yield each folder with the names of folders and of files in it, from the top, as
        `os.walk` does: names that are taken out of the first list are not looked into."""
        names = _tree(self).folders.get(self.parts, {})
        folders = [name for name, entry in names.items() if entry is None]
        yield self, folders, [name for name, entry in names.items() if entry is not None]
        for name in folders:
            yield from (self / name).walk_down()

    def _found(self) -> Entry | None:
        """Return the facts of an object, None if there is none of this name."""
        if self._entry is not None:
            return self._entry
        tree = _tree_above(self)
        if tree is not None:
            return tree.entry(self)
        return self.store.entry(self.key) if len(self.parts) > 2 else None

    def _listed_entry(self) -> Entry | None:
        """Return the facts of an object without asking the store for them."""
        tree = None if self._entry is not None else _tree_above(self)
        return self._entry if tree is None else tree.entry(self)

    # -- What is in it -----------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        return self.store.read(self.key)

    def write_from(self, file: Path) -> None:
        """Write an object with the content of a file on the disk; StoreError if that fails."""
        self.store.write(self.key, file)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        with self.open("r", encoding=encoding, errors=errors) as file:
            return str(file.read())

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open an object to read it; what is read is asked for when it is needed."""
        if mode not in ("r", "rb"):
            raise DataError(f"{self}: is only read")
        content = io.BufferedReader(_RemoteFile(self, self.stat().st_size), BUFFER)
        if mode == "rb":
            return content
        return io.TextIOWrapper(content, encoding or "utf-8", errors, newline)


def _restored(parts: tuple[str, ...], entry: Entry | None) -> RemotePath:
    """Return a path that was sent to another process."""
    path = RemotePath(*parts)
    path._entry = entry
    return path


class _RemoteFile(io.RawIOBase):
    """The bytes of an object, by requests for parts of it."""

    def __init__(self, path: RemotePath, size: int) -> None:
        self.path, self.size, self.at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        self.at = max(0, start + offset)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        end = min(self.at + len(buffer), self.size)
        if end <= self.at:
            return 0
        content = self.path.store.read(self.path.key, self.at, end)
        buffer[: len(content)] = content
        self.at += len(content)
        return len(content)


# -- Listings --------------------------------------------------------------------------------------


class Tree:
    """All that is below a folder of a bucket, listed once: for each folder, by its parts, the names
    in it in order, with an object's facts or None for a folder."""

    def __init__(self, root: RemotePath) -> None:
        self.root = root.parts
        self.folders: dict[tuple[str, ...], dict[str, Entry | None]] = {}
        for page in root.store.pages(root.key):
            for entry in page:
                self._add(entry)
        for parts, names in self.folders.items():
            self.folders[parts] = dict(sorted(names.items()))

    def entry(self, path: RemotePath) -> Entry | None:
        """Return the facts of an object; None for a folder, and if there is nothing."""
        return self.folders.get(path.parts[:-1], {}).get(path.parts[-1])

    def _add(self, entry: Entry) -> None:
        """Add an object, with the folders that it lies in. An empty one may stand for a folder."""
        parts = (*self.root[:2], *entry.key.split("/"))
        for end in range(len(self.root), len(parts) - 1):
            self.folders.setdefault(parts[:end], {})[parts[end]] = None
        if len(parts) > len(self.root):
            self.folders.setdefault(parts[:-1], {}).setdefault(parts[-1], entry)


_TREES: dict[tuple[str, ...], Tree] = {}  # by their roots


def _tree_above(path: RemotePath) -> Tree | None:
    """Return the listing of a folder that a path lies below, None if there is none."""
    for length in range(len(path.parts) - 1, 1, -1):
        tree = _TREES.get(path.parts[:length])
        if tree is not None:
            return tree
    return None


def _tree(path: RemotePath) -> Tree:
    """Return the listing of a folder, or of one above it; the folder is listed if there is none."""
    found = _TREES.get(path.parts) or _tree_above(path)
    if found is None:
        found = _TREES[path.parts] = Tree(path)
    return found
