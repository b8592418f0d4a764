"""The rows of every table that is written, and the line of the journal.

A row is a frozen dataclass. This module is the only place that turns rows into Arrow tables or
JSON, and back. The Arrow schema of a table follows from the fields of its row: text is `string`,
`int` is `int32`, `float` is `float64`, `bool` is `bool`, unless a field names another type.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import pyarrow as pa
from pyarrow import compute as pc
from pydantic import TypeAdapter, ValidationError

OK, FAILED, SKIPPED = "ok", "failed", "skipped"  # the values of `status`
# Reasons why a slice has no score, the values of `unscored`.
LITTLE_FOREGROUND = "too little foreground"
UNSEEN = "outside what the model has seen"
MOSTLY_UNSEEN = f"most of its slices lie {UNSEEN}, and what the others say may not hold"
LONGEST_TEXT = 2**17  # bytes, as many as a field of a CSV file may have
AT_ONCE = 256  # rows that exist as Python objects at a time
ARROW_TYPES = {str: pa.string(), int: pa.int32(), float: pa.float64(), bool: pa.bool_()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The base of all rows. None stands where nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow(Row):
    """One file, image or volume: a row of scores.parquet and scores.csv.

    `path` is POSIX text relative to the input root. `sha256` is that of the bytes that were
    decoded. `score` is larger for more anomalous images; `p_value` and `q_value` lie in (0, 1];
    they, `flagged` and `threshold` are None without calibration images.
    `heatmap` is the file of the float map, "" where none was written. Sizes are in pixels or
    voxels of the source; `depth` is that of a volume, None for an image. `status` is OK, FAILED or
    SKIPPED, and `error` says why. `label` is 0 for normal, 1 for anomalous. `differs` says how the
    file differs from what the model has seen, "" if it does not. `channels` has, as JSON, the name,
    path and SHA-256 of each file of a row that several channels make up; then `path` is that of the
    first, and `sha256` that of their names and hashes. `study` is the DICOM study or BIDS session
    that the file is of, of DICOM by its pseudonym; "" where it is not known. `prepared` says how a
    brain was prepared before the model saw it, "" if nothing was done. `pixels_sha256` is the hash
    of what was decoded, which copies in other formats share; "" where nothing was; `truth_sha256`
    is that of the true mask that pixels were measured with, "" without one.
    """

    path: str
    sha256: str | None = None
    group: str
    score: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    flagged: bool | None = None
    threshold: float | None = None
    heatmap: str = ""
    width: int | None = None
    height: int | None = None
    depth: int | None = None
    model_sha256: str
    status: str
    error: str = ""
    label: int | None = field(default=None, metadata={"arrow": pa.int8()})
    kind: str | None = None
    acquired: str | None = None
    differs: str = ""
    channels: str = ""
    study: str = ""
    prepared: str = ""
    pixels_sha256: str = ""
    truth_sha256: str = ""

    @property
    def is_volume(self) -> bool:
        return bool(self.depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow(Row):
    """One slice of a volume: a row of slices.parquet.

    `slice` is its index in the source, from 0, along the axis of the plane `axis`. The three
    places in millimetres are those of its middle in the patient. `foreground` is a share, 0 to 1.
    `unscored` says why there is no score, "" where there is one.
    """

    path: str
    group: str
    axis: str
    slice: int
    left_mm: float
    posterior_mm: float
    superior_mm: float
    foreground: float = field(metadata={"arrow": pa.float32()})
    score: float | None = None
    p_value: float | None = None
    flagged: bool | None = None
    unscored: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow(Row):
    """One patient or lot: a row of groups.parquet and groups.csv. `score` is the highest of its
    images. Nothing is decided without calibration images."""

    group: str
    images: int
    score: float
    p_value: float | None
    q_value: float | None
    flagged: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRow(Row):
    """One file that a scoring wrote.

    `name` is its place below the score directory, `path` the input it belongs to ("" for none),
    `kind` the name of its output format, such as "tiff". `note` says what is to be known of it,
    such as that it was resampled, "" for nothing.
    """

    name: str
    path: str
    kind: str
    sha256: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRow(Row):
    """The seconds that the model took for one file: a row of timings.parquet."""

    path: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRow(Row):
    """The hash of one row of scores.parquet, and the chain's value after it: a row of
    chain.parquet."""

    path: str
    row: str
    chain: str


@dataclass(frozen=True, slots=True)
class Region:
    """A region of a heatmap that counts, in COCO's terms.

    `segmentation` has outlines x, y, x, y, … in pixels, where (0, 0) is the corner of the upper
    left pixel, one for each part that touches the others over corners only; holes are not cut out.
    `area` counts pixels, `bbox` is x, y, width, height, `score` is the highest value inside,
    `strength` the statistic by which it counts, 0 in files of older releases.
    """

    segmentation: tuple[tuple[float, ...], ...]
    area: int
    bbox: tuple[int, int, int, int]
    score: float
    strength: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """All that is kept of a file that was scored: its row, and what was written for it.

    `seconds` is the time the model took, on `threads` threads of the machine whose versions and
    hardware have the hash `host`.
    """

    row: ScoreRow
    seconds: float
    threads: int
    host: str
    outputs: tuple[OutputRow, ...] = ()
    regions: tuple[Region, ...] = ()
    slices: tuple[SliceRow, ...] = ()


R = TypeVar("R", bound=Row)


# -- Arrow -----------------------------------------------------------------------------------------


def schema_of(row_type: type[Row]) -> pa.Schema:
    """Return the columns of a table of these rows, in the order of their fields."""
    hints = get_type_hints(row_type)
    columns = []
    for each in fields(row_type):
        hint = hints[each.name]
        python_type = get_args(hint)[0] if get_args(hint) else hint  # of `str | None` the first
        columns.append((each.name, each.metadata.get("arrow", ARROW_TYPES[python_type])))
    return pa.schema(columns)


def required_columns(row_type: type[Row]) -> tuple[str, ...]:
    """Return the names of the columns in which no row may lack a value."""
    hints = get_type_hints(row_type)
    return tuple(each.name for each in fields(row_type) if not get_args(hints[each.name]))


def values_of(row: Row) -> dict[str, Any]:
    """Return a row's values by the names of their columns."""
    return {each.name: getattr(row, each.name) for each in fields(row)}


