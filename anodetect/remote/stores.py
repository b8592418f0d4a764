"""The kinds of places that a URL may name. A table: scheme → what reads and writes there."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Protocol

from anodetect.remote.tries import Entry

SCHEMES = {
    "s3": "anodetect.remote.buckets:Bucket",
    "gs": "anodetect.remote.buckets:Bucket",
    "az": "anodetect.remote.buckets:Bucket",
    "sftp": "anodetect.remote.sftp:SftpServer",
}


class Store(Protocol):
    """The files of a bucket or a server, by their names from its root; safe to use on several
    threads. OSError if one file is missing or may not be read, StoreError for all else."""

    def pages(self, prefix: str) -> Iterator[list[Entry]]:
        """Yield what lies below a folder, a page at a time."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return a file's bytes, or those from `start` to before `end`, all of one version."""

    def entry(self, key: str) -> Entry | None:
        """Return a file's facts, None if there is no such file."""

    def write(self, key: str, file: Path) -> None:
        """Write a file with the content of another one, whole or not at all."""


@lru_cache
def store(url: str) -> Store:
    """Return the store of a URL such as "s3://scans"; ConfigError without the extra `remote`."""
    found: Store = resolve_name(SCHEMES[url.partition(":")[0]])(url)
    return found
