"""Rows that come in any order, and are sorted by their paths or names on the disk.

RUN rows at a time are sorted and put into a temporary file as a run; the runs are merged when the
rows are read. So the memory that they take hardly grows with their number.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anodetect.errors import RunError
from anodetect.files import write_error
from anodetect.record.rows import Row, TableBuilder, schema_of
from anodetect.record.tables import in_parts

R = TypeVar("R", bound=Row)
RUN = 2**15  # rows that are sorted in memory
BLOCK = 512  # rows of a run that are read at a time
CODEC = "lz4"


@dataclass(frozen=True, slots=True)
class _Block:
    """Up to BLOCK rows of a run in the temporary file: their place, the bytes that they take there
    and unpacked, and the last of their keys."""

    start: int
    stored: int
    size: int
    last: str


@dataclass(slots=True)
class _Run:
    """Rows in order: `read` are those that were read and not taken, and `blocks` are still to be
    read. No row in them has a key below `floor`."""

    blocks: list[_Block]
    floor: str
    read: pa.Table

    def take(self, key: str, bound: str | None) -> pa.Table:
        """Return the rows that were read and whose keys are below `bound`, all if it is None, and
        keep the others."""
        column, count = self.read[key], len(self.read)
        if bound is not None:
            count = bisect_left(column, bound, key=lambda each: each.as_py())
        taken, self.read = self.read.slice(0, count), self.read.slice(count)
        return taken


class Spool(Generic[R]):
    """The rows of a table in the order of the column `key`. Rows with equal keys stay in the order
    in which they came. Its temporary file lies in `folder`, has no name, and is gone when it is
    closed."""

    def __init__(self, folder: Path, row_type: type[R], key: str) -> None:
        self.folder, self.row_type, self.key = folder, row_type, key
        self.schema = schema_of(row_type)
        self.builder = TableBuilder(row_type)
        self.count = self.waiting = 0
        self.runs: list[tuple[str, list[_Block]]] = []
        self.file: IO[bytes] | None = None

    def __len__(self) -> int:
        return self.count

    def close(self) -> None:
        """Remove the temporary file."""
        if self.file is not None:
            self.file.close()

    def add(self, row: R) -> None:
        """Add a row; RunError if there is no room for it on the disk."""
        self.builder.add(row)
        self._count(1)

    def extend(self, rows: Iterable[R]) -> None:
        """Add rows, as `add` does."""
        for row in rows:
            self.add(row)

    def add_table(self, table: pa.Table) -> None:
        """Add the rows of a table of this kind, as `add` does."""
        for start in range(0, len(table), RUN):
            part = table.slice(start, RUN)
            self.builder.add_table(part)
            self._count(len(part))

    def parts(self) -> Iterator[pa.Table]:
        """Yield the rows in order, PART at a time; an empty table if there are none."""
        self._end_run()
        yield from in_parts(chain([self.schema.empty_table()], self._merged()))

    def _merged(self) -> Iterator[pa.Table]:
        """Yield all rows in order, some at a time: what was read of the runs, up to the first key
        that may still be to be read."""
        nothing = self.schema.empty_table()
        runs = [_Run(list(reversed(blocks)), first, nothing) for first, blocks in self.runs]
        while runs:
            bound = min((run.floor for run in runs if run.blocks), default=None)
            taken = [run.take(self.key, bound) for run in runs if len(run.read)]
            if any(map(len, taken)):
                yield pa.concat_tables(taken).combine_chunks().sort_by(self.key)

            for run in runs:
                if run.blocks and run.floor == bound:
                    block = run.blocks.pop()
                    run.read = pa.concat_tables([run.read, self._read(block)]).combine_chunks()
                    run.floor = block.last
            runs = [run for run in runs if run.blocks or len(run.read)]

    # -- The temporary file ------------------------------------------------------------------------

    def _count(self, count: int) -> None:
        self.count += count
        self.waiting += count
        if self.waiting >= RUN:
            self._end_run()

    def _end_run(self) -> None:
        """Sort the rows that wait, and write them as a run."""
        table = self.builder.table().sort_by(self.key)
        self.builder, self.waiting = TableBuilder(self.row_type), 0
        if not len(table):
            return
        try:
            blocks = []
            for start in range(0, len(table), BLOCK):
                blocks.append(self._write(table.slice(start, BLOCK)))
        except OSError as error:
            raise write_error(self.folder, error) from None
        self.runs.append((table[self.key][0].as_py(), blocks))

    def _write(self, table: pa.Table) -> _Block:
        if self.file is None:
            self.file = TemporaryFile(dir=self.folder)  # noqa: SIM115 — `close` closes it
        (batch,) = table.combine_chunks().to_batches()
        content = batch.serialize()
        stored = pa.compress(content, CODEC)
        start = self.file.seek(0, 2)
        self.file.write(stored)
        return _Block(start, stored.size, content.size, table[self.key][-1].as_py())

    def _read(self, block: _Block) -> pa.Table:
        assert self.file is not None
        try:
            self.file.seek(block.start)
            stored = self.file.read(block.stored)
        except OSError as error:
            raise RunError(f"{self.folder}: cannot be read ({error.strerror})") from None
        content = pa.decompress(stored, block.size, CODEC)
        return pa.Table.from_batches([pa.ipc.read_record_batch(content, self.schema)])


def hashes_of(texts: Iterable[str]) -> "array[int]":
    """Return the hash of each text, which takes a tenth of its memory."""
    return array("q", map(hash, texts))


def repeated_numbers(values: "array[int]") -> set[int]:
    """Return the numbers that occur more than once."""
    ordered = np.sort(np.array(values))
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def places_among(values: NDArray[np.int64], ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each number [n] among numbers [m] in order, −1 where it is none of
    them."""
    places = np.searchsorted(ordered, values).astype(np.int64)
    places[places == len(ordered)] = -1
    if len(ordered):
        places[ordered[places] != values] = -1
    return places
