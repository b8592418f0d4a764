"""Recompute all that a record says from its rows, its maps and its run, and say what does not
follow. No torch."""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import compute as pc

from anodetect.commands.conclude import copies_of, derived, written_in
from anodetect.commands.labelled import measure_of
from anodetect.commands.remeasure import Remeasured, measure_pixels
from anodetect.config import without_nan
from anodetect.errors import AnodetectError
from anodetect.files import printable, sha256_of
from anodetect.output import recorded
from anodetect.output.regions import FILE as REGIONS_FILE
from anodetect.output.regions import find_regions, read_regions
from anodetect.record import audit as audits
from anodetect.record import directories, environment, format2, runs
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.record.decisions import is_ok
from anodetect.record.directories import StoredRows
from anodetect.record.keeping import ALL, Keep, keep_of
from anodetect.record.merkle import CHAIN, OUTPUTS, tree_of
from anodetect.record.rows import OK, OutputRow, Region, ScoreRow, rows_of
from anodetect.record.scratch import scratch_folder
from anodetect.record.spool import Spool
from anodetect.record.tables import Rows, csv_difference, parts_of
from anodetect.record.verification import UNCHECKABLE
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.evaluation import Measure
from anodetect.stats.mask_rule import MaskRule
from anodetect.types import Bools, Floats
from anodetect.words import amount, first_of

# What audit.json repeats of a run. The texts and facts of the second kind are worded by a release.
OF_RUN = ("detector", "data", "calibration", "scale")
WORDED = ("facts", "config", "backbones")
DERIVED = ("statement", "reasons", "drift", "caveats")
OF_TEXTS = (
    "path", "group", "score", "status", "error", "depth", "label", "acquired", "prepared",
)  # fmt: skip
MEASURED = ("image", "n_normal", "n_anomalous", "n_groups", "operating_point")
OF_PIXELS = ("pixel", "pixel_intervals", "masks", "lesions", "mask_statement")


@dataclass
class Findings:
    """What does not follow from rows, maps and run, and what could not be recomputed."""

    problems: list[str] = field(default_factory=list)
    not_looked_at: list[str] = field(default_factory=list)


def recompute(scored: StoredRows, run: Path | None = None, data: Path | None = None) -> Findings:
    """Compare a record, whose hashes hold, with its run, and with what its rows and maps give, and
    metrics of pixels with what the true masks in the folder `data` give."""
    found = Findings()
    checks = [_compare_tables, _compare_trees, _compare_copies, _compare_maps, _name_resampled]
    if scored.audit.erased:
        found.not_looked_at.append(
            "statement, reasons, drift, caveats, metrics and q-values: they are of all rows, of "
            "which some were erased"
        )
    else:
        checks += [_compare_texts, partial(_compare_evaluation, data=data)]

    for check in checks:
        try:
            check(scored, found)
        except UNCHECKABLE as error:
            found.problems.append(f"it cannot be recomputed: {type(error).__name__}: {error}")
    _compare_run(scored, run or Path(scored.audit.run_path), found)
    return found


# -- The run ---------------------------------------------------------------------------------------


def _compare_run(scored: StoredRows, folder: Path, found: Findings) -> None:
    """Compare what audit.json repeats of the run with the run, if it is the one that scored."""
    audit, file = scored.audit, folder / MODEL_FILE
    if not file.is_file() or sha256_of(file) != audit.model_sha256:
        return  # which the verification says
    try:
        run = runs.read(folder)
    except AnodetectError as error:
        found.not_looked_at.append(f"the run cannot be read, only its hash was compared: {error}")
        return

    header = run.header
    of_run: dict[str, Any] = {
        "detector": header.detector,
        "data": header.data,
        "calibration": run.calibration.snapshot(),
        "scale": list(header.scale),
        "facts": header.facts.as_json(),
        "config": header.config,
        "backbones": [each.as_json() for each in header.backbones or ()],
    }
    recorded = audits.to_json(audit)
    names: tuple[str, ...] = OF_RUN
    if _of_this_release(scored):
        names = (*OF_RUN, *WORDED)
    else:
        found.not_looked_at.append(
            f"written by anodetect {_release(scored)}: what it says of the run's configuration, "
            "backbones and other facts was not compared"
        )
    for name in names:
        if not _alike(recorded[name], without_nan(of_run[name])):
            found.problems.append(f"the {name} in audit.json is not that of the run {folder}")
    if not run.calibration.mask_rule(audit.far or DEFAULT_FAR).is_like(audit.mask_rule):
        found.problems.append("the rule of masks does not follow from the run's calibration")


def _of_this_release(scored: StoredRows) -> bool:
    """Return whether this release wrote the record: another one has other words for the same."""
    return bool(_release(scored) == environment.facts()["packages"]["anodetect"])


