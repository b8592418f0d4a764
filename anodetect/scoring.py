"""Folders in, score directory out: score, merge the parts of several machines, score some files again.

scan → (model → files, journal)* → decision → score directory
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tifffile
from pyarrow import compute as pc

from anodetect import drift, records, runs, threads, verification
from anodetect.calibration import DEFAULT_FAR, Calibration
from anodetect.cases import Cases
from anodetect.config import plain
from anodetect.data import cards, readers
from anodetect.data.scan import MANIFEST, Record, identified, is_below, is_volume, scan, series_of
from anodetect.decision import (
    decide,
    decide_slices,
    fdr_statement,
    group_caveats,
    is_deep,
    is_ok,
    numbers,
    volume_caveats,
)
from anodetect.errors import ConfigError, DataError, Interrupted, RunError
from anodetect.evaluation import Measure
from anodetect.files import atomic, inside, leads_out, path_of, path_text
from anodetect.journal import Entry, Journal
from anodetect.model import BATCH, Model, Scored, score_records
from anodetect.types import Floats, Reporter, Silent
from anodetect.worker import Engine, Made, Task, here, problem_row, shard_of
from anodetect.writers import FORMATS, check_formats

CLOSE = 1e-4  # relative: what scores may differ by between machines
PROMPT = 1.0  # seconds after which finished files go to the journal


def score(
    run_path: Path,
    paths: Sequence[str],
    out: Path,
    *,
    far: float = DEFAULT_FAR,
    fdr: float | None = None,
    heatmaps: Sequence[str] = FORMATS,
    follow_symlinks: bool = False,
    keep_identifiers: bool = False,
    resume: bool = False,
    shard: str = "1/1",
    sign: Path | None = None,
    device: str = "auto",
    engine: Engine | None = None,
    command: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Score files, folders or a card's test part, and write the score directory `out`.

    With `resume` an interrupted scoring of the same `out` goes on, and what is finished is not scored again. `shard`
    "i/n" scores the i-th of n parts, told apart by the files' contents. `sign` is a file with an Ed25519 private key.
    `engine` does the work; without one it is done here.
    """
    reporter = reporter or Silent()
    begun = time.monotonic()
    started = datetime.now(UTC)
    check_formats(heatmaps)
    mine = shard_of(shard)
    key = verification.private_key(sign) if sign else None
    run = runs.read(run_path)
    for checked in (far, far if fdr is None else fdr):
        run.calibration.level(checked)  # refuses an impossible rate before any work
    root, items, problems = collect(paths, out, follow_symlinks, keep_identifiers)
    listed = len(items) + len(problems)
    problems = [entry for entry in problems if mine(readers.digest(entry[0].encode()))]
    asked = {"shard": shard, "heatmaps": list(heatmaps), "root": str(root.absolute()), "identifiers": keep_identifiers}
    facts = _facts(run, far, fdr) | asked | {"listed": listed}
    begun_with = asked | {key: facts[key] for key in ("model_sha256", "far", "fdr")}
    where = (run_path.absolute(), run.model_sha256, out.absolute())
    task = Task(*where, tuple(heatmaps), far, fdr, shard, device, keep_identifiers)
    threshold = task.threshold(run.calibration)
    with Journal(out, begun_with, resume=resume) as journal:
        reporter.say(_statement(run.calibration, far, fdr, [record.group for record in items]))
        cases = Cases(out, threshold, run.scale)
        measure = Measure(run.calibration, far, masks=any(record.mask for record in items))
        by_id = {record.id: record for record in items}
        tally, done = Tally(threshold), set()
        for entry in journal.resumed():
            tally.add(entry)
            done.add(entry["row"]["path"])
            _count(entry["row"], out, by_id, cases, measure)
        if done:
            reporter.say(f"{len(done)} of {len(items)} files were finished before; going on")
        todo = [record for record in items if record.id not in done]
        made = (engine or here)(task, todo, reporter, tally.note) if todo else _nothing()
        first = time.monotonic()
        try:
            with closing(made):
                for scored, entry in _journaled(made, journal):
                    tally.add(entry)
                    _count(entry["row"], out, by_id, cases, measure, scored)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {tally.count} of {len(items)} files; the same command with --resume goes on"
            ) from None
        seconds = time.monotonic() - first
        del items, todo, by_id  # of very many files they take more than all that follows
        rows, timings, slices = _tables(journal.entries(), [problem_row(*each, run.model_sha256) for each in problems])
        _warn_of_known(rows, run_path, reporter)
        facts |= {
            "command": list(command),
            "started": started.isoformat(timespec="seconds"),
            "environment": runs.environment_facts(),
            **tally.where(),
            "cases": cases.settle(),
        }
        result = _conclude(out, rows, slices, timings, journal.entries(), run.calibration, facts, measure, reporter)
        if key:
            verification.sign(out, result["head"], key)
        journal.remove()
    each_took = numbers(timings["seconds"])
    return result | {
        "failures": measure.problems,
        "seconds": round(time.monotonic() - begun, 3),
        "seconds_to_first": round(first - begun, 3),
        "images_per_second": round((tally.count - len(done)) / seconds, 3) if seconds else 0.0,
        "peak_memory_mb": runs.peak_memory_mb(),
        "model_seconds_per_image": float(np.median(each_took[each_took > 0])) if (each_took > 0).any() else 0.0,
    }


