"""The score directory: what was scored, how it was decided, and a hash chain over the rows.

    scores.parquet   authoritative, one row per file (ScoreRow); scores.csv has the same rows
    slices.parquet   one row per slice of volumes (SliceRow); only where there are volumes
    groups.parquet   one row per patient or lot (GroupRow); groups.csv has the same rows
    timings.parquet  seconds per file, apart, so that equal inputs give equal tables
    chain.parquet    each row's hash and the chain's value after it
    outputs.parquet  every other file of the record, with its hash (OutputRow)
    heatmaps/        <path>_heatmap.<ext>, <path>_mask.png …, in the source's own grid
    cases/           pictures of the most anomalous and the most borderline images, for the report
    regions.json     outlines of what exceeds the pixel threshold, in COCO's format
    bootstrap.npz    each metric's value in every resample of the groups, where labels are known
    audit.json       model, calibration, command, counts, the hashes of all tables, and the head

The head stands for all of it: for the rows through their chain, for the other tables through their
hashes in audit.json, for the other files through outputs.parquet; for single row groups through the
trees in audit.json. report.html with its note report.json, signature.json, pushed.jsonl and reviews
are not part of the record. docs/formats.md is the specification.
"""

import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from anodetect.errors import RunError, one_line
from anodetect.files import atomic, sha256_of, sync_tree, write_atomic
from anodetect.record import audit as audits
from anodetect.record import format2
from anodetect.record.audit import Audit
from anodetect.record.chain import Chain, chain_end, head_of
from anodetect.record.merkle import CHAIN, OUTPUTS, Growing
from anodetect.record.objects import content_of, parsed
from anodetect.record.partial import LOCK
from anodetect.record.rows import (
    OK,
    ChainRow,
    GroupRow,
    OutputRow,
    ScoreRow,
    SliceRow,
    TimingRow,
    rows_of,
    to_table,
)
from anodetect.record.tables import (
    ParquetParts,
    Rows,
    chosen_columns,
    parts_of,
    read_table,
    write_table,
)
from anodetect.remote.paths import local

FORMAT, OLDEST = 3, 2
# Columns that scores.parquet has not always had.
ADDED = dict.fromkeys(("channels", "study", "prepared", "pixels_sha256", "truth_sha256"), "")
AUDIT_FILE = "audit.json"
JOURNAL = "journal.jsonl"  # only while a scoring is under way
PUSHED, PUSHED_LOCK = "pushed.jsonl", "pushed.lock"  # what an archive has taken
# Not among the outputs
OUTSIDE = (
    AUDIT_FILE,
    "report.html",
    "report.json",
    "signature.json",
    "study.json",
    "alike.parquet",
    JOURNAL,
    LOCK,
    PUSHED,
    PUSHED_LOCK,
)
# Of the app and of SQLite
REVIEWS = re.compile(r"reviews\.(sqlite(-wal|-shm|-journal)?|signed\.[0-9a-f]+\.json)")
BOOTSTRAP = "bootstrap.npz"
MOST_DRAWS = 10**6  # numbers of all metrics that are read
ADDED_TO_OUTPUTS = {"note": ""}  # columns that release 0.2 did not write
# The tables that pages are drawn from.
READ = ("scores.parquet", "groups.parquet", "slices.parquet", "outputs.parquet")


@dataclass(frozen=True)
class Tables:
    """The tables of a score directory, of the rows that each one names."""

    scores: Rows  # of ScoreRow
    groups: pa.Table = field(default_factory=lambda: to_table([], GroupRow))
    timings: Rows = field(default_factory=lambda: to_table([], TimingRow))
    slices: pa.Table = field(default_factory=lambda: to_table([], SliceRow))
    outputs: Rows = field(default_factory=lambda: to_table([], OutputRow))


class StoredRows:
    """The rows of a score directory, which need not be in memory together, and what audit.json says
    of them."""

    path: Path
    audit: Audit

    @property
    def stored(self) -> Rows:
        """The rows of ScoreRow, in a table or a file."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.stored)

    def parts(self) -> Iterator[pa.Table]:
        """Yield the rows in order, PART at a time; an empty table if there are none."""
        return parts_of(self.stored)

    def each(self) -> Iterator[ScoreRow]:
        """Yield the rows, none of which is kept."""
        for part in self.parts():
            yield from rows_of(part, ScoreRow)

    def each_scored(self) -> Iterator[ScoreRow]:
        """Yield the rows with a score, none of which is kept."""
        return (row for row in self.each() if row.status == OK)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of all rows."""
        return chosen_columns(self.parts(), names)

    @cached_property
    def in_order(self) -> bool:
        """True if the path of each row comes after that of the row before."""
        last = ""
        for part in self.parts():
            paths = part["path"].to_pylist()
            if any(first >= second for first, second in pairwise([last, *paths])):
                return False
            last = paths[-1] if paths else last
        return True

    @property
    def stored_outputs(self) -> Rows:
        """The rows of OutputRow of every file of the record that is no table; RunError while they
        are read if they cannot be."""
        return _outputs(self.path, self.audit.format)

    @property
    def links(self) -> ParquetParts:
        """The rows of ChainRow, in the order in which the rows were written; RunError while they
        are read if they cannot be."""
        return ParquetParts(self.path / CHAIN, ChainRow, {})

    @property
    def timings(self) -> ParquetParts:
        """The rows of TimingRow; RunError while they are read if they cannot be."""
        return ParquetParts(self.path / "timings.parquet", TimingRow, {})


