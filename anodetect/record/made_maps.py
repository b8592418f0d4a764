"""Maps that were made again after a scoring that did not keep them. They lie beside the score
directory, in a folder of their own, and are no part of its record. No torch."""

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from anodetect.errors import RunError
from anodetect.files import inside, write_atomic
from anodetect.record.objects import object_of

FILE = "maps.json"


@dataclass(frozen=True)
class MadeFile:
    """A file of a map that was made again: of which input, its name below the folder, its format
    and its SHA-256. `exact` says that the score came out as recorded to the last bit."""

    path: str
    name: str
    kind: str
    sha256: str
    exact: bool


@dataclass(frozen=True)
class _Content:
    """The content of maps.json: files made for the record with this head."""

    head: str
    files: tuple[MadeFile, ...]


def folder_of(directory: Path) -> Path:
    """Return where the maps of a score directory are made again unless another folder is named."""
    return directory.absolute().with_name(f"{directory.absolute().name}-maps")


def read(folder: Path, head: str) -> tuple[MadeFile, ...]:
    """Return the files that were made in a folder for the record with this head; () where there are
    none. RunError if maps.json is damaged."""
    if not (folder / FILE).is_file():
        return ()
    content = object_of(folder / FILE, TypeAdapter(_Content))
    return content.files if content.head == head else ()


def add(folder: Path, head: str, files: Iterable[MadeFile]) -> None:
    """Add files to those of a folder; of those of other records nothing stays in maps.json."""
    try:
        known = {each.name: each for each in read(folder, head)}
    except RunError:
        known = {}
    known |= {each.name: each for each in files}
    _write(folder, head, known.values())


def erase(folder: Path, head: str, paths: Collection[str]) -> None:
    """Erase the files that were made of these inputs for the record with this head; RunError if the
    folder is a link, or one of them leads out of it."""
    known = read(folder, head)
    gone = [each for each in known if each.path in paths]
    if gone and folder.is_symlink():
        raise RunError(f"{folder}: a link, in which nothing is erased; remove what it has first")
    for each in gone:
        inside(folder, each.name).unlink(missing_ok=True)
    if gone:
        _write(folder, head, set(known) - set(gone))


def move(folder: Path, head: str, new: str) -> None:
    """Let the files of the record with this head be those of its successor."""
    known = read(folder, head)
    if known:
        _write(folder, new, known)


def _write(folder: Path, head: str, files: Iterable[MadeFile]) -> None:
    listed = [asdict(each) for each in sorted(files, key=lambda each: each.name)]
    write_atomic(folder / FILE, json.dumps({"head": head, "files": listed}, indent=1))
