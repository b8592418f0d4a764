"""JSON objects in files that may come from anywhere: read whole or refused in one line.

An object is refused if its file is no regular file or too large, is nested too deeply, names a key
twice (of which one reader takes the first, and another the last), or holds NaN or infinity.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from anodetect.errors import RunError, one_line
from anodetect.files import refuse_strange
from anodetect.record.rows import first_problem

T = TypeVar("T")
LARGEST = 2**30  # bytes of a file


def parsed(text: str | bytes, *, nan: bool = False) -> Any:
    """Return the JSON value of a text; ValueError says why it has none. With `nan` Python's NaN and
    Infinity are numbers."""
    constant = float if nan else _no_number
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def content_of(file: Path, largest: int = LARGEST) -> bytes:
    """Return what a file holds; RunError if it is strange, cannot be read or is too large."""
    refuse_strange(file)
    try:
        if file.stat().st_size > largest:
            raise RunError(f"{file}: larger than {largest} bytes")
        return file.read_bytes()
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror})") from None


def text_of(file: Path, largest: int = LARGEST) -> str:
    """Return the UTF-8 text in a file; RunError as for `content_of`, and if it is none."""
    try:
        return content_of(file, largest).decode()
    except ValueError:
        raise RunError(f"{file}: not a text in UTF-8") from None


def object_of(file: Path, adapter: TypeAdapter[T], largest: int = LARGEST) -> T:
    """Return what a JSON file holds as the adapter's type; RunError if it is not of that type."""
    try:
        content = parsed(content_of(file, largest))
        return adapter.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise RunError(f"{file}: {first_problem(error)}") from None
    except ValueError as error:
        raise RunError(f"{file}: not readable ({one_line(error)})") from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of its keys and values; ValueError if a key is there twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        seen = set[str]()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} is there twice")
            seen.add(key)
    return content


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")