@dataclass(frozen=True)
class ScoreDirectory(StoredRows):
    """A score directory as it was read: what audit.json says, and a table of ScoreRow, which takes
    a tenth of the memory of `rows`."""

    path: Path
    audit: Audit
    table: pa.Table

    @property
    def stored(self) -> Rows:
        return self.table

    @cached_property
    def rows(self) -> list[ScoreRow]:
        return list(self.each())

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The places of the rows, from 0, by their paths."""
        return {row.path: number for number, row in enumerate(self.rows)}

    def row_at(self, number: int) -> ScoreRow:
        """Return the row at a place; raise IndexError where there is none."""
        return self.rows[number]

    def scored(self) -> list[ScoreRow]:
        """Return the rows with a score."""
        return [row for row in self.rows if row.status == OK]

    @cached_property
    def outputs(self) -> pa.Table:
        """The table of OutputRow; RunError if it cannot be read."""
        return read_outputs(self.path)

    def output_hash(self, name: str) -> str:
        """Return the hash that was recorded of an output; "" if there is none of this name."""
        place = pc.index(self.outputs["name"], name).as_py()
        return "" if place < 0 else str(self.outputs["sha256"][place])


@dataclass(frozen=True)
class LongDirectory(StoredRows):
    """A score directory whose rows stay in their file, and are read a part at a time."""

    path: Path
    audit: Audit
    file: ParquetParts

    @property
    def stored(self) -> Rows:
        return self.file


# -- Writing ---------------------------------------------------------------------------------------


def prepare(path: Path, allowed: Sequence[str] = ()) -> None:
    """Make an empty score directory; RunError if something is there already, other than files
    `allowed`."""
    local(path, "records but those of score are written")
    refuse_used(path, allowed)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made ({error.strerror})") from None


def refuse_used(path: Path, allowed: Sequence[str] = ()) -> None:
    """Raise RunError if something is here already, other than an empty folder or files
    `allowed`."""
    if path.exists():
        others = [path] if not path.is_dir() else path.iterdir()
        if any(child.name not in allowed for child in others):
            state = " and is not an empty folder;"
            if (path / JOURNAL).exists():
                state = " and holds an interrupted scoring: continue it with --resume, or"
            raise RunError(f"{path} already exists{state} choose another --out")


def write(path: Path, audit: Audit, tables: Tables, chain: pa.Table | None = None) -> str:
    """Write the tables and, when all that lies here is on the disk, audit.json; return the head.

    What `audit` says of format, rows, chain, trees, tables and head is replaced. `chain` is a table
    of ChainRow, by default that of all rows.
    """
    made = Chain(tables.scores) if chain is None else chain
    outputs, links = Growing(OUTPUTS, tables.outputs), Growing(CHAIN, made)
    written = [
        *write_table(path / "scores", tables.scores, ("parquet", "csv")),
        *write_table(path / "groups", tables.groups, ("parquet", "csv")),
        *write_table(path / "timings", tables.timings),
        *write_table(path / "outputs", outputs),
        *write_table(path / "chain", links),
    ]
    if len(tables.slices):
        written += write_table(path / "slices", tables.slices)

    audit = replace(
        audit,
        format=FORMAT,
        rows=len(made),
        chain=chain_end(made),
        trees={each.name: each.tree for each in (links, outputs)},
        tables={file.name: sha256_of(file) for file in sorted(written)},
    )
    content = audits.to_json(audit)
    content["head"] = head_of(content)
    sync_tree(path)
    write_atomic(path / AUDIT_FILE, json.dumps(content, indent=2) + "\n")
    return str(content["head"])


def write_draws(path: Path, draws: Mapping[str, NDArray[np.float64]]) -> None:
    """Write the resampled values of each metric, for paired comparisons."""
    with atomic(path / BOOTSTRAP) as file:
        np.savez_compressed(file, allow_pickle=False, **draws)


def read_draws(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return what `write_draws` wrote; RunError if the file is none of its own, or holds more
    numbers than MOST_DRAWS."""
    file, draws = path / BOOTSTRAP, dict[str, NDArray[np.float64]]()
    try:
        with zipfile.ZipFile(io.BytesIO(content_of(file))) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > 8 * MOST_DRAWS:
                raise ValueError("too large")
            for member in members:
                name, content = member.filename.removesuffix(".npy"), archive.read(member)
                draws[name] = _draws_in(content)
    except (ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{file}: not readable ({one_line(error)})") from None
    return draws


def _draws_in(content: bytes) -> NDArray[np.float64]:
    """Return the numbers of a file of NumPy; ValueError if it is no list of float64, or does not
    hold as many as it says."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of NumPy's format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    values = content[stream.tell() :]
    if dtype != np.dtype("<f8") or len(shape) != 1 or 8 * shape[0] != len(values):
        raise ValueError("no list of float64")
    return np.frombuffer(values, np.dtype("<f8"))


def picture_of(path: Path, identity: str) -> Path:
    """Return where a score directory keeps the picture of an image, if it keeps one."""
    return path / "cases" / f"{sha256(identity.encode()).hexdigest()[:20]}.jpg"


# -- Reading ---------------------------------------------------------------------------------------


def read(path: Path) -> ScoreDirectory:
    """Read a score directory; RunError if it is none, unfinished or of a newer release."""
    audit = read_audit(path)
    file = path / "scores.parquet"
    if not file.is_file():
        raise _unfinished(path, file.name)
    return ScoreDirectory(path, audit, read_table(file, ScoreRow, _added(audit.format)))


def opened(path: Path) -> LongDirectory:
    """Return a score directory whose rows are not kept in memory; RunError as for `read`, for which
    all of them are read once."""
    audit = read_audit(path)
    rows = score_parts(path, audit.format)
    for _ in rows.parts():
        pass
    return LongDirectory(path, audit, rows)


def read_audit(path: Path) -> Audit:
    """Return what the audit.json of a score directory says; RunError as for `read`."""
    return _audit_of(path, audit_content(path))


def _audit_of(path: Path, content: dict[str, Any]) -> Audit:
    """Return what audit.json says; RunError if it is not readable."""
    try:
        if content["format"] == format2.FORMAT:
            content = format2.converted(content)
        return audits.from_json(content)
    except ValueError as error:
        raise RunError(f"{path}: not a readable score directory ({one_line(error)})") from None


def score_parts(path: Path, version: int) -> ParquetParts:
    """Return the rows of a score directory, of the format with this number, to be read a part at a
    time; RunError if there are none."""
    file = path / "scores.parquet"
    if not file.is_file():
        raise _unfinished(path, file.name)
    return ParquetParts(file, ScoreRow, _added(version))


def hashes_below(path: Path, folder: str) -> dict[str, str]:
    """Return the hashes that were recorded of the outputs whose names start with `folder`, by their
    names."""
    found = dict[str, str]()
    for part in parts_of(_outputs(path, audit_content(path)["format"])):
        chosen = part.filter(pc.starts_with(part["name"], folder))
        found |= dict(zip(chosen["name"].to_pylist(), chosen["sha256"].to_pylist(), strict=True))
    return found


def row_count(path: Path) -> int:
    """Return how many rows audit.json counts, 0 for a record of an older format; RunError if there
    is no score directory."""
    content = audit_content(path)
    count = content.get("rows")
    return count if content["format"] == FORMAT and isinstance(count, int) else 0


def read_audit_as_written(path: Path) -> Audit:
    """Return what audit.json says, without reading any table; RunError if it is not what was
    written."""
    content = audit_content(path)
    if not _is_as_written(content):
        raise changed_error(path, [AUDIT_FILE])
    return _audit_of(path, content)


def audit_content(path: Path) -> dict[str, Any]:
    """Return audit.json as JSON values; RunError if there is none, or of a format that is not
    read."""
    local(path, "records are read")
    try:
        if not (path / AUDIT_FILE).exists():
            raise _unfinished(path, AUDIT_FILE)
        content = parsed(content_of(path / AUDIT_FILE))
        version = int(content["format"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise RunError(f"{path}: not a readable score directory ({one_line(error)})") from None

    if version > FORMAT:
        raise RunError(
            f"{path}: format {version} is newer than this release reads ({FORMAT}); update "
            "anodetect"
        )
    if version < OLDEST:
        raise RunError(
            f"{path}: format {version} is that of a version before the first release; score anew"
        )
    return dict(content)


def _unfinished(path: Path, missing: str) -> RunError:
    if not path.is_dir():
        missing = "not a folder" if path.exists() else "no such folder"
        return RunError(f"{path}: not a finished score directory ({missing})")
    state = "; it was interrupted, or is being written" if (path / JOURNAL).exists() else ""
    return RunError(f"{path}: not a finished score directory (no {missing}){state}")


def read_as_written(path: Path) -> ScoreDirectory:
    """Read a score directory as `read` does; RunError also if audit.json or a table that is read
    is not what was written."""
    content = audit_content(path)
    wrong = [] if _is_as_written(content) else [AUDIT_FILE]
    if not wrong:
        scored = read(path)
        wrong = changed_tables(path, scored.audit)

    if wrong:
        raise changed_error(path, wrong)
    return scored


def refuse_changed(path: Path) -> None:
    """Raise RunError if audit.json or a table that is read is not what was written."""
    if wrong := changed_tables(path, read_audit_as_written(path)):
        raise changed_error(path, wrong)


def changed_tables(path: Path, audit: Audit) -> list[str]:
    """Return the names of the tables that pages are drawn from and that are not what was
    written."""
    names = format2.READ if audit.format == format2.FORMAT else READ
    wrong = []
    for name in names:
        digest = sha256_of(path / name) if (path / name).is_file() else None
        if digest != audit.tables.get(name):
            wrong.append(name)
    return wrong


def _is_as_written(content: Mapping[str, Any]) -> bool:
    try:
        return bool(head_of(content) == content["head"])
    except (KeyError, TypeError, AttributeError):
        return False


def changed_error(path: Path, names: Sequence[str]) -> RunError:
    """Return the error for files of a record that are not what was written."""
    return RunError(
        f"{path}: {', '.join(names)} changed or missing since the images were scored; "
        "anodetect verify says what else is; put back a copy, or score again"
    )


def read_tables(path: Path) -> Tables:
    """Return the tables of a score directory; RunError if one cannot be read."""
    added = _added(audit_content(path)["format"])
    return Tables(
        scores=read_table(path / "scores.parquet", ScoreRow, added),
        groups=group_table(path),
        timings=read_table(path / "timings.parquet", TimingRow),
        slices=slice_table(path),
        outputs=read_outputs(path),
    )


def _added(number: int) -> Mapping[str, str]:
    """Return the columns of scores.parquet that a format with this number does not have."""
    return format2.ADDED if number == format2.FORMAT else ADDED


def read_outputs(path: Path) -> pa.Table:
    """Return a table of OutputRow of every file of the record that is no table."""
    content = audit_content(path)
    if content["format"] == format2.FORMAT:
        return format2.output_table(content)
    return read_table(path / OUTPUTS, OutputRow, ADDED_TO_OUTPUTS)


def _outputs(path: Path, number: int) -> Rows:
    """Return the rows that `read_outputs` returns, of a format with this number, to be read a part
    at a time."""
    if number == format2.FORMAT:
        return read_outputs(path)
    return ParquetParts(path / OUTPUTS, OutputRow, ADDED_TO_OUTPUTS)


def group_table(path: Path) -> pa.Table:
    """Return a table of GroupRow."""
    if audit_content(path)["format"] == format2.FORMAT:
        return format2.read_groups(path)
    return read_table(path / "groups.parquet", GroupRow)


def slice_table(path: Path) -> pa.Table:
    """Return a table of SliceRow of all volumes; an empty one where there are only images."""
    file = path / "slices.parquet"
    return read_table(file, SliceRow) if file.is_file() else to_table([], SliceRow)


def read_chain(path: Path) -> list[ChainRow]:
    """Return for each row as it was written its path, its hash and the chain's value after it."""
    return list(rows_of(read_table(path / "chain.parquet", ChainRow), ChainRow))


def read_groups(path: Path) -> list[GroupRow]:
    """Return the patients or lots, their names as they are in scores.parquet."""
    return list(rows_of(group_table(path), GroupRow))


def read_slices(path: Path) -> list[SliceRow]:
    """Return the slices of all volumes; none where there are only images."""
    return list(rows_of(slice_table(path), SliceRow))


def read_timings(path: Path) -> list[TimingRow]:
    """Return the seconds for each path."""
    return list(rows_of(read_table(path / "timings.parquet", TimingRow), TimingRow))


def files(path: Path) -> Iterator[str]:
    """Yield the names of all that lies below `path` beside folders and what is outside a record:
    also links, pipes, and what an interrupted write has left."""
    folders = [path]
    while folders:
        try:
            entries = os.scandir(folders.pop())
        except OSError:
            continue  # which nobody may look into

        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                    continue
                name = Path(entry.path).relative_to(path).as_posix()
                if name not in OUTSIDE and not REVIEWS.fullmatch(name):
                    yield name
