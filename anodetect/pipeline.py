"""Folder in, directory out: train, calibrate, score, evaluate.

scan → split → model → calibration → run directory; scan → model → decision → score directory
"""

import json
import os
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
from anodetect.calibration import Calibration
from anodetect.cases import Cases
from anodetect.config import build, canonical, plain
from anodetect.data import cards, readers, split
from anodetect.data.preprocess import Preprocess, PreprocessConfig
from anodetect.data.scan import Dataset, Record, is_below
from anodetect.decision import decide, fdr_statement
from anodetect.detectors import DETECTORS
from anodetect.errors import ConfigError, DataError, RunError, nearest
from anodetect.evaluation import Measure
from anodetect.files import path_text, sha256_of, short_name
from anodetect.model import BATCH, LOOK_AHEAD, Model, Scored, ahead, load, resolve, score_records
from anodetect.representations import FEATURE_MULTIPLE, features_installed
from anodetect.types import Batch, Floats, Reporter, Silent, TrainContext
from anodetect.writers import images as image_writer

LEARNED_FROM = 64  # images, for a representation that has something to learn
SCALE_IMAGES, SCALE_PIXELS = 200, 2**14  # what the colour scale is learned from; pixels of one image
TILES, TILE_PIXELS = 2000, 2**26  # random tiles to learn from, at most, but at least one of each image
DEFAULT_FAR = 0.05


# -- Train ----------------------------------------------------------------------------------------------


