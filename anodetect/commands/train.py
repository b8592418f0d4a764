"""Train: a folder of normal images in, a run directory out.

scan → split → model → calibration → run directory
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.commands.calibrate import calibrate_model
from anodetect.commands.normals import usable_normals, used_rows
from anodetect.config import build, canonical, without_nan
from anodetect.data import cards, readers, split
from anodetect.data.scan import Record
from anodetect.detectors import DETECTORS
from anodetect.errors import ConfigError, DataError
from anodetect.imaging.batch_files import BatchWriter
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.imaging.representations import FEATURE_MULTIPLE, features_installed
from anodetect.model.loading import BATCH, LOOK_AHEAD, Loaded, ahead, load
from anodetect.model.model import Model
from anodetect.model.scoring import Scored, score_records
from anodetect.model.settings import resolve
from anodetect.record import environment, runs
from anodetect.types import Batch, Floats, Reporter, Silent, TrainContext

SEEN = 2000  # images, about, to learn what slices of volumes are like
LEARNED_FROM = 64  # images, for a representation that has something to learn
SCALE_IMAGES, SCALE_PIXELS = (
    200,
    2**14,
)  # what the colour scale is learned from; pixels of one image
TILES, TILE_PIXELS = (
    2000,
    2**26,
)  # random tiles to learn from, at most, but at least one of each image


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
    """Train on the normals of `data` and write the run `out`; returns `info`'s facts plus the files
    that failed.

    With `representation` "auto", a detector that works on both gets pixels where images show a
    shape before a flat background, and features where they fill their frame. `budget` is in minutes
    and covers the detector's whole `fit`. Under `torchrun` the processes train together; the first
    writes the run, the others return {}.
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
    normals, hashes, failed = usable_normals(dataset, preprocess, dims, reporter)
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
        fixed = (
            DETECTORS[detector].representations[0] if "preset" in values else None
        )  # presets are for the first
        representation = fixed or _suited(detector, preprocess.flat_background, tile, reporter)
        config = resolve(detector, representation, values)
    fingerprint = {
        "config": config,
        "seed": seed,
        "fit": [hashes[record.id] for record in roles.fit],
    }
    model = Model.create(detector, representation, config)
    model.preprocess = preprocess
    workdir = (
        runs.begin_helping(out, resume=resume)
        if helping
        else runs.begin(out, resume=resume, fingerprint=fingerprint)
    )
    reporter.say(
        f"{dataset.name}: fit {len(roles.fit)}, tune {len(roles.tune)}, calibrate {len(roles.calibrate)} "
        f"{'volumes' if dims == 3 else 'images'}"
    )
    _learn_to_see(model, roles, lambda items: ahead(read, items, depth))
    with tempfile.TemporaryDirectory(dir=workdir) as scratch:
        kinds = sorted({record.kind for record in roles.fit})
        fit = _encode_all(model, roles.fit, Path(scratch, "fit"), seed, kinds)
        tune = (
            _encode_all(model, roles.tune, Path(scratch, "tune"), seed, kinds)
            if roles.tune
            else fit
        )
        _fit(model.detector, fit, tune, workdir, budget, seed, device, resume, reporter)
    if helping:
        return {}
    reference = roles.tune or roles.fit
    scale = _colour_scale(model, reference, reporter)
    calibration, unscored = calibrate_model(model, roles.calibrate, reporter)
    failed += unscored
    log = runs.read_log(workdir)
    if _last(log, "stopped_by") == "divergence":
        reporter.warn(
            f"the loss diverged; the weights are those of step {_last(log, 'step')}, the last good ones"
        )
    header = {
        "detector": detector,
        "representation": representation,
        "config": config,
        "data": dataset.name,
        "preprocess": model.preprocess.state(),
        "representation_state": model.representation.state(),
        "scale": scale,
        "facts": _facts(log, roles, len(failed))
        | {
            "seed": seed,
            "budget_minutes": budget,
            "config_sha256": readers.digest(canonical(config)),
        },
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
    return runs.facts(out) | {"failures": failures, "peak_memory_mb": environment.peak_memory_mb()}


def _learn_to_see(
    model: Model, roles: split.Roles, loaded: Callable[[Sequence[Record]], Iterable[Loaded]]
) -> None:
    """Learn what slices of volumes are like, where the model has none to learn from, and what the
    representation has to learn."""
    preprocess = model.preprocess
    if preprocess.config.refuse_unseen and not preprocess.of_volumes:
        few = [*roles.fit, *roles.tune]
        few = few[:: max(1, len(few) // SEEN)]
        preprocess.learn_seen(
            preprocess.apply(each.image) for each in loaded(few) if each.image is not None
        )
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


def _manifest(
    roles: split.Roles, hashes: Mapping[str, str], failed: Sequence[tuple[str, str]]
) -> list[dict[str, str]]:
    """The rows of the run's manifest.csv: what each image was used for."""
    parts = {"fit": roles.fit, "tune": roles.tune, "calibrate": roles.calibrate}
    return [row for role, part in parts.items() for row in used_rows(part, role, hashes)] + [
        {"path": name, "role": "failed", "group": "", "kind": "", "sha256": "", "error": reason}
        for name, reason in failed
    ]


def _last(log: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((record[key] for record in reversed(log) if key in record), None)


def _images(loaded: Loaded) -> list[Floats]:
    """What there is to learn from as images [C, H, W]: of a volume the slices with enough
    foreground."""
    if loaded.image is None:
        return []
    if not loaded.is_volume or loaded.volume is None:
        return [loaded.image]
    return [loaded.image[:, number] for number in loaded.volume.numbers]


def _encode_all(
    model: Model, items: Sequence[Record], stem: Path, seed: int, kinds: Sequence[str]
) -> Batch:
    """All images as the detector sees them, or random tiles or patches, in files that are mapped
    into memory."""
    numbers = []
    tile = math.prod(model.tiling.sides)
    count = max(1, min(TILES, TILE_PIXELS // tile) // len(items)) if tile else 1
    rng = np.random.default_rng(seed)
    writer = BatchWriter(stem, len(items) * count)
    for loaded in ahead(
        partial(load, preprocess=model.preprocess, encode=model.encode),
        items,
        LOOK_AHEAD * model.batch,
    ):
        encoded = loaded.encoded
        if loaded.is_volume and loaded.volume is not None:
            encoded = model.encode_volume(loaded.volume)
        if encoded is None:
            raise DataError(f"{loaded.record.id}: {loaded.error}")
        for image, foreground in model.crops(encoded, count, rng):
            writer.append(image, foreground)
            numbers.append(kinds.index(loaded.record.kind) if loaded.record.kind in kinds else -1)
    return writer.batch(np.array(numbers, np.int64) if len(kinds) > 1 else None)


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
            file.write(json.dumps(without_nan(record)) + "\n")
            file.flush()

        context = TrainContext(
            seed=seed,
            device=device,
            workdir=workdir,
            budget=None if budget is None else 60 * budget,
            resume=resume,
            log=log,
            progress=lambda done, total, loss: reporter.progress(
                "train", done, total, f"loss {loss:.4f}"
            ),
        )
        begun = time.monotonic()
        try:
            detector.fit(fit, tune, context=context)
        finally:
            log({"fit_seconds": time.monotonic() - begun})


def _colour_scale(model: Model, items: Sequence[Record], reporter: Reporter) -> list[float]:
    """Map values shown darkest and brightest, from tune normals: a normal image stays dark but for
    its odd spots."""
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
