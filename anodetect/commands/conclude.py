"""The end of a scoring and of a merge: decide over all rows, compare with the calibration, and
write the directory."""

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from anodetect.commands.labelled import mask_warnings
from anodetect.commands.results import MergeResult
from anodetect.data.patients import STUDY, warning_of
from anodetect.files import sha256_of
from anodetect.output.formats import DEFAULTS, SOURCES, Source, asks_for, format_named
from anodetect.output.regions import FILE as REGIONS_FILE
from anodetect.output.regions import write_regions
from anodetect.record import directories
from anodetect.record.audit import Audit, DriftChecks, Scoring, ShownCases
from anodetect.record.decisions import (
    decide,
    decide_slices,
    group_caveats,
    is_increasing,
    is_ok,
    is_volume,
    numbers,
    volume_caveats,
)
from anodetect.record.directories import Tables
from anodetect.record.failures import differences, failures, in_error
from anodetect.record.keeping import ALL, kept, not_kept
from anodetect.record.rows import (
    AT_ONCE,
    FAILED,
    OK,
    SKIPPED,
    OutputRow,
    Region,
    ScoreRow,
    SliceRow,
    TableBuilder,
    TimingRow,
    schema_of,
)
from anodetect.record.spool import Spool, hashes_of, places_among, repeated_numbers
from anodetect.record.tables import Rows, WithColumns, chosen_columns, parts_of
from anodetect.stats import drift
from anodetect.stats.decision import statement
from anodetect.stats.evaluation import Measure
from anodetect.stats.times import untimed
from anodetect.types import Bools, Reporter
from anodetect.words import amount

OTHERS: dict[Source, str] = {"image": "volumes", "volume": "images"}
# The columns of rows that are in memory all at once.
COLUMNS = (
    "path", "group", "score", "status", "error", "depth", "width", "height", "label", "acquired",
    "differs", "prepared", "written",
)  # fmt: skip
DECISIONS = ["p_value", "q_value", "flagged", "threshold"]
CASE, REGIONS, BOOTSTRAP = "case", "regions", "bootstrap"  # kinds of outputs that are no map


def where_scored(hosts: Collection[str], threads: Collection[int]) -> tuple[str, tuple[int, ...]]:
    """Return the machine and the numbers of threads that files were scored on; "" and () if there
    were machines that are not alike."""
    if len(hosts) != 1 or "" in hosts:
        return "", ()
    return next(iter(hosts)), tuple(sorted(threads))


