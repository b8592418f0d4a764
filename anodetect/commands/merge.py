"""Merge: the score directories of all shards in, one out."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from anodetect.commands.conclude import conclude, where_scored
from anodetect.errors import RunError
from anodetect.files import inside
from anodetect.output import report
from anodetect.output.cases import Cases
from anodetect.output.regions import read_regions
from anodetect.record import directories, environment, verification
from anodetect.stats.calibration import DEFAULT_FAR, Calibration
from anodetect.stats.evaluation import LabelledScore, Measure
from anodetect.types import Reporter, Silent


def merge(
    parts: Sequence[Path],
    out: Path,
    *,
    command: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Join the score directories of all shards: tables as one machine would have written them;
    p-values, q-values and flags are those of the whole. Pixel metrics are not joined. RunError if a
    part is missing or was changed."""
    reporter = reporter or Silent()
    shards = [directories.read(part) for part in parts]
    audits = [directory.audit for directory in shards]
    _refuse_misfits(shards)
    directories.prepare(out)
    calibration = Calibration.restore(audits[0]["calibration"])
    rows = (
        pa.concat_tables([directory.table for directory in shards]).combine_chunks().sort_by("path")
    )
    twice = [path for path, count in Counter(rows["path"].to_pylist()).items() if count > 1]
    if twice:
        raise RunError(
            f"{twice[0]} and {len(twice) - 1} more paths are in more than one part; nothing was merged"
        )
    for directory in shards:
        for name in directory.audit["outputs"]:
            if name.startswith("heatmaps/"):
                _copy(inside(directory.path, name), inside(out, name))
    far = audits[0]["far"]
    threshold = np.inf if far is None else calibration.threshold(far)
    low, high = audits[0]["scale"]
    cases = Cases(out, threshold, (low, high))
    for directory in shards:
        shown = {path for names in directory.audit["cases"].values() for path in names}
        for row in directory.each():
            if row.path in shown and row.score is not None:
                _copy(
                    directories.picture_of(directory.path, row.path),
                    directories.picture_of(out, row.path),
                )
                cases.recall(row.path, row.score)
    measure = Measure(calibration, far or DEFAULT_FAR, masks=False)
    for directory in shards:
        for row in directory.each():
            if row.score is not None and row.label is not None:
                item = LabelledScore(
                    row.path, row.label, row.score, row.group, is_volume=row.is_volume
                )
                measure.add(item)
    timings = pa.concat_tables(
        [directories.read_timings(directory.path) for directory in shards]
    ).sort_by("path")
    regions = chain.from_iterable(read_regions(directory.path) for directory in shards)
    slices = pa.concat_tables([directories.slice_table(directory.path) for directory in shards])
    slices = slices.combine_chunks().sort_by("path")
    _warn_of_gaps(len(rows), audits, reporter)
    hosts = {audit.get("host", "") for audit in audits}
    facts = audits[0] | {
        "shard": "1/1",
        "merged_from": [audit["head"] for audit in audits],
        "started": min(audit["started"] for audit in audits),
        "command": list(command),
        "environment": environment.facts(),
        **where_scored(hosts, {count for audit in audits for count in audit["threads"]}),
        "cases": cases.settle(),
    }
    result = conclude(out, rows, slices, timings, regions, calibration, facts, measure, reporter)
    report.write(out)
    return result


def _warn_of_gaps(rows: int, audits: Sequence[Mapping[str, Any]], reporter: Reporter) -> None:
    """Say so if parts found other files in their folder than are in them."""
    listed = {audit.get("listed", rows) for audit in audits}
    if audits[0]["shard"] != "1/1" and listed != {rows}:
        counts = " or ".join(map(str, sorted(listed)))
        reporter.warn(
            f"the parts have {rows} files, but found {counts} in their folder: it was changed meanwhile"
        )


def _refuse_misfits(shards: Sequence[directories.ScoreDirectory]) -> None:
    """RunError if parts were not made alike, one is missing, or one is not what was written: what
    was changed in it would get a new, honest record."""
    parts, audits = (
        [directory.path for directory in shards],
        [directory.audit for directory in shards],
    )
    for part, audit in zip(parts, audits, strict=True):
        for key in ("model_sha256", "far", "fdr", "heatmaps", "calibration", "identifiers"):
            if audit[key] != audits[0][key]:
                raise RunError(
                    f"{part} and {parts[0]} differ in {key}; parts of one scoring are expected"
                )
    numbers = [audit["shard"] for audit in audits]
    count = max(int(shard.partition("/")[2]) for shard in numbers)
    if count > 1 and sorted(numbers) != sorted(f"{index}/{count}" for index in range(1, count + 1)):
        raise RunError(f"shards {', '.join(sorted(numbers))} are not 1 to {count}, each once")
    for directory in shards:
        if problems := verification.of_record(directory, []):
            raise RunError(f"{directory.path} is not what was written: {problems[0]}")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
