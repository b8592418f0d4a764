"""Merge: the score directories of all shards in, one out."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from anodetect.commands.conclude import (
    Gathered,
    conclude,
    say_head,
    where_scored,
    written_in,
)
from anodetect.commands.labelled import measure_of
from anodetect.commands.results import MergeResult
from anodetect.errors import RunError
from anodetect.files import inside
from anodetect.output import report
from anodetect.output.cases import Cases
from anodetect.output.regions import read_regions
from anodetect.record import audit as audits
from anodetect.record import directories, environment, format2, verification
from anodetect.record.audit import Audit, ShownCases
from anodetect.record.directories import StoredRows
from anodetect.record.partial import new_directory
from anodetect.record.rows import OutputRow, Region, rows_of
from anodetect.record.tables import parts_of
from anodetect.remote.paths import local
from anodetect.types import Reporter, Silent
from anodetect.words import amount

HEATMAPS = "heatmaps/"  # the outputs that are copied; all others are made anew
ALIKE = (
    "format", "model_sha256", "far", "fdr", "heatmaps", "keep", "calibration", "identifiers", "roi",
)  # fmt: skip


def merge(
    parts: Sequence[Path | str],
    out: Path | str,
    *,
    command: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> MergeResult:
    """Join the score directories of all shards into `out`, and return what the whole amounts to.

    The tables are those that one machine would have written: p-values, q-values and flags are those
    of the whole. Pixel metrics are not joined. RunError if a part is missing or was changed, or if
    another process writes `out`, which is complete or absent.
    """
    out = local(out, "records are merged")
    reporter = reporter or Silent()
    directories.refuse_used(out)
    with new_directory(out, "this score directory") as workdir:
        shards = [directories.opened(Path(part)) for part in parts]
        _refuse_misfits(shards)
        result = _merge(shards, workdir, command, reporter)
        say_head(result.head, reporter)
        report.write(workdir)
    return replace(result, out=out)


def _merge(
    shards: Sequence[StoredRows], out: Path, command: Sequence[str], reporter: Reporter
) -> MergeResult:
    """Write the joined directory but for its report, and return what it amounts to."""
    with Gathered(out, lambda: _regions(shards)) as gathered:
        _gather(gathered, shards)
        return _conclude(gathered, shards, out, command, reporter)


def _conclude(
    gathered: Gathered,
    shards: Sequence[StoredRows],
    out: Path,
    command: Sequence[str],
    reporter: Reporter,
) -> MergeResult:
    """Write what was gathered of all parts, and return what it amounts to."""
    _refuse_duplicates(gathered.scores.parts())
    _copy_heatmaps(shards, out)
    cases = _joined_cases(shards, out)
    _warn_of_gaps(len(gathered.scores), [shard.audit for shard in shards], reporter)

    audits = [shard.audit for shard in shards]
    threads = {count for audit in audits for count in audit.threads}
    host, threads_used = where_scored({audit.host for audit in audits}, threads)
    scoring = replace(
        audits[0],
        shard="1/1",
        names=tuple(dict.fromkeys(name for audit in audits for name in audit.names)),
        merged_from=tuple(audit.head for audit in audits),
        started=min(audit.started for audit in audits),
        command=tuple(command),
        environment=environment.facts(),
        host=host,
        threads=threads_used,
        cases=cases,
        resumed=sum(audit.resumed for audit in audits),
    )
    rows = chain.from_iterable(shard.each() for shard in shards)
    return conclude(out, scoring, gathered, measure_of(rows, scoring), reporter)


def _gather(gathered: Gathered, shards: Sequence[StoredRows]) -> None:
    """Sort the rows of all parts; of outputs only the heatmaps."""
    for shard in shards:
        for part in parts_of(shard.stored_outputs):
            heatmaps = part.filter(pc.starts_with(part["name"], HEATMAPS))
            gathered.outputs.add_table(heatmaps)
            notes = heatmaps["note"].filter(pc.not_equal(heatmaps["note"], ""))
            gathered.notes.update(notes.to_pylist())
        for part in shard.timings.parts():
            gathered.timings.add_table(part)
        gathered.slices.add_table(directories.slice_table(shard.path))

        bits, place = _written_bits(shard), 0
        for part in shard.parts():
            own = pa.array(bits[place : place + len(part)])
            gathered.scores.add_table(part.append_column("written", own))
            place += len(part)


def _written_bits(shard: StoredRows) -> NDArray[np.int32]:
    """Return in which output formats each row of a part has files [n], as `FileRow` has it."""
    bits = np.zeros(shard.count, np.int32)
    written = written_in(shard.columns(["path"]), shard.stored_outputs, shard.audit.heatmaps)
    for number, has_file in enumerate(written.values()):
        bits |= has_file.astype(np.int32) << number
    return bits


def _regions(shards: Sequence[StoredRows]) -> Iterator[tuple[str, Region]]:
    """Yield each region of all parts with the path of its image."""
    for shard in shards:
        yield from read_regions(shard.path)


def _joined_cases(shards: Sequence[StoredRows], out: Path) -> ShownCases:
    """Copy the pictures of the images that rank first in the whole, and return their paths."""
    audit = shards[0].audit
    threshold = np.inf if audit.far is None else audit.calibration.threshold(audit.far)
    cases = Cases(out, threshold, audit.scale)
    for shard in shards:
        shown = {*shard.audit.cases.highest, *shard.audit.cases.borderline}
        for row in shard.each():
            if row.path in shown and row.score is not None:
                source = directories.picture_of(shard.path, row.path)
                _copy(source, directories.picture_of(out, row.path))
                cases.recall(row.path, row.score)
    return cases.settle()


def _warn_of_gaps(rows: int, audits: Sequence[Audit], reporter: Reporter) -> None:
    """Say so if parts found other files in their folder than are in them."""
    listed = {audit.listed or rows for audit in audits}
    if audits[0].shard != "1/1" and listed != {rows}:
        counts = " or ".join(map(str, sorted(listed)))
        reporter.warn(
            f"the parts have {amount(rows, 'file')}, but found {counts} in their folder: it was "
            "changed meanwhile"
        )


# -- What is refused -------------------------------------------------------------------------------


def _refuse_misfits(shards: Sequence[StoredRows]) -> None:
    """Raise RunError if parts were not made alike, one is missing, or one is not what was written:
    what was changed in it would get a new, honest record."""
    first = audits.to_json(shards[0].audit)
    for shard in shards:
        if shard.audit.format != directories.FORMAT:
            raise RunError(
                f"{shard.path} is of format {shard.audit.format}, and only parts of format "
                f"{directories.FORMAT} are merged: merge with release {format2.RELEASE}, which "
                "wrote it, or score anew"
            )
        content = audits.to_json(shard.audit)
        for key in ALIKE:
            if content[key] != first[key]:
                raise RunError(
                    f"{shard.path} and {shards[0].path} differ in {key}; parts of one scoring are "
                    "expected"
                )

    numbers = sorted(shard.audit.shard for shard in shards)
    count = max(int(number.partition("/")[2]) for number in numbers)
    if count > 1 and numbers != sorted(f"{index}/{count}" for index in range(1, count + 1)):
        raise RunError(f"shards {', '.join(numbers)} are not 1 to {count}, each once")
    for shard in shards:
        if problems := verification.record_problems(shard):
            raise RunError(f"{shard.path} is not what was written: {problems[0]}")


def _refuse_duplicates(parts: Iterable[pa.Table]) -> None:
    """Raise RunError if a path is there twice in tables of rows; paths are in order."""
    first, count = "", 0
    last: str | None = None
    for part in parts:
        for path in part["path"].to_pylist():
            if path == last:
                first = first if count else path
                count += 1
            last = path

    if count:
        raise RunError(
            f"{first} and {count - 1} more paths are in more than one part; nothing was merged"
        )


# -- Files -----------------------------------------------------------------------------------------


def _copy_heatmaps(shards: Sequence[StoredRows], out: Path) -> None:
    for shard in shards:
        for part in parts_of(shard.stored_outputs):
            for output in rows_of(part, OutputRow):
                if output.name.startswith(HEATMAPS):
                    _copy(inside(shard.path, output.name), inside(out, output.name))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
