"""Tables as files: Parquet, and CSV without formulas, in parts of bounded size."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import pyarrow as pa
from pyarrow import csv as pa_csv
from pyarrow import parquet

from anodetect.errors import RunError, one_line
from anodetect.files import atomic, refuse_strange
from anodetect.record.bounded import MOST_COLUMNS, bounded_parts, bounded_table, check_shape
from anodetect.record.pages import check_pages
from anodetect.record.rows import LONGEST_TEXT, Row, check_columns, schema_of

PART = 4096  # rows that are written at a time, as a row group; a power of two
LONGEST_LINE = MOST_COLUMNS * LONGEST_TEXT  # characters of a CSV file
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
WRITERS = {"parquet": parquet.ParquetWriter, "csv": pa_csv.CSVWriter}

NOTHING: Mapping[str, str] = {}


class Parts(Protocol):
    """The rows of a table, which need not be in memory together."""

    @property
    def schema(self) -> pa.Schema: ...

    def __len__(self) -> int: ...

    def parts(self) -> Iterator[pa.Table]:
        """Yield the rows in order, PART at a time; an empty table if there are none."""


Rows: TypeAlias = pa.Table | Parts


def parts_of(rows: Rows) -> Iterator[pa.Table]:
    """Yield the rows of a table in order, PART at a time; an empty table if there are none."""
    if not isinstance(rows, pa.Table):
        yield from rows.parts()
        return
    for start in range(0, len(rows), PART) or [0]:
        yield rows.slice(start, PART)


def in_parts(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of tables that have the same columns, PART at a time; an empty table if there
    are tables but no rows."""
    rest: pa.Table | None = None
    is_first = True
    for piece in pieces:
        rest = pa.concat_tables([rest, piece]) if rest is not None and len(rest) else piece
        while len(rest) >= PART:
            yield rest.slice(0, PART)
            rest, is_first = rest.slice(PART), False
    if rest is not None and (len(rest) or is_first):
        yield rest


@dataclass(frozen=True)
class WithColumns:
    """Rows with the columns of `schema`. Those that `columns` has, a table with as many rows, take
    the place of their own."""

    rows: Rows
    columns: pa.Table
    schema: pa.Schema

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self) -> Iterator[pa.Table]:
        """Yield the rows in order, PART at a time; an empty table if there are none."""
        start = 0
        for part in parts_of(self.rows):
            columns = []
            for name in self.schema.names:
                if name in self.columns.column_names:
                    columns.append(self.columns[name].slice(start, len(part)))
                else:
                    columns.append(part[name])
            start += len(part)
            yield pa.table(columns, schema=self.schema)


def chosen_columns(parts: Iterable[pa.Table], names: Sequence[str]) -> pa.Table:
    """Return some columns of tables of rows, of which there is at least one. Where each row is its
    own group, one text stands in the columns path and group."""
    chosen = []
    for part in parts:
        columns = part.select(names)
        if {"path", "group"} <= set(names) and part["group"].equals(part["path"]):
            place = columns.schema.get_field_index("group")
            columns = columns.set_column(place, columns.schema.field(place), part["path"])
        chosen.append(columns)
    return pa.concat_tables(chosen)


def write_table(stem: Path, rows: Rows, formats: Sequence[str] = ("parquet",)) -> list[Path]:
    """Write a table as stem.parquet, stem.csv or both, and return the files. A long table takes no
    more memory than a short one."""
    files = [stem.with_suffix(f".{name}") for name in formats]
    with ExitStack() as stack:
        writers: list[Any] = []
        for name, file in zip(formats, files, strict=True):
            stream = stack.enter_context(atomic(file))
            writers.append(stack.enter_context(WRITERS[name](stream, rows.schema)))

        for part in parts_of(rows):
            for name, writer in zip(formats, writers, strict=True):
                writer.write_table(without_formulas(part) if name == "csv" else part)
    return files


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Raise RunError where a Parquet file is damaged, or none of these rows."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunError(
            f"{file.parent}: not a readable score directory ({file.name}: {one_line(error)})"
        ) from None


def read_table(file: Path, row_type: type[Row], added: Mapping[str, str] = NOTHING) -> pa.Table:
    """Return the table of these rows in a Parquet file; RunError if it is none.

    `added` are texts for columns at the end that a table of an older release may not have.
    """
    with readable(file):
        return _completed(parquet_table(file), row_type, added)


def _completed(table: pa.Table, row_type: type[Row], added: Mapping[str, str]) -> pa.Table:
    """Return a table with the columns that it may lack; ValueError if it is none of these rows."""
    for name, text in added.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array([text] * len(table), pa.string()))
    check_columns(table, row_type)
    return table


@dataclass(frozen=True)
class ParquetParts:
    """The rows of a table in a Parquet file, which are read a part at a time; `added` as for
    `read_table`. RunError while they are read if it is none."""

    file: Path
    row_type: type[Row]
    added: Mapping[str, str]

    @property
    def schema(self) -> pa.Schema:
        return schema_of(self.row_type)

    def __len__(self) -> int:
        refuse_strange(self.file)
        with readable(self.file), self.file.open("rb") as stream:
            return int(parquet.ParquetFile(stream).metadata.num_rows)

    def parts(self) -> Iterator[pa.Table]:
        """Yield the rows in order, PART at a time; an empty table if there are none."""
        refuse_strange(self.file)
        with readable(self.file), self.file.open("rb") as stream:
            yield from in_parts(self._read(stream))

    def _read(self, stream: IO[bytes]) -> Iterator[pa.Table]:
        for table in bounded_parts(stream, PART):
            yield _completed(table, self.row_type, self.added)