def _warn_of_known(rows: pa.Table, run_path: Path, reporter: Reporter) -> None:
    used = {row["sha256"] for row in runs.read_manifest(run_path) if row["sha256"]}
    if known := sum(sha256 in used for sha256 in rows["sha256"].to_pylist()):
        reporter.warn(f"{known} of these images took part in training or calibration; their p-values are not valid")


def _facts(run: runs.Run, far: float, fdr: float | None) -> dict[str, Any]:
    """What audit.json says of the model and of how it decides."""
    return {
        "run": run.path.name,
        "run_path": str(run.path.absolute()),
        "model_sha256": run.model_sha256,
        **{key: run.header[key] for key in ("detector", "data", "facts", "config")},
        "far": None if fdr is not None else far,
        "fdr": fdr,
        "pixel_threshold": run.calibration.pixel_threshold(far),
        "scale": list(run.scale),
        "training": runs.curves(run.path),
        "calibration": run.calibration.snapshot(),
    }


# -- As they come in ------------------------------------------------------------------------------------


class Tally:
    """How many files have been scored until now, and how many of them are flagged above the threshold, or failed; and
    on which machines, on how many threads."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.threads: set[int] = set()
        self.hosts: set[str] = set()
        self.count = self.flagged = self.failed = 0

    def add(self, entry: Entry) -> None:
        row = entry["row"]
        self.count += 1
        self.threads.add(entry["threads"])
        self.hosts.add(entry["host"])
        self.failed += row["status"] != "ok"
        self.flagged += row["status"] == "ok" and row["score"] > self.threshold

    def note(self) -> str:
        """With --fdr flags are known only when everything has been scored."""
        flagged = f"{self.flagged} flagged, " if np.isfinite(self.threshold) else ""
        return f"{flagged}{self.failed} failed"

    def where(self) -> dict[str, Any]:
        """What audit.json says of the machines: which one and on how many threads, nothing if there were several."""
        return _where(self.hosts, self.threads)


def _where(hosts: Collection[str], threads: Collection[int]) -> dict[str, Any]:
    one = len(hosts) == 1 and "" not in hosts
    return {"host": next(iter(hosts)) if one else "", "threads": sorted(threads) if one else []}


def _statement(calibration: Calibration, far: float, fdr: float | None, groups: Sequence[str]) -> str:
    """What is promised of images in these groups."""
    return calibration.statement(far) if fdr is None else fdr_statement(calibration, fdr, len(groups), len(set(groups)))


def _tables(entries: Iterable[Entry], problems: Iterable[records.Row]) -> tuple[pa.Table, pa.Table, list[records.Row]]:
    """Rows, also of what could not be looked at, timings and slices, in the order of their paths."""
    rows, timings = records.TableBuilder(records.COLUMNS), records.TableBuilder(records.TIMING_COLUMNS)
    slices: list[records.Row] = []
    for entry in entries:
        rows.add(entry["row"])
        timings.add({"path": entry["row"]["path"], "seconds": entry["seconds"]})
        slices += entry["slices"]
    for row in problems:
        rows.add(row)
    slices.sort(key=lambda row: row["path"])
    return rows.table().sort_by("path"), timings.table().sort_by("path"), slices


def _count(
    row: records.Row,
    out: Path,
    by_id: Mapping[str, Record],
    cases: Cases,
    measure: Measure,
    scored: Scored | None = None,
) -> None:
    """Count an image that was scored: now and here, or before an interruption, or elsewhere."""
    if row["status"] != "ok" or row["path"] not in by_id:
        return
    cases.recall(row["path"], row["score"])
    if scored is not None and scored.heatmap is not None:
        measure.add(scored.loaded.record, scored.score, scored.heatmap, scored.loaded.volume)
        return
    heatmap: Floats | None = None
    if measure.has_masks and row["label"] is not None and row["heatmap"].endswith(".tiff"):
        heatmap = tifffile.imread(out / row["heatmap"])
    measure.add(by_id[row["path"]], row["score"], heatmap, is_volume=bool(row.get("depth")))


def _journaled(items: Made, journal: Journal) -> Iterator[tuple[Scored | None, Entry]]:
    """Add to the journal, as many at a time as is worth a flush to the disk, and pass on."""
    batch: list[tuple[Scored | None, Entry]] = []
    last = time.monotonic()
    for item in items:
        batch.append(item)
        volume = item[0] is not None and item[0].loaded.is_volume  # is not to wait in memory
        if volume or len(batch) >= BATCH or time.monotonic() - last > PROMPT:
            journal.append([entry for _, entry in batch])
            yield from batch
            batch, last = [], time.monotonic()
    journal.append([entry for _, entry in batch])
    yield from batch


def _nothing() -> Made:
    yield from ()


# -- All files ------------------------------------------------------------------------------------------


def collect(
    paths: Sequence[str], out: Path, follow_symlinks: bool, keep_identifiers: bool = False
) -> tuple[Path, list[Record], list[tuple[str, str]]]:
    """What `score` is asked to score: the input root, records, and what cannot be looked at.

    With several paths the root is their common parent folder and ids are relative to it.
    """
    if not paths:
        raise ConfigError("nothing to score: give files, folders or a data set's name")
    datasets = [cards.open_data(path, follow_symlinks=follow_symlinks) for path in paths]
    root = datasets[0].root
    items = [record for dataset in datasets for record in dataset.testing()]
    problems = [problem for dataset in datasets for problem in dataset.problems]
    if len(datasets) > 1:
        root = Path(os.path.commonpath([os.path.abspath(dataset.root) for dataset in datasets]))  # noqa: PTH100
        items = [cards.relative_to(record, root) for record in items]
        below = {dataset.root: path_text(os.path.relpath(dataset.root, root)) for dataset in datasets}
        problems = [
            (name if below[dataset.root] == "." else f"{below[dataset.root]}/{name}", reason)
            for dataset in datasets
            for name, reason in dataset.problems
        ]
    within = is_below(out, root)  # only then can outputs be among the inputs
    unique = {record.id: record for record in items if not (within and is_below(record.path, out))}
    if keep_identifiers:
        unique = {name: identified(record) for name, record in unique.items()}
    if not unique and not problems:
        raise DataError(f"{', '.join(paths)}: nothing to score")
    return root, list(unique.values()), problems


def _conclude(
    out: Path,
    rows: pa.Table,
    slices: list[records.Row],
    timings: pa.Table,
    entries: Iterable[Entry],
    calibration: Calibration,
    facts: Mapping[str, Any],
    measure: Measure,
    reporter: Reporter,
) -> dict[str, Any]:
    """Decide over all rows, compare with the calibration, and write the directory; what `score` answers."""
    far = facts["far"] if facts["fdr"] is None else facts["fdr"]
    rows, groups, threshold = decide(rows, calibration, far=far, fdr=facts["fdr"])
    decide_slices(slices, calibration, far=far, fdr=facts["fdr"])
    good = is_ok(rows)
    volumes = rows["path"].filter(pa.array(good & is_deep(rows))).to_pylist()
    caveats = volume_caveats(volumes, slices, calibration, far) or group_caveats(groups, calibration)
    for caveat in caveats:
        reporter.warn(caveat)
    for problem in measure.problems:
        reporter.warn(f"not measured: {problem}")
    checks = _drift(rows, slices, calibration)
    for check in checks.values():
        if check and check["fires"]:
            reporter.warn(check["text"])
    in_error = records.in_error(rows)
    unshown = int((good & ~in_error & np.asarray(pc.equal(rows["heatmap"], ""), bool)).sum())
    if unshown and facts["heatmaps"]:
        reporter.warn(f"{unshown} have no heatmap: images come as tiff or png, volumes as nifti or dicom")
    if "regions" in facts["heatmaps"]:
        _write_regions(out, rows.filter(pa.array(good)), entries, facts)
    if measure.labelled():
        records.write_draws(out, measure.draws())
    counts = Counter(rows["status"].to_pylist())
    unwritten = int((good & in_error).sum())
    statement = _statement(calibration, far, facts["fdr"], rows["group"].filter(pa.array(good)).to_pylist())
    audit = dict(facts) | {
        "statement": statement,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "counts": dict(counts),
        "reasons": {reason: count for reason, count, _ in records.failures(rows)},
        "drift": checks,
        "caveats": caveats,
        "evaluation": measure.result(None if facts["fdr"] is None else threshold) if measure.labelled() else None,
    }
    head = records.write(out, rows, audit, groups, timings, slices)
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


def _drift(rows: pa.Table, slices: Sequence[records.Row], calibration: Calibration) -> dict[str, dict[str, Any] | None]:
    """The batch, of volumes their slices, against the calibration images; over time where every image says when it
    was taken."""
    images = rows.filter(pa.array(is_ok(rows) & ~is_deep(rows)))
    of_volumes = [row for row in slices if row["score"] is not None]
    scores, groups = (images[key].to_pylist() + [row[key] for row in of_volumes] for key in ("score", "group"))
    found = drift.compare(calibration.scores, calibration.groups, scores, groups)
    checks: dict[str, dict[str, Any] | None] = {"batch": plain(asdict(found)) if found else None, "time": None}
    when = images["acquired"].to_pylist()
    if when and all(when) and not of_volumes:
        timed = list(zip(when, groups, scores, strict=True))
        followed = drift.martingale(calibration.scores.tolist(), calibration.groups, timed)
        checks["time"] = plain(asdict(followed)) if followed else None
    return checks


def _write_regions(out: Path, good: pa.Table, entries: Iterable[Entry], facts: Mapping[str, Any]) -> None:
    """regions.json, a file in COCO's format, an image and an annotation at a time."""
    ids = {path: number for number, path in enumerate(good["path"].to_pylist(), start=1)}
    head = {
        "info": {"description": "what exceeds the pixel threshold", "threshold": facts["pixel_threshold"]},
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
                marks = {"id": number, "image_id": ids[entry["row"]["path"]], "category_id": 1, "iscrowd": 0}
                file.write((b",\n" if number > 1 else b"\n") + json.dumps(marks | region).encode())
        file.write(b"\n]}\n")


# -- More than one machine ------------------------------------------------------------------------------


def merge(
    parts: Sequence[Path], out: Path, *, command: Sequence[str] = (), reporter: Reporter | None = None
) -> dict[str, Any]:
    """Join the score directories of all shards: tables as one machine would have written them; p-values, q-values and
    flags are those of the whole. Pixel metrics are not joined. RunError if a part is missing or was changed."""
    reporter = reporter or Silent()
    directories = [records.read(part) for part in parts]
    audits = [directory.audit for directory in directories]
    _refuse_misfits(directories)
    records.prepare(out)
    calibration = Calibration.restore(audits[0]["calibration"])
    rows = pa.concat_tables([directory.table for directory in directories]).combine_chunks().sort_by("path")
    twice = [path for path, count in Counter(rows["path"].to_pylist()).items() if count > 1]
    if twice:
        raise RunError(f"{twice[0]} and {len(twice) - 1} more paths are in more than one part; nothing was merged")
    for directory in directories:
        for name in directory.audit["outputs"]:
            if name.startswith("heatmaps/"):
                _copy(inside(directory.path, name), inside(out, name))
    far = audits[0]["far"]
    threshold = np.inf if far is None else calibration.threshold(far)
    low, high = audits[0]["scale"]
    cases = Cases(out, threshold, (low, high))
    for directory in directories:
        shown = {path for names in directory.audit["cases"].values() for path in names}
        for row in directory.each():
            if row["path"] in shown:
                _copy(records.picture_of(directory.path, row["path"]), records.picture_of(out, row["path"]))
                cases.recall(row["path"], row["score"])
    measure = Measure(calibration, far or DEFAULT_FAR, masks=False)
    for directory in directories:
        for row in directory.each():
            if row["status"] == "ok":
                record = Record(row["path"], Path(), label=row["label"], group=row["group"])
                measure.add(record, row["score"], None, is_volume=bool(row["depth"]))
    timings = pa.concat_tables([records.read_timings(directory.path) for directory in directories]).sort_by("path")
    entries = (entry for directory in directories for entry in _regions_of(directory.path))
    slices = [row for directory in directories for row in records.read_slices(directory.path)]
    slices.sort(key=lambda row: row["path"])
    _warn_of_gaps(len(rows), audits, reporter)
    hosts = {audit.get("host", "") for audit in audits}
    facts = audits[0] | {
        "shard": "1/1",
        "merged_from": [audit["head"] for audit in audits],
        "started": min(audit["started"] for audit in audits),
        "command": list(command),
        "environment": runs.environment_facts(),
        **_where(hosts, {count for audit in audits for count in audit["threads"]}),
        "cases": cases.settle(),
    }
    return _conclude(out, rows, slices, timings, entries, calibration, facts, measure, reporter)


def _warn_of_gaps(rows: int, audits: Sequence[Mapping[str, Any]], reporter: Reporter) -> None:
    """Say so if parts found other files in their folder than are in them."""
    listed = {audit.get("listed", rows) for audit in audits}
    if audits[0]["shard"] != "1/1" and listed != {rows}:
        counts = " or ".join(map(str, sorted(listed)))
        reporter.warn(f"the parts have {rows} files, but found {counts} in their folder: it was changed meanwhile")


def _refuse_misfits(directories: Sequence[records.ScoreDirectory]) -> None:
    """RunError if parts were not made alike, one is missing, or one is not what was written: what was changed in it
    would get a new, honest record."""
    parts, audits = [directory.path for directory in directories], [directory.audit for directory in directories]
    for part, audit in zip(parts, audits, strict=True):
        for key in ("model_sha256", "far", "fdr", "heatmaps", "calibration", "identifiers"):
            if audit[key] != audits[0][key]:
                raise RunError(f"{part} and {parts[0]} differ in {key}; parts of one scoring are expected")
    shards = [audit["shard"] for audit in audits]
    count = max(int(shard.partition("/")[2]) for shard in shards)
    if count > 1 and sorted(shards) != sorted(f"{index}/{count}" for index in range(1, count + 1)):
        raise RunError(f"shards {', '.join(sorted(shards))} are not 1 to {count}, each once")
    for directory in directories:
        if problems := verification.of_record(directory, []):
            raise RunError(f"{directory.path} is not what was written: {problems[0]}")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)


