"""Buckets of S3, Google and Azure: objects are listed by pages, read and written with retries.

What may pass, such as an error of the server, a time-out or a connection that is cut in the middle
of a file, is tried again after growing waits. What does not pass is a StoreError, which ends the
work: a file is not to count as unreadable because a network was.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from anodetect.errors import ConfigError, StoreError
from anodetect.remote.tries import Entry, tried

PAGE = 1000  # objects of a page of a listing
CHUNK = 2**20  # bytes that are kept when a connection is cut behind them
TIMEOUT = 60.0  # seconds of one request; what a large file has by then is kept
STATUS = re.compile(r"status code: (\d{3})")
PASSING = (408, 425, 429)  # of the 4xx, those that may pass
FORBIDDEN = (401, 403)
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
ODD_NAME = re.compile(r'Path "([^"]*)"')
NO_CREDENTIALS = re.compile(r"latest/(api|meta-data)|computeMetadata|/metadata/identity")
T = TypeVar("T")


class Bucket:
    """The objects of one bucket, such as "s3://scans", with the credentials that the provider's own
    tools take: environment variables, its files, or the machine's role. Safe to use on several
    threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = _open(url)

    def pages(self, prefix: str) -> Iterator[list[Entry]]:
        """Yield what lies below a prefix, a page at a time; StoreError if that fails, or there is
        no such bucket. After an interruption the listing goes on behind the last page."""
        import obstore

        last, listing = "", None

        def next_page() -> list[Entry]:
            nonlocal last, listing
            if listing is None:
                listing = obstore.list(
                    self._store, prefix or None, offset=last or None, chunk_size=PAGE
                )
            try:
                found = [_entry(each) for each in next(listing, ())]
            except Exception:
                listing = None
                raise
            last = found[-1].key if found else last
            return found

        while page := self._tried(prefix, next_page):
            yield page

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return an object's bytes, or those from `start` to before `end`, all of one version.

        OSError if there is no such object or it may not be read, StoreError if the store does not
        answer. What was read before a connection was cut is not read again.
        """
        import obstore

        content, tag, whole = bytearray(), None, end

        def read_on() -> bool:
            nonlocal tag, whole
            before = len(content)
            try:
                options: dict[str, Any] = {"if_match": tag} if tag else {}
                at = start + len(content)
                if whole is not None and (at or end is not None):
                    options["range"] = (at, whole)
                result = obstore.get(self._store, key, options=options)
                tag = result.meta["e_tag"]
                size = result.meta["size"]
                whole = size if end is None else min(size, end)
                for chunk in result.stream(min_chunk_size=CHUNK):
                    content.extend(chunk)
                if len(content) < whole - start:
                    raise ConnectionError("it ends too early")
            except Exception:
                if len(content) == before:
                    raise
                return False  # the next request goes on from here
            return True

        while not self._tried(key, read_on):
            pass
        return bytes(content)

    def entry(self, key: str) -> Entry | None:
        """Return an object's facts, None if there is no such object."""
        import obstore

        try:
            return _entry(self._tried(key, lambda: obstore.head(self._store, key)))
        except FileNotFoundError:
            return None

    def write(self, key: str, file: Path) -> None:
        """Write an object with the content of a file, whole or not at all; StoreError if that
        fails."""
        import obstore

        try:
            self._tried(key, lambda: obstore.put(self._store, key, file))
        except OSError as error:
            raise StoreError(f"{self.url}/{key}: cannot be written ({error.strerror})") from None

    def _tried(self, key: str, call: Callable[[], T]) -> T:
        """Return what `call` returns, tried again for what may pass; OSError for what is wrong with
        one object, StoreError for the rest."""
        return tried(self.url, call, lambda error: self._problem(key, error), _reason)

    def _problem(self, key: str, error: Exception) -> Exception | None:
        """Return what to raise for an error of the library, None for one that may pass."""
        from obstore import exceptions

        name, text = f"{self.url}/{key}".rstrip("/"), str(error)
        status, denied = _status(text), exceptions.PermissionDeniedError
        problem: Exception | None = None
        if any(code in text for code in NO_BUCKET):
            problem = StoreError(f"{self.url}: no such bucket; check its name and the endpoint")
        elif isinstance(error, FileNotFoundError):
            problem = FileNotFoundError(errno.ENOENT, "no such file", name)
        elif NO_CREDENTIALS.search(text):
            problem = StoreError(
                f"{self.url}: no credentials; give them as the provider's own tools take them"
            )
        elif isinstance(error, exceptions.PreconditionError):
            problem = OSError(errno.ESTALE, "changed while it was read", name)
        elif isinstance(error, exceptions.InvalidPathError):
            odd = ODD_NAME.search(text)
            problem = StoreError(
                f"{self.url}/{odd[1] if odd else key}: an empty part or dots in a name, which is "
                "no path; rename the object, or name a folder without it"
            )
        elif isinstance(error, denied | exceptions.UnauthenticatedError) or status in FORBIDDEN:
            problem = self._forbidden(key, name)
        elif 400 <= status < 500 and status not in PASSING:
            problem = StoreError(f"{name}: refused (status {status}); check region and endpoint")
        return problem

    def _forbidden(self, key: str, name: str) -> Exception:
        """Return the error of an object that may not be used; where nothing in its folder may be
        listed either, credentials are wrong or have expired, and it is a StoreError."""
        import obstore

        try:
            next(obstore.list(self._store, key.rpartition("/")[0] or None, chunk_size=1), ())
        except Exception:
            return StoreError(
                f"{name}: permission denied; credentials may be wrong or have expired (a scoring "
                "goes on with --resume)"
            )
        return PermissionError(errno.EACCES, "permission denied", name)


def _open(url: str) -> Any:
    """Return the store of a bucket; ConfigError if the extra is missing or nothing says how to
    reach it."""
    try:
        from obstore import store
    except ImportError:
        raise ConfigError(f"{url}: needs the extra: pip install 'anodetect[remote]'") from None

    arguments: dict[str, Any] = {}
    if url.startswith("s3://"):
        arguments = _with_profile()
    try:
        return store.from_url(
            url,
            client_options={"timeout": f"{TIMEOUT:g}s", "allow_http": _is_plain_http()},
            # What is tried again, and when, is decided in one place: above.
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=TIMEOUT)},
            **arguments,
        )
    except Exception:  # of many kinds: names and settings that are none
        raise ConfigError(
            f"{url}: cannot be opened; check the name, and the settings that the provider's own "
            "tools take, such as AZURE_STORAGE_ACCOUNT_NAME"
        ) from None


def _is_plain_http() -> bool:
    """Return whether the user has named a server without encryption, such as one in the house."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return endpoint.startswith("http://") or os.environ.get("AWS_ALLOW_HTTP") == "true"


def _with_profile() -> dict[str, Any]:
    """Return the arguments with which S3 takes credentials from a profile in ~/.aws; {} where the
    environment has them, or there is no profile."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return {}

    session = boto3.Session()
    if not session.available_profiles:
        return {}
    try:
        provider = Boto3CredentialProvider(session)
    except ValueError:  # a profile without credentials
        return {}
    return {"credential_provider": provider}


def _entry(facts: Any) -> Entry:
    return Entry(facts["path"], facts["size"], facts["last_modified"].timestamp())


def _status(text: str) -> int:
    """Return the status that a server answered with, 0 if it did not answer."""
    found = STATUS.search(text)
    return int(found[1]) if found else 0


def _reason(error: Exception) -> str:
    """Return why a request failed, in words of our own."""
    status = _status(str(error))
    return f"status {status}" if status else "no connection, a time-out, or it was cut"
