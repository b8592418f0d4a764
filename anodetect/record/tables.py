"""Tables as files: Parquet, and CSV without formulas, in parts of bounded size."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as pa_csv
from pyarrow import parquet

from anodetect.errors import RunError
from anodetect.files import atomic
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
        with file.open("rb") as stream:  # pyarrow opens no path with bytes that are not UTF-8
            table = parquet.read_table(stream)
        for name, text in added.items():
            if name not in table.column_names:
                table = table.append_column(name, pa.array([text] * len(table), pa.string()))
        check_columns(table, row_type)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunError(
            f"{file.parent}: not a readable score directory ({file.name}: {error})"
        ) from None
    return table


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