def _release(scored: StoredRows) -> str:
    """Return the release of anodetect that wrote the record, as audit.json says."""
    packages = scored.audit.environment.get("packages", {})
    return printable(str(packages.get("anodetect", "unknown")))


# -- Rows ------------------------------------------------------------------------------------------


def _compare_tables(scored: StoredRows, found: Findings) -> None:
    """Compare the CSV files with the tables, and the number of rows with that of files found."""
    place = csv_difference(scored.path / "scores.csv", scored.stored)
    if place is not None:
        found.problems.append(f"scores.csv does not have the rows of scores.parquet: line {place}")
    if scored.audit.format != format2.FORMAT:
        groups = directories.group_table(scored.path)
        place = csv_difference(scored.path / "groups.csv", groups)
        if place is not None:
            found.problems.append(f"groups.csv does not have the rows of its table: line {place}")

    audit = scored.audit
    count = scored.count + audit.erased_rows().total()
    if audit.listed is None or count == audit.listed:
        return
    files = amount(count, "file has", "files have")
    text = f"{files} a row, but {amount(audit.listed, 'was', 'were')} found"
    if (audit.shard == "1/1" and not audit.merged_from) or count > audit.listed:
        found.problems.append(text)
    elif audit.merged_from:
        found.not_looked_at.append(f"{text}: the folder was changed while its parts were scored")


def _compare_texts(scored: StoredRows, found: Findings) -> None:
    """Compare statement, reasons, drift and caveats with those that the rows give."""
    if not _of_this_release(scored):
        found.not_looked_at.append(
            f"written by anodetect {_release(scored)}: its texts (statement, reasons, drift, "
            "caveats) were not compared"
        )
        return
    audit, path = scored.audit, scored.path
    rows = scored.columns([*OF_TEXTS, *["sha256"] * (audit.keep != ALL)])
    again = derived(
        rows,
        directories.group_table(path),
        directories.slice_table(path),
        written_in(rows, scored.stored_outputs, audit.heatmaps),
        audit,
    )
    recorded, expected = audits.to_json(audit), without_nan(asdict(again))
    for name in DERIVED:
        if not _alike(recorded[name], expected[name]):
            found.problems.append(f"the {name} in audit.json does not follow from the rows")


def _compare_evaluation(scored: StoredRows, found: Findings, *, data: Path | None) -> None:
    """Compare the metrics of images with those of the labelled rows, and those of pixels with those
    of their maps and the masks in `data`."""
    audit = scored.audit
    measure = measure_of(_labelled(scored), audit)
    if audit.evaluation is None or not measure.labelled():
        if measure.labelled() != (audit.evaluation is not None):
            found.problems.append("the evaluation in audit.json does not follow from the rows")
        return
    follow = dict.fromkeys(MEASURED, "the rows")
    if data is not None or audit.evaluation.pixel is not None:
        again = measure_pixels(scored, data)
        _say_of_masks(again, found)
        why = again.why if _of_this_release(scored) else "another release has measured them"
        if audit.evaluation.pixel is None:
            pass  # nothing to compare
        elif again.measure is None or why:
            found.not_looked_at.append(f"pixel metrics and their resamples: {why}")
        else:
            measure = again.measure
            follow |= dict.fromkeys(OF_PIXELS, f"the maps and the masks in {data}")

    threshold = None
    if audit.rule.by_fdr:
        threshold = _first_threshold(scored)
    recorded = audit.evaluation.as_json()
    expected = measure.result(threshold).as_json()
    for name, source in follow.items():
        known, follows = without_nan(recorded.get(name)), without_nan(expected.get(name))
        if not _of_this_release(scored):
            known, follows = _values_only(known, follows)
        if not _alike(known, follows):
            found.problems.append(f"the evaluation's {name} does not follow from {source}")
    _compare_draws(scored, measure, found)


def _labelled(scored: StoredRows) -> Iterator[ScoreRow]:
    """Yield the rows with a label."""
    for part in scored.parts():
        yield from rows_of(part.filter(pc.is_valid(part["label"])), ScoreRow)


def _first_threshold(scored: StoredRows) -> float | None:
    """Return the first threshold of a row, None if none has one."""
    for part in scored.parts():
        known = part["threshold"].drop_null()
        if len(known):
            return float(known[0].as_py())
    return None


def _say_of_masks(again: Remeasured, found: Findings) -> None:
    """Say which true masks are not those that pixels were measured with, and of how many the record
    does not know."""
    if again.others:
        names = first_of([printable(name) for name in again.others])
        found.problems.append(f"true masks are not those that pixels were measured with: {names}")
    if again.unread:
        found.not_looked_at.append(f"true masks: {again.unread} not there or not readable")
    if again.unhashed:
        found.not_looked_at.append(
            f"true masks: {again.unhashed} without a hash in the record, as in older ones"
        )


