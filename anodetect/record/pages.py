"""The headers of the pages of a Parquet file, which are read before any page is.

A page's header says how many bytes it takes without compression, and a reader makes room for as
many, whatever the end of the file says of them. Headers are structures of Thrift's compact
protocol: https://github.com/apache/parquet-format and its `parquet.thrift` name their fields.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TypeAlias

from pyarrow import parquet

MOST_IN_PAGE = 2**27  # bytes: 1024 texts, as many as are written at a time, of the longest ones
DATA, DICTIONARY, DATA_2 = 0, 2, 3  # kinds of pages that tables of ours have
KIND, SIZE, STORED = 1, 2, 3  # fields of a header: kind, bytes without compression, and in the file
BODIES = {DATA: 5, DICTIONARY: 7, DATA_2: 8}  # the field that says more of a page of this kind
COUNT = 1  # of values, in each of those
ENCODINGS = {DATA: 2, DICTIONARY: 2, DATA_2: 4}  # the field that says how they are written
# Plain, by a dictionary (in two spellings), and in runs. In others texts share their beginnings,
# and a small page may spell very long ones.
SAFE = frozenset((0, 2, 3, 8))
# Types of values in Thrift's compact protocol.
STOP, TRUE, FALSE, BYTE, INTEGERS, DOUBLE, TEXT, STRUCT = 0, 1, 2, 3, (4, 5, 6), 7, 8, 12
MOST_DEPTH = 4  # of structures in each other
CHUNK = 256  # bytes that are read at a time; most headers have fewer

Fields: TypeAlias = "dict[int, int | Fields]"


@dataclass(frozen=True)
class _Page:
    """What a page's header says: the kind, the number of values, and the bytes without compression
    and in the file."""

    kind: int
    count: int
    size: int
    stored: int


def check_pages(
    source: parquet.ParquetFile, stream: IO[bytes], numbers: Iterable[int] | None = None
) -> None:
    """Raise ValueError if the header of a page of an open file says that the page is larger than
    the end of the file says of all pages of its column, or than any page of ours; and what reading
    raises. `numbers` are those of the row groups that are checked, by default all."""
    metadata, end = source.metadata, stream.seek(0, io.SEEK_END)
    for number in range(metadata.num_row_groups) if numbers is None else numbers:
        group = metadata.row_group(number)
        for place in range(metadata.num_columns):
            _check_column(group.column(place), stream, end)


def _check_column(column: parquet.ColumnChunkMetaData, stream: IO[bytes], end: int) -> None:
    """Raise ValueError if the pages of a column of a row group are not what the end of the file
    says."""
    if column.num_values <= 0:
        return  # of which nothing is read
    start, stop = column.data_page_offset, column.total_compressed_size
    if column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    stop += start
    if not 0 <= start <= stop <= end:
        raise ValueError("a column lies where the file is not")

    room, count = column.total_uncompressed_size, column.num_values
    for page in _pages(stream, start, stop):
        room -= page.size
        if page.size > MOST_IN_PAGE or room < 0:
            raise ValueError(f"a page says that it is {page.size} bytes without compression")
        if page.kind == DICTIONARY and page.count > page.size:
            raise ValueError(f"a page says that it has {page.count} texts in {page.size} bytes")
        count -= page.count if page.kind != DICTIONARY else 0
    if count:
        raise ValueError("the pages of a column do not have as many values as it says")


def _pages(stream: IO[bytes], start: int, stop: int) -> Iterator[_Page]:
    """Yield the pages between two places of a file; ValueError for one that is none."""
    while start < stop:
        header = _Header(stream, start)
        page = _page(header.structure())
        start = header.place + page.stored
        if start > stop:
            raise ValueError("a page is longer than its column")
        yield page


def _page(fields: Fields) -> _Page:
    """Return the page with this header; ValueError if tables of ours have none like it."""
    kind = _number(fields, KIND)
    body = fields.get(BODIES.get(kind, -1))
    if not isinstance(body, dict):
        raise ValueError(f"a page is of the kind {kind}")
    if _number(body, ENCODINGS[kind]) not in SAFE:
        raise ValueError(f"a page has the encoding {_number(body, ENCODINGS[kind])}")
    return _Page(kind, _number(body, COUNT), _number(fields, SIZE), _number(fields, STORED))


def _number(fields: Fields, name: int) -> int:
    """Return a field that is a number from 0 on; ValueError if it is none, or is not there."""
    value = fields.get(name)
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError("the header of a page is damaged")
    return value


class _Header:
    """Reads a structure of Thrift's compact protocol from a place in a file; ValueError where there
    is none. `place` is where the next byte lies."""

    def __init__(self, stream: IO[bytes], place: int) -> None:
        self.stream, self.place = stream, place
        self.start, self.content = place, b""

    def structure(self, depth: int = 0) -> Fields:
        """Return the fields of a structure by their numbers: numbers, and structures in it. Texts
        are skipped."""
        if depth > MOST_DEPTH:
            raise ValueError("the header of a page is damaged")
        fields: Fields = {}
        last = 0
        while True:
            head = self._byte()
            if head == STOP:
                return fields

            step, kind = head >> 4, head & 15
            last = last + step if step else self._integer()
            if last in fields:
                raise ValueError("the header of a page has a field twice")
            fields[last] = self._value(kind, depth)

    def _value(self, kind: int, depth: int) -> "int | Fields":
        """Return a value of this type, 0 for one that is skipped."""
        if kind in (TRUE, FALSE):
            return int(kind == TRUE)
        if kind == BYTE:
            return self._byte()
        if kind in INTEGERS:
            return self._integer()
        if kind == STRUCT:
            return self.structure(depth + 1)
        if kind not in (DOUBLE, TEXT):
            raise ValueError("the header of a page is damaged")
        length = self._unsigned() if kind == TEXT else 8
        self.place += length
        return 0

    def _byte(self) -> int:
        place = self.place - self.start
        if not 0 <= place < len(self.content):
            self.stream.seek(self.place)
            self.start, self.content, place = self.place, self.stream.read(CHUNK), 0
        if not self.content:
            raise ValueError("a page lies where the file is not")
        self.place += 1
        return self.content[place]

    def _unsigned(self) -> int:
        """Return a number that is written seven bits at a time, the last ones first."""
        value = shift = 0
        while shift < 35:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
        raise ValueError("the header of a page is damaged")

    def _integer(self) -> int:
        """Return a number whose sign is its last bit."""
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
