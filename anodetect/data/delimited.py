"""A table in a text file, as people and spreadsheets write it: the separators, the spelling of the
header and the encoding are found out, and empty lines do not count."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anodetect.errors import DataError
from anodetect.words import amount

if TYPE_CHECKING:
    from _csv import Reader

SEPARATORS = ",;\t|"
SHOWN = 60  # characters of a first line in a message
# The encoding of a text by how it begins: with its mark, or with a letter of one byte. The longer
# marks are first.
BEGINNINGS = (
    (re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff"), "utf-32"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "utf-16"),
    (re.compile(rb"[^\0]\0\0\0"), "utf-32-le"),
    (re.compile(rb"\0\0\0[^\0]"), "utf-32-be"),
    (re.compile(rb"[^\0]\0"), "utf-16-le"),
    (re.compile(rb"\0[^\0]"), "utf-16-be"),
)


@dataclass(frozen=True)
class Line:
    """A line of a table: where it stands, for messages, and its stripped values by column."""

    where: str
    values: dict[str, str]


def lines_of(
    file: Path, first: str, known: Sequence[str], instead: Sequence[str] = ()
) -> Iterator[Line]:
    """Yield the lines of a table in a text file that has the column `first`.

    Names of columns that are `known`, in lower case, are found in any case; others stay as they
    are. A first column without a name that numbers the lines from 0 on is left out, as pandas
    writes it. DataError names the file, and the line, if it is no such table; and a column that is
    called one of `instead`, in lower case without signs, if there is none called `first`.
    """
    text = _text(file)
    try:
        reader = _reader(text, (first, *instead))
        header = next((row for row in reader if any(row)), [])
        columns = _columns(file, header, first, known, instead)

        count, start = 0, reader.line_num + 1
        for fields in reader:
            where, start = f"{file}, line {start}", reader.line_num + 1
            values = [field.strip() for field in fields]
            if not any(values):
                continue
            if not columns[0] and values[0] == str(count):
                values[0] = ""
            count += 1
            yield Line(where, _by_column(where, columns, values))
    except csv.Error:
        raise DataError(f"{file}, line {reader.line_num}: not a line of a table") from None


def _text(file: Path) -> str:
    """Return a file's text; DataError if it is none in UTF-8, UTF-16 or UTF-32, or holds NUL."""
    try:
        content = file.read_bytes()
        text = content.decode(_encoding(content))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or 'unreadable'}") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{file}, line {line}: not UTF-8; save it as CSV UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{file}, line {line}: holds a NUL character; save it as CSV UTF-8")
    return text


def _encoding(content: bytes) -> str:
    """Return the encoding of a text by its first bytes."""
    for beginning, encoding in BEGINNINGS:
        if beginning.match(content):
            return encoding
    return "utf-8-sig"


def _reader(text: str, wanted: Sequence[str]) -> "Reader":
    """Return a reader of the lines, from the header on, with the separator by which the header has
    one of the columns `wanted`; with a comma if none gives it one."""
    start, _, rest = text.partition("\n")
    if start.strip().casefold().removeprefix("sep=") in tuple(SEPARATORS):  # as Excel writes it
        text = "\n" + rest  # an empty line, so that lines keep their numbers

    for separator in SEPARATORS:
        header = next((row for row in _rows(text, separator) if any(row)), [])
        if any(name.strip().casefold() in wanted or _plain(name) in wanted for name in header):
            return _rows(text, separator)
    return _rows(text, ",")


def _plain(name: str) -> str:
    """Return the letters and digits of a name in lower case."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _rows(text: str, separator: str) -> "Reader":
    stream = io.StringIO(text, newline="")
    return csv.reader(stream, delimiter=separator, skipinitialspace=True)


def _columns(
    file: Path, header: Sequence[str], first: str, known: Sequence[str], instead: Sequence[str]
) -> list[str]:
    """Return the names of the columns, "" for one without a name; DataError if `first` is missing
    or a name occurs twice."""
    names: list[str] = []
    for name in map(str.strip, header):
        names.append(name.casefold() if name.casefold() in known else name)

    if first not in names:
        for name in names:
            if _plain(name) in instead:
                raise DataError(f"{file}: no column {first!r}; call the column {name!r} {first!r}")
        expected = ", ".join(known)
        line = ", ".join(names)[:SHOWN] or "empty"
        raise DataError(
            f"{file}: no column {first!r}; its first line is {line!r} "
            f"(columns: {expected} and any others)"
        )
    folded = [name.casefold() for name in names if name]
    for name in folded:
        if folded.count(name) > 1:
            raise DataError(f"{file}: the column name {name!r} occurs twice")
    return names


def _by_column(where: str, columns: Sequence[str], values: list[str]) -> dict[str, str]:
    """Return values by the names of their columns; DataError if there are more or fewer, or one
    stands below no name. Empty ones at the end are what spreadsheets add."""
    while len(values) > len(columns) and not values[-1]:
        values = values[:-1]
    if len(values) != len(columns):
        fields = amount(len(values), "field")
        raise DataError(f"{where}: {fields}, but the header has {len(columns)}")

    found: dict[str, str] = {}
    for name, value in zip(columns, values, strict=True):
        if name:
            found[name] = value
        elif value:
            raise DataError(f"{where}: {value!r} stands in a column without a name")
    return found