def _compare_draws(scored: StoredRows, measure: Measure, found: Findings) -> None:
    """Compare the resampled values of image metrics with those of the labelled rows."""
    if not (scored.path / directories.BOOTSTRAP).is_file():
        return  # which the outputs say, if there was one
    if not _of_this_release(scored):
        found.not_looked_at.append(f"{directories.BOOTSTRAP}: another release drew its resamples")
        return

    recorded, expected = directories.read_draws(scored.path), measure.draws()
    if not measure.has_masks:  # which is said of all metrics of pixels
        recorded = {name: each for name, each in recorded.items() if not name.startswith("pixel_")}
    nothing = np.zeros(0)
    for name in sorted(recorded.keys() | expected.keys()):
        known, again = recorded.get(name, nothing), expected.get(name, nothing)
        alike = len(known) == len(again) and np.allclose(
            known, again, rtol=1e-9, atol=1e-12, equal_nan=True
        )
        if not alike or name not in recorded or name not in expected:
            found.problems.append(
                f"{directories.BOOTSTRAP}: the resamples of {name} do not follow from the rows"
            )


def _compare_trees(scored: StoredRows, found: Findings) -> None:
    """Compare the trees, which older releases did not write, with the rows of their tables."""
    if not scored.audit.trees:
        return
    tables: dict[str, Rows] = {CHAIN: scored.links, OUTPUTS: scored.stored_outputs}
    for name, rows in tables.items():
        if scored.audit.trees.get(name) != tree_of(name, rows):
            found.problems.append(f"the tree of {name} in audit.json is not that of its rows")


def _compare_copies(scored: StoredRows, found: Findings) -> None:
    """Compare the names and the number of copies with those that the rows' pixels give."""
    audit, lacking, hashed, unknown = scored.audit, 0, 0, dict.fromkeys(scored.audit.repeated)
    for part in scored.parts():
        has_hash = np.asarray(pc.not_equal(part["pixels_sha256"], ""), bool)
        hashed += int(has_hash.sum())
        lacking += int((is_ok(part) & ~has_hash).sum())
        if unknown:
            for path in part["path"].to_pylist():
                unknown.pop(path, None)

    if unknown:
        found.problems.append(f"{next(iter(unknown))} is called a copy, but has no row")
    elif audit.erased:  # the first of several copies may be among what was erased
        return
    elif hashed and (
        audit.repeated != copies_of(scored.stored) or audit.copies != len(audit.repeated)
    ):
        found.problems.append("the copies in audit.json do not follow from the rows")
    if lacking and audit.format != format2.FORMAT and scored.count > 1:
        rows = amount(lacking, "row lacks", "rows lack")
        found.not_looked_at.append(
            f"copies: {rows} the hashes of pixels, as those of older releases do"
        )


def _values_only(known: Any, again: Any) -> tuple[Any, Any]:
    """Return the values that both evaluations have: intervals differ from release to release."""
    if not isinstance(known, Mapping) or not isinstance(again, Mapping):
        return known, again
    names = [name for name in known if name in again]
    values = []
    for content in (known, again):
        each = [content[name] for name in names]
        values.append([one["value"] if isinstance(one, Mapping) else one for one in each])
    return values[0], values[1]


