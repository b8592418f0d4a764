"""Folder in, run directory out: train, calibrate; and evaluate. (Scoring folders: scoring.py.)

scan → split → model → calibration → run directory
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anodetect import runs
from anodetect.batching import mapped
from anodetect.calibration import DEFAULT_FAR, Calibration
from anodetect.config import build, canonical, plain
from anodetect.data import cards, readers, split
from anodetect.data.preprocess import Preprocess, PreprocessConfig, has_fixed_units
from anodetect.data.scan import Dataset, Record
from anodetect.detectors import DETECTORS
from anodetect.errors import ConfigError, DataError, ImageError
from anodetect.evaluation import Breakdown
from anodetect.model import (
    BATCH,
    LOOK_AHEAD,
    Loaded,
    Model,
    Scored,
    ahead,
    load,
    resolve,
    score_records,
    slice_records,
)
from anodetect.representations import FEATURE_MULTIPLE, features_installed
from anodetect.types import Batch, Floats, Reporter, Silent, TrainContext

SEEN = 2000  # images, about, to learn what slices of volumes are like
LEARNED_FROM = 64  # images, for a representation that has something to learn
SCALE_IMAGES, SCALE_PIXELS = 200, 2**14  # what the colour scale is learned from; pixels of one image
TILES, TILE_PIXELS = 2000, 2**26  # random tiles to learn from, at most, but at least one of each image


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
    preprocess = Preprocess(build(PreprocessConfig, config["preprocess"], "preprocess"))
    dims = config["tiling"]["dims"]
    representation = "pixels" if dims == 3 else representation
    normals, hashes, failed = _usable_normals(dataset, preprocess, dims, reporter)
    if dims == 3 and len(normals) < split.MINIMUM:
        raise DataError(
            f"{len(normals)} normal volumes are too few for --dims 3: at least {split.MINIMUM} are needed, since each "
            "counts as one; slice by slice (--dims 2) every slice counts"
        )
    roles = split.assign(normals)
    if roles.dropped:
        reporter.warn(roles.dropped)
    tile = config["tiling"]["tile"]
    depth = LOOK_AHEAD * (1 if tile else BATCH)
    read = partial(load, preprocess=preprocess)
    preprocess.learn(image for loaded in ahead(read, roles.fit, depth) for image in _images(loaded))
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
        f"{dataset.name}: fit {len(roles.fit)}, tune {len(roles.tune)}, calibrate {len(roles.calibrate)} "
        f"{'volumes' if dims == 3 else 'images'}"
    )
    _learn_to_see(model, roles, lambda items: ahead(read, items, depth))
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
    return runs.facts(out) | {"failures": failures, "peak_memory_mb": runs.peak_memory_mb()}


def _learn_to_see(model: Model, roles: split.Roles, loaded: Callable[[Sequence[Record]], Iterable[Loaded]]) -> None:
    """Learn what slices of volumes are like, where the model has none to learn from, and what the representation has to
    learn."""
    preprocess = model.preprocess
    if preprocess.config.refuse_unseen and not preprocess.of_volumes:
        few = [*roles.fit, *roles.tune]
        few = few[:: max(1, len(few) // SEEN)]
        preprocess.learn_seen(preprocess.apply(each.image) for each in loaded(few) if each.image is not None)
    some = roles.fit[:: max(1, len(roles.fit) // LEARNED_FROM)]
    model.representation.learn(
        preprocess.apply(each.image, each.volume, each.record.slice or 0)
        for each in loaded(some)
        if each.image is not None
    )


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
    parts = {"fit": roles.fit, "tune": roles.tune, "calibrate": roles.calibrate}
    return [row for role, part in parts.items() for row in _used(part, role, hashes)] + [
        {"path": name, "role": "failed", "group": "", "kind": "", "sha256": "", "error": reason}
        for name, reason in failed
    ]


def _used(items: Sequence[Record], role: str, hashes: Mapping[str, str]) -> list[dict[str, str]]:
    """A row for each file, however many slices of it were used."""
    return [
        {"path": r.id, "role": role, "group": r.group, "kind": r.kind, "sha256": hashes[r.id], "error": ""}
        for r in {record.id: record for record in items}.values()
    ]


def _last(log: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((record[key] for record in reversed(log) if key in record), None)


def _usable_normals(
    dataset: Dataset, preprocess: Preprocess, dims: int, reporter: Reporter
) -> tuple[list[Record], dict[str, str], list[tuple[str, str]]]:
    """The readable normals, in two dimensions of volumes their slices, with copies merged into one group, all hashes,
    and what failed.
    Refuses leaks. The plane that volumes are sliced along becomes that of `preprocess`, which also learns whether all
    have fixed units."""
    normals, testing = dataset.training(), [r for r in dataset.records if r.split == "test"]
    failed = list(dataset.problems)
    hashes: dict[str, str] = {}
    usable = []
    axes: dict[str, str] = {}
    fixed = True
    for done, loaded in enumerate(ahead(partial(load, preprocess=preprocess), normals), start=1):
        if loaded.image is None:
            failed.append((loaded.record.id, loaded.error))
        else:
            usable += slice_records(loaded, dims)
            hashes[loaded.record.id] = loaded.sha256
        if loaded.volume is not None:
            axes.setdefault(loaded.volume.geometry.plane, loaded.record.id)
            fixed &= has_fixed_units(loaded.volume.volume)
        reporter.progress("read", done, len(normals))
    if len(axes) > 1:
        found = ", ".join(f"{axis} ({name})" for axis, name in axes.items())
        raise DataError(f"volumes have their finest pixels in different planes: {found}; choose one with --axis")
    if axes:
        preprocess.axis, preprocess.of_volumes, preprocess.fixed_units = next(iter(axes)), True, fixed
        if preprocess.config.exported:
            raise ConfigError("exported says how images were made of volumes, but these are volumes; leave it out")
    for record in testing:
        try:
            hashes[record.id] = readers.read_source(record).sha256
        except ImageError:
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


def _images(loaded: Loaded) -> list[Floats]:
    """What there is to learn from as images [C, H, W]: of a volume the slices with enough foreground."""
    if loaded.image is None:
        return []
    if not loaded.is_volume or loaded.volume is None:
        return [loaded.image]
    return [loaded.image[:, number] for number in loaded.volume.numbers]


def _encode_all(model: Model, items: Sequence[Record], stem: Path, seed: int, kinds: Sequence[str]) -> Batch:
    """All images as the detector sees them, or random tiles or patches, in files that are mapped into memory."""
    numbers = []
    tile = math.prod(model.tiling.sides)
    count = max(1, min(TILES, TILE_PIXELS // tile) // len(items)) if tile else 1
    images = inside = None
    rng, place = np.random.default_rng(seed), 0
    for loaded in ahead(lambda record: load(record, model), items, LOOK_AHEAD * model.batch):
        encoded = loaded.encoded
        if loaded.is_volume and loaded.volume is not None:
            encoded = model.encode_volume(loaded.volume)
        if encoded is None:
            raise DataError(f"{loaded.record.id}: {loaded.error}")
        for image, foreground in model.crops(encoded, count, rng):
            if images is None or inside is None:
                images, inside = mapped(stem, len(items) * count, image, foreground)
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
    values = [some_pixels(each) for each in map(_scored_pixels, scored_items) if each is not None]
    middle, low, high = np.percentile(np.concatenate(values), (50, 95, 99.9))
    return [float(low), float(high + max(high - middle, 1e-9))]


def _scored_pixels(scored: Scored) -> Floats | None:
    """An image's map on the detector's grid, a volume's where it was scored."""
    if scored.slices is not None and scored.heatmap is not None:
        return scored.heatmap[scored.slices.numbers]
    return None if scored.grid is None else scored.grid[1]


