"""The score directory: what was scored, how it was decided, and a hash chain over the rows.

    scores.parquet   authoritative, one row per image (columns: COLUMNS); scores.csv has the same rows
    slices.parquet   one row per slice, where there are volumes: its place in the patient, and its score
    groups.csv       one row per patient or lot
    timings.parquet  seconds per image, apart, so that equal inputs give equal tables
    regions.json     outlines of what exceeds the pixel threshold, in COCO's format
    chain.parquet    each row's hash and the chain's value after it
    heatmaps/        <path>_heatmap.<ext> and <path>_mask.png, in the image's own grid
    bootstrap.npz    each metric's value in every resample of the groups, where labels are known
    cases/           pictures of the most anomalous and the most borderline images, for the report
    audit.json       model, calibration, command, counts, the head and the hash of every output

The chain: h_0 = sha256(""), h_n = sha256(h_{n−1} ‖ r_n) with r_n = sha256(canonical JSON of row n).
Rows in order of their paths give equal chains for equal results. The head, sha256(h_N ‖ canonical
JSON of audit.json without it), stands for everything; report.html, signature.json and reviews stand
outside it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc
from pyarrow import csv as pa_csv
from pyarrow import parquet

from anodetect.config import canonical, canonical_parts, without_nan
from anodetect.errors import RunError
from anodetect.files import WRITING, atomic, sha256_of, walk
from anodetect.record.rows import (
    AT_ONCE,
    OK,
    ChainRow,
    GroupRow,
    ScoreRow,
    SliceRow,
    TableBuilder,
    TimingRow,
    check_columns,
    rows_of,
    schema_of,
    to_table,
    values_of,
)

FORMAT = 2
EMPTY = sha256(b"").hexdigest()  # where a chain begins
AUDIT_FILE = "audit.json"
JOURNAL, LOCK = "journal.jsonl", ".lock"  # only while a scoring is under way
OUTSIDE = (
    AUDIT_FILE,
    "report.html",
    "signature.json",
    JOURNAL,
    LOCK,
)  # not among the hashed outputs
AUDIT = (
    "detector", "data", "model_sha256", "facts", "far", "fdr", "statement", "scale", "calibration", "command", "ended",
    "counts", "cases", "environment", "outputs", "rows", "chain", "head",
)  # fmt: skip
BOOTSTRAP = "bootstrap.npz"  # each metric over resampled groups, where labels are known
OUTPUT_COLUMNS = pa.schema([("name", pa.string()), ("sha256", pa.string())])
PART = 4096  # rows of a table that are written at a time
MOST_REASONS = 30  # that are told apart
OUTPUTS_TEXT = re.compile(
    rb'(?<=\n  "outputs": {).*?(?=\n  })', re.DOTALL
)  # in audit.json as it is written here
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class ScoreDirectory:
    path: Path
    audit: dict[str, Any]
    table: pa.Table  # of ScoreRow; of very many files a tenth of what `rows` takes

    @cached_property
    def rows(self) -> list[ScoreRow]:
        return list(self.each())

    def each(self) -> Iterator[ScoreRow]:
        """Yield the rows, none of which is kept."""
        return rows_of(self.table, ScoreRow)

    def scored(self) -> list[ScoreRow]:
        return [row for row in self.rows if row.status == OK]


def in_error(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows say what went wrong: with scoring, or with writing what was scored."""
    return np.asarray(pc.fill_null(pc.not_equal(rows["error"], ""), False), bool)


def failures(rows: pa.Table) -> list[tuple[str, int, str]]:
    """(reason, how many, an example) of the rows in error, the most frequent reasons first.
    Decoders have a message for every file, so of rare reasons only the number is told."""
    table = rows.filter(pa.array(in_error(rows))).select(["error", "path"])
    counted = (
        table.group_by("error", use_threads=False)
        .aggregate([("path", "count"), ("path", "first")])
        .to_pylist()
    )
    counted.sort(key=lambda each: -each["path_count"])
    ranked = [(each["error"], each["path_count"], each["path_first"]) for each in counted]
    rest = ranked[MOST_REASONS:]
    others = (
        [(f"{len(rest)} other reasons", sum(count for _, count, _ in rest), rest[0][2])]
        if rest
        else []
    )
    return ranked[:MOST_REASONS] + others