def _regions_of(path: Path) -> Iterator[Entry]:
    """The regions of a score directory, an image at a time."""
    if not (path / "regions.json").is_file():
        return
    content = json.loads((path / "regions.json").read_text("utf-8"))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for marks in content["annotations"]:
        region = {key: marks[key] for key in ("segmentation", "area", "bbox", "score")}
        yield {"row": {"path": names[marks["image_id"]]}, "regions": [region]}


# -- Again ----------------------------------------------------------------------------------------------


def rescore(
    path: Path, count: int, *, run_path: Path | None = None, root: Path | None = None, device: str = "auto"
) -> list[str]:
    """Score `count` random files of a score directory again; what does not come out as recorded.

    Bit for bit, with as many threads, where versions and machine are those of the record, else within CLOSE.
    """
    scored = records.read(path)
    run = runs.read(run_path or Path(scored.audit["run_path"]))
    if run.model_sha256 != scored.audit["model_sha256"]:
        return [f"the model at {run.path} is not the one that scored"]
    model = Model.load(run, device)
    known = scored.audit.get("threads", []) if runs.host(device) == scored.audit.get("host") else []
    rows = scored.scored()
    chosen = np.random.default_rng().choice(len(rows), min(count, len(rows)), replace=False)
    root = root or Path(scored.audit["root"])
    manifests: dict[Path, dict[Path, Record]] = {}
    problems: dict[str, str] = {}
    to_come = [rows[place] for place in sorted(chosen)]
    before = threads.in_use()
    try:
        for used in known or [before]:  # a scoring that was resumed may have had several
            threads.limit(used)
            for row in to_come:
                record = _record_of(row["path"], root, manifests)
                # A product's last bits depend on a row's place among the rows: one of these had the same.
                copies = [record] * (1 if is_volume(record) else model.batch)
                again = list(score_records(model, copies, Silent()))
                problems[row["path"]] = _differs(row, again, exact=bool(known))
            to_come = [row for row in to_come if problems[row["path"]]]
    finally:
        threads.limit(before)
    return [problem for problem in problems.values() if problem]