def train(
    data: str,
    detector: str,
    out: Path,
    *,
    values: Mapping[str, Any] | None = None,
    representation: str = "auto",
    budget: float | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train on the normals of `data` and write the run `out`; returns `info`'s facts plus the files that failed.

    With `representation` "auto", a detector that works on both gets pixels where images show a shape before a flat
    background, and features where they fill their frame.
    `budget` is in minutes and covers the detector's whole `fit`. Under `torchrun` the processes train together;
    the first writes the run, the others return {}.
    """
    helping = os.environ.get("RANK", "0") != "0"
    reporter = Silent() if helping or reporter is None else reporter
    values = values or {}
    config = resolve(detector, representation, values)
    if budget is not None and budget <= 0:
        raise ConfigError(f"--budget {budget}: minutes above 0 are expected")
    dataset = cards.open_data(data)
    normals, hashes, failed = _usable_normals(dataset, reporter)
    roles = split.assign(normals)
    if roles.dropped:
        reporter.warn(roles.dropped)
    tile = config["tiling"]["tile"]
    depth = LOOK_AHEAD * (1 if tile else BATCH)
    preprocess = Preprocess(build(PreprocessConfig, config["preprocess"], "preprocess"))
    preprocess.learn(loaded.image for loaded in ahead(load, roles.fit, depth) if loaded.image is not None)
    if representation == "auto":
        fixed = DETECTORS[detector].representations[0] if "preset" in values else None  # presets are for the first
        representation = fixed or _suited(detector, preprocess.flat_background, tile, reporter)
        config = resolve(detector, representation, values)
    fingerprint = {"config": config, "seed": seed, "fit": [hashes[record.id] for record in roles.fit]}
    model = Model.create(detector, representation, config)
    model.preprocess = preprocess
    workdir = (
        runs.begin_helping(out, resume=resume) if helping else runs.begin(out, resume=resume, fingerprint=fingerprint)
    )
    reporter.say(
        f"{dataset.name}: fit {len(roles.fit)}, tune {len(roles.tune)}, calibrate {len(roles.calibrate)} images"
    )
    some = roles.fit[:: max(1, len(roles.fit) // LEARNED_FROM)]
    images = (loaded.image for loaded in ahead(load, some, depth) if loaded.image is not None)
    model.representation.learn(preprocess.apply(image) for image in images)
    with tempfile.TemporaryDirectory(dir=workdir) as scratch:
        kinds = sorted({record.kind for record in roles.fit})
        fit = _encode_all(model, roles.fit, Path(scratch, "fit"), seed, kinds)
        tune = _encode_all(model, roles.tune, Path(scratch, "tune"), seed, kinds) if roles.tune else fit
        _fit(model.detector, fit, tune, workdir, budget, seed, device, resume, reporter)
    if helping:
        return {}
    reference = roles.tune or roles.fit
    scale = _colour_scale(model, reference, reporter)
    calibration, unscored = calibrate_model(model, roles.calibrate, reporter)
    failed += unscored
    log = runs.read_log(workdir)
    if _last(log, "stopped_by") == "divergence":
        reporter.warn(f"the loss diverged; the weights are those of step {_last(log, 'step')}, the last good ones")
    header = {
        "detector": detector,
        "representation": representation,
        "config": config,
        "data": dataset.name,
        "preprocess": model.preprocess.state(),
        "representation_state": model.representation.state(),
        "scale": scale,
        "facts": _facts(log, roles, len(failed))
        | {"seed": seed, "budget_minutes": budget, "config_sha256": readers.digest(canonical(config))},
    }
    runs.write(
        workdir,
        out,
        header=header,
        state=model.detector.state(),
        calibration=calibration,
        manifest=_manifest(roles, hashes, failed),
        card=runs.model_card(header, calibration),
    )
    failures = [f"{name}: {reason}" for name, reason in failed]
    return runs.facts(out) | {"failures": failures, "peak_memory_mb": peak_memory_mb()}


def _suited(detector: str, flat_background: bool, tile: int, reporter: Reporter) -> str:
    """The representation that suits a detector and the images it is to learn from."""
    *others, full_frame = DETECTORS[detector].representations
    if not others:
        return full_frame
    if flat_background:
        return others[0]
    if not features_installed():
        hindrance = "pip install 'anodetect[features]'"
    elif tile % FEATURE_MULTIPLE:
        hindrance = f"choose a --tile that is a multiple of {FEATURE_MULTIPLE}"
    else:
        return full_frame
    reporter.warn(f"images fill their frame: features would find more than pixels; {hindrance}")
    return others[0]


def _facts(log: Sequence[Mapping[str, Any]], roles: split.Roles, failed: int) -> dict[str, Any]:
    return {
        "train_seconds": round(sum(record.get("fit_seconds", 0.0) for record in log), 3),
        "stopped_by": _last(log, "stopped_by"),
        "steps": _last(log, "step"),
        "fit_images": len(roles.fit),
        "tune_images": len(roles.tune),
        "dropped": roles.dropped,
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "failed": failed,
    }


def _manifest(roles: split.Roles, hashes: Mapping[str, str], failed: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """The rows of the run's manifest.csv: what each image was used for."""
    used = [
        {"path": r.id, "role": role, "group": r.group, "kind": r.kind, "sha256": hashes[r.id], "error": ""}
        for role, part in (("fit", roles.fit), ("tune", roles.tune), ("calibrate", roles.calibrate))
        for r in part
    ]
    return used + [
        {"path": name, "role": "failed", "group": "", "kind": "", "sha256": "", "error": reason}
        for name, reason in failed
    ]


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


def _encode_all(model: Model, items: Sequence[Record], stem: Path, seed: int, kinds: Sequence[str]) -> Batch:
    """All images as the detector sees them, or random tiles of them, in files that are mapped into memory."""
    numbers = []
    tile = model.tiling.tile
    count = max(1, min(TILES, TILE_PIXELS // tile**2) // len(items)) if tile else 1
    images = inside = None
    rng, place = np.random.default_rng(seed), 0
    for loaded in ahead(lambda record: load(record, model), items, LOOK_AHEAD * model.batch):
        if loaded.encoded is None:
            raise DataError(f"{loaded.record.id}: {loaded.error}")
        for image, foreground in model.crops(loaded.encoded, count, rng):
            if images is None or inside is None:
                rows = len(items) * count
                images = np.lib.format.open_memmap(f"{stem}-images.npy", "w+", np.float32, (rows, *image.shape))
                inside = np.lib.format.open_memmap(f"{stem}-inside.npy", "w+", np.bool_, (rows, *foreground.shape))
            images[place], inside[place] = image, foreground
            numbers.append(kinds.index(loaded.record.kind) if loaded.record.kind in kinds else -1)
            place += 1
    assert images is not None and inside is not None
    return Batch(images[:place], inside[:place], np.array(numbers, np.int64) if len(kinds) > 1 else None)


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
) -> None:
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
        try:
            detector.fit(fit, tune, context=context)
        finally:
            log({"fit_seconds": time.monotonic() - begun})


def _colour_scale(model: Model, items: Sequence[Record], reporter: Reporter) -> list[float]:
    """Map values shown darkest and brightest, from tune normals: a normal image stays dark but for its odd spots."""
    step = max(1, len(items) // SCALE_IMAGES)
    scored_items = score_records(model, items[::step], reporter, "scale")
    values = [some_pixels(scored.grid[1]) for scored in scored_items if scored.grid is not None]
    middle, low, high = np.percentile(np.concatenate(values), (50, 95, 99.9))
    return [float(low), float(high + max(high - middle, 1e-9))]


def some_pixels(heatmap: Floats) -> Floats:
    """About SCALE_PIXELS values of a map, evenly spread; a copy, so that the map itself can go."""
    return heatmap.ravel()[:: max(1, heatmap.size // SCALE_PIXELS)].copy()


def calibrate_model(
    model: Model, items: Sequence[Record], reporter: Reporter
) -> tuple[Calibration, list[tuple[str, str]]]:
    """Score held-out normals; the calibration, and what could not be scored. Only numbers are kept of an image."""
    scores, peaks, groups, failed = [], [], [], []
    for scored in score_records(model, items, reporter, "calibrate"):
        if scored.heatmap is None:
            failed.append((scored.loaded.record.id, scored.loaded.error))
            reporter.warn(f"left out: {scored.loaded.record.id}: {scored.loaded.error}")
        else:
            scores.append(scored.score)
            peaks.append(float(np.nanmax(scored.heatmap)))
            groups.append(scored.loaded.record.group)
    return Calibration(np.array(scores, np.float64), np.array(peaks, np.float64), tuple(groups)), failed


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
    kept = [row for row in runs.read_manifest(run_path) if row["role"] in ("fit", "tune")]
    used = {row["sha256"]: row["path"] for row in kept}
    for record in normals:
        if hashes[record.id] in used:
            raise DataError(
                f"leak: {record.id} has the same bytes as {used[hashes[record.id]]}, which the model was trained on"
            )
    _refuse_known_groups(kept, normals)
    model = Model.load(run, device)
    calibration, unscored = calibrate_model(model, normals, reporter)
    if len(calibration.scores) < split.MINIMUM:
        raise DataError(f"only {len(calibration.scores)} of {len(normals)} images could be scored; {unscored[0][1]}")
    failed += unscored
    workdir = runs.begin(out, resume=False)
    facts = dict(run.header["facts"]) | {"calibrated_on": dataset.name, "calibrated_from": run.model_sha256}
    facts |= {"failed": len(failed), "dropped": ""}
    header = {key: value for key, value in run.header.items() if key not in ("hashes", "calibration_groups")} | {
        "facts": facts
    }
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
    for checked in (far, rate):
        run.calibration.level(checked)  # refuses an impossible rate before any work
    root, items, problems = collect(paths, out, follow_symlinks)
    records.prepare(out)
    statement = run.calibration.statement(far) if fdr is None else fdr_statement(run.calibration, fdr, len(items))
    reporter.say(statement)
    used = {row["sha256"] for row in runs.read_manifest(run_path) if row["sha256"]}
    model = Model.load(run, device)
    started, begun = datetime.now(UTC), time.monotonic()
    masks = any(record.mask for record in items)
    # With --fdr the threshold is known only when everything has been scored: no image is borderline until then.
    cases = Cases(run.calibration.threshold(far) if fdr is None else np.inf, run.scale)
    measure = Measure(run.calibration, far, masks=masks)
    rows, timings, known, unwritten = [], [], 0, 0
    for scored in score_records(model, items, reporter):
        row = _row(scored, run.model_sha256)
        if scored.heatmap is not None:
            try:
                row["heatmap"] = _write_heatmaps(scored, out, heatmaps, run.scale)
            except RunError as error:
                row["error"] = str(error)
                unwritten += 1
            cases.offer(scored)
            measure.add(scored)
        known += row["sha256"] in used
        rows.append(row)
        timings.append({"path": row["path"], "seconds": scored.seconds})
    if known:
        reporter.warn(f"{known} of these images took part in training or calibration; their p-values are not valid")
    for problem in measure.problems:
        reporter.warn(f"not measured: {problem}")
    rows += [_problem_row(name, reason, run.model_sha256) for name, reason in problems]
    rows.sort(key=lambda row: row["path"])
    groups, threshold = decide(rows, run.calibration, far=far, fdr=fdr)
    seconds = time.monotonic() - begun
    counts = Counter(row["status"] for row in rows)
    audit = _audit(run, far, fdr) | {
        "root": str(root),
        "command": list(command),
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "counts": dict(counts),
        "cases": cases.write(out),
        "evaluation": measure.result(threshold) if measure.labelled() else None,
        "statement": statement,
        "environment": runs.environment_facts(),
    }
    if measure.labelled():
        records.write_draws(out, measure.draws())
    head = records.write(out, rows, groups, timings, audit)
    return {
        "scored": counts["ok"],
        "failed": counts["failed"] + unwritten,
        "skipped": counts["skipped"],
        "flagged": sum(bool(row.get("flagged")) for row in rows),
        "seconds": round(seconds, 3),
        "images_per_second": round(counts["ok"] / seconds, 3),
        "head": head,
        "out": str(out),
        "statement": audit["statement"],
        "evaluation": audit["evaluation"],
        "failures": measure.problems,
        "peak_memory_mb": peak_memory_mb(),
        "model_seconds_per_image": float(np.median([t["seconds"] for t in timings if t["seconds"]] or [0.0])),
    }


def _write_heatmaps(scored: Scored, out: Path, kinds: Sequence[str], scale: tuple[float, float]) -> str:
    """Write one image's heatmaps; the first one's path relative to `out`, "" without any."""
    assert scored.heatmap is not None and scored.loaded.image is not None
    stem = out / "heatmaps" / short_name(scored.loaded.record.id)
    written = [image_writer.write_heatmap(stem, kind, scored.heatmap, scored.loaded.image, scale) for kind in kinds]
    return written[0].relative_to(out).as_posix() if written else ""


def _audit(run: runs.Run, far: float, fdr: float | None) -> dict[str, Any]:
    """What audit.json says of the model and of how it decides."""
    return {
        "run": run.path.name,
        "model_sha256": run.model_sha256,
        **{key: run.header[key] for key in ("detector", "data", "facts", "config")},
        "far": None if fdr is not None else far,
        "fdr": fdr,
        "pixel_threshold": run.calibration.pixel_threshold(far),
        "scale": list(run.scale),
        "training": runs.curves(run.path),
        "calibration": {"scores": run.calibration.scores.tolist(), "groups": run.calibration.n_groups},
    }


def collect(paths: Sequence[str], out: Path, follow_symlinks: bool) -> tuple[Path, list[Record], list[tuple[str, str]]]:
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
        problems = [
            (path_text(os.path.relpath(dataset.root / name, root)), reason)
            for dataset in datasets
            for name, reason in dataset.problems
        ]
    unique = {record.id: record for record in items if not is_below(record.path, out)}
    if not unique and not problems:
        raise DataError(f"{', '.join(paths)}: nothing to score")
    return root, list(unique.values()), problems


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


def _refuse_known_groups(rows: Sequence[Mapping[str, str]], items: Sequence[Record]) -> None:
    """DataError if a named group (a patient, a lot) is among the `rows` of a run's manifest."""
    known = {row["group"]: row["path"] for row in rows if row["group"] != row["path"]}
    for record in items:
        if record.group != record.id and record.group in known:
            raise DataError(f"leak: group {record.group!r} of {record.id} took part in the run ({known[record.group]})")


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
    rows = runs.read_manifest(run_path)
    used = {row["sha256"]: row["path"] for row in rows if row["sha256"]}
    _refuse_known_groups(rows, items)
    model = Model.load(run, device)
    run.calibration.level(far)  # refuses an impossible rate before any work
    masks = any(record.mask for record in items)
    measure = Measure(run.calibration, far, masks=masks)
    failures = [f"{name}: {reason}" for name, reason in dataset.problems]
    for scored in score_records(model, items, reporter):
        loaded = scored.loaded
        if loaded.error:
            failures.append(f"{loaded.record.id}: {loaded.error}")
        elif loaded.sha256 in used:
            raise DataError(
                f"leak: {loaded.record.id} has the same bytes as {used[loaded.sha256]}, which the run was made from"
            )
        measure.add(scored)
    if not measure.labelled():
        raise DataError(f"{data}: none of {len(items)} labelled images can be read; the first: {failures[0]}")
    failures += measure.problems
    return measure.result() | {"failed": len(failures), "failures": failures}


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