class TableBuilder(Generic[R]):
    """Makes a table of rows that come one at a time, and keeps little more than the table takes."""

    def __init__(self, row_type: type[R]) -> None:
        self.schema = schema_of(row_type)
        self.parts: list[pa.Table] = [self.schema.empty_table()]
        self.waiting: list[R] = []

    def add(self, row: R) -> None:
        self.waiting.append(row)
        if len(self.waiting) == AT_ONCE:
            self._flush()

    def extend(self, rows: Iterable[R]) -> None:
        for row in rows:
            self.add(row)

    def add_table(self, table: pa.Table) -> None:
        """Add the rows of a table."""
        self._flush()
        self.parts.append(table)

    def _flush(self) -> None:
        values = [values_of(row) for row in self.waiting]
        self.parts.append(pa.Table.from_pylist(values, self.schema))
        self.waiting = []

    def table(self) -> pa.Table:
        """Return the table of all rows that were added."""
        self._flush()
        self.parts = [pa.concat_tables(self.parts).combine_chunks()]
        return self.parts[0]


def to_table(rows: Iterable[R], row_type: type[R]) -> pa.Table:
    """Return the rows as an Arrow table with the columns `schema_of(row_type)`."""
    builder = TableBuilder(row_type)
    builder.extend(rows)
    return builder.table()


def rows_of(table: pa.Table, row_type: type[R]) -> Iterator[R]:
    """Yield the rows of an Arrow table; AT_ONCE of them exist at a time."""
    for batch in table.to_batches(max_chunksize=AT_ONCE):
        for values in batch.to_pylist():
            yield row_type(**values)


def check_columns(table: pa.Table, row_type: type[Row]) -> None:
    """Raise ValueError if the table does not have the columns of these rows, if a value is missing
    in a column that must have one, or if a text is longer than any name."""
    expected = schema_of(row_type)
    for column in expected:
        place = table.schema.get_field_index(column.name)
        if place < 0 or table.schema.field(place).type != column.type:
            raise ValueError(f"the column {column.name} is missing or of another type")
    if table.schema.names != expected.names:
        raise ValueError(f"its columns are not {', '.join(expected.names)}")
    for name in required_columns(row_type):
        if table[name].null_count:
            raise ValueError(f"the column {name} lacks values")
    for column in expected:
        if column.type == pa.string():
            longest = pc.max(pc.binary_length(table[column.name])).as_py()
            if (longest or 0) > LONGEST_TEXT:
                raise ValueError(f"the column {column.name} has a text of {longest} bytes")


# -- JSON ------------------------------------------------------------------------------------------


@cache
def _entry_adapter() -> TypeAdapter[JournalEntry]:
    return TypeAdapter(JournalEntry)


def entry_to_json(entry: JournalEntry) -> bytes:
    """Return the entry as one line of JSON, without its end; NaN and infinity become null."""
    return _entry_adapter().dump_json(entry)


def entry_from_json(line: bytes | str) -> JournalEntry:
    """Return the entry that `entry_to_json` wrote; ValueError names what is missing or wrong."""
    try:
        return _entry_adapter().validate_json(line, strict=True)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found, with its place, in one line."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg'].lower()}" if place else problem["msg"].lower()