def some_pixels(heatmap: Floats) -> Floats:
    """About SCALE_PIXELS values of a map, evenly spread; a copy, so that the map itself can go."""
    return heatmap.ravel()[:: max(1, heatmap.size // SCALE_PIXELS)].copy()


def calibrate_model(
    model: Model, items: Sequence[Record], reporter: Reporter
) -> tuple[Calibration, list[tuple[str, str]]]:
    """Score held-out normals; the calibration, and what could not be scored. Only numbers are kept of an image, and of
    a volume those of each of its slices."""
    scores: list[float] = []
    peaks: list[float] = []
    groups: list[str] = []
    failed = []
    for scored in score_records(model, items, reporter, "calibrate"):
        if scored.heatmap is None:
            failed.append((scored.loaded.record.id, scored.loaded.error))
            reporter.warn(f"left out: {scored.loaded.record.id}: {scored.loaded.error}")
        elif scored.slices is not None:
            scores += scored.slices.scores.tolist()
            peaks += scored.slices.peaks.tolist()
            groups += [scored.loaded.record.group] * len(scored.slices.numbers)
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
    model = Model.load(run, device)
    dims = model.tiling.dims
    preprocess = copy(model.preprocess)  # what it learns here is no part of the model, which is frozen
    normals, hashes, failed = _usable_normals(dataset, preprocess, dims, reporter)
    if len(normals) < split.MINIMUM:
        raise DataError(
            f"{len(normals)} normal {'volumes' if dims == 3 else 'images'} are too few to calibrate with; at least "
            f"{split.MINIMUM} are needed"
        )
    kept = [row for row in runs.read_manifest(run_path) if row["role"] in ("fit", "tune")]
    used = {row["sha256"]: row["path"] for row in kept}
    for record in normals:
        if hashes[record.id] in used:
            raise DataError(
                f"leak: {record.id} has the same bytes as {used[hashes[record.id]]}, which the model was trained on"
            )
    refuse_known_groups(kept, normals)
    calibration, unscored = calibrate_model(model, normals, reporter)
    if len(normals) - len(unscored) < split.MINIMUM:
        raise DataError(f"only {len(normals) - len(unscored)} of {len(normals)} could be scored; {unscored[0][1]}")
    failed += unscored
    workdir = runs.begin(out, resume=False)
    facts = dict(run.header["facts"]) | {"calibrated_on": dataset.name, "calibrated_from": run.model_sha256}
    facts |= {"failed": len(failed), "dropped": ""}
    header = {key: value for key, value in run.header.items() if key not in ("hashes", "calibration_groups")} | {
        "facts": facts
    }
    manifest = kept + _used(normals, "calibrate", hashes)
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


# -- Evaluate ---------------------------------------------------------------------------------


def refuse_known_groups(rows: Sequence[Mapping[str, str]], items: Sequence[Record]) -> None:
    """DataError if a named group (a patient, a lot) is among the `rows` of a run's manifest."""
    known = {row["group"]: row["path"] for row in rows if row["group"] != row["path"]}
    for record in items:
        if record.group != record.id and record.group in known:
            raise DataError(f"leak: group {record.group!r} of {record.id} took part in the run ({known[record.group]})")


def evaluate(
    run_path: Path,
    data: str,
    *,
    far: float = DEFAULT_FAR,
    by: Sequence[str] = (),
    device: str = "auto",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Metrics on labelled data, also for each value of the columns `by` of its manifest; images the run was made
    from are refused by name."""
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
    refuse_known_groups(rows, items)
    model = Model.load(run, device)
    run.calibration.level(far)  # refuses an impossible rate before any work
    measure = Breakdown(run.calibration, far, items, by)
    failures = [f"{name}: {reason}" for name, reason in dataset.problems]
    for scored in score_records(model, items, reporter):
        loaded = scored.loaded
        if loaded.error:
            failures.append(f"{loaded.record.id}: {loaded.error}")
        elif loaded.sha256 in used:
            raise DataError(
                f"leak: {loaded.record.id} has the same bytes as {used[loaded.sha256]}, which the run was made from"
            )
        if scored.heatmap is not None:
            measure.add(loaded.record, scored.score, scored.heatmap, loaded.volume)
    if not measure.whole.labelled():
        raise DataError(f"{data}: none of {len(items)} labelled images can be read; the first: {failures[0]}")
    failures += measure.whole.problems
    result = measure.result()
    for warning in result.get("warnings", ()):
        reporter.warn(warning)
    return result | {"failed": len(failures), "failures": failures}