def say_head(head: str, reporter: Reporter) -> None:
    """Say which head a record has as soon as it is complete, for whatever comes after may fail."""
    reporter.say(f"record complete: chain head {head}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow(ScoreRow):
    """A row, and in which of the scoring's output formats its file has outputs: a bit each, in
    their order."""

    written: int


def written_bits(outputs: Iterable[OutputRow], formats: Sequence[str]) -> int:
    """Return which of the output formats some outputs are in, as `FileRow` has it."""
    kinds = {output.kind for output in outputs}
    return sum(1 << place for place, name in enumerate(formats) if name in kinds)


class Gathered:
    """All that was scored, sorted on the disk of `out`: rows and timings by their paths, outputs by
    their names; a context manager that closes them. `notes` counts what is to be known of outputs.
    `regions` returns them, with the paths of their images, each time it is called."""

    def __init__(self, out: Path, regions: Callable[[], Iterable[tuple[str, Region]]]) -> None:
        self.scores, self.timings = Spool(out, FileRow, "path"), Spool(out, TimingRow, "path")
        self.outputs, self.slices = Spool(out, OutputRow, "name"), TableBuilder(SliceRow)
        self.notes: Counter[str] = Counter()
        self.regions = regions

    def __enter__(self) -> "Gathered":
        return self

    def __exit__(self, *error: object) -> None:
        for spool in (self.scores, self.timings, self.outputs):
            spool.close()


def conclude(
    out: Path, scoring: Scoring, gathered: Gathered, measure: Measure, reporter: Reporter
) -> MergeResult:
    """Decide over all rows, compare with the calibration, and write the directory; return what it
    amounts to."""
    calibration, rule, copies = scoring.calibration, scoring.rule, copies_of(gathered.scores)
    scoring = replace(scoring, copies=len(copies), repeated=copies)
    slices = decide_slices(gathered.slices.table().sort_by("path"), calibration, rule)
    names = [*COLUMNS, *["sha256"] * (scoring.keep != ALL)]
    columns = chosen_columns(gathered.scores.parts(), names)
    rows, groups, threshold = decide(columns, calibration, rule, slices=slices)
    del columns
    bits, written = np.asarray(rows["written"]), dict[str, Bools]()
    for place, name in enumerate(scoring.heatmaps):
        written[name] = bits & (1 << place) > 0
    found = derived(rows, groups, slices, written, scoring)
    _warn(found.caveats, measure, found.drift, reporter)
    if unlike := differences(rows):
        files = amount(sum(each.count for each in unlike), "file differs", "files differ")
        reporter.warn(f"{files} from what the model has seen; most often: {unlike[0].reason}")

    for note, count in gathered.notes.most_common():
        reporter.warn(f"{amount(count, 'file of maps is', 'files of maps are')} {note}")

    evaluation = None
    if measure.labelled():
        evaluation = measure.result(threshold if rule.by_fdr else None)
        for warning in mask_warnings(evaluation):
            reporter.warn(warning)
        directories.write_draws(out, measure.draws())
    if asks_for(scoring.heatmaps, "regions"):
        write_regions(out, _images(rows), gathered.regions, scoring.mask_rule)

    audit = Audit(
        **{each.name: getattr(scoring, each.name) for each in fields(Scoring)},
        statement=found.statement,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        counts=found.counts,
        reasons=found.reasons,
        drift=found.drift,
        caveats=found.caveats,
        evaluation=evaluation,
        rows=len(rows),
        chain="",
        tables={},
        head="",
    )
    gathered.outputs.extend(_other_outputs(out, scoring.cases))
    decided = WithColumns(gathered.scores, rows.select(DECISIONS), schema_of(ScoreRow))
    result = _result(out, audit, rows, "")
    del rows
    tables = Tables(decided, groups, gathered.timings, slices, gathered.outputs)
    return replace(result, head=directories.write(out, audit, tables))


def _images(rows: pa.Table) -> Iterator[tuple[str, int, int]]:
    """Yield the path, width and height of each row with a score."""
    facts = rows.select(["path", "width", "height", "status"])
    for batch in facts.to_batches(max_chunksize=AT_ONCE):
        for path, width, height, status in zip(*(each.to_pylist() for each in batch), strict=True):
            if status == OK:
                yield path, width, height


@dataclass(frozen=True)
class Derived:
    """Statements of a record on all its rows; they follow from the rows and from how they were
    scored."""

    statement: str
    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    drift: DriftChecks
    caveats: tuple[str, ...]


def derived(
    rows: pa.Table,
    groups: pa.Table,
    slices: pa.Table,
    written: Mapping[str, Bools],
    scoring: Scoring,
) -> Derived:
    """Return what follows from decided rows, a table of ScoreRow, and the tables beside it.
    `written` says of each output format which rows [n] have a file in it."""
    caveats = _caveats(rows, groups, slices, scoring)
    not_in_time = _not_in_time(rows)
    if not_in_time:
        caveats.append(not_in_time)
    wanted = is_ok(rows) & ~in_error(rows)
    if scoring.keep != ALL:
        wanted &= kept(rows, scoring)
    caveats += _not_written(wanted, is_volume(rows), written, scoring.heatmaps)
    if count := not_kept(rows, scoring):
        files = amount(count, "file keeps", "files keep")
        caveats.append(
            f"{files} no maps, masks and outlines (--keep {scoring.keep}): anodetect maps makes "
            "them again"
        )

    count = int(is_ok(rows).sum())
    counts = pc.value_counts(rows["status"])
    return Derived(
        statement=statement(scoring.calibration, scoring.rule, count, len(groups)),
        counts={each["values"]: each["counts"] for each in counts.to_pylist()},
        reasons={each.reason: each.count for each in failures(rows)},
        drift=_drift(rows, slices, scoring),
        caveats=tuple(caveats),
    )


def _result(out: Path, audit: Audit, rows: pa.Table, head: str) -> MergeResult:
    """Return what `score` and `merge` say of all files."""
    unwritten = int((is_ok(rows) & in_error(rows)).sum())
    return MergeResult(
        scored=audit.counts.get(OK, 0),
        failed=audit.counts.get(FAILED, 0) + unwritten,
        skipped=audit.counts.get(SKIPPED, 0),
        passed_over=audit.passed_over,
        flagged=(pc.sum(rows["flagged"]).as_py() or 0) if audit.calibration.groups else None,
        copies=audit.copies,
        reasons=audit.reasons,
        drift=audit.drift,
        head=head,
        out=out,
        statement=audit.statement,
        evaluation=audit.evaluation,
    )


# -- Warnings --------------------------------------------------------------------------------------


def _caveats(rows: pa.Table, groups: pa.Table, slices: pa.Table, scoring: Scoring) -> list[str]:
    """Return what is to be known of volumes, or, where there is nothing, of groups of images; of
    files that name no patient; and of copies."""
    of_volumes = rows.filter(pa.array(is_ok(rows) & is_volume(rows)))
    paths, names = of_volumes["path"].to_pylist(), of_volumes["group"].to_pylist()
    volumes = dict(zip(paths, names, strict=True))
    prepared = rows["path"].filter(pc.not_equal(rows["prepared"], "")).to_pylist()
    found = volume_caveats(volumes, slices, scoring.calibration, scoring.rule.rate, set(prepared))
    found = found or group_caveats(groups, scoring.calibration, scoring.rule.rate)
    scored_groups = rows["group"].filter(pa.array(is_ok(rows)))
    studies = scored_groups.filter(pc.starts_with(scored_groups, STUDY))
    if unnamed := warning_of(studies.to_pylist()):
        found.append(unnamed)
    if scoring.copies:
        copies = amount(scoring.copies, "of these files has", "of these files have")
        found.append(
            f"{copies} exactly the pixels of another one: copies count as often as they are there, "
            "and once where drift is looked for"
        )

    return found


def _not_written(
    wanted: Bools, volumes: Bools, written: Mapping[str, Bools], names: Sequence[str]
) -> list[str]:
    """Return which of the output formats with these names are not those of files that were scored.
    The default formats are for images or for volumes, and were not asked for. `wanted` [n] are the
    rows without an error that would say why."""
    by_default, found = frozenset(names) in DEFAULTS, []
    for name in names:
        each = format_named(name)
        for source in SOURCES:
            if by_default and not each.has_files_of(source):
                continue
            if each.directory and each.has_files_of(source):
                continue
            without = wanted & ~written[name] & (volumes == (source == "volume"))
            count = int(without.sum())
            if not count:
                continue
            only = f"files of {each.of}" if each.has_files_of(source) else OTHERS[source]
            those = amount(count, f"{source} has", f"{source}s have")
            found.append(f"{those} no file as {name}, which only {only} have")

    return found


def written_in(rows: pa.Table, outputs: Rows, names: Sequence[str]) -> dict[str, Bools]:
    """Return of each output format which rows [n] have a file in it, by the rows of OutputRow."""
    found = {name: np.zeros(len(rows), bool) for name in names}
    hashes = np.array(hashes_of(rows["path"].to_pylist()))
    order = np.argsort(hashes)
    ordered = hashes[order]
    for part in parts_of(outputs):
        for name, has_file in found.items():
            paths = part["path"].filter(pc.equal(part["kind"], name))
            places = places_among(np.array(hashes_of(paths.to_pylist())), ordered)
            has_file[order[places[places >= 0]]] = True
    return found


def _warn(
    caveats: Iterable[str], measure: Measure, checks: DriftChecks, reporter: Reporter
) -> None:
    for caveat in caveats:
        reporter.warn(caveat)
    for problem in measure.problems:
        reporter.warn(f"not measured: {problem}")
    for check in (checks.batch, checks.time):
        if check is not None and check.fires:
            reporter.warn(check.text)


def copies_of(rows: Rows) -> tuple[str, ...]:
    """Return the paths, sorted, of copies among rows of ScoreRow: of files with equal pixels all
    but the one whose path comes first."""
    hashes = array("q")  # in place of texts, which take ten times as much
    for part in parts_of(rows):
        hashes.extend(hashes_of(filter(None, part["pixels_sha256"].to_pylist())))
    several = repeated_numbers(hashes)
    if not several:
        return ()

    first, copies = dict[str, str](), []
    for part in parts_of(rows):
        facts = (part["path"].to_pylist(), part["pixels_sha256"].to_pylist())
        for path, pixels in zip(*facts, strict=True):
            if not pixels or hash(pixels) not in several:
                continue
            other = first.get(pixels)
            first[pixels] = path if other is None else min(path, other)
            if other is not None:
                copies.append(max(path, other))
    return tuple(sorted(copies))


def _drift(rows: pa.Table, slices: pa.Table, scoring: Scoring) -> DriftChecks:
    """Compare the batch, of volumes their slices, with the calibration images; over time if there
    are images alone, and every one says when it was taken. Copies count once."""
    calibration = scoring.calibration
    copies = pa.array(scoring.repeated, pa.string())
    is_copy = np.asarray(pc.is_in(rows["path"], value_set=copies), bool)
    chosen = pa.array(is_ok(rows) & ~is_volume(rows) & ~is_copy)
    images = rows.select(["score", "group", "acquired"]).filter(chosen)
    scored_slices = slices.select(["score", "group"]).filter(
        pc.and_not(pc.is_valid(slices["score"]), pc.is_in(slices["path"], value_set=copies))
    )
    both = pa.concat_tables([images.select(["score", "group"]), scored_slices])
    scores, groups = numbers(both["score"]), _in_order(both["group"])
    batch = drift.compare(calibration.scores, calibration.groups, scores, groups)

    time = None
    if _has_texts(images["acquired"]) and not _not_in_time(rows):
        differs = batch is not None and batch.fires
        names, when = both["group"].to_pylist(), images["acquired"].to_pylist()
        time = drift.martingale(scores.tolist(), names, when, differs=differs)
    return DriftChecks(batch, time)


def _in_order(names: pa.ChunkedArray) -> NDArray[np.integer]:
    """Return for each name [n] its place among all different names in alphabetical order."""
    if is_increasing(names):
        return np.arange(len(names))
    coded = pc.dictionary_encode(pa.chunked_array(names, pa.string()).combine_chunks())
    places = np.empty(len(coded.dictionary), np.int64)
    places[np.asarray(pc.sort_indices(coded.dictionary))] = np.arange(len(places))
    found: NDArray[np.int64] = places[np.asarray(coded.indices)]
    return found


def _has_texts(column: pa.ChunkedArray) -> bool:
    """Return whether any text of a column says something."""
    return bool(pc.any(pc.not_equal(column, "")).as_py())


def _not_in_time(rows: pa.Table) -> str:
    """Return why a batch is not followed over time although its files say when they were taken; ""
    if it is, and if none says it."""
    scored = rows.select(["path", "acquired", "depth"]).filter(pa.array(is_ok(rows)))
    if not _has_texts(scored["acquired"]):
        return ""
    when = [text or "" for text in scored["acquired"].to_pylist()]
    if is_volume(scored).any():
        return "The column acquired is not used: scores of volumes are not followed over time."
    return untimed(when, scored["path"].to_pylist())


# -- Files -----------------------------------------------------------------------------------------


def _other_outputs(out: Path, cases: ShownCases) -> list[OutputRow]:
    """Return the rows of the pictures of cases, of regions.json and of bootstrap.npz."""
    others = []
    for path in dict.fromkeys((*cases.highest, *cases.borderline)):
        others.append((directories.picture_of(out, path), path, CASE))
    others.append((out / REGIONS_FILE, "", REGIONS))
    others.append((out / directories.BOOTSTRAP, "", BOOTSTRAP))

    rows = []
    for file, path, kind in others:
        if file.is_file():
            name = file.relative_to(out).as_posix()
            rows.append(OutputRow(name=name, path=path, kind=kind, sha256=sha256_of(file)))
    return rows