def _differs(row: records.Row, again: Sequence[Scored], *, exact: bool) -> str:
    """How a file, scored at each place in a batch, differs from its record, "" if at one it does not."""
    for each in again:
        if each.heatmap is None:
            return f"{row['path']}: cannot be scored again: {each.loaded.error}"
        if each.loaded.sha256 != row["sha256"]:
            return f"{row['path']}: the file is not the one that was scored"
    scores = [each.score for each in again]
    if row["score"] in scores or (not exact and np.isclose(scores[0], row["score"], rtol=CLOSE, atol=0)):
        return ""
    return f"{row['path']}: scores {scores[0]!r} now, {row['score']!r} in the record"


def _record_of(identity: str, root: Path, manifests: dict[Path, dict[Path, Record]]) -> Record:
    """A file, or a DICOM series, as it was scored; `manifests` keeps what those on the way to it say. RunError if it is
    outside `root`."""
    if leads_out(name := path_of(identity)):
        raise RunError(f"{identity!r} leads out of {root}; it is not read")
    path = root / name
    for folder in path.parents[: len(Path(name).parts)]:
        if folder not in manifests:
            listed = scan(folder, follow_symlinks=True).records if (folder / MANIFEST).is_file() else ()
            manifests[folder] = {folder / path_of(record.id): record for record in listed}
        if path in manifests[folder]:
            return replace(manifests[folder][path], id=identity)
    return Record(identity, path, files=series_of(path) if path.is_file() else ())
