"""Files that are never half-written, hashes, and paths as text."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import IO

from anodetect.errors import RunError

WRITING = ".writing."  # what the names of files begin with that are being written


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is complete; on any failure the old one
    survives.

    Without `durable` a power failure, though no crash of the process, may still leave it empty.
    """
    unfinished = path.with_name(f"{WRITING}{token_hex(8)}")
    try:
        try:
            file = unfinished.open("xb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = unfinished.open("xb")
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None
    try:
        with file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise RunError(
                f"{path}: cannot be written ({error.strerror or error}); what was there is unchanged"
            ) from None
        raise


def write_atomic(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    with atomic(path, durable=durable) as file:
        file.write(
            content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def walk(folder: Path) -> Iterator[Path]:
    """The files below a folder; unlike `Path.rglob` it does not keep what it has found."""
    for parent, _, names in os.walk(folder):
        yield from (file for file in (Path(parent, name) for name in names) if file.is_file())


def leads_out(name: str) -> bool:
    """Whether a relative POSIX path is none, or climbs; where symbolic links lead is another
    question."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def inside(root: Path, name: str) -> Path:
    """The file `name` below `root`; RunError if it is not below, whatever `name` and symbolic links
    say."""
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a null byte
        raise RunError(f"{name!r} is not a usable path") from None
    if not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise RunError(f"{name!r} leads out of {root}; it is not read")
    return path


def path_text(path: str | os.PathLike[str]) -> str:
    """A path as printable POSIX text: bytes that are not UTF-8, control characters and '%' become
    %XX."""
    raw = os.fsencode(Path(path).as_posix())
    text = raw.decode("utf-8", "surrogateescape").replace("%", "%25")
    return "".join(_escape(character) for character in text)


def path_of(text: str) -> str:
    """The path that `path_text` made this text of; bytes that are not UTF-8 as Python smuggles
    them."""
    raw = re.sub(
        rb"%([0-9A-F]{2})",
        lambda match: bytes([int(match[1], 16)]),
        text.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "surrogateescape")


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte, as Python smuggles it
        return f"%{code - 0xDC00:02X}"
    return f"%{code:02X}" if code < 32 or code == 127 else character


def short_name(path: str) -> str:
    """A relative path whose parts fit a file system with room for a suffix; long parts end in a
    hash instead."""
    return "/".join(
        part if len(part.encode()) <= 200 else _shortened(part) for part in path.split("/")
    )


def _shortened(part: str) -> str:
    return (
        part.encode()[:150].decode("utf-8", "ignore") + "." + sha256(part.encode()).hexdigest()[:16]
    )
