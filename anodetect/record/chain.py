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
from anodetect.record.rows import (
    ChainRow,
    ScoreRow,
    TableBuilder,
    rows_of,
    schema_of,
    values_of,
)
from anodetect.record.tables import Rows, parts_of

START = sha256(b"").hexdigest()  # h_0
GAP = ""  # stands in chain.parquet in place of the path of a row that was erased
LATER = ("differs", "channels", "study", "prepared", "pixels_sha256", "truth_sha256")


def row_hash(row: ScoreRow) -> str:
    """Return the hash of one row, whatever the order of its columns. The columns of LATER, which
    older releases did not write, count where they say something."""
    values = values_of(row)
    for name in LATER:
        if not values[name]:
            del values[name]
    return sha256(canonical(without_nan(values))).hexdigest()


def next_value(value: str, own: str) -> str:
    """Return the chain's value after a row with the hash `own`, before which it had this value."""
    return sha256(f"{value}{own}".encode()).hexdigest()


def chain_values(hashes: Iterable[str]) -> Iterator[str]:
    """Yield the chain's value after each of the rows with these hashes."""
    value = START
    for each in hashes:
        value = next_value(value, each)
        yield value


class Chain:
    """The chain of rows of ScoreRow as a table of ChainRow, which is made a part at a time. `end`
    is the last value of what was made."""

    schema = schema_of(ChainRow)

    def __init__(self, rows: Rows) -> None:
        self.rows, self.end = rows, START

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self) -> Iterator[pa.Table]:
        """Yield the rows in order, PART at a time; an empty table if there are none."""
        self.end = START
        for part in parts_of(self.rows):
            builder = TableBuilder(ChainRow)
            for row in rows_of(part, ScoreRow):
                own = row_hash(row)
                self.end = next_value(self.end, own)
                builder.add(ChainRow(path=row.path, row=own, chain=self.end))
            yield builder.table()


def chain_end(chain: pa.Table | Chain) -> str:
    """Return the last value of a table of ChainRow, or of a chain that was made."""
    if isinstance(chain, Chain):
        return chain.end
    return str(chain["chain"][-1]) if len(chain) else START


def head_of(audit: Mapping[str, Any]) -> str:
    """Return the head of a record whose audit.json says this; it may have a head already."""
    digest = sha256(audit["chain"].encode())
    for part in canonical_parts({key: value for key, value in audit.items() if key != "head"}):
        digest.update(part)
    return digest.hexdigest()