def _alike(first: Any, second: Any) -> bool:
    """Return whether two JSON values are the same but for the last bits of numbers."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        same = first.keys() == second.keys()
        return same and all(_alike(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        same = len(first) == len(second)
        return same and all(_alike(*pair) for pair in zip(first, second, strict=True))
    if isinstance(first, float) and isinstance(second, (int, float)):
        return bool(np.isclose(first, second, rtol=1e-9, atol=1e-12))
    return bool(first == second)


# -- Maps ------------------------------------------------------------------------------------------


def _compare_maps(scored: StoredRows, found: Findings) -> None:
    """Compare masks and outlines with those that the maps give."""
    outlined = (scored.path / REGIONS_FILE).is_file()
    if outlined and not _of_this_release(scored):
        outlined = False
        found.not_looked_at.append(f"{REGIONS_FILE}: another release drew the outlines")
    regions: dict[str, list[Region]] = {}
    for path, region in read_regions(scored.path):
        regions.setdefault(path, []).append(region)

    if not outlined and not regions and not _has_masks(scored):
        return

    missing, unknown = 0, dict.fromkeys(regions)
    rule = keep_of(scored.audit.keep, scored.audit.calibration, scored.audit.far)
    with scratch_folder("verify") as folder, closing(_with_masks(scored, folder)) as rows:
        for row, written in rows:
            unknown.pop(row.path, None)
            if rule is not None and not _is_kept(rule, row):
                continue
            masks = [each for each in written if not _is_resampled(each, row)]
            wants = outlined and not row.is_volume
            if not masks and not wants:
                continue
            heatmap = recorded.read_map(scored.path, row)
            if heatmap is None:
                missing += 1
                continue
            for mask in masks:
                found.problems += _mask_problems(scored, row, mask, heatmap)
            if wants:
                known = regions.get(row.path, [])
                found.problems += _region_problems(scored, row, heatmap, known)

    if unknown:
        first = next(iter(unknown))
        found.problems.append(f"{REGIONS_FILE} has regions of {first}, which has no score")
    if missing:
        files = amount(missing, "file")
        found.not_looked_at.append(f"masks and outlines of {files} without a float map")


def _has_masks(scored: StoredRows) -> bool:
    """Return whether masks were written."""
    parts = parts_of(scored.stored_outputs)
    return any(pc.any(pc.equal(part["kind"], "mask")).as_py() for part in parts)


def _with_masks(
    scored: StoredRows, folder: Path
) -> Generator[tuple[ScoreRow, list[OutputRow]], None, None]:
    """Yield each row with a score, and the masks that were written for it. Both are brought into
    the order of paths by files in `folder`, so that few are in memory."""
    with closing(Spool(folder, OutputRow, "path")) as masks, ExitStack() as stack:
        for part in parts_of(scored.stored_outputs):
            masks.add_table(part.filter(pc.equal(part["kind"], "mask")))
        parts = scored.parts()
        if not scored.in_order:
            rows = stack.enter_context(closing(Spool(folder, ScoreRow, "path")))
            for part in scored.parts():
                rows.add_table(part)
            parts = rows.parts()

        others = chain.from_iterable(rows_of(part, OutputRow) for part in masks.parts())
        mask = next(others, None)
        for row in chain.from_iterable(rows_of(part, ScoreRow) for part in parts):
            while mask is not None and mask.path < row.path:
                mask = next(others, None)
            own = list[OutputRow]()
            while mask is not None and mask.path == row.path:
                own.append(mask)
                mask = next(others, None)
            if row.status == OK:
                yield row, own


def _name_resampled(scored: StoredRows, found: Findings) -> None:
    """Say which masks are not compared, as they were resampled."""
    noted = list[OutputRow]()
    for part in parts_of(scored.stored_outputs):
        has_note = pc.and_(pc.equal(part["kind"], "mask"), pc.not_equal(part["note"], ""))
        noted += rows_of(part.filter(has_note), OutputRow)
    if not noted:
        return

    paths = {output.path for output in noted}
    rows = {row.path: row for row in scored.each_scored() if row.path in paths}
    names = []
    for output in noted:
        if output.path in rows and _is_resampled(output, rows[output.path]):
            names.append(printable(output.name))
    if names:
        found.not_looked_at.append(f"masks that were resampled: {first_of(names)}")


def _is_resampled(output: OutputRow, row: ScoreRow) -> bool:
    """Return whether a mask has another grid than its row's map: it is of a volume, with a note."""
    return row.is_volume and bool(output.note)


def _is_kept(rule: Keep, row: ScoreRow) -> bool:
    """Return whether the files of a scored row are kept."""
    score = float("nan") if row.score is None else row.score
    return rule.keeps(score, row.sha256 or "", row.label, is_volume=row.is_volume)


def _mask_problems(
    scored: StoredRows, row: ScoreRow, output: OutputRow, heatmap: Floats
) -> Iterator[str]:
    """Yield that a mask is not where its map has regions that count."""
    mask = recorded.read_mask(scored.path, output.name, recorded.source_of(row))
    if not _is_mask(mask, heatmap, scored.audit.mask_rule):
        yield f"{output.name} is not where the map has regions that count"


def _is_mask(mask: Bools, heatmap: Floats, rule: MaskRule) -> bool:
    """Return whether a mask is that of an image's map, or of a volume's, sliced along one of its
    axes."""
    if mask.shape != heatmap.shape:
        return False
    for axis in range(heatmap.ndim):
        again = rule.mask(np.moveaxis(heatmap, axis, 0))
        if np.array_equal(again, np.moveaxis(mask, axis, 0)):
            return True
    return False


def _region_problems(
    scored: StoredRows, row: ScoreRow, heatmap: Floats, known: Sequence[Region]
) -> Iterator[str]:
    """Yield that the outlines of an image are not those of its map."""
    again = find_regions(heatmap, scored.audit.mask_rule)
    if Counter(map(_outline, known)) != Counter(map(_outline, again)):
        yield f"{REGIONS_FILE}: the regions of {row.path} do not follow from its map"


def _outline(region: Region) -> tuple[Any, ...]:
    """Return what is compared of a region. Releases up to 0.2 have no strength."""
    points = tuple(tuple(outline) for outline in region.segmentation)
    return points, region.area, tuple(region.bbox), round(region.score, 6)
