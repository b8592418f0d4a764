"""The hash chain over the rows of a score directory, and the head that stands for all of it.

    h_0 = sha256(""),  h_n = sha256(h_{n−1} ‖ r_n),  r_n = sha256(canonical JSON of row n)
    head = sha256(h_N ‖ canonical JSON of audit.json without `head`)

Hashes are written, and joined (‖), as 64 lower-case hexadecimal digits. docs/formats.md says the
same byte for byte.
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import pyarrow as pa

from anodetect.config import canonical, canonical_parts, without_nan
from anodetect.record.rows import ChainRow, ScoreRow, TableBuilder, rows_of, values_of

START = sha256(b"").hexdigest()  # h_0
GAP = ""  # stands in chain.parquet in place of the path of a row that was erased
LATER = ("differs", "channels", "study", "prepared", "pixels_sha256")


def row_hash(row: ScoreRow) -> str:
    """Return the hash of one row, whatever the order of its columns. The columns of LATER, which
    older releases did not write, count where they say something."""
    values = values_of(row)
    for name in LATER:
        if not values[name]:
            del values[name]
    return sha256(canonical(without_nan(values))).hexdigest()


def chain_values(hashes: Iterable[str]) -> Iterator[str]:
    """Yield the chain's value after each of the rows with these hashes."""
    value = START
    for each in hashes:
        value = sha256(f"{value}{each}".encode()).hexdigest()
        yield value


def chain_table(rows: pa.Table) -> pa.Table:
    """Return the chain of a table of ScoreRow as a table of ChainRow."""
    builder = TableBuilder(ChainRow)
    value = START
    for row in rows_of(rows, ScoreRow):
        own = row_hash(row)
        value = sha256(f"{value}{own}".encode()).hexdigest()
        builder.add(ChainRow(path=row.path, row=own, chain=value))
    return builder.table()


def chain_end(chain: pa.Table) -> str:
    """Return the last value of a table of ChainRow."""
    return str(chain["chain"][-1]) if len(chain) else START


def head_of(audit: Mapping[str, Any]) -> str:
    """Return the head of a record whose audit.json says this; it may have a head already."""
    digest = sha256(audit["chain"].encode())
    for part in canonical_parts({key: value for key, value in audit.items() if key != "head"}):
        digest.update(part)
    return digest.hexdigest()
