"""A large scores.parquet, which is never read as a whole.

Of the rows, those on the screen are read, with the row groups that they lie in. Order and filters
read the columns that they need, in parts; what they leave is an array of places in the table.
"""

import os
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc
from pyarrow import parquet

from anodetect.errors import RunError
from anodetect.files import refuse_strange
from anodetect.record.bounded import check_all
from anodetect.record.rows import ScoreRow, rows_of, schema_of

PART = 2**16  # rows of a column that are read at a time
KEPT = 128  # row groups in memory
NUMBERS_KEPT = 2  # columns of numbers in memory, of 8 bytes a row
DICTIONARIES = {"kind", "status", "differs", "group"}  # columns with few different texts
Places = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


def _source(file: Path) -> pa.MemoryMappedFile:
    """Return what pyarrow opens; as text it takes no path with bytes that are not UTF-8."""
    return pa.memory_map(os.fsencode(file))


class Catalogue:
    """The rows of a table by their places in it, from 0; RunError where it cannot be read."""

    def __init__(self, file: Path) -> None:
        refuse_strange(file)
        try:
            self._file = parquet.ParquetFile(_source(file))
            with file.open("rb") as stream:
                check_all(self._file, stream)
        except (OSError, ValueError, pa.ArrowException):
            raise RunError(f"{file}: cannot be read; put back a copy, or score again") from None
        self.file = file
        self.count: int = self._file.metadata.num_rows
        self.names: Sequence[str] = self._file.schema_arrow.names
        self._lock = Lock()
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._numbers: OrderedDict[str, NDArray[np.float64]] = OrderedDict()
        self._known: dict[str, int] = {}  # places by path
        self._starts, self._lowest, self._highest = self._bounds()

    def _bounds(self) -> tuple[Places, list[str | None], list[str | None]]:
        """Return where each row group starts, and its first and last path in order, None where the
        file does not say."""
        metadata = self._file.metadata
        column = metadata.schema.names.index("path")
        starts, lowest, highest = [0], list[str | None](), list[str | None]()
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            known = group.column(column).statistics
            is_known = known is not None and known.has_min_max
            starts.append(starts[-1] + group.num_rows)
            lowest.append(known.min if is_known else None)
            highest.append(known.max if is_known else None)
        return np.array(starts, np.int64), lowest, highest

    # -- Rows --------------------------------------------------------------------------------------

    def row(self, place: int) -> ScoreRow:
        """Return the row at a place; raise IndexError where there is none."""
        if not 0 <= place < self.count:
            raise IndexError(place)
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        table = self._group(number)
        row = next(rows_of(table.slice(place - int(self._starts[number]), 1), ScoreRow))
        self._known[row.path] = place
        return row

    def _group(self, number: int) -> pa.Table:
        """Return a row group with all columns; those that an older release lacks are empty."""
        with self._lock:
            if number in self._groups:
                self._groups.move_to_end(number)
                return self._groups[number]
            table = self._file.read_row_group(number)
            for column in schema_of(ScoreRow):
                if column.name not in table.column_names:
                    empty = pa.array([""] * len(table), pa.string())
                    table = table.append_column(column.name, empty)
            self._groups[number] = table
            if len(self._groups) > KEPT:
                self._groups.popitem(last=False)
            return table

    def rows_at(self, places: Places, names: Sequence[str]) -> list[ScoreRow]:
        """Return the rows at rising places with these columns alone; the others are empty."""
        rows: list[ScoreRow] = []
        known = [name for name in names if name in self.names]
        for start, batch in self.parts(known):
            low, high = np.searchsorted(places, [start, start + len(batch)])
            taken = batch.take(pa.array(places[low:high] - start))
            for values in taken.to_pylist():
                rows.append(ScoreRow(**{"model_sha256": "", **values}))
        return rows

    def place(self, path: str) -> int:
        """Return the place of a path, −1 where there is none."""
        return self.places([path]).get(path, -1)

    def places(self, paths: Collection[str]) -> dict[str, int]:
        """Return the places of those of the paths that are in the table."""
        found = {path: self._known[path] for path in paths if path in self._known}
        sought = sorted(set(paths) - found.keys())
        for number, (low, high) in enumerate(zip(self._lowest, self._highest, strict=True)):
            inside = sought
            if low is not None and high is not None:
                inside = sought[bisect_left(sought, low) : bisect_right(sought, high)]
            if not inside:
                continue
            column = self._paths(number)
            places = pc.index_in(pa.array(inside, pa.string()), value_set=column)
            for path, place in zip(inside, places.to_pylist(), strict=True):
                if place is not None:
                    found[path] = int(self._starts[number]) + place
        self._known |= found
        return found

    def _paths(self, number: int) -> pa.Array:
        with self._lock:
            return self._file.read_row_group(number, columns=["path"])["path"].combine_chunks()

    # -- Columns -----------------------------------------------------------------------------------

    def parts(self, names: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the columns in parts, each with the place of its first row; texts are dictionaries
        where the file has them so."""
        start = 0
        with self._reader(names) as reader:
            for batch in reader.iter_batches(PART, columns=list(names)):
                yield start, batch
                start += len(batch)

    def _reader(self, dictionaries: Sequence[str] = ()) -> parquet.ParquetFile:
        """Return a reader of its own: several sessions may read at once."""
        texts = [name for name in dictionaries if name in DICTIONARIES]
        return parquet.ParquetFile(
            _source(self.file),
            metadata=self._file.metadata,
            read_dictionary=texts,
        )

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers, NaN where one is missing. The last ones are kept."""
        with self._lock:
            if name in self._numbers:
                self._numbers.move_to_end(name)
                return self._numbers[name]

        with self._reader() as reader:
            column = pc.cast(reader.read(columns=[name])[name], pa.float64())
        values = np.empty(self.count, np.float64)
        start = 0
        for chunk in column.chunks:
            values[start : start + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
            start += len(chunk)

        values.flags.writeable = False
        with self._lock:
            self._numbers[name] = values
            if len(self._numbers) > NUMBERS_KEPT:
                self._numbers.popitem(last=False)
        return values

    def different(self, name: str, most: int) -> tuple[str, ...]:
        """Return the sorted texts of a column, () where there are more than `most`."""
        known = self._constants(name)
        if known is not None:
            return tuple(sorted(known)) if len(known) <= most else ()

        found: set[str] = set()
        for _, batch in self.parts([name]):
            found.update(text or "" for text in pc.unique(batch[name]).to_pylist())
            if len(found) > most:
                return ()
        return tuple(sorted(found))

    def _constants(self, name: str) -> set[str] | None:
        """Return the texts of a column each of whose row groups has one text alone, as the file's
        statistics say; None for another column."""
        metadata, found = self._file.metadata, set[str]()
        if name not in self.names:
            return {""}
        column = self.names.index(name)
        for number in range(metadata.num_row_groups):
            known = metadata.row_group(number).column(column).statistics
            if known is None or not known.has_null_count:
                return None
            if known.null_count == known.num_values + known.null_count:
                found.add("")
            elif known.null_count or not known.has_min_max or known.min != known.max:
                return None
            else:
                found.add(known.min)
        return found


class Ranking:
    """Places in an order, of which the first are there at once, and the others once somebody asks
    for them."""

    def __init__(self, first: Places, count: int, whole: Callable[[], Places]) -> None:
        self._places, self._count, self._whole = first, count, whole
        self._lock = Lock()

    def __len__(self) -> int:
        return self._count

    @property
    def first(self) -> Places:
        """The places that are there."""
        return self._places

    def all(self) -> Places:
        """Return all places."""
        with self._lock:
            if len(self._places) < self._count:
                self._places = self._whole()
            return self._places

    def upto(self, stop: int) -> Places:
        """Return at least the first `stop` places."""
        return self._places if stop <= len(self._places) else self.all()


def complete(places: Places) -> Ranking:
    """Return the ranking of places that are all there."""
    return Ranking(places, len(places), lambda: places)


class Listed(Sequence[ScoreRow]):
    """The rows at some places of a catalogue, each read when it is asked for."""

    def __init__(self, catalogue: Catalogue, order: Ranking) -> None:
        self.catalogue, self.order = catalogue, order
        self._found: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> ScoreRow: ...
    @overload
    def __getitem__(self, index: slice) -> "Listed": ...
    def __getitem__(self, index: int | slice) -> "ScoreRow | Listed":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            places = self.order.upto(max(start, stop))[start:stop:step]
            return Listed(self.catalogue, complete(places))
        place = range(len(self))[index]  # raises IndexError
        return self.catalogue.row(int(self.order.upto(place + 1)[place]))

    def place_of(self, path: str) -> int:
        """Return where in this list a path is, −1 where it is not."""
        place = self.catalogue.place(path)
        if place < 0:
            return -1
        if place not in self._found:
            self._found[place] = self._search(place)
        return self._found[place]

    def _search(self, place: int) -> int:
        found = np.flatnonzero(self.order.first == place)
        if not len(found) and len(self.order.first) < len(self.order):
            found = np.flatnonzero(self.order.all() == place)
        return int(found[0]) if len(found) else -1


class Paths(Sequence[str]):
    """The paths of listed rows."""

    def __init__(self, rows: Listed) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Paths": ...
    def __getitem__(self, index: int | slice) -> "str | Paths":
        if isinstance(index, slice):
            return Paths(self.rows[index])
        return self.rows[index].path

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self.rows.place_of(path) >= 0

    def index(self, path: str, start: int = 0, stop: int | None = None) -> int:
        """Return where a path is; raise ValueError where it is not listed."""
        place = self.rows.place_of(path)
        if place < start or (stop is not None and place >= stop):
            raise ValueError(f"{path} is not listed")
        return place


class Numbers(Mapping[str, int]):
    """The places of the rows of a catalogue by their paths."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def __getitem__(self, path: str) -> int:
        place = self.catalogue.place(path)
        if place < 0:
            raise KeyError(path)
        return place

    def __len__(self) -> int:
        return self.catalogue.count

    def __iter__(self) -> Iterator[str]:
        return iter(ByPath(self.catalogue))


class ByPath(Mapping[str, ScoreRow]):
    """The rows of a catalogue by their paths."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def __getitem__(self, path: str) -> ScoreRow:
        place = self.catalogue.place(path)
        if place < 0:
            raise KeyError(path)
        return self.catalogue.row(place)

    def __len__(self) -> int:
        return self.catalogue.count

    def __iter__(self) -> Iterator[str]:
        for _, batch in self.catalogue.parts(["path"]):
            yield from batch["path"].to_pylist()