def row_hash(row: ScoreRow) -> str:
    """Return the hash of one row, whatever the order of its columns."""
    return sha256(canonical(without_nan(values_of(row)))).hexdigest()


def chain(hashes: Iterable[str], value: str = EMPTY) -> Iterator[str]:
    """The chain's value after each of these rows, which begins from `value`."""
    for each in hashes:
        value = sha256(f"{value}{each}".encode()).hexdigest()
        yield value


def head_of(audit: Mapping[str, Any]) -> str:
    """The hash that stands for the rows, through their chain, and for all else `audit`, which is
    JSON, says."""
    digest = sha256(audit["chain"].encode())
    for part in canonical_parts({key: value for key, value in audit.items() if key != "head"}):
        digest.update(part)
    return digest.hexdigest()


def prepare(path: Path, allowed: Sequence[str] = ()) -> None:
    """Make an empty score directory; RunError if something is there already, other than files
    `allowed`."""
    if path.exists() and (
        not path.is_dir() or any(child.name not in allowed for child in path.iterdir())
    ):
        begun = (
            " and holds an interrupted scoring: continue it with --resume, or"
            if (path / JOURNAL).exists()
            else ""
        )
        raise RunError(
            f"{path} already exists{begun or ' and is not an empty folder;'} choose another --out"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made ({error.strerror})") from None


def write(
    path: Path,
    rows: pa.Table,
    audit: Mapping[str, Any],
    groups: pa.Table | None = None,
    timings: pa.Table | None = None,
    slices: pa.Table | None = None,
) -> str:
    """Write the tables and, last of all, audit.json; the head is returned."""
    chained = TableBuilder(ChainRow)
    last = EMPTY
    for row in rows_of(rows, ScoreRow):
        own = row_hash(row)
        (last,) = chain([own], last)
        chained.add(ChainRow(path=row.path, row=own, chain=last))
    _write_table(path / "scores", rows)
    _write_table(
        path / "groups", to_table([], GroupRow) if groups is None else groups, formats=("csv",)
    )
    timings = to_table([], TimingRow) if timings is None else timings
    _write_table(path / "timings", timings, formats=("parquet",))
    if slices:
        _write_table(path / "slices", slices, formats=("parquet",))
    _write_table(path / "chain", chained.table(), formats=("parquet",))
    names = files(path)
    outputs = pa.table([names, [sha256_of(path / name) for name in names]], schema=OUTPUT_COLUMNS)
    return _write_audit(
        path, without_nan({**audit, "format": FORMAT, "rows": len(rows), "chain": last}), outputs
    )


def _write_audit(path: Path, audit: dict[str, Any], outputs: pa.Table) -> str:
    """Write audit.json with its head, which is returned. Of outputs there may be very many: none of
    their spellings is made as a whole. They are in the order of their names, as canonical JSON has
    them."""
    others = {key: value for key, value in audit.items() if key not in ("outputs", "head")}
    before, after = (
        {k: v for k, v in others.items() if (k < "outputs") == first} for first in (True, False)
    )
    digest = sha256(audit["chain"].encode() + canonical(before)[:-1] + b',"outputs":{')
    for part in _spelled(outputs, ",", ":"):
        digest.update(part)
    digest.update(b"}," + canonical(after)[1:])
    head = digest.hexdigest()
    with atomic(path / AUDIT_FILE) as file:
        file.write(json.dumps(others, indent=2).removesuffix("\n}").encode() + b',\n  "outputs": {')
        for part in _spelled(outputs, ",\n    ", ": ", "\n    "):
            file.write(part)
        file.write(b"\n  },\n" + f'  "head": "{head}"\n}}\n'.encode())
    return head


def _spelled(outputs: pa.Table, between: str, colon: str, first: str = "") -> Iterator[bytes]:
    for batch in outputs.to_batches(max_chunksize=AT_ONCE):
        for row in batch.to_pylist():
            yield f'{first}{json.dumps(row["name"])}{colon}"{row["sha256"]}"'.encode()
            first = between


def files(path: Path) -> list[str]:
    """The outputs the head stands for, relative to `path`; not what an interrupted write has left."""
    found = (
        file.relative_to(path).as_posix()
        for file in walk(path)
        if not file.name.startswith(WRITING)
    )
    return sorted(name for name in found if name not in OUTSIDE and not name.startswith("reviews."))


def write_draws(path: Path, draws: Mapping[str, NDArray[np.float64]]) -> None:
    """Write the resampled values of each metric, for paired comparisons."""
    with atomic(path / BOOTSTRAP) as file:
        np.savez_compressed(file, allow_pickle=False, **draws)


def read(path: Path, *, outputs: bool = True) -> ScoreDirectory:
    """Read a score directory; RunError if it is none, unfinished or of a newer release. Without
    `outputs` the list of them is left empty, which spares much of the memory that very many files
    take."""
    try:
        text = (path / AUDIT_FILE).read_bytes()
        audit = json.loads((text if outputs else OUTPUTS_TEXT.sub(b"", text)).decode("utf-8"))
        del text
        if audit["format"] > FORMAT:
            raise RunError(
                f"{path}: format {audit['format']} is newer than this release reads ({FORMAT}); update anodetect"
            )
        if audit["format"] < FORMAT:
            raise RunError(
                f"{path}: format {audit['format']} is that of a version before the first release; score anew"
            )
        lacking = [key for key in AUDIT if key not in audit]
        if lacking:
            raise RunError(f"{path}: audit.json lacks {', '.join(lacking)}")
        rows = parquet.read_table(path / "scores.parquet")
        check_columns(rows, ScoreRow)
    except FileNotFoundError as error:
        state = "; it was interrupted, or is being written" if (path / JOURNAL).exists() else ""
        raise RunError(
            f"{path}: not a finished score directory (no {Path(error.filename).name}){state}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: not a readable score directory ({error})") from None
    return ScoreDirectory(path, audit, rows)


def read_chain(path: Path) -> list[ChainRow]:
    """Return for each row as it was written its path, its hash and the chain's value after it."""
    try:
        table = parquet.read_table(path / "chain.parquet", schema=schema_of(ChainRow))
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: chain.parquet cannot be read ({error})") from None
    return list(rows_of(table, ChainRow))


def picture_of(path: Path, identity: str) -> Path:
    """Where a score directory keeps the picture of an image, if it was worth one."""
    return path / "cases" / f"{sha256(identity.encode()).hexdigest()[:20]}.jpg"


def read_groups(path: Path) -> list[GroupRow]:
    """Return the rows of groups.csv, their names as they are in scores.parquet."""
    try:
        types = pa_csv.ConvertOptions(column_types=schema_of(GroupRow), strings_can_be_null=False)
        groups = pa_csv.read_csv(path / "groups.csv", convert_options=types)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: groups.csv cannot be read ({error})") from None
    return [replace(group, group=with_formulas(group.group)) for group in rows_of(groups, GroupRow)]


def read_timings(path: Path) -> pa.Table:
    """Seconds for each path."""
    return parquet.read_table(path / "timings.parquet")


def slice_table(path: Path) -> pa.Table:
    """Return the slices of all volumes, a table of SliceRow; none where there are only images."""
    file = path / "slices.parquet"
    return parquet.read_table(file) if file.is_file() else to_table([], SliceRow)


def read_slices(path: Path) -> list[SliceRow]:
    """Return the slices of all volumes; none where there are only images."""
    return list(rows_of(slice_table(path), SliceRow))


def _write_table(stem: Path, table: pa.Table, formats: Sequence[str] = ("parquet", "csv")) -> None:
    """A table in parts, so that a long one needs no more memory than a short one."""
    with ExitStack() as stack:
        writers: list[Any] = []
        for name in formats:
            file = stack.enter_context(atomic(stem.with_suffix(f".{name}")))
            kind = parquet.ParquetWriter if name == "parquet" else pa_csv.CSVWriter
            writers.append(stack.enter_context(kind(file, table.schema)))
        for start in range(0, len(table), PART) or [0]:
            part = table.slice(start, PART)
            for name, writer in zip(formats, writers, strict=True):
                writer.write_table(without_formulas(part) if name == "csv" else part)


def with_formulas(text: str) -> str:
    """What `without_formulas` made this text of."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA_STARTS) else text


def without_formulas(table: pa.Table) -> pa.Table:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    for index, column in enumerate(table.schema):
        if column.type == pa.string():
            safe = [
                f"'{text}" if text and text.startswith(FORMULA_STARTS) else text
                for text in table[index].to_pylist()
            ]
            table = table.set_column(index, column, pa.array(safe, pa.string()))
    return table
