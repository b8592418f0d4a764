"""Folders of a server with SSH, reached by SFTP, with the same functions as a bucket.

The server must be known by its key in ~/.ssh/known_hosts. The user is known by an agent, or by the
keys in ~/.ssh. Requests go one after another over one connection.
"""

import errno
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any, TypeVar
from urllib.parse import urlsplit

from anodetect.errors import ConfigError, StoreError
from anodetect.remote.tries import Entry, tried

TIMEOUT = 60.0  # seconds until the server must have answered
T = TypeVar("T")


class SftpServer:
    """The files of one server, such as "sftp://ana@archive:2222". Safe to use on several threads,
    which wait for each other."""

    def __init__(self, url: str) -> None:
        try:
            import paramiko  # noqa: F401
        except ImportError:
            raise ConfigError(f"{url}: needs the extra: pip install 'anodetect[remote]'") from None
        self.url = url
        self._lock = threading.RLock()
        self._client: Any = None
        self._files: Any = None

    def pages(self, prefix: str) -> Iterator[list[Entry]]:
        """Yield the files below a folder, those of one folder at a time, none if there is no such
        folder; StoreError if it cannot be listed. Links are left out."""
        folders = [prefix]
        while folders:
            folder = folders.pop()
            try:
                found = self._tried(folder, lambda files: files.listdir_attr(f"/{folder}"))  # noqa: B023
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"{self.url}/{folder}: {error.strerror}") from None

            page = []
            for each in found:
                key = PurePosixPath(folder, each.filename).as_posix()
                if stat.S_ISDIR(each.st_mode):
                    folders.append(key)
                elif stat.S_ISREG(each.st_mode):
                    page.append(Entry(key, each.st_size, float(each.st_mtime)))
            if page:
                yield page

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return a file's bytes, or those from `start` to before `end`; OSError if there is no such
        file or it may not be read, StoreError if the server does not answer."""

        def read_on(files: Any) -> bytes:
            with files.open(f"/{key}", "rb") as file:
                size = file.stat().st_size
                until = size if end is None else min(size, end)
                if not start:
                    file.prefetch(until)
                file.seek(start)
                content: bytes = file.read(until - start)
            if len(content) < until - start:
                raise EOFError("it ends too early")
            return content

        return self._tried(key, read_on)

    def entry(self, key: str) -> Entry | None:
        """Return a file's facts, None if there is no such file."""
        try:
            found = self._tried(key, lambda files: files.lstat(f"/{key}"))
        except FileNotFoundError:
            return None
        is_file = stat.S_ISREG(found.st_mode)
        return Entry(key, found.st_size, float(found.st_mtime)) if is_file else None

    def write(self, key: str, file: Path) -> None:
        """Write a file with the content of another one, which appears when it is whole; StoreError
        if that fails."""
        place = PurePosixPath(f"/{key}")
        unfinished = place.with_name(f".{token_hex(8)}.unfinished").as_posix()

        def send(files: Any) -> None:
            for folder in reversed(place.parents):
                try:
                    files.stat(folder.as_posix())
                except FileNotFoundError:
                    files.mkdir(folder.as_posix())
            files.put(str(file), unfinished)
            files.posix_rename(unfinished, place.as_posix())

        try:
            self._tried(key, send)
        except OSError as error:
            raise StoreError(f"{self.url}/{key}: cannot be written ({error.strerror})") from None

    def _tried(self, key: str, call: Callable[[Any], T]) -> T:
        """Return what `call` returns of the connection, which is made anew if it is lost."""

        def ask() -> T:
            with self._lock:
                try:
                    if self._files is None:
                        self._connect()
                    return call(self._files)
                except Exception as error:
                    if not isinstance(error, FileNotFoundError | PermissionError):
                        self._disconnect()
                    raise

        name = f"{self.url}/{key}"
        return tried(self.url, ask, lambda error: self._problem(name, error), lambda _: "no answer")

    def _connect(self) -> None:
        import paramiko

        where = urlsplit(self.url)
        self._client = paramiko.SSHClient()
        self._client.load_system_host_keys()
        self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
        self._client.connect(
            where.hostname or "",
            where.port or 22,
            where.username,
            timeout=TIMEOUT,
            banner_timeout=TIMEOUT,
            auth_timeout=TIMEOUT,
        )
        self._files = self._client.open_sftp()
        self._files.get_channel().settimeout(TIMEOUT)

    def _disconnect(self) -> None:
        client, self._client, self._files = self._client, None, None
        if client is not None:
            client.close()

    def _problem(self, name: str, error: Exception) -> Exception | None:
        """Return what to raise for an error of the library, None for one that may pass."""
        import paramiko

        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(errno.ENOENT, "no such file", name)
        if isinstance(error, PermissionError):
            return PermissionError(errno.EACCES, "permission denied", name)
        if isinstance(error, paramiko.BadHostKeyException) or "known_hosts" in str(error):
            return StoreError(
                f"{self.url}: another server than ~/.ssh/known_hosts says, or one that it does not "
                "have; connect to it once with sftp"
            )
        if isinstance(error, paramiko.AuthenticationException):
            return StoreError(f"{self.url}: no key of an agent or in ~/.ssh lets this user in")
        return None
