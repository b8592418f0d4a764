"""The end of a scoring and of a merge: decide over all rows, compare with the calibration, and
write the directory."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from anodetect.commands.labelled import mask_warnings
from anodetect.commands.results import MergeResult
from anodetect.data.patients import STUDY, warning_of
from anodetect.files import sha256_of
from anodetect.output.formats import DEFAULT, SOURCES, Source, asks_for, format_named
from anodetect.output.regions import FILE as REGIONS_FILE
from anodetect.output.regions import write_regions
from anodetect.record import directories
from anodetect.record.audit import Audit, DriftChecks, Scoring, ShownCases
from anodetect.record.decisions import (
    decide,
    decide_slices,
    group_caveats,
    is_ok,
    is_volume,
    volume_caveats,
)
from anodetect.record.directories import Tables
from anodetect.record.failures import differences, failures, in_error
from anodetect.record.keeping import ALL, kept, not_kept
from anodetect.record.rows import FAILED, OK, SKIPPED, OutputRow, Region, to_table
from anodetect.stats import drift
from anodetect.stats.decision import statement
from anodetect.stats.evaluation import Measure
from anodetect.stats.times import untimed
from anodetect.types import Reporter

OTHERS: dict[Source, str] = {"image": "volumes", "volume": "images"}
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


def conclude(
    out: Path,
    scoring: Scoring,
    tables: Tables,
    regions: Iterable[tuple[str, Region]],
    measure: Measure,
    reporter: Reporter,
) -> MergeResult:
    """Decide over all rows, compare with the calibration, and write the directory; return what it
    amounts to. `regions` are given with the paths of their images."""
    calibration, rule, copies = scoring.calibration, scoring.rule, copies_of(tables.scores)
    scoring = replace(scoring, copies=len(copies), repeated=copies)
    rows, groups, threshold = decide(tables.scores, calibration, rule, slices=tables.slices)
    slices = decide_slices(tables.slices, calibration, rule)
    found = derived(rows, groups, slices, tables.outputs, scoring)
    _warn(found.caveats, measure, found.drift, reporter)
    if unlike := differences(rows):
        count = sum(each.count for each in unlike)
        reporter.warn(
            f"{count} files differ from what the model has seen; most often: {unlike[0].reason}"
        )

    for note, count in _notes(tables.outputs):
        reporter.warn(f"{count} files of maps are {note}")

    evaluation = None
    if measure.labelled():
        evaluation = measure.result(threshold if rule.by_fdr else None)
        for warning in mask_warnings(evaluation):
            reporter.warn(warning)
        directories.write_draws(out, measure.draws())
    scored = rows.filter(pa.array(is_ok(rows)))
    if asks_for(scoring.heatmaps, "regions"):
        paths, widths = scored["path"].to_pylist(), scored["width"].to_pylist()
        heights = scored["height"].to_pylist()
        write_regions(out, paths, widths, heights, regions, scoring.mask_rule)

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
    outputs = _with_other_outputs(out, tables.outputs, scoring.cases)
    tables = replace(tables, scores=rows, groups=groups, slices=slices, outputs=outputs)
    head = directories.write(out, audit, tables)
    return _result(out, audit, rows, head)


@dataclass(frozen=True)
class Derived:
    """What a record says of all its rows: it follows from them and from how they were scored."""

    statement: str
    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    drift: DriftChecks
    caveats: tuple[str, ...]


def derived(
    rows: pa.Table, groups: pa.Table, slices: pa.Table, outputs: pa.Table, scoring: Scoring
) -> Derived:
    """Return what follows from decided rows, a table of ScoreRow, and the tables beside it."""
    caveats = _caveats(rows, groups, slices, scoring)
    not_in_time = _not_in_time(rows)
    if not_in_time:
        caveats.append(not_in_time)
    wanted = rows
    if scoring.keep != ALL:
        wanted = rows.filter(pa.array(kept(rows, scoring), pa.bool_()))
    caveats += _not_written(wanted, outputs, scoring.heatmaps)
    if count := not_kept(rows, scoring):
        caveats.append(
            f"{count} files keep no maps, masks and outlines (--keep {scoring.keep}): anodetect "
            "maps makes them again"
        )

    scored_groups = rows["group"].filter(pa.array(is_ok(rows)))
    n_groups = len(scored_groups.unique())
    return Derived(
        statement=statement(scoring.calibration, scoring.rule, len(scored_groups), n_groups),
        counts=dict(Counter(rows["status"].to_pylist())),
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
        found.append(
            f"{scoring.copies} of these files have exactly the pixels of another one: copies count "
            "as often as they are there, and once where drift is looked for"
        )

    return found


def _not_written(rows: pa.Table, outputs: pa.Table, names: Sequence[str]) -> list[str]:
    """Return which of the output formats with these names are not those of files that were scored.
    The default formats are for images or for volumes, and were not asked for."""
    by_default, found = set(names) == set(DEFAULT), []
    for name in names:
        each = format_named(name)
        for source in SOURCES:
            if by_default and not each.has_files_of(source):
                continue
            count = _without_files(rows, outputs, name, source)
            if not count:
                continue
            only = f"files of {each.of}" if each.has_files_of(source) else OTHERS[source]
            found.append(f"{count} {source}s have no file as {name}, which only {only} have")

    return found


def _without_files(rows: pa.Table, outputs: pa.Table, name: str, source: Source) -> int:
    """Return how many images or volumes have no file in an output format, and no error that would
    say why."""
    without = is_ok(rows) & ~in_error(rows) & (is_volume(rows) == (source == "volume"))
    each = format_named(name)
    if each.directory and each.has_files_of(source):
        return 0
    written = outputs["path"].filter(pc.equal(outputs["kind"], name))
    has_file = np.asarray(pc.is_in(rows["path"], value_set=written.combine_chunks()), bool)
    return int((without & ~has_file).sum())


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


def _notes(outputs: pa.Table) -> list[tuple[str, int]]:
    """Return what is to be known of outputs, and of how many, the most frequent first."""
    notes = outputs["note"].filter(pc.not_equal(outputs["note"], "")).to_pylist()
    return Counter(notes).most_common()


def copies_of(rows: pa.Table) -> tuple[str, ...]:
    """Return the paths, sorted, of copies in a table of ScoreRow: of files with equal pixels all
    but the one whose path comes first."""
    decoded = rows.filter(pc.not_equal(rows["pixels_sha256"], ""))
    decoded = decoded.select(["pixels_sha256", "path"])
    decoded = decoded.sort_by([("pixels_sha256", "ascending"), ("path", "ascending")])
    hashes = decoded["pixels_sha256"]
    is_copy = pc.equal(hashes.slice(1), hashes.slice(0, max(len(hashes) - 1, 0)))
    return tuple(sorted(decoded["path"].slice(1).filter(is_copy).to_pylist()))


def _drift(rows: pa.Table, slices: pa.Table, scoring: Scoring) -> DriftChecks:
    """Compare the batch, of volumes their slices, with the calibration images; over time if there
    are images alone, and every one says when it was taken. Copies count once."""
    calibration = scoring.calibration
    copies = pa.array(scoring.repeated, pa.string())
    is_copy = np.asarray(pc.is_in(rows["path"], value_set=copies), bool)
    images = rows.filter(pa.array(is_ok(rows) & ~is_volume(rows) & ~is_copy))
    scored_slices = slices.filter(
        pc.and_not(pc.is_valid(slices["score"]), pc.is_in(slices["path"], value_set=copies))
    )
    scores = images["score"].to_pylist() + scored_slices["score"].to_pylist()
    groups = images["group"].to_pylist() + scored_slices["group"].to_pylist()
    batch = drift.compare(calibration.scores, calibration.groups, scores, groups)

    when, time = images["acquired"].to_pylist(), None
    if any(when) and not _not_in_time(rows):
        differs = batch is not None and batch.fires
        time = drift.martingale(scores, groups, when, differs=differs)
    return DriftChecks(batch, time)


def _not_in_time(rows: pa.Table) -> str:
    """Return why a batch is not followed over time although its files say when they were taken; ""
    if it is, and if none says it."""
    scored = rows.filter(pa.array(is_ok(rows)))
    when = [text or "" for text in scored["acquired"].to_pylist()]
    if any(when) and is_volume(scored).any():
        return "The column acquired is not used: scores of volumes are not followed over time."
    return untimed(when, scored["path"].to_pylist())


# -- Files -----------------------------------------------------------------------------------------


def _with_other_outputs(out: Path, outputs: pa.Table, cases: ShownCases) -> pa.Table:
    """Return the table of OutputRow with the pictures of cases, regions.json and bootstrap.npz, in
    the order of their names."""
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
    both = pa.concat_tables([outputs, to_table(rows, OutputRow)])
    return both.combine_chunks().sort_by("name")
