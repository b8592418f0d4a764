"""Parquet files that may come from anywhere, read without taking more memory than a file of their
size can need.

A few kilobytes can say that they are a billion rows, or repeat a text of a megabyte a million
times. So rows, columns and their types, and what pages say they are without compression, are
compared with the size of the file before anything is read, then the headers of pages with both, and
the length of texts before they are spelled out.
"""

from collections.abc import Iterator
from typing import IO

import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import parquet

from anodetect.record.pages import check_pages

MOST_COLUMNS = 64
LONGEST_VECTOR = 2**14  # numbers
SOME = 2**26  # bytes that any file may take
COMPRESSED = 100  # times a file's size that its pages may take; Snappy, as we write, comes to 21
TEXT_A_ROW = 4096  # bytes, on average over all rows
AT_ONCE = 2**16  # rows that are read at a time


def bounded_table(stream: IO[bytes]) -> pa.Table:
    """Return the table in an open Parquet file; ValueError if it is larger than its file can be,
    and what pyarrow raises."""
    return pa.concat_tables(bounded_parts(stream, AT_ONCE))


def bounded_parts(stream: IO[bytes], most: int) -> Iterator[pa.Table]:
    """Yield the rows in an open Parquet file in order, at most so many at a time, after an empty
    table; ValueError if they are more than its file can be, and what pyarrow raises."""
    with parquet.ParquetFile(stream) as source:
        check_all(source, stream)
        schema, metadata = source.schema_arrow, source.metadata
        texts = [field.name for field in schema if field.type == pa.string()]

        room = SOME + TEXT_A_ROW * metadata.num_rows
        yield schema.empty_table()
        with parquet.ParquetFile(stream, metadata=metadata, read_dictionary=texts) as coded:
            for batch in coded.iter_batches(most, use_threads=False):
                part = pa.Table.from_batches([batch])
                room -= sum(_length(part[name]) for name in texts)
                if room < 0:
                    raise ValueError("its texts are too long")
                yield part.cast(schema)


def check_all(source: parquet.ParquetFile, stream: IO[bytes]) -> None:
    """Raise ValueError if an open file says that it has more than fits it, at its end or before any
    page; and what reading raises."""
    check_shape(source, stream.seek(0, 2))
    check_pages(source, stream)


def check_shape(source: parquet.ParquetFile, size: int) -> None:
    """Raise ValueError if an open file of so many bytes says that it has more than fits it, or
    columns that no table of ours has."""
    metadata, schema = source.metadata, source.schema_arrow
    if metadata.num_columns > MOST_COLUMNS or len(schema.names) != len(set(schema.names)):
        raise ValueError("it has too many columns, or one twice")
    for field in schema:
        if not _is_flat(field.type):
            raise ValueError(f"the column {field.name:.100} is of another type")

    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows or metadata.num_rows > size:
        raise ValueError(f"it says that it has {metadata.num_rows} rows in {size} bytes")
    unpacked = [group.total_byte_size for group in groups]
    if min(unpacked, default=0) < 0 or sum(unpacked) > SOME + COMPRESSED * size:
        raise ValueError(f"it says that {size} bytes are {sum(unpacked)} without compression")


def _is_flat(kind: pa.DataType) -> bool:
    """Return whether values of a type are single ones, or vectors of a length that is known."""
    if pa.types.is_fixed_size_list(kind):
        return bool(kind.list_size <= LONGEST_VECTOR and pa.types.is_floating(kind.value_type))
    return bool(pa.types.is_primitive(kind) or kind in (pa.string(), pa.null()))


def _length(column: pa.ChunkedArray) -> int:
    """Return how many bytes the texts of a column take that was read as dictionaries."""
    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
        total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    return total
