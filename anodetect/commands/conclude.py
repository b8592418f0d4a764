"""What ends a scoring and a merge alike: decide over all rows, compare with the calibration, write
the directory."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute as pc

from anodetect.config import without_nan
from anodetect.output.formats import SOURCES, asks_for, has_files, names_of
from anodetect.output.regions import write_regions
from anodetect.record import directories
from anodetect.record.decisions import (
    decide,
    decide_slices,
    group_caveats,
    is_ok,
    is_volume,
    volume_caveats,
)
from anodetect.record.rows import Region
from anodetect.stats import drift
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Rule, statement
from anodetect.stats.evaluation import Measure
from anodetect.types import Reporter


def where_scored(hosts: Collection[str], threads: Collection[int]) -> dict[str, Any]:
    one = len(hosts) == 1 and "" not in hosts
    return {"host": next(iter(hosts)) if one else "", "threads": sorted(threads) if one else []}


def conclude(
    out: Path,
    rows: pa.Table,
    slices: pa.Table,
    timings: pa.Table,
    regions: Iterable[tuple[str, Region]],
    calibration: Calibration,
    facts: Mapping[str, Any],
    measure: Measure,
    reporter: Reporter,
) -> dict[str, Any]:
    """Decide over all rows, compare with the calibration, and write the directory; what `score`
    answers."""
    rule = Rule.of(facts["far"], facts["fdr"])
    rows, groups, threshold = decide(rows, calibration, rule)
    slices = decide_slices(slices, calibration, rule)
    good, volumes = is_ok(rows), is_volume(rows)
    volume_paths = rows["path"].filter(pa.array(good & volumes)).to_pylist()
    caveats = volume_caveats(volume_paths, slices, calibration, rule.rate)
    caveats = caveats or group_caveats(groups, calibration)
    for caveat in caveats:
        reporter.warn(caveat)
    for problem in measure.problems:
        reporter.warn(f"not measured: {problem}")
    checks = _drift(rows, slices, calibration)
    for check in checks.values():
        if check and check["fires"]:
            reporter.warn(check["text"])

    in_error = directories.in_error(rows)
    without_file = good & ~in_error
    if has_files(facts["heatmaps"], "image"):
        without_file &= volumes
    if has_files(facts["heatmaps"], "volume"):
        without_file &= ~volumes
    if without_file.any() and facts["heatmaps"]:
        of_images, of_volumes = (" or ".join(names_of(source, "map")) for source in SOURCES)
        reporter.warn(
            f"{without_file.sum()} have no heatmap: images come as {of_images}, volumes as "
            f"{of_volumes}"
        )
    if asks_for(facts["heatmaps"], "regions"):
        images = rows.filter(pa.array(good))
        paths, widths = images["path"].to_pylist(), images["width"].to_pylist()
        heights = images["height"].to_pylist()
        write_regions(out, paths, widths, heights, regions, facts["pixel_threshold"])
    if measure.labelled():
        directories.write_draws(out, measure.draws())

    counts = Counter(rows["status"].to_pylist())
    unwritten = int((good & in_error).sum())
    groups_of_scored = rows["group"].filter(pa.array(good)).to_pylist()
    audit = dict(facts) | {
        "statement": statement(
            calibration, rule, len(groups_of_scored), len(set(groups_of_scored))
        ),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "counts": dict(counts),
        "reasons": {reason: count for reason, count, _ in directories.failures(rows)},
        "drift": checks,
        "caveats": caveats,
        "evaluation": measure.result(None if facts["fdr"] is None else threshold).as_json()
        if measure.labelled()
        else None,
    }
    head = directories.write(out, rows, audit, groups, timings, slices)
    return {
        "scored": counts["ok"],
        "failed": counts["failed"] + unwritten,
        "skipped": counts["skipped"],
        "flagged": pc.sum(rows["flagged"]).as_py() or 0,
        "reasons": audit["reasons"],
        "drift": checks,
        "head": head,
        "out": str(out),
        "statement": audit["statement"],
        "evaluation": audit["evaluation"],
    }


def _drift(
    rows: pa.Table, slices: pa.Table, calibration: Calibration
) -> dict[str, dict[str, Any] | None]:
    """The batch, of volumes their slices, against the calibration images; over time where every
    image says when it was taken."""
    images = rows.filter(pa.array(is_ok(rows) & ~is_volume(rows)))
    scored_slices = slices.filter(pc.is_valid(slices["score"]))
    scores, groups = (
        images[key].to_pylist() + scored_slices[key].to_pylist() for key in ("score", "group")
    )
    found = drift.compare(calibration.scores, calibration.groups, scores, groups)
    checks: dict[str, dict[str, Any] | None] = {
        "batch": without_nan(asdict(found)) if found else None,
        "time": None,
    }
    when = images["acquired"].to_pylist()
    if when and all(when) and not len(scored_slices):
        reference = calibration.scores.tolist()
        followed = drift.martingale(reference, calibration.groups, scores, groups, when)
        checks["time"] = without_nan(asdict(followed)) if followed else None
    return checks