def groups_between(
    first: str, last: str, file: Path, row_type: type[Row]
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the row groups of a Parquet file that may have rows whose `path` lies between two, and
    their numbers from 0: by the first and the last path that the file says a group has. To be read
    within `readable`."""
    with _checked(file, row_type) as (opened, stream):
        column = opened.schema_arrow.names.index("path")
        for number in range(opened.num_row_groups):
            group = opened.metadata.row_group(number)
            if _may_have(group.column(column).statistics, first, last):
                yield number, _group(opened, stream, number, row_type)


def row_group(number: int, file: Path, row_type: type[Row]) -> pa.Table:
    """Return the row group of a Parquet file with a number from 0; ValueError if there is none. To
    be read within `readable`."""
    with _checked(file, row_type) as (opened, stream):
        if number >= opened.num_row_groups:
            raise ValueError(f"it has no row group {number + 1}")
        return _group(opened, stream, number, row_type)


@contextmanager
def _checked(file: Path, row_type: type[Row]) -> Iterator[tuple[parquet.ParquetFile, IO[bytes]]]:
    """Open a Parquet file of which some row groups are read; ValueError if it is larger than it can
    be, or has no such rows."""
    refuse_strange(file)
    with file.open("rb") as stream:
        opened = parquet.ParquetFile(stream)
        check_shape(opened, stream.seek(0, 2))
        check_columns(opened.schema_arrow.empty_table(), row_type)
        yield opened, stream


def _group(
    opened: parquet.ParquetFile, stream: IO[bytes], number: int, row_type: type[Row]
) -> pa.Table:
    """Return a row group of an open file; ValueError if it is larger than any of ours, or has no
    such rows."""
    count = opened.metadata.row_group(number).num_rows
    if count > PART:
        raise ValueError(f"a row group has {count} rows, more than {PART}")
    check_pages(opened, stream, [number])
    table = opened.read_row_group(number, use_threads=False)
    check_columns(table, row_type)
    return table


def _may_have(statistics: parquet.Statistics | None, first: str, last: str) -> bool:
    """Return whether a column with these statistics may have a text between two."""
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= last and first <= statistics.max)


def parquet_table(file: Path) -> pa.Table:
    """Return the table in a Parquet file, whatever its columns; RunError if it is no file of its
    own folder, ValueError if it is larger than its file can be, and what opening and pyarrow
    raise."""
    refuse_strange(file)
    with file.open("rb") as stream:  # pyarrow opens no path with bytes that are not UTF-8
        return bounded_table(stream)


def csv_difference(file: Path, rows: Rows) -> int | None:
    """Return the number of the first line of a CSV file that does not say what the rows of a table
    say, None if all do. RunError if the file cannot be read.

    Columns at the end that the file lacks are those of later releases.
    """
    refuse_strange(file)
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            lines = csv.reader(_lines(stream), strict=True)
            number = _first_other(lines, rows)
            for _ in lines:
                pass  # so that what cannot be read is found there, too
            return number
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{file.parent}: {file.name} cannot be read ({one_line(error)})") from None


def _lines(stream: IO[str]) -> Iterator[str]:
    """Yield the lines of an open CSV file; ValueError for one that is longer than any of ours."""
    while line := stream.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise ValueError("a line is too long")
        yield line


def _first_other(lines: Iterator[list[str]], rows: Rows) -> int | None:
    """Return the number of the first line that does not say what the rows say, None if all do."""
    names = next(lines, [])
    if names != rows.schema.names[: len(names)] or not names:
        return 1
    pairs = zip_longest(lines, _spelled(rows, names))
    for number, (first, second) in enumerate(pairs, start=2):
        if first is None or second is None or not all(map(_same_cell, first, second)):
            return number
        if len(first) != len(second):
            return number
    return None


def _spelled(rows: Rows, names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the lines of these columns as a CSV file has them, without the first one."""
    without_names = pa_csv.WriteOptions(include_header=False)
    for part in parts_of(rows):
        expected = io.BytesIO()
        pa_csv.write_csv(without_formulas(part.select(names)), expected, without_names)
        yield from csv.reader(io.StringIO(expected.getvalue().decode(), newline=""))


def _same_cell(first: str, second: str) -> bool:
    """Return whether two cells say the same; numbers may be spelled in several ways."""
    if first == second:
        return True
    try:
        return float(first) == float(second)
    except ValueError:
        return False


def without_formulas(table: pa.Table) -> pa.Table:
    """Return the table with an apostrophe before each text that a spreadsheet would run as a
    formula."""
    for index, column in enumerate(table.schema):
        if column.type == pa.string():
            safe = [_without_formula(text) for text in table[index].to_pylist()]
            table = table.set_column(index, column, pa.array(safe, pa.string()))
    return table


def _without_formula(text: str | None) -> str | None:
    return f"'{text}" if text and text.startswith(FORMULA_STARTS) else text
