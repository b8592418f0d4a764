"""Tables as files: Parquet, and CSV without formulas, in parts of bounded size."""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as pa_csv
from pyarrow import parquet

from anodetect.errors import RunError, one_line
from anodetect.files import atomic, refuse_strange
from anodetect.record.rows import Row, check_columns

PART = 4096  # rows that are written at a time
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
WRITERS = {"parquet": parquet.ParquetWriter, "csv": pa_csv.CSVWriter}

NOTHING: Mapping[str, str] = {}


def write_table(stem: Path, table: pa.Table, formats: Sequence[str] = ("parquet",)) -> list[Path]:
    """Write a table as stem.parquet, stem.csv or both, and return the files. A long table takes no
    more memory than a short one."""
    files = [stem.with_suffix(f".{name}") for name in formats]
    with ExitStack() as stack:
        writers: list[Any] = []
        for name, file in zip(formats, files, strict=True):
            stream = stack.enter_context(atomic(file))
            writers.append(stack.enter_context(WRITERS[name](stream, table.schema)))

        for start in range(0, len(table), PART) or [0]:
            part = table.slice(start, PART)
            for name, writer in zip(formats, writers, strict=True):
                writer.write_table(without_formulas(part) if name == "csv" else part)
    return files


def read_table(file: Path, row_type: type[Row], added: Mapping[str, str] = NOTHING) -> pa.Table:
    """Return the table of these rows in a Parquet file; RunError if it is none.

    `added` are texts for columns at the end that a table of an older release may not have.
    """
    try:
        table = parquet_table(file)
        for name, text in added.items():
            if name not in table.column_names:
                table = table.append_column(name, pa.array([text] * len(table), pa.string()))
        check_columns(table, row_type)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunError(
            f"{file.parent}: not a readable score directory ({file.name}: {one_line(error)})"
        ) from None
    return table


def parquet_table(file: Path) -> pa.Table:
    """Return the table in a Parquet file, whatever its columns; RunError if it is no file of its
    own folder, and what opening and pyarrow raise."""
    refuse_strange(file)
    with file.open("rb") as stream:  # pyarrow opens no path with bytes that are not UTF-8
        return parquet.read_table(stream)


def csv_difference(file: Path, table: pa.Table) -> int | None:
    """Return the number of the first line of a CSV file that does not say what the table says, None
    if all do. RunError if the file cannot be read.

    Columns at the end that the file lacks are those of later releases.
    """
    refuse_strange(file)
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.reader(stream, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{file.parent}: {file.name} cannot be read ({one_line(error)})") from None

    names = lines[0] if lines else []
    if names != table.column_names[: len(names)] or not names:
        return 1
    expected = io.BytesIO()
    pa_csv.write_csv(without_formulas(table.select(names)), expected)
    again = csv.reader(io.StringIO(expected.getvalue().decode(), newline=""))
    for number, (first, second) in enumerate(zip_longest(lines, again), start=1):
        if first is None or second is None or not all(map(_same_cell, first, second)):
            return number
        if len(first) != len(second):
            return number
    return None


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
