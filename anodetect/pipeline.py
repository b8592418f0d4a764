"""Folder in, directory out: train, calibrate, score, evaluate.

scan → split → model → calibration → run directory; scan → model → decision → score directory
"""

import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from anodetect import records, runs
from anodetect.calibration import Calibration, benjamini_hochberg
from anodetect.config import canonical, plain
from anodetect.data import cards, readers, split
from anodetect.data.scan import Dataset, Record
from anodetect.errors import ConfigError, DataError, nearest
from anodetect.evaluation import Measure
from anodetect.files import sha256_of, write_atomic
from anodetect.model import Model, Scored, ahead, load, resolve, score_records
from anodetect.types import Batch, Reporter, Silent, TrainContext
from anodetect.writers import images as image_writer

LEARN_IMAGES = 500
CASES = 12
DEFAULT_FAR = 0.05


# -- Train ----------------------------------------------------------------------------------------------


def train(
    data: str,
    detector: str,
    out: Path,
    *,
    values: Mapping[str, Any] | None = None,
    representation: str = "pixels",
    budget: float | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train on the normals of `data` and write the run `out`; returns `info`'s facts plus the files that failed.

    `budget` is in minutes and covers the detector's whole `fit`.
    """
    reporter = reporter or Silent()
    config = resolve(detector, representation, values or {})
    if budget is not None and budget <= 0:
        raise ConfigError(f"--budget {budget}: minutes above 0 are expected")
    dataset = cards.open_data(data)
    normals, hashes, failed = _usable_normals(dataset, reporter)
    roles = split.assign(normals)
    if roles.dropped:
        reporter.warn(roles.dropped)
    workdir = runs.begin(out, resume=resume)
    model = Model.create(detector, representation, config)
    reporter.say(
        f"{dataset.name}: fit {len(roles.fit)}, tune {len(roles.tune)}, calibrate {len(roles.calibrate)} images"
    )
    _learn_preprocess(model, roles.fit)
    with tempfile.TemporaryDirectory(dir=workdir) as scratch:
        fit = _encode_all(model, roles.fit, Path(scratch, "fit"))
        tune = _encode_all(model, roles.tune, Path(scratch, "tune")) if roles.tune else fit
        seconds = _fit(model.detector, fit, tune, workdir, budget, seed, device, resume, reporter)
    reference = roles.tune or roles.fit
    scale = _colour_scale(model, reference, reporter)
    calibration = calibrate_model(model, roles.calibrate, reporter)
    log = runs.read_log(workdir)
    facts = {
        "seed": seed,
        "train_seconds": round(seconds, 3),
        "stopped_by": _last(log, "stopped_by"),
        "steps": _last(log, "step"),
        "budget_minutes": budget,
        "fit_images": len(roles.fit),
        "tune_images": len(roles.tune),
        "dropped": roles.dropped,
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "failed": len(failed),
        "config_sha256": readers.digest(canonical(config)),
    }
    header = {
        "detector": detector,
        "representation": representation,
        "config": config,
        "data": dataset.name,
        "preprocess": model.preprocess.state(),
        "scale": scale,
        "facts": facts,
    }
    manifest = [
        {
            "path": record.id,
            "role": role,
            "group": record.group,
            "kind": record.kind,
            "sha256": hashes[record.id],
            "error": "",
        }
        for role, part in (("fit", roles.fit), ("tune", roles.tune), ("calibrate", roles.calibrate))
        for record in part
    ] + [
        {"path": name, "role": "failed", "group": "", "kind": "", "sha256": "", "error": reason}
        for name, reason in failed
    ]
    runs.write(
        workdir,
        out,
        header=header,
        state=model.detector.state(),
        calibration=calibration,
        manifest=manifest,
        card=runs.model_card(header, calibration),
    )
    return runs.facts(out) | {"failures": [f"{name}: {reason}" for name, reason in failed]}


def _last(log: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((record[key] for record in reversed(log) if key in record), None)


def _usable_normals(dataset: Dataset, reporter: Reporter) -> tuple[list[Record], dict[str, str], list[tuple[str, str]]]:
    """The readable normals with copies merged into one group, all hashes, and what failed. Refuses leaks."""
    normals, testing = dataset.training(), [r for r in dataset.records if r.split == "test"]
    failed = list(dataset.problems)
    hashes: dict[str, str] = {}
    usable = []
    for done, loaded in enumerate(ahead(load, normals), start=1):
        if loaded.image is None:
            failed.append((loaded.record.id, loaded.error))
        else:
            usable.append(loaded.record)
            hashes[loaded.record.id] = loaded.sha256
        reporter.progress("read", done, len(normals))
    for record in testing:
        try:
            hashes[record.id] = sha256_of(record.path)
        except OSError:
            continue  # an unreadable test file cannot leak; scoring it will say why
    split.refuse_leaks(usable, testing, hashes)
    if not usable:
        reason = f"; the first: {failed[0][0]}: {failed[0][1]}" if failed else ""
        raise DataError(f"{dataset.root}: no readable normal image among {len(normals)}{reason}")
    usable, copies = split.merge_duplicates(usable, [hashes[record.id] for record in usable])
    if copies:
        reporter.warn(f"{copies} images are exact copies of others; copies stay on one side of the split")
    for name, reason in failed:
        reporter.warn(f"left out: {name}: {reason}")
    return usable, hashes, failed


def _learn_preprocess(model: Model, fit: Sequence[Record]) -> None:
    step = max(1, len(fit) // LEARN_IMAGES)
    model.preprocess.learn(loaded.image for loaded in ahead(load, fit[::step]) if loaded.image is not None)


def _encode_all(model: Model, items: Sequence[Record], stem: Path) -> Batch:
    """All images as the detector sees them, in files that are mapped into memory."""
    images = inside = None
    for row, loaded in enumerate(ahead(lambda record: load(record, model), items)):
        if loaded.encoded is None:
            raise DataError(f"{loaded.record.id}: {loaded.error}")
        image, foreground = loaded.encoded
        if images is None or inside is None:
            images = np.lib.format.open_memmap(f"{stem}-images.npy", "w+", np.float32, (len(items), *image.shape))
            inside = np.lib.format.open_memmap(
                f"{stem}-foreground.npy", "w+", np.bool_, (len(items), *foreground.shape)
            )
        images[row], inside[row] = image, foreground
    assert images is not None and inside is not None
    return Batch(images, inside)


def _fit(
    detector: Any,
    fit: Batch,
    tune: Batch,
    workdir: Path,
    budget: float | None,
    seed: int,
    device: str,
    resume: bool,
    reporter: Reporter,
) -> float:
    with (workdir / "train.jsonl").open("a", encoding="utf-8") as file:

        def log(record: Mapping[str, Any]) -> None:
            file.write(json.dumps(plain(record)) + "\n")
            file.flush()

        context = TrainContext(
            seed=seed,
            device=device,
            workdir=workdir,
            budget=None if budget is None else 60 * budget,
            resume=resume,
            log=log,
            progress=lambda done, total, loss: reporter.progress("train", done, total, f"loss {loss:.4f}"),
        )
        begun = time.monotonic()
        detector.fit(fit, tune, context=context)
        seconds = time.monotonic() - begun
        log({"fit_seconds": seconds})
    return seconds


def _colour_scale(model: Model, items: Sequence[Record], reporter: Reporter) -> list[float]:
    """Map values shown darkest and brightest: the median and thrice the 99.9th percentile above it, on tune normals."""
    maps = [scored.grid[1] for scored in score_records(model, items, reporter, "scale") if scored.grid is not None]
    low, high = np.percentile(np.stack(maps), (50, 99.9))
    return [float(low), float(low + 3 * max(high - low, 1e-9))]


def calibrate_model(model: Model, items: Sequence[Record], reporter: Reporter) -> Calibration:
    """Score held-out normals."""
    scored = [s for s in score_records(model, items, reporter, "calibrate") if s.heatmap is not None]
    return Calibration(
        np.array([s.score for s in scored], np.float64),
        np.array([np.nanmax(s.heatmap) for s in scored if s.heatmap is not None], np.float64),
        tuple(s.loaded.record.group for s in scored),
    )


def calibrate(
    run_path: Path, data: str, out: Path, *, device: str = "auto", reporter: Reporter | None = None
) -> dict[str, Any]:
    """The same frozen weights with new calibration normals, as a new run."""
    reporter = reporter or Silent()
    run = runs.read(run_path)
    dataset = cards.open_data(data)
    normals, hashes, failed = _usable_normals(dataset, reporter)
    if len(normals) < split.MINIMUM:
        raise DataError(
            f"{len(normals)} normal images are too few to calibrate with; at least {split.MINIMUM} are needed"
        )
    used = {row["sha256"]: row["path"] for row in runs.read_manifest(run_path) if row["role"] in ("fit", "tune")}
    for record in normals:
        if hashes[record.id] in used:
            raise DataError(
                f"leak: {record.id} has the same bytes as {used[hashes[record.id]]}, which the model was trained on"
            )
    workdir = runs.begin(out, resume=False)
    model = Model.load(run, device)
    calibration = calibrate_model(model, normals, reporter)
    facts = dict(run.header["facts"]) | {"calibrated_on": dataset.name, "calibrated_from": run.model_sha256}
    header = {key: value for key, value in run.header.items() if key not in ("hashes", "calibration_groups")} | {
        "facts": facts
    }
    kept = [row for row in runs.read_manifest(run_path) if row["role"] in ("fit", "tune")]
    manifest = kept + [
        {"path": r.id, "role": "calibrate", "group": r.group, "kind": r.kind, "sha256": hashes[r.id], "error": ""}
        for r in normals
    ]
    (workdir / "train.jsonl").write_bytes((run_path / "train.jsonl").read_bytes())
    runs.write(
        workdir,
        out,
        header=header,
        state=run.state,
        calibration=calibration,
        manifest=manifest,
        card=runs.model_card(header, calibration),
    )
    return runs.facts(out) | {"failures": [f"{name}: {reason}" for name, reason in failed]}


# -- Score and evaluate ---------------------------------------------------------------------------------


def score(
    run_path: Path,
    paths: Sequence[str],
    out: Path,
    *,
    far: float = DEFAULT_FAR,
    fdr: float | None = None,
    heatmaps: Sequence[str] = ("tiff", "png"),
    follow_symlinks: bool = False,
    device: str = "auto",
    command: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Score files, folders or a card's test part, and write the score directory `out`."""
    reporter = reporter or Silent()
    for kind in heatmaps:
        if kind not in image_writer.FORMATS:
            raise ConfigError(f"no heatmap format {kind!r}; {nearest(kind, [*image_writer.FORMATS, 'none'])}")
    rate = far if fdr is None else fdr
    run = runs.read(run_path)
    run.calibration.level(rate)  # refuses an impossible rate before any work
    root, items, problems = collect(paths, out, follow_symlinks)
    records.prepare(out)
    reporter.say(run.calibration.statement(rate))
    _warn_of_training_images(run_path, items, reporter)
    model = Model.load(run, device)
    started, begun = datetime.now(UTC), time.monotonic()
    cases = Cases(run.calibration.threshold(rate), run.scale)
    measure = Measure(run.calibration, far)
    rows, timings = [], []
    for scored in score_records(model, items, reporter):
        row = _row(scored, run.model_sha256)
        if scored.heatmap is not None and scored.loaded.image is not None:
            for kind in heatmaps:
                stem = out / "heatmaps" / row["path"]
                written = image_writer.write_heatmap(stem, kind, scored.heatmap, scored.loaded.image, run.scale)
                row["heatmap"] = row["heatmap"] or written.relative_to(out).as_posix()
            cases.offer(scored)
            measure.add(scored)
        rows.append(row)
        timings.append({"path": row["path"], "seconds": scored.seconds})
    rows += [_problem_row(name, reason, run.model_sha256) for name, reason in problems]
    rows.sort(key=lambda row: row["path"])
    groups = decide(rows, run.calibration, far=far, fdr=fdr)
    shown = cases.write(out)
    counts = Counter(row["status"] for row in rows)
    seconds = time.monotonic() - begun
    audit = {
        "run": run_path.name,
        "model_sha256": run.model_sha256,
        "detector": run.header["detector"],
        "data": run.header["data"],
        "facts": run.header["facts"],
        "config": run.header["config"],
        "far": None if fdr is not None else far,
        "fdr": fdr,
        "statement": run.calibration.statement(rate),
        "pixel_threshold": run.calibration.pixel_threshold(far),
        "scale": list(run.scale),
        "calibration": {"scores": run.calibration.scores.tolist(), "groups": run.calibration.n_groups},
        "root": str(root),
        "command": list(command),
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "counts": dict(counts),
        "cases": shown,
        "evaluation": measure.result() if measure.labelled() else None,
        "environment": runs.environment_facts(),
    }
    head = records.write(out, rows, groups, timings, audit)
    return {
        "scored": counts["ok"],
        "failed": counts["failed"],
        "skipped": counts["skipped"],
        "flagged": sum(bool(row.get("flagged")) for row in rows),
        "seconds": round(seconds, 3),
        "images_per_second": round(counts["ok"] / seconds, 3),
        "head": head,
        "out": str(out),
        "statement": audit["statement"],
        "evaluation": audit["evaluation"],
        "model_seconds_per_image": float(np.median([t["seconds"] for t in timings if t["seconds"]] or [0.0])),
    }


def collect(paths: Sequence[str], out: Path, follow_symlinks: bool) -> tuple[Path, list[Record], list[tuple[str, str]]]:
    """What `score` is asked to score: records with ids unique over all paths, and what cannot be looked at."""
    if not paths:
        raise ConfigError("nothing to score: give files, folders or a data set's name")
    items: list[Record] = []
    problems: list[tuple[str, str]] = []
    datasets = [cards.open_data(path, follow_symlinks=follow_symlinks) for path in paths]
    for number, dataset in enumerate(datasets):
        prefix = f"{number}/" if len(datasets) > 1 else ""
        inside = out.resolve()
        testing = [r for r in dataset.testing() if not r.path.resolve().is_relative_to(inside)]
        items += [cards.renamed(record, prefix) for record in testing]
        problems += [(prefix + name, reason) for name, reason in dataset.problems]
    if not items and not problems:
        raise DataError(f"{', '.join(paths)}: nothing to score")
    return datasets[0].root, items, problems


def _warn_of_training_images(run_path: Path, items: Sequence[Record], reporter: Reporter) -> None:
    names = {Path(row["path"]).name for row in runs.read_manifest(run_path)}
    if not any(record.path.name in names for record in items):
        return
    used = {row["sha256"] for row in runs.read_manifest(run_path) if row["sha256"]}
    count = sum(record.path.is_file() and sha256_of(record.path) in used for record in items)
    if count:
        reporter.warn(f"{count} of these images took part in training or calibration; their p-values are not valid")


def _row(scored: Scored, model_sha256: str) -> records.Row:
    loaded = scored.loaded
    height, width = loaded.image.shape[1:] if loaded.image is not None else (None, None)
    return {
        "path": loaded.record.id,
        "sha256": loaded.sha256,
        "group": loaded.record.group,
        "score": scored.score,
        "heatmap": "",
        "width": width,
        "height": height,
        "model_sha256": model_sha256,
        "status": "failed" if loaded.error else "ok",
        "error": loaded.error,
        "label": loaded.record.label,
        "kind": loaded.record.kind,
    }


def _problem_row(name: str, reason: str, model_sha256: str) -> records.Row:
    status = "skipped" if "symbolic link" in reason else "failed"
    return {"path": name, "group": name, "heatmap": "", "model_sha256": model_sha256, "status": status, "error": reason}


def decide(
    rows: Sequence[records.Row], calibration: Calibration, *, far: float, fdr: float | None
) -> list[records.Row]:
    """Fill in p_value, q_value, flagged and threshold of each row; returns the rows of groups.csv.

    q-values are Benjamini–Hochberg where every image is its own group, else Benjamini–Yekutieli. A group's
    score is its highest image score, compared with the same on the calibration groups.
    """
    rate = far if fdr is None else fdr
    good = [row for row in rows if row["status"] == "ok"]
    members: dict[str, list[records.Row]] = {}
    for row in good:
        members.setdefault(row["group"], []).append(row)
    p = calibration.p_values([row["score"] for row in good], rate)
    q = benjamini_hochberg(p, dependent=len(members) < len(good))
    flags = (p if fdr is None else q) <= rate + 1e-12
    spared = [row["score"] for row, flag in zip(good, flags, strict=True) if not flag]
    threshold = calibration.threshold(far) if fdr is None else max(spared, default=-np.inf)
    for row, p_value, q_value, flag in zip(good, p, q, flags, strict=True):
        row |= {"p_value": float(p_value), "q_value": float(q_value), "flagged": bool(flag), "threshold": threshold}
    pooled = [max(row["score"] for row in group) for group in members.values()]
    group_p = calibration.pooled().p_values(pooled, rate)
    group_q = benjamini_hochberg(group_p)
    group_flags = (group_p if fdr is None else group_q) <= rate + 1e-12
    return [
        {
            "group": name,
            "images": len(group),
            "score": s,
            "p_value": float(pv),
            "q_value": float(qv),
            "flagged": bool(f),
        }
        for (name, group), s, pv, qv, f in zip(members.items(), pooled, group_p, group_q, group_flags, strict=True)
    ]


class Cases:
    """The most anomalous images and those nearest to the threshold, as pictures; a bounded number is kept."""

    def __init__(self, threshold: float, scale: tuple[float, float]) -> None:
        self.threshold, self.scale = threshold, scale
        self.kept: dict[str, list[tuple[float, Scored]]] = {"highest": [], "borderline": []}

    def offer(self, scored: Scored) -> None:
        distance = abs(scored.score - self.threshold) if np.isfinite(self.threshold) else np.inf
        for name, rank in (("highest", -scored.score), ("borderline", distance)):
            if np.isfinite(rank):
                best = sorted([*self.kept[name], (rank, scored)], key=lambda pair: pair[0])
                self.kept[name] = best[:CASES]

    def write(self, out: Path) -> dict[str, list[str]]:
        """Write cases/<kind>-NN.png and return the image paths in their order."""
        for name, pairs in self.kept.items():
            for number, (_, scored) in enumerate(pairs):
                assert scored.grid is not None and scored.loaded.image is not None
                image, heatmap, reconstruction = scored.grid
                strip = image_writer.case_strip(image, heatmap, reconstruction, self.scale)
                write_atomic(out / "cases" / f"{name}-{number:02d}.png", strip)
        return {name: [scored.loaded.record.id for _, scored in pairs] for name, pairs in self.kept.items()}


def evaluate(
    run_path: Path, data: str, *, far: float = DEFAULT_FAR, device: str = "auto", reporter: Reporter | None = None
) -> dict[str, Any]:
    """Metrics on labelled data; images the run was made from are refused by name."""
    reporter = reporter or Silent()
    run = runs.read(run_path)
    dataset = cards.open_data(data)
    items = dataset.labelled()
    if not items:
        raise DataError(
            f"{data}: no labelled images; label them by folders (test/good, test/<kind>) or in manifest.csv"
        )
    used = {row["sha256"]: row["path"] for row in runs.read_manifest(run_path) if row["sha256"]}
    model = Model.load(run, device)
    measure, failures = Measure(run.calibration, far), list(dataset.problems)
    for scored in score_records(model, items, reporter):
        loaded = scored.loaded
        if loaded.error:
            failures.append((loaded.record.id, loaded.error))
        elif loaded.sha256 in used:
            raise DataError(
                f"leak: {loaded.record.id} has the same bytes as {used[loaded.sha256]}, which the run was made from"
            )
        measure.add(scored)
    if not measure.labelled():
        raise DataError(
            f"{data}: none of {len(items)} labelled images can be read; the first: {failures[0][0]}: {failures[0][1]}"
        )
    return measure.result() | {"failed": len(failures), "failures": [f"{name}: {reason}" for name, reason in failures]}


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
