"""The record of verdicts as files to export: every review, also those that were withdrawn."""

import io
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
from pyarrow import csv, parquet

from anodetect.record.reviews import COLUMNS, Review
from anodetect.record.tables import without_formulas

_TYPES = {
    "number": pa.int64(),
    "withdraws": pa.int64(),
    "blind": pa.bool_(),
    "score": pa.float64(),
    "p_value": pa.float64(),
    "threshold": pa.float64(),
}


def reviews_table(reviews: Sequence[Review]) -> pa.Table:
    """Return the reviews as a table with one column for each field of Review."""
    schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])
    return pa.Table.from_pylist([asdict(review) for review in reviews], schema)


def csv_file(table: pa.Table) -> bytes:
    """Return a table as CSV whose texts no spreadsheet takes for formulas."""
    buffer = io.BytesIO()
    csv.write_csv(without_formulas(table), buffer)
    return buffer.getvalue()


def parquet_file(table: pa.Table) -> bytes:
    """Return a table as Parquet."""
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()
