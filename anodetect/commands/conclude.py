"""What ends a scoring and a merge alike: decide over all rows, compare with the calibration, write
the directory."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from anodetect.config import plain
from anodetect.files import atomic
from anodetect.output.formats import asks_for, names_of
from anodetect.record import directories
from anodetect.record.decisions import (
    decide,
    decide_slices,
    fdr_statement,
    group_caveats,
    is_deep,
    is_ok,
    volume_caveats,
)
from anodetect.record.journal import Entry
from anodetect.stats import drift
from anodetect.stats.calibration import Calibration
from anodetect.stats.evaluation import Measure
from anodetect.types import Reporter


def where_scored(hosts: Collection[str], threads: Collection[int]) -> dict[str, Any]:
    one = len(hosts) == 1 and "" not in hosts
    return {"host": next(iter(hosts)) if one else "", "threads": sorted(threads) if one else []}


def statement_of(
    calibration: Calibration, far: float, fdr: float | None, groups: Sequence[str]
) -> str:
    """What is promised of images in these groups."""
    return (
        calibration.statement(far)
        if fdr is None
        else fdr_statement(calibration, fdr, len(groups), len(set(groups)))
    )


def conclude(
    out: Path,
    rows: pa.Table,
    slices: list[directories.Row],
    timings: pa.Table,
    entries: Iterable[Entry],
    calibration: Calibration,
    facts: Mapping[str, Any],
    measure: Measure,
    reporter: Reporter,
) -> dict[str, Any]:
    """Decide over all rows, compare with the calibration, and write the directory; what `score`
    answers."""
    far = facts["far"] if facts["fdr"] is None else facts["fdr"]
    rows, groups, threshold = decide(rows, calibration, far=far, fdr=facts["fdr"])
    decide_slices(slices, calibration, far=far, fdr=facts["fdr"])
    good = is_ok(rows)
    volumes = rows["path"].filter(pa.array(good & is_deep(rows))).to_pylist()
    caveats = volume_caveats(volumes, slices, calibration, far) or group_caveats(
        groups, calibration
    )
    for caveat in caveats:
        reporter.warn(caveat)
    for problem in measure.problems:
        reporter.warn(f"not measured: {problem}")
    checks = _drift(rows, slices, calibration)
    for check in checks.values():
        if check and check["fires"]:
            reporter.warn(check["text"])
    in_error = directories.in_error(rows)
    unshown = int((good & ~in_error & np.asarray(pc.equal(rows["heatmap"], ""), bool)).sum())
    if unshown and facts["heatmaps"]:
        images, volumes_ = (" or ".join(names_of(each, "map")) for each in ("image", "volume"))
        reporter.warn(f"{unshown} have no heatmap: images come as {images}, volumes as {volumes_}")
    if asks_for(facts["heatmaps"], "regions"):
        _write_regions(out, rows.filter(pa.array(good)), entries, facts)
    if measure.labelled():
        directories.write_draws(out, measure.draws())
    counts = Counter(rows["status"].to_pylist())
    unwritten = int((good & in_error).sum())
    statement = statement_of(
        calibration, far, facts["fdr"], rows["group"].filter(pa.array(good)).to_pylist()
    )
    audit = dict(facts) | {
        "statement": statement,
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
    rows: pa.Table, slices: Sequence[directories.Row], calibration: Calibration
) -> dict[str, dict[str, Any] | None]:
    """The batch, of volumes their slices, against the calibration images; over time where every
    image says when it was taken."""
    images = rows.filter(pa.array(is_ok(rows) & ~is_deep(rows)))
    of_volumes = [row for row in slices if row["score"] is not None]
    scores, groups = (
        images[key].to_pylist() + [row[key] for row in of_volumes] for key in ("score", "group")
    )
    found = drift.compare(calibration.scores, calibration.groups, scores, groups)
    checks: dict[str, dict[str, Any] | None] = {
        "batch": plain(asdict(found)) if found else None,
        "time": None,
    }
    when = images["acquired"].to_pylist()
    if when and all(when) and not of_volumes:
        reference = calibration.scores.tolist()
        followed = drift.martingale(reference, calibration.groups, scores, groups, when)
        checks["time"] = plain(asdict(followed)) if followed else None
    return checks


def _write_regions(
    out: Path, good: pa.Table, entries: Iterable[Entry], facts: Mapping[str, Any]
) -> None:
    """regions.json, a file in COCO's format, an image and an annotation at a time."""
    ids = {path: number for number, path in enumerate(good["path"].to_pylist(), start=1)}
    head = {
        "info": {
            "description": "what exceeds the pixel threshold",
            "threshold": facts["pixel_threshold"],
        },
        "categories": [{"id": 1, "name": "anomaly"}],
    }
    sides = zip(good["width"].to_pylist(), good["height"].to_pylist(), strict=True)
    with atomic(out / "regions.json") as file:
        file.write(json.dumps(plain(head)).removesuffix("}").encode() + b', "images": [')
        for (path, number), (width, height) in zip(ids.items(), sides, strict=True):
            image = {"id": number, "file_name": path, "width": width, "height": height}
            file.write((b", " if number > 1 else b"") + json.dumps(image).encode())
        file.write(b'], "annotations": [')
        number = 0
        for entry in entries:
            for region in entry["regions"]:
                number += 1
                marks = {
                    "id": number,
                    "image_id": ids[entry["row"]["path"]],
                    "category_id": 1,
                    "iscrowd": 0,
                }
                file.write((b",\n" if number > 1 else b"\n") + json.dumps(marks | region).encode())
        file.write(b"\n]}\n")
